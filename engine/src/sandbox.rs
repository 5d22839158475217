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

/// A sandbox in the engine's table: two cache lines, in the order in which requests touch them. Most of what a request costs in a
/// large run is waiting for these lines, so they are kept this small; a test holds them to it.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Sandbox {
    pub generation: u32,
    pub function: FunctionId,
    pub node: NodeId,
    /// Neighbours in its list; `next` means nothing while it is the tail, so that taking the tail out touches no other sandbox.
    pub prev: u32,
    pub next: u32,
    /// Requests served.
    pub uses: u32,
    /// Number of its valid entry in the node's eviction heap; zero without one.
    pub heap_entry: u32,
    pub state: State,
    pub list: List,
    /// Whether its charge is among what eviction could free on its node.
    pub evictable: bool,
    pub is_base: bool,
    /// What its node is charged for it.
    pub charged: Bytes,
    /// When it was given its request; without one, when it came to its present state.
    pub since: Instant,
    /// When the policy is asked next.
    pub deadline: Instant,
    /// When its timer fires; `FAR` without one.
    pub timer: Instant,
    /// The request it has, if `serving`; see [`Self::current`].
    request: RequestId,
    arrived: Instant,
    /// When the last request ended, or the sandbox was created ahead of one.
    pub idle_since: Instant,
    /// Dump of a base; zero if it is none.
    pub dump: Bytes,
    pub image: Option<Box<Image>>,
    /// Key of greedy-dual at the last use.
    pub priority: f64,
    /// Dedup sandboxes whose image refers to this base.
    pub references: u32,
    /// Times the policy was asked since the last request.
    pub decisions: u32,
    pub blacklisted: bool,
    serving: bool,
    kind: StartKind,
    attempts: u8,
    waited: bool,
}

impl Sandbox {
    pub fn new(generation: u32, function: FunctionId, node: NodeId, now: Instant) -> Self {
        Self {
            generation,
            function,
            node,
            prev: NIL,
            next: NIL,
            uses: 0,
            heap_entry: 0,
            state: State::Cold,
            list: List::None,
            evictable: false,
            is_base: false,
            charged: Bytes::ZERO,
            since: now,
            deadline: Instant::FAR,
            timer: Instant::FAR,
            request: RequestId(0),
            arrived: now,
            idle_since: now,
            dump: Bytes::ZERO,
            image: None,
            priority: 0.0,
            references: 0,
            decisions: 0,
            blacklisted: false,
            serving: false,
            kind: StartKind::Cold,
            attempts: 0,
            waited: false,
        }
    }

    /// The request it serves or is being started for.
    #[inline]
    pub fn current(&self) -> Option<Assignment> {
        let Self { request, arrived, kind, attempts, waited, .. } = *self;
        self.serving.then_some(Assignment { request, arrived, kind, attempts, waited })
    }

    /// Gives it a request.
    #[inline]
    pub fn assign(&mut self, now: Instant, a: Assignment) {
        (self.request, self.arrived, self.kind) = (a.request, a.arrived, a.kind);
        (self.attempts, self.waited) = (a.attempts, a.waited);
        self.serving = true;
        self.since = now;
    }

    /// Takes its request.
    #[inline]
    pub fn take_current(&mut self) -> Option<Assignment> {
        let current = self.current();
        self.serving = false;
        current
    }

    pub fn enter(&mut self, next: State, now: Instant) {
        debug_assert!(self.state.may_become(next), "{:?} -> {next:?}", self.state);
        self.state = next;
        if !self.serving {
            self.since = now;
        }
    }

    /// What eviction would free: its charge while it may be evicted, else zero.
    pub fn frees(&self) -> Bytes {
        if self.evictable { self.charged } else { Bytes::ZERO }
    }

    /// Whether it is idle and no image depends on it.
    #[inline]
    pub fn may_go(&self) -> bool {
        self.list != List::None && !(self.is_base && self.references > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::{Base, Cold, Dedup, InTransition, Purged, Running, Starting, Warm};
    use Transition::{Checkpointing, Reducing, Restoring};

    #[test]
    fn a_sandbox_is_two_cache_lines() {
        assert_eq!(size_of::<Sandbox>(), 128);
        assert!(std::mem::offset_of!(Sandbox, request) >= 64);
    }

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
