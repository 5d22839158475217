//! The life of a sandbox: its states and the moves between them.

use crate::id::{FunctionId, NodeId, RequestId, SandboxId};
use crate::record::StartKind;
use crate::units::{Bytes, Instant};

/// A state of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing in memory yet.
    Cold,
    /// Being created.
    Starting,
    /// Serving a request, or about to: woken from warm.
    Running,
    /// Idle, paused, whole memory resident.
    Warm,
    /// Idle like warm; its dump is in memory beside it and others are patched against it.
    Base,
    /// Reduced to patches or compressed pages.
    Dedup,
    /// Between two of the others.
    InTransition(Transition),
    /// Gone.
    Purged,
}

/// What a sandbox in transition is on the way to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Being checkpointed, to be a base.
    Checkpointing,
    /// Being reduced, to be dedup.
    Reducing,
    /// Getting its memory back, to run.
    Restoring,
}

impl State {
    /// Whether the life cycle allows the move from `self` to `next`.
    pub const fn may_become(self, next: Self) -> bool {
        use State::{Base, Cold, Dedup, InTransition, Purged, Running, Starting, Warm};
        use Transition::{Checkpointing, Reducing, Restoring};
        match (self, next) {
            (Cold, Starting)
            | (Starting, Running | Warm)
            | (Running, Warm | Base)
            | (Warm, Running | InTransition(Checkpointing | Reducing))
            | (Base, Running | Warm)
            | (Dedup, InTransition(Restoring))
            | (InTransition(Checkpointing), Base | Warm)
            | (InTransition(Reducing), Dedup | Warm)
            | (InTransition(Restoring), Running) => true,
            (Purged | Cold, _) => false,
            (_, Purged) => true,
            _ => false,
        }
    }

    /// Whether a request could be given to a sandbox in this state.
    pub const fn is_idle(self) -> bool {
        matches!(self, Self::Warm | Self::Base | Self::Dedup)
    }
}

/// The request a sandbox is serving or being started for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Assignment {
    pub request: RequestId,
    pub arrived: Instant,
    pub chosen: Instant,
    pub kind: StartKind,
    /// How often the request was given to a sandbox that failed it.
    pub attempts: u8,
    /// It was counted among those that waited.
    pub waited: bool,
}

/// What is kept of a reduced sandbox; it stays through later runs, so that reducing again is cheap.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub stored: Bytes,
    pub bases: Vec<SandboxId>,
}

/// Which list of its function an idle sandbox is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    None,
    Cooling,
    Warm,
    Base,
    Dedup,
}

/// No sandbox, in links.
pub(crate) const NIL: u32 = u32::MAX;

/// A sandbox in the engine's table.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    pub generation: u32,
    pub function: FunctionId,
    pub node: NodeId,
    pub state: State,
    pub list: List,
    pub prev: u32,
    pub next: u32,
    /// When the last request ended, or the sandbox was created ahead of one.
    pub idle_since: Instant,
    pub state_since: Instant,
    /// When the policy is asked next.
    pub deadline: Instant,
    /// When its entry in the timer heap fires; `FAR` without one.
    pub timer: Instant,
    pub current: Option<Assignment>,
    /// What its node is charged for it.
    pub charged: Bytes,
    /// What eviction would free: its charge while it may be evicted, else zero.
    pub evictable: Bytes,
    /// Dump of a base; zero if it is none.
    pub dump: Bytes,
    pub is_base: bool,
    pub blacklisted: bool,
    pub image: Option<Box<Image>>,
    /// Dedup sandboxes whose image refers to this base.
    pub references: u32,
    /// Requests served.
    pub uses: u32,
    /// Times the policy was asked since the last request.
    pub decisions: u32,
    /// Key of greedy-dual at the last use.
    pub priority: f64,
    /// Number of its valid entry in the node's eviction heap; zero without one.
    pub heap_entry: u32,
}

impl Sandbox {
    pub fn new(generation: u32, function: FunctionId, node: NodeId, now: Instant) -> Self {
        Self {
            generation,
            function,
            node,
            state: State::Cold,
            list: List::None,
            prev: NIL,
            next: NIL,
            idle_since: now,
            state_since: now,
            deadline: Instant::FAR,
            timer: Instant::FAR,
            current: None,
            charged: Bytes::ZERO,
            evictable: Bytes::ZERO,
            dump: Bytes::ZERO,
            is_base: false,
            blacklisted: false,
            image: None,
            references: 0,
            uses: 0,
            decisions: 0,
            priority: 0.0,
            heap_entry: 0,
        }
    }

    pub fn enter(&mut self, next: State, now: Instant) {
        debug_assert!(self.state.may_become(next), "{:?} -> {next:?}", self.state);
        self.state = next;
        self.state_since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::{Base, Cold, Dedup, InTransition, Purged, Running, Starting, Warm};
    use Transition::{Checkpointing, Reducing, Restoring};

    #[test]
    fn the_life_cycle_allows_these_moves_and_no_others() {
        let all = [
            Cold,
            Starting,
            Running,
            Warm,
            Base,
            Dedup,
            InTransition(Checkpointing),
            InTransition(Reducing),
            InTransition(Restoring),
            Purged,
        ];
        let legal: &[(State, &[State])] = &[
            (Cold, &[Starting]),
            (Starting, &[Running, Warm, Purged]),
            (Running, &[Warm, Base, Purged]),
            (Warm, &[Running, InTransition(Checkpointing), InTransition(Reducing), Purged]),
            (Base, &[Running, Warm, Purged]),
            (Dedup, &[InTransition(Restoring), Purged]),
            (InTransition(Checkpointing), &[Base, Warm, Purged]),
            (InTransition(Reducing), &[Dedup, Warm, Purged]),
            (InTransition(Restoring), &[Running, Purged]),
            (Purged, &[]),
        ];
        for (from, to) in legal {
            for next in all {
                assert_eq!(from.may_become(next), to.contains(&next), "{from:?} -> {next:?}");
            }
        }
    }
}
