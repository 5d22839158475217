//! The event queue: what happens next, in the order of time and, at one instant, of scheduling.
//!
//! A wheel of wheels (Varghese and Lauck, SOSP 1987) over the digits, base 64, of the time in µs. Time never goes back:
//! every event is at or after `base`, the time of the one that came out last. An event lies at the level of the highest
//! digit in which its time differs from `base`, in the slot of its own digit there. So the next event is in the first slot
//! in use of the lowest level in use, and slots of level 0 hold one instant each. When the first slot of a higher
//! level is reached, its events move down, but a lone one is taken out at once: with few events under way an event moves
//! once or twice whatever the distance, and never is the whole queue looked at.
//!
//! Slots are first in, first out, and moving down keeps the order; so events of one instant come out as they were scheduled.

use medes_engine::ahead;
use medes_engine::id::SandboxId;
use medes_engine::units::Instant;

/// Something that will happen to a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Started,
    Restored,
    Finished,
    Checkpointed,
    Reduced,
    /// A warm sandbox wakes to a request, which runs then.
    Woken,
    /// Work has waited and goes on on cores.
    Waited,
    /// The node with this number measures its memory.
    Measured,
    /// Work on the cores with this number is done, or was to be before other work came.
    Cores,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub at: Instant,
    pub sandbox: SandboxId,
    pub kind: Kind,
}

/// Bits of a digit.
const DIGIT: u32 = 6;
/// Slots of a level: one for each digit.
const SLOTS: usize = 1 << DIGIT;
/// Levels: digits of a time of 64 bits.
const LEVELS: usize = 64usize.div_ceil(DIGIT as usize);
/// No entry.
const NIL: u32 = u32::MAX;

/// Events of a node.
const ROOM: usize = 5;

/// Some events of one slot: two cache lines, so that a long slot is read as fast as memory gives it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Node {
    next: u32,
    /// Those in it are `events[first..end]`.
    first: u16,
    end: u16,
    events: [Event; ROOM],
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    head: u32,
    tail: u32,
    /// The earliest of its events.
    min: Instant,
}

const EMPTY: Slot = Slot { head: NIL, tail: NIL, min: Instant::FAR };

#[derive(Debug)]
pub(crate) struct Queue {
    /// Time of the event that came out last.
    base: u64,
    /// When the next event is, and the slot it is in; `FAR` and any without one.
    next_at: Instant,
    next_slot: u32,
    levels_in_use: u32,
    /// Slots in use, a bit each.
    in_use: [u64; LEVELS],
    slots: Box<[Slot; LEVELS * SLOTS]>,
    nodes: Vec<Node>,
    /// Nodes that are free, linked.
    vacant: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            base: 0,
            next_at: Instant::FAR,
            next_slot: 0,
            levels_in_use: 0,
            in_use: [0; LEVELS],
            slots: Box::new([EMPTY; LEVELS * SLOTS]),
            nodes: Vec::new(),
            vacant: NIL,
        }
    }
}

impl Queue {
    /// Schedules an event; `at` is not before the last event that was taken out.
    #[inline]
    pub fn push(&mut self, at: Instant, sandbox: SandboxId, kind: Kind) {
        let slot = self.append(Event { at, sandbox, kind });
        if at <= self.next_at {
            (self.next_at, self.next_slot) = (at, slot);
        }
    }

    /// When the next event is; `FAR` without one.
    #[inline]
    pub fn next_at(&self) -> Instant {
        self.next_at
    }

    /// Takes the next event out.
    #[inline]
    pub fn pop(&mut self) -> Option<Event> {
        if self.levels_in_use == 0 {
            return None;
        }
        let mut at = self.next_slot as usize;
        let Slot { mut head, tail, .. } = self.slots[at];
        if at >= SLOTS && (head != tail || self.nodes[head as usize].end > 1) {
            at = self.move_down(at);
            head = self.slots[at].head;
        }
        let node = &mut self.nodes[head as usize];
        let event = node.events[usize::from(node.first) % ROOM];
        node.first += 1;
        self.base = event.at.as_micros();
        if node.first < node.end {
            // Others of the same instant: only slots of level 0 hold several now.
            self.next_slot = at as u32;
            return Some(event);
        }
        let next = std::mem::replace(&mut node.next, self.vacant);
        self.vacant = head;
        if next == NIL {
            self.slots[at] = EMPTY;
            self.mark_empty(at);
            self.find_next();
        } else {
            self.slots[at].head = next;
            self.next_slot = at as u32;
        }
        Some(event)
    }

    /// The sandbox of the event that will likely come out next.
    #[inline]
    pub fn next_sandbox(&self) -> Option<SandboxId> {
        let node = self.nodes.get(self.slots[self.next_slot as usize].head as usize)?;
        node.events.get(usize::from(node.first)).map(|event| event.sandbox)
    }

    /// The first slot in use of the lowest level in use.
    #[inline]
    fn find_next(&mut self) {
        self.next_at = Instant::FAR;
        if self.levels_in_use != 0 {
            let level = self.levels_in_use.trailing_zeros() as usize;
            let slot = level * SLOTS + self.in_use[level % LEVELS].trailing_zeros() as usize % SLOTS;
            (self.next_at, self.next_slot) = (self.slots[slot].min, slot as u32);
        }
    }

    /// Puts an event at the end of the slot that its time gives, and says which that is.
    #[inline]
    fn append(&mut self, event: Event) -> u32 {
        let at_us = event.at.as_micros();
        debug_assert!(at_us >= self.base, "an event in the past");
        let level = ((at_us ^ self.base) | 1).ilog2() / DIGIT;
        let digit = (at_us >> (level * DIGIT)) as usize % SLOTS;
        let level = level as usize;
        let place = level * SLOTS + digit;
        let slot = &mut self.slots[place];
        slot.min = slot.min.min(event.at);
        let tail = slot.tail;
        if tail == NIL {
            self.in_use[level] |= 1 << digit;
            self.levels_in_use |= 1 << level;
        } else {
            let node = &mut self.nodes[tail as usize];
            if usize::from(node.end) < ROOM {
                node.events[usize::from(node.end)] = event;
                node.end += 1;
                return place as u32;
            }
        }
        let number = self.node_with(event);
        let slot = &mut self.slots[place];
        slot.tail = number;
        if tail == NIL {
            slot.head = number;
        } else {
            self.nodes[tail as usize].next = number;
        }
        place as u32
    }

    /// A node of its own for an event.
    #[inline]
    fn node_with(&mut self, event: Event) -> u32 {
        let number = self.vacant;
        if let Some(node) = self.nodes.get_mut(number as usize) {
            self.vacant = node.next;
            (node.next, node.first, node.end) = (NIL, 0, 1);
            node.events[0] = event;
            return number;
        }
        self.nodes.push(Node { next: NIL, first: 0, end: 1, events: [event; ROOM] });
        (self.nodes.len() - 1) as u32
    }

    #[inline]
    fn mark_empty(&mut self, at: usize) {
        let level = at / SLOTS;
        self.in_use[level] &= !(1 << (at % SLOTS));
        if self.in_use[level] == 0 {
            self.levels_in_use &= !(1 << level);
        }
    }

    /// Moves the events of the first slot to lower levels, as `base` becomes the earliest of them; gives the slot of that one.
    fn move_down(&mut self, at: usize) -> usize {
        let Slot { mut head, min, .. } = std::mem::replace(&mut self.slots[at], EMPTY);
        self.mark_empty(at);
        self.base = min.as_micros();
        while head != NIL {
            let node = self.nodes[head as usize];
            ahead::fetch(&self.nodes, node.next as usize);
            // Free at once: what is appended may have it.
            self.nodes[head as usize].next = std::mem::replace(&mut self.vacant, head);
            for event in &node.events[..usize::from(node.end)] {
                self.append(*event);
            }
            head = node.next;
        }
        min.as_micros() as usize % SLOTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    proptest! {
        #[test]
        fn events_come_out_as_a_heap_would_give_them(
            // What is scheduled after each event that comes out: distances of all sizes, many of them alike.
            steps in prop::collection::vec(prop::collection::vec((0u32..64, 0u64..4), 0..4), 1..200),
            start in prop::sample::select(vec![0u64, 63, 4095, 1 << 40, u64::MAX - 70]),
        ) {
            let (mut queue, mut heap, mut number, mut now) = (Queue::default(), BinaryHeap::new(), 0u32, start);
            let mut steps = steps.into_iter();
            loop {
                for (shift, more) in steps.next().unwrap_or_default() {
                    let at = now.saturating_add((1u64 << shift) - 1).saturating_add(more);
                    queue.push(Instant::from_micros(at), SandboxId { generation: 0, slot: number }, Kind::Finished);
                    heap.push(Reverse((at, number)));
                    number += 1;
                }
                let expected = heap.pop().map(|Reverse((at, number))| (at, number));
                prop_assert_eq!(queue.next_at().as_micros(), expected.map_or(u64::MAX, |e| e.0));
                let got = queue.pop().map(|e| (e.at.as_micros(), e.sandbox.slot));
                prop_assert_eq!(got, expected);
                match expected {
                    Some((at, _)) => now = at,
                    None if steps.len() == 0 => break,
                    None => {}
                }
            }
            prop_assert!(queue.nodes.len() <= number as usize);
        }
    }
}
