//! The event queue: what happens next, in the order of time and, at one instant, of scheduling.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use medes_engine::id::SandboxId;
use medes_engine::units::{Duration, Instant};

/// Something that will happen to a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Started,
    Restored,
    Finished { start: Duration },
    Checkpointed,
    Reduced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Event {
    pub at: Instant,
    sequence: u64,
    pub sandbox: SandboxId,
    pub kind: Kind,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Event>>,
    sequence: u64,
}

impl Queue {
    pub fn push(&mut self, at: Instant, sandbox: SandboxId, kind: Kind) {
        self.sequence += 1;
        self.heap.push(Reverse(Event { at, sequence: self.sequence, sandbox, kind }));
    }

    pub fn next_at(&self) -> Instant {
        self.heap.peek().map_or(Instant::FAR, |Reverse(e)| e.at)
    }

    pub fn pop(&mut self) -> Option<Event> {
        self.heap.pop().map(|Reverse(e)| e)
    }
}
