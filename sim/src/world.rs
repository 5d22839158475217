//! The simulated world's main loop.

mod nodes;
mod restore;

use std::collections::BTreeMap;

use medes_engine::ahead;
use medes_engine::engine::Engine;
use medes_engine::event::{Action, Arrival, Input};
use medes_engine::id::{FunctionId, NodeId, RequestId, SandboxId};
use medes_engine::metrics::{BasePages, Metrics, Outcome};
use medes_engine::record::{RequestRecord, StartParts};
use medes_engine::units::{Bytes, Duration, Instant};

use crate::check::{Checker, Unwatched, Watch};
use crate::cores::{Cores, Work};
use crate::cost::Laws;
use crate::fault;
use crate::feed::Feed;
use crate::memory::{Memory, Reduced};
use crate::net::Network;
use crate::queue::{Event, Kind, Queue};
use crate::resident::Residents;
use crate::setup::{Setup, SimError};

/// Runs `setup` on the arrivals that `next_batch` appends until it returns false; each request that ends goes to `sink`.
///
/// Memory of the run grows with functions, sandboxes and requests under way, not with the number of requests.
///
/// # Errors
/// A setup that does not fit, arrivals out of order, or, with `setup.check`, a fault that the checker found.
pub fn simulate(
    setup: &Setup,
    next_batch: impl FnMut(&mut Vec<Arrival>) -> bool,
    mut sink: impl FnMut(&RequestRecord),
) -> Result<Outcome, SimError> {
    begin(setup, next_batch, |record, _| sink(record), None)
}

/// As [`simulate`], and `sink` is told of each request where the time of its start went.
///
/// # Errors
/// As [`simulate`].
pub fn simulate_in_parts(
    setup: &Setup,
    next_batch: impl FnMut(&mut Vec<Arrival>) -> bool,
    sink: impl FnMut(&RequestRecord, &StartParts),
) -> Result<Outcome, SimError> {
    begin(setup, next_batch, sink, Some(BTreeMap::new()))
}

fn begin(
    setup: &Setup,
    next_batch: impl FnMut(&mut Vec<Arrival>) -> bool,
    sink: impl FnMut(&RequestRecord, &StartParts),
    parts: Option<BTreeMap<RequestId, StartParts>>,
) -> Result<Outcome, SimError> {
    if setup.check {
        World::<_, Checker>::new(setup, sink, parts)?.run(next_batch)
    } else {
        World::<_, Unwatched>::new(setup, sink, parts)?.run(next_batch)
    }
}

/// So many arrivals before its turn the function of one is asked for, and the sandbox that will likely serve it.
const FUNCTION_AHEAD: usize = 4;
const SANDBOX_AHEAD: usize = 2;
/// So many events before its turn the sandbox of one is asked for, then its function, then the sandbox that it will follow in the list
/// of idle ones.
const EVENT_STAGES: [usize; 3] = [5, 3, 1];

/// What the world knows of a slot of the engine's table: one cache line.
#[derive(Clone, Debug, Default)]
#[repr(align(64))]
struct Slot {
    generation: u32,
    node: u32,
    function: u32,
    /// Whether it has a request.
    serving: bool,
    /// Whether it is being created, and has part of its memory; has all of it, or is reduced; is amid an operation that changes that.
    starting: bool,
    resident: bool,
    moving: bool,
    /// The request and how long it runs.
    request: RequestId,
    run: Duration,
    /// From the start of that action until the function began, or will begin, to run.
    start: Duration,
    reduced: Option<Box<Reduced>>,
}

impl Slot {
    #[inline]
    fn serve(&mut self, request: RequestId, run: Duration, start: Duration) {
        (self.serving, self.request, self.run, self.start) = (true, request, run, start);
    }
}

struct World<'a, S, W> {
    setup: &'a Setup,
    engine: Engine,
    queue: Queue,
    /// Modelled times by profile, and the profile of each function.
    laws: Vec<Laws>,
    profiles: Vec<u32>,
    memory: Memory,
    network: Network,
    metrics: Metrics,
    watch: W,
    slots: Vec<Slot>,
    /// What shares cores, while they are limited.
    cores: Option<Cores>,
    /// Whether there are so many functions that the memory of the next things to happen is worth asking for.
    many: bool,
    /// How often the queue's front had been filled when this was last looked at.
    fills: u32,
    /// Run times of requests that are not with a sandbox.
    pending: BTreeMap<RequestId, Duration>,
    /// The arrival being handled, until a sandbox takes it.
    current: Option<(RequestId, Duration)>,
    /// When the sandboxes that were purged on each node will have ended; empty where that takes no time.
    ended: Vec<Instant>,
    /// Operations on sandboxes, as numbers for draws.
    operations: u64,
    base_pages: BasePages,
    /// Memory of agents themselves, of nodes that are there.
    agents: Bytes,
    /// Memory that sandboxes are charged with and do not have yet.
    growing: Bytes,
    /// What they take really, where that is known.
    residents: Option<Residents>,
    /// Starts of requests under way, broken down; `None` where nobody asks.
    parts: Option<BTreeMap<RequestId, StartParts>>,
    sink: S,
}

impl<'a, S: FnMut(&RequestRecord, &StartParts), W: Watch> World<'a, S, W> {
    fn new(setup: &'a Setup, sink: S, parts: Option<BTreeMap<RequestId, StartParts>>) -> Result<Self, SimError> {
        setup.check()?;
        Ok(Self {
            setup,
            engine: Engine::new(&setup.config, setup.specs())?,
            queue: Queue::default(),
            laws: setup.profiles.function.iter().map(|p| Laws::new(p, &setup.profiles.costs, setup.seed)).collect(),
            profiles: setup.functions.iter().map(|f| f.profile as u32).collect(),
            memory: Memory::new(setup),
            network: Network::new(&setup.profiles.costs, &setup.config),
            metrics: Metrics::new(setup.functions.len(), setup.interval, setup.length),
            watch: W::default(),
            slots: Vec::new(),
            cores: Cores::new(&setup.config, setup.host.as_ref()),
            many: setup.functions.len() >= ahead::MANY,
            fills: 0,
            pending: BTreeMap::new(),
            current: None,
            ended: if setup.profiles.function.iter().all(|p| p.purge.is_none()) {
                Vec::new()
            } else {
                vec![Instant::ZERO; setup.config.nodes as usize]
            },
            operations: 0,
            base_pages: BasePages::default(),
            agents: Bytes::ZERO,
            growing: Bytes::ZERO,
            residents: Residents::new(setup),
            parts,
            sink,
        })
    }

    fn run(mut self, next_batch: impl FnMut(&mut Vec<Arrival>) -> bool) -> Result<Outcome, SimError> {
        let faults = fault::schedule(&self.setup.faults, self.setup.config.nodes);
        let mut next_fault = 0;
        let mut feed = Feed::new(next_batch);
        let end = Instant::ZERO + self.setup.length;
        for node in 0..self.setup.config.nodes {
            self.agent_is_there(Instant::ZERO, NodeId(node))?;
            self.will_measure(Instant::ZERO, NodeId(node));
        }
        // Until then only arrivals, events and deadlines happen.
        let mut quiet = Instant::ZERO;
        loop {
            let arrival = feed.next_at();
            let event = self.queue.next_at();
            // At one instant: faults, completions, arrivals, deadlines.
            let (soon, deadline) = (arrival.min(event), self.engine.poll_deadline());
            let now = soon.min(deadline);
            if now >= quiet {
                let fault = faults.get(next_fault).map_or(Instant::FAR, |f| f.0);
                let now = now.min(fault);
                if now == Instant::FAR || (now > end && arrival == Instant::FAR && self.idle()) {
                    break;
                }
                self.metrics.advance(now, &self.engine);
                if fault == now {
                    let (_, node, lost) = faults[next_fault];
                    next_fault += 1;
                    self.node_changes(now, node, lost)?;
                    continue;
                }
                quiet = fault.min(self.metrics.next_sample()).min(end);
            }
            if soon > now {
                self.engine.handle_deadline(now);
                self.carry_out(now)?;
            } else if event <= arrival {
                self.next_event()?;
            } else {
                self.next_arrival(&mut feed)?;
            }
        }
        let end = feed.last().max(end);
        self.metrics.advance(end, &self.engine);
        self.watch.finish(end)?;
        let (setup, names) = (self.setup, self.setup.functions.iter().map(|f| f.name.as_str()));
        let base_pages = self.base_pages;
        let outcome =
            self.metrics.finish(&setup.config, setup.seed, names, self.engine.counters(), self.engine.population());
        Ok(Outcome { base_pages, ..outcome })
    }

    #[inline(always)]
    fn next_event(&mut self) -> Result<(), SimError> {
        let Some(event) = self.queue.pop() else { return Ok(()) };
        if self.many {
            self.expect_event();
        }
        self.happens(event)
    }

    #[inline(always)]
    fn next_arrival(&mut self, feed: &mut Feed<impl FnMut(&mut Vec<Arrival>) -> bool>) -> Result<(), SimError> {
        let (request, a) = feed.take(self.profiles.len())?;
        if self.many {
            self.expect_arrivals(feed.rest());
        }
        self.arrives(request, a)
    }

    /// Asks for the memory that the next events will touch.
    #[inline]
    fn expect_event(&mut self) {
        let [sandbox, function, list] = EVENT_STAGES;
        if std::mem::replace(&mut self.fills, self.queue.fills()) != self.queue.fills() {
            // The first ones of a front: all at once, as nothing of them was known.
            (0..sandbox).for_each(|n| self.expect_sandbox(n));
            (0..function).for_each(|n| self.expect_function(n));
        }
        self.expect_sandbox(sandbox);
        self.expect_function(function);
        if let Some(slot) = self.queue.upcoming(list).and_then(|slot| self.slots.get(slot as usize)) {
            self.engine.expect_idle(FunctionId(slot.function));
        }
    }

    /// Asks for the sandbox of the `n`-th event from now.
    #[inline]
    fn expect_sandbox(&self, n: usize) {
        if let Some(slot) = self.queue.upcoming(n) {
            self.engine.expect_answer(slot);
            ahead::fetch(&self.slots, slot as usize);
        }
    }

    /// Asks for its function, once the sandbox is there.
    #[inline]
    fn expect_function(&self, n: usize) {
        if let Some(slot) = self.queue.upcoming(n).and_then(|slot| self.slots.get(slot as usize)) {
            self.engine.expect_function(FunctionId(slot.function));
        }
    }

    /// Asks for the memory that the next arrivals will touch.
    fn expect_arrivals(&self, next: &[Arrival]) {
        if let Some(a) = next.get(FUNCTION_AHEAD) {
            self.engine.expect_function(a.function);
        }
        if let Some(a) = next.get(SANDBOX_AHEAD)
            && let Some(slot) = self.engine.expect_warm(a.function)
        {
            ahead::fetch(&self.slots, slot as usize);
        }
    }

    #[inline(always)]
    fn arrives(&mut self, request: RequestId, a: Arrival) -> Result<(), SimError> {
        self.current = Some((request, a.run));
        self.tell(a.at, Input::Arrived { request, function: a.function })?;
        if let Some((request, run)) = self.current.take() {
            self.wait(request, run);
        }
        Ok(())
    }

    #[cold]
    fn wait(&mut self, request: RequestId, run: Duration) {
        self.pending.insert(request, run);
    }

    /// Whether every request has ended.
    fn idle(&self) -> bool {
        let c = self.engine.counters();
        c.arrived == c.answered + c.dropped + c.failed
    }

    #[inline(always)]
    fn tell(&mut self, now: Instant, input: Input) -> Result<(), SimError> {
        self.watch.input(now, &input)?;
        self.engine.handle(now, input);
        self.carry_out(now)
    }

    #[inline(always)]
    fn carry_out(&mut self, now: Instant) -> Result<(), SimError> {
        loop {
            if let Some((sandbox, node, function, request)) = self.engine.poll_run() {
                self.watch.action(now, &Action::Run { sandbox, node, function, request })?;
                self.run_warm(now, sandbox, node, function, request);
            } else if let Some(action) = self.engine.poll_action() {
                self.watch.action(now, &action)?;
                self.act(now, action);
            } else {
                break;
            }
        }
        while let Some(record) = self.engine.poll_record() {
            self.watch.record(now, &record)?;
            let request = record.request;
            if record.node.is_none() {
                self.pending.remove(&request);
            }
            self.metrics.record(&record);
            let parts = match &mut self.parts {
                Some(parts) => parts.remove(&request).unwrap_or_default(),
                None => StartParts::default(),
            };
            (self.sink)(&record, &parts);
        }
        self.metrics.memory(now, self.memory_in_use());
        self.watch.settle(now, &self.engine)
    }

    fn slot(&mut self, id: SandboxId) -> &mut Slot {
        let at = id.slot as usize;
        if at >= self.slots.len() {
            while self.slots.len() <= at {
                ahead::make_room(&mut self.slots);
                self.slots.push(Slot::default());
            }
        }
        &mut self.slots[at]
    }

    /// Takes the run time of a request that goes to a sandbox.
    #[inline]
    fn run_of(&mut self, request: RequestId) -> Duration {
        match self.current.take_if(|(r, _)| *r == request) {
            Some((_, run)) => run,
            None => self.pending.remove(&request).unwrap_or(Duration::ZERO),
        }
    }

    #[inline(always)]
    fn run_warm(&mut self, now: Instant, sandbox: SandboxId, node: NodeId, function: FunctionId, request: RequestId) {
        let run = self.run_of(request);
        let laws = self.laws_of(function);
        let (control, warm, cores) = (laws.control.draw(request.0), laws.warm.draw(request.0), laws.control_cores);
        let start = control + warm;
        if self.parts.is_some() {
            self.part(request, start, StartParts { control, ..StartParts::default() });
        }
        self.slots[sandbox.slot as usize].serve(request, run, start);
        self.begin(now, sandbox, node, Kind::Woken, Work::of(control, cores) + Work::of(warm, 1.0));
    }

    /// Takes up work of a sandbox, after which `kind` happens to it; a request that it has runs then.
    #[inline]
    fn begin(&mut self, now: Instant, sandbox: SandboxId, node: NodeId, kind: Kind, work: Work) {
        if self.residents.is_some() && !matches!(kind, Kind::Woken | Kind::Finished) {
            self.moves(sandbox, true);
        }
        if let Some(cores) = &mut self.cores {
            return cores.begin(now, &mut self.queue, sandbox, node, kind, work);
        }
        let slot = &self.slots[sandbox.slot as usize];
        let at = now + work.alone();
        if kind != Kind::Woken {
            self.queue.push(at, sandbox, kind);
        }
        if slot.serving {
            self.queue.push(at + slot.run, sandbox, Kind::Finished);
        }
    }

    #[inline(never)]
    fn act(&mut self, now: Instant, action: Action) {
        let setup = self.setup;
        match action {
            Action::Run { sandbox, node, function, request } => self.run_warm(now, sandbox, node, function, request),
            Action::Spawn { sandbox, node, function, request } => {
                let run = request.map(|r| self.run_of(r));
                self.operations += 1;
                let number = request.map_or(u64::MAX - self.operations, |r| r.0);
                let laws = *self.laws_of(function);
                let cold = laws.cold.draw(number);
                let control = request.map_or(Duration::ZERO, |r| laws.control.draw(r.0));
                let wait = self.ending(now, node);
                let start = wait + control + cold;
                if let Some(request) = request {
                    self.part(request, start, StartParts { control, ..StartParts::default() });
                }
                let slot = self.slot(sandbox);
                *slot = Slot { generation: sandbox.generation, node: node.0, function: function.0, ..Slot::default() };
                (slot.start, slot.starting) = (start, true);
                if let Some((request, run)) = request.zip(run) {
                    slot.serve(request, run, start);
                }
                self.growing += self.to_grow(function);
                let cold = Work::of(cold, setup.profile(function).cold.cores);
                let work = Work::waits(wait) + Work::of(control, laws.control_cores) + cold;
                self.begin(now, sandbox, node, Kind::Started, work);
            }
            Action::Restore { sandbox, node, function, request } => self.restore(now, sandbox, node, function, request),
            Action::Checkpoint { sandbox, node, function } => {
                let checkpoint = self.checkpoint_work(function);
                let pages = setup.functions[function.index()].memory.get() as f64 / 4096.0;
                let costs = &setup.profiles.costs;
                let chunks = f64::from(setup.config.chunksperpage);
                let us =
                    pages * (costs.fingerprint_page_us + chunks * (costs.fingerprint_chunk_us + costs.lookup_chunk_us));
                let wait = Work::waits(self.ending(now, node));
                let work = wait + checkpoint + Work::of(Duration::from_millis_f64(us / 1e3), 1.0);
                self.begin(now, sandbox, node, Kind::Checkpointed, work);
            }
            Action::Reduce { sandbox, node, function, method, again } => {
                let work = if again && self.slot(sandbox).reduced.is_some() {
                    // Back to the first image: the process is brought to its paused state again.
                    self.pause_work(function)
                } else {
                    let reduced = self.memory.reduce(setup, &self.engine, function, node, method);
                    let pages = reduced.pages_read();
                    let read = reduced.base.map_or(now, |(_, from)| self.network.read(now, from, node, pages));
                    let encode = Work::of(reduced.encode_time(setup, &setup.config), 1.0);
                    let mut work = self.checkpoint_work(function) + Work::waits(read.since(now)) + encode;
                    if !setup.config.nopause {
                        work = work + self.pause_work(function);
                    }
                    self.slot(sandbox).reduced = Some(Box::new(reduced));
                    work
                };
                self.begin(now, sandbox, node, Kind::Reduced, work);
            }
            Action::GiveUp { sandbox, .. } => {
                self.memory.remove_base(setup, sandbox);
            }
            Action::Purge { sandbox, .. } => {
                self.memory.remove_base(setup, sandbox);
                self.release(now, sandbox);
                self.ends(now, sandbox);
            }
        }
    }

    #[inline]
    fn laws_of(&self, function: FunctionId) -> &Laws {
        &self.laws[self.profiles[function.index()] as usize]
    }

    #[inline(always)]
    fn happens(&mut self, event: Event) -> Result<(), SimError> {
        let Event { at, sandbox, kind } = event;
        match kind {
            Kind::Cores => return self.cores_are_done(at, sandbox.slot),
            Kind::Measured => return self.measures(at, NodeId(sandbox.slot)),
            _ => {}
        }
        let slot = &mut self.slots[sandbox.slot as usize];
        if slot.generation != sandbox.generation {
            return Ok(()); // It was purged meanwhile.
        }
        if kind == Kind::Finished {
            slot.serving = false;
            let start = slot.start;
            self.fills(at, sandbox);
            self.tell(at, Input::Finished { sandbox, start })
        } else if let Some(input) = self.outcome_of(at, sandbox, kind) {
            self.tell(at, input)
        } else {
            Ok(())
        }
    }

    /// What the engine is told of an event that is no end of a request.
    fn outcome_of(&mut self, at: Instant, sandbox: SandboxId, kind: Kind) -> Option<Input> {
        Some(match kind {
            Kind::Started => {
                self.has_grown(sandbox);
                self.resides(sandbox, true);
                Input::Started { sandbox }
            }
            Kind::Restored => {
                self.resides(sandbox, true);
                Input::Restored { sandbox }
            }
            Kind::Waited => {
                if let Some(cores) = &mut self.cores {
                    cores.waited(at, &mut self.queue, sandbox.slot);
                }
                return None;
            }
            Kind::Finished | Kind::Woken | Kind::Cores | Kind::Measured => return None,
            Kind::Checkpointed => {
                self.moves(sandbox, false);
                let slot = &mut self.slots[sandbox.slot as usize];
                slot.reduced = None;
                let (function, node) = (FunctionId(slot.function), NodeId(slot.node));
                self.memory.add_base(self.setup, sandbox, function, node);
                Input::Checkpointed { sandbox, dump: self.engine.spec(function).dump }
            }
            Kind::Reduced => {
                let done = self.slots[sandbox.slot as usize].reduced.is_some();
                self.resides(sandbox, !done);
                match &self.slots[sandbox.slot as usize].reduced {
                    Some(r) => Input::Reduced {
                        sandbox,
                        stored: r.layout.stored_bytes(),
                        bases: r.base.iter().map(|(id, _)| *id).collect(),
                    },
                    None => Input::Failed { sandbox },
                }
            }
        })
    }
}
