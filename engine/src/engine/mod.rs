//! The engine: requests, sandboxes, nodes and time in; actions and records out.
//!
//! # Protocol
//! - [`Engine::handle`] tells it what happened, [`Engine::handle_deadline`] that time has passed.
//! - [`Engine::poll_action`] and [`Engine::poll_record`] give what is to be done and what is to be written down; call
//!   both until empty after each of the former.
//! - [`Engine::poll_deadline`] says when to call `handle_deadline` if nothing happens before. It may be early: then
//!   the call does nothing but set the next one.
//!
//! Time is an argument and never goes back. At one instant a world hands in completions first, then arrivals,
//! then deadlines: a sandbox serves a request that arrives as its keep-alive ends.
//!
//! # What it keeps
//! A table of sandboxes; for each function lists of its idle ones (the one used last serves next); for each
//! node what it holds, what eviction could free, and a heap of victims. No decision looks at all sandboxes:
//! a warm start is O(1), a placement O(log nodes), an eviction and a deadline O(log sandboxes) amortised.
//!
//! Memory is the engine's own account: a sandbox is charged its function's memory while it exists with its
//! pages, its dump while it is a base, and what a reduction kept. Being reduced it is charged as before (its process
//! and its dump replace each other; the moment in which both exist is left out).

mod account;
mod lifecycle;
mod serve;
mod unpin;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use crate::ahead;
use crate::config::Config;
use crate::event::{Action, Input};
use crate::eviction;
use crate::id::{FunctionId, NodeId, RequestId, SandboxId};
use crate::placement::{Placement, Room};
use crate::policy::{self, FunctionSpec, Kind, Policy};
use crate::rate::RateWindow;
use crate::record::RequestRecord;
use crate::sandbox::{NIL, Sandbox};
use crate::units::{Bytes, Duration, Instant};

/// Dedup starts are taken to last this long until one was seen, ms (REFERENCE, the Medes policy).
const UNKNOWN_DEDUP_START_MS: f64 = 300.0;
/// Weight of the newest start in the moving averages (REFERENCE).
const START_WEIGHT: f64 = 0.1;
/// A request whose sandbox failed is tried again this often before it is reported failed.
const MAX_ATTEMPTS: u8 = 3;

/// Why an engine cannot be made.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum EngineError {
    /// A policy that does not decide online.
    #[error("policy `{0}` is a bound computed from the whole trace; it cannot decide for running sandboxes")]
    Bound(&'static str),
    /// Nothing to serve.
    #[error("there is no function to serve")]
    NoFunction,
}

/// Counts over a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that arrived.
    pub arrived: u64,
    /// Requests answered.
    pub answered: u64,
    /// Cold starts begun for requests.
    pub cold: u64,
    /// Warm starts begun.
    pub warm: u64,
    /// Dedup starts begun.
    pub dedup: u64,
    /// Requests that waited for memory.
    pub queued: u64,
    /// Requests dropped at their deadline.
    pub dropped: u64,
    /// Requests failed.
    pub failed: u64,
    /// Sandboxes removed to make room.
    pub evictions: u64,
    /// Sandboxes removed because the policy said so.
    pub purged: u64,
    /// Sandboxes created ahead of requests.
    pub prewarmed: u64,
    /// Reductions finished.
    pub reductions: u64,
    /// Bases demarcated.
    pub bases: u64,
    /// Bases whose dump was given up to make room.
    pub bases_given_up: u64,
    /// Sandboxes lost with a node or with a base on one.
    pub lost: u64,
}

/// How many sandboxes are in which state, over the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Population {
    /// Starting, running, restoring or in transition.
    pub busy: u32,
    /// Idle, whole.
    pub warm: u32,
    /// Bases, idle or running.
    pub base: u32,
    /// Reduced.
    pub dedup: u32,
    /// Requests waiting.
    pub queued: u32,
}

/// Head and tail of a list of sandboxes linked through the table.
#[derive(Clone, Copy, Debug)]
struct Chain {
    head: u32,
    tail: u32,
}

const EMPTY: Chain = Chain { head: NIL, tail: NIL };

/// What is handed out after each step, first in, first out. There is mostly one, which is kept apart: written and read field by
/// field where it stays, not copied.
struct Outbox<T> {
    first: Option<T>,
    rest: VecDeque<T>,
}

impl<T> Outbox<T> {
    const fn new() -> Self {
        Self { first: None, rest: VecDeque::new() }
    }

    #[inline(always)]
    fn push_back(&mut self, item: T) {
        if self.first.is_none() && self.rest.is_empty() {
            self.first = Some(item);
        } else {
            self.push_more(item);
        }
    }

    #[cold]
    fn push_more(&mut self, item: T) {
        self.rest.push_back(item);
    }

    #[inline(always)]
    fn pop_front(&mut self) -> Option<T> {
        match self.first.take() {
            None if !self.rest.is_empty() => self.rest.pop_front(),
            first => first,
        }
    }
}

/// A warm start and the end of its run touch the first cache line alone, and the second where rates are kept.
#[repr(C, align(64))]
struct Function {
    /// Idle and warm, the one used last at the tail.
    warm: Chain,
    /// Idle for less than `reuseperiod`, by time.
    cooling: Chain,
    /// Idle bases.
    bases: Chain,
    /// Reduced.
    dedup: Chain,
    /// Starting or serving.
    count_busy: u32,
    /// Sandboxes without bases and dedup ones, with those on the way to base: W.
    count_warm: u32,
    count_base: u32,
    /// With those on the way to it: D.
    count_dedup: u32,
    warm_start_ms: f64,
    prewarm_at: Instant,
    rates: Option<RateWindow>,
    /// Largest count of a minute in the window, per second.
    peak_rate: f64,
    /// What greedy-dual takes a cold start to cost, ms, and a sandbox to weigh, MB.
    start_cost_ms: f64,
    memory_mb: f64,
    /// `None` until a dedup start was seen.
    dedup_start_ms: Option<f64>,
    prewarm_keep: Duration,
    /// Requests waiting, by number.
    waiting: VecDeque<RequestId>,
    spec: FunctionSpec,
}

struct Node {
    cap: Bytes,
    used: Bytes,
    /// Memory measured beyond the account.
    foreign: Bytes,
    evictable: Bytes,
    alive: bool,
    restores: u32,
    victims: eviction::VictimHeap,
    /// Victim entries that are still valid.
    valid_victims: u32,
    /// Greedy-dual clock.
    clock: f64,
    /// Its entry in the tree of free memory, or in that of reachable memory, is out of date.
    free_dirty: bool,
    reachable_dirty: bool,
}

/// A request that waits for memory.
#[derive(Clone, Copy)]
struct Waiting {
    function: FunctionId,
    arrived: Instant,
    attempts: u8,
    /// It was counted among those that waited.
    waited: bool,
}

/// See the module's documentation.
pub struct Engine {
    config: Config,
    policy: Box<dyn Policy>,
    eviction: &'static eviction::Strategy,
    placement: Placement,
    functions: Vec<Function>,
    nodes: Vec<Node>,
    /// Free memory by node.
    free: Room,
    /// Free memory and what eviction could free, by node.
    reachable: Room,
    /// Nodes whose entries in `free`, and in `reachable`, are out of date. The second is brought up to date only when no
    /// node has memory free: a warm start changes what can be evicted, and most runs never ask.
    free_dirty: Vec<NodeId>,
    reachable_dirty: Vec<NodeId>,
    /// Memory caps of the nodes that are there.
    total_cap: Bytes,
    sandboxes: Vec<Sandbox>,
    vacant: Vec<u32>,
    timers: BinaryHeap<Reverse<(Instant, u32, u32)>>,
    prewarms: BinaryHeap<Reverse<(Instant, FunctionId)>>,
    /// Nothing is due before: timers, prewarms and the deadlines of those who wait are no earlier.
    next_deadline: Instant,
    waiting: BTreeMap<RequestId, Waiting>,
    /// Bases are given up for those who wait no sooner than this: the last attempt found none.
    unpin_after: Instant,
    /// Functions with arrivals in the window, while rates are kept.
    active: Vec<FunctionId>,
    rated_minute: u64,
    peak_rates: f64,
    /// Bases by owner, for `dedup_scope`.
    bases_by_owner: BTreeMap<u32, u32>,
    bases: u32,
    entries: u32,
    total_used: Bytes,
    population: Population,
    counters: Counters,
    actions: Outbox<Action>,
    records: Outbox<RequestRecord>,
    /// Whether arrivals are counted for rates, and whether the policy is told of them.
    rated: bool,
    tells_arrivals: bool,
}

impl Engine {
    /// An engine for `config` and `functions`, with `config.nodes` empty nodes at time zero.
    ///
    /// # Errors
    /// The policy is a bound, or there is no function.
    pub fn new(config: &Config, functions: Vec<FunctionSpec>) -> Result<Self, EngineError> {
        if functions.is_empty() {
            return Err(EngineError::NoFunction);
        }
        let entry = policy::entry(config.policy).unwrap_or(&policy::REGISTRY[0]);
        let Kind::Online(make) = entry.kind else {
            return Err(EngineError::Bound(entry.name));
        };
        let policy = make(config, &functions);
        let eviction = eviction::strategy(config.eviction.unwrap_or(entry.eviction)).unwrap_or(&eviction::REGISTRY[0]);
        let rated = policy.needs_rates() || eviction.falls;
        let functions: Vec<Function> = functions
            .into_iter()
            .map(|spec| Function {
                warm_start_ms: spec.warm_start.as_millis_f64(),
                start_cost_ms: spec.cold_start.as_millis_f64() - spec.warm_start.as_millis_f64(),
                memory_mb: spec.memory.as_mb(),
                spec,
                cooling: EMPTY,
                warm: EMPTY,
                bases: EMPTY,
                dedup: EMPTY,
                waiting: VecDeque::new(),
                count_warm: 0,
                count_base: 0,
                count_dedup: 0,
                count_busy: 0,
                dedup_start_ms: None,
                rates: rated.then(|| RateWindow::new(config.window)),
                peak_rate: 0.0,
                prewarm_at: Instant::FAR,
                prewarm_keep: Duration::ZERO,
            })
            .collect();
        ahead::in_large_pages(&functions);
        let count = config.nodes as usize;
        let (mut free, mut reachable) = (Room::new(count), Room::new(count));
        let nodes = (0..count)
            .map(|i| {
                free.set(NodeId(i as u32), Some(config.memcap));
                reachable.set(NodeId(i as u32), Some(config.memcap));
                Node {
                    cap: config.memcap,
                    used: Bytes::ZERO,
                    foreign: Bytes::ZERO,
                    evictable: Bytes::ZERO,
                    alive: true,
                    restores: 0,
                    victims: eviction::VictimHeap::default(),
                    valid_victims: 0,
                    clock: 0.0,
                    free_dirty: false,
                    reachable_dirty: false,
                }
            })
            .collect();
        Ok(Self {
            eviction,
            placement: Placement::new(config.placement),
            functions,
            nodes,
            free,
            reachable,
            free_dirty: Vec::new(),
            reachable_dirty: Vec::new(),
            total_cap: config.memcap * count as u64,
            sandboxes: Vec::new(),
            vacant: Vec::new(),
            timers: BinaryHeap::new(),
            prewarms: BinaryHeap::new(),
            next_deadline: Instant::FAR,
            waiting: BTreeMap::new(),
            unpin_after: Instant::ZERO,
            active: Vec::new(),
            rated_minute: 0,
            peak_rates: 0.0,
            bases_by_owner: BTreeMap::new(),
            bases: 0,
            entries: 0,
            total_used: Bytes::ZERO,
            population: Population::default(),
            counters: Counters::default(),
            actions: Outbox::new(),
            records: Outbox::new(),
            rated,
            tells_arrivals: policy.needs_arrivals(),
            policy,
            config: config.clone(),
        })
    }

    /// Tells the engine what happened at `now`.
    // A world mostly knows which input it tells: there the match is none.
    #[inline(always)]
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Arrived { request, function } => self.arrived(now, request, function),
            Input::Started { sandbox } => self.started(now, sandbox),
            Input::Restored { sandbox } => self.restored(now, sandbox),
            Input::Finished { sandbox, start } => self.finished(now, sandbox, start),
            Input::Checkpointed { sandbox, dump } => self.checkpointed(now, sandbox, dump),
            Input::Reduced { sandbox, stored, bases } => self.reduced(now, sandbox, stored, bases),
            Input::Failed { sandbox } => self.failed(now, sandbox),
            Input::NodeMemory { node, used } => self.node_memory(now, node, used),
            Input::BasesLost { reader, owner } => self.bases_lost(now, reader, owner),
            Input::NodeLost { node } => self.node_lost(now, node),
            Input::NodeBack { node } => self.node_back(now, node),
        }
    }

    /// Tells the engine that it is `now`: what is due happens.
    pub fn handle_deadline(&mut self, now: Instant) {
        while let Some(Reverse((at, slot, generation))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            self.timer(now, at, slot, generation);
        }
        while let Some(Reverse((at, function))) = self.prewarms.peek().copied()
            && at <= now
        {
            self.prewarms.pop();
            if self.functions[function.index()].prewarm_at == at {
                self.prewarm(now, function);
            }
        }
        while let Some((request, waiting)) = self.waiting.first_key_value().map(|(r, w)| (*r, *w))
            && waiting.arrived + self.config.queue_deadline <= now
        {
            self.drop_waiting(now, request, waiting);
        }
        self.unpin_for_waiting(now);
        self.next_deadline = self.first_deadline();
    }

    /// When to call [`Self::handle_deadline`] at the latest; [`Instant::FAR`] for never.
    #[inline]
    pub fn poll_deadline(&self) -> Instant {
        self.next_deadline
    }

    fn first_deadline(&self) -> Instant {
        let mut next = self.timers.peek().map_or(Instant::FAR, |Reverse((at, ..))| *at);
        if let Some(Reverse((at, _))) = self.prewarms.peek() {
            next = next.min(*at);
        }
        if let Some((_, waiting)) = self.waiting.first_key_value() {
            next = next.min(waiting.arrived + self.config.queue_deadline).min(self.unpin_due(waiting.arrived));
        }
        next
    }

    /// Hint: a request for `function` is coming. Asks for the memory that it will touch first.
    #[inline]
    pub fn expect_function(&self, function: FunctionId) {
        // The second line has rates.
        if self.rated {
            ahead::fetch(&self.functions, function.index());
        } else {
            ahead::fetch_head(&self.functions, function.index());
        }
    }

    /// Hint: a request for `function` comes soon after [`Self::expect_function`] was called for it. Asks for the memory of the
    /// sandbox that would serve it now and gives the slot of that one.
    #[inline]
    pub fn expect_warm(&self, function: FunctionId) -> Option<u32> {
        let slot = self.functions.get(function.index())?.warm.tail;
        ahead::fetch(&self.sandboxes, slot as usize);
        (slot != NIL).then_some(slot)
    }

    /// Hint: a sandbox of `function` is to become idle. Asks for what the sandbox that it will follow in the list has of that.
    #[inline]
    pub fn expect_idle(&self, function: FunctionId) {
        if let Some(f) = self.functions.get(function.index()) {
            ahead::fetch_head(&self.sandboxes, f.warm.tail as usize);
        }
    }

    /// Hint: something will be told of the sandbox in this slot.
    #[inline]
    pub fn expect_answer(&self, slot: u32) {
        ahead::fetch(&self.sandboxes, slot as usize);
    }

    /// The next thing to do, if it is to run a request on a warm sandbox, as most are: its sandbox, node, function and request. The
    /// same as [`Self::poll_action`] for these, without a copy of the action.
    #[inline(always)]
    pub fn poll_run(&mut self) -> Option<(SandboxId, NodeId, FunctionId, RequestId)> {
        match self.actions.first {
            Some(Action::Run { sandbox, node, function, request }) => {
                self.actions.first = None;
                Some((sandbox, node, function, request))
            }
            _ => None,
        }
    }

    /// The next thing to do.
    #[inline]
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next request that has ended.
    #[inline(always)]
    pub fn poll_record(&mut self) -> Option<RequestRecord> {
        self.records.pop_front()
    }

    /// Counts so far.
    #[inline]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Sandboxes by state now.
    pub fn population(&self) -> Population {
        Population { queued: self.waiting.len() as u32, ..self.population }
    }

    /// Memory that a node is charged.
    pub fn used(&self, node: NodeId) -> Bytes {
        self.nodes.get(node.index()).map_or(Bytes::ZERO, |n| n.used)
    }

    /// Memory that all nodes together are charged.
    #[inline]
    pub fn total_used(&self) -> Bytes {
        self.total_used
    }

    /// What the engine knew of a function beforehand.
    pub fn spec(&self, function: FunctionId) -> &FunctionSpec {
        &self.functions[function.index()].spec
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// References to a base sandbox: dedup images that are patched against it. `None` if it is none.
    pub fn references(&self, sandbox: SandboxId) -> Option<u32> {
        self.get(sandbox).filter(|s| s.is_base).map(|s| s.references)
    }

    #[inline]
    fn get(&self, id: SandboxId) -> Option<&Sandbox> {
        self.sandboxes.get(id.slot as usize).filter(|s| s.generation == id.generation && s.state != PURGED)
    }

    /// The slot of a sandbox that is still there.
    #[inline]
    fn slot(&self, id: SandboxId) -> Option<usize> {
        self.get(id).map(|_| id.slot as usize)
    }

    #[inline]
    fn id(&self, slot: usize) -> SandboxId {
        SandboxId { generation: self.sandboxes[slot].generation, slot: slot as u32 }
    }
}

const PURGED: crate::sandbox::State = crate::sandbox::State::Purged;

#[cfg(test)]
mod tests;
