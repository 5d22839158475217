//! The simulated world's main loop.

use std::collections::BTreeMap;

use medes_engine::engine::Engine;
use medes_engine::event::{Action, Input};
use medes_engine::id::{FunctionId, NodeId, RequestId, SandboxId};
use medes_engine::record::RequestRecord;
use medes_engine::units::{Duration, Instant};

use crate::check::Checker;
use crate::cost::{Purpose, draw};
use crate::fault;
use crate::memory::{Memory, Reduced};
use crate::metrics::{Metrics, Outcome};
use crate::net::Network;
use crate::queue::{Event, Kind, Queue};
use crate::setup::{Arrival, Setup, SimError};

/// Runs `setup` on the arrivals that `next_batch` appends until it returns false; each request that ends goes to `sink`.
///
/// Memory of the run grows with functions, sandboxes and requests under way, not with the number of requests.
///
/// # Errors
/// A setup that does not fit, arrivals out of order, or, with `setup.check`, a fault that the checker found.
pub fn simulate(
    setup: &Setup,
    next_batch: impl FnMut(&mut Vec<Arrival>) -> bool,
    sink: impl FnMut(&RequestRecord),
) -> Result<Outcome, SimError> {
    setup.check()?;
    let engine = Engine::new(&setup.config, setup.specs())?;
    let world = World {
        setup,
        engine,
        queue: Queue::default(),
        memory: Memory::new(setup),
        network: Network::new(&setup.profiles.costs, setup.config.nodes as usize),
        metrics: Metrics::new(setup),
        checker: setup.check.then(Checker::default),
        slots: Vec::new(),
        busy: vec![0; setup.config.nodes as usize],
        pending: BTreeMap::new(),
        current: None,
        operations: 0,
        sink,
    };
    world.run(next_batch)
}

/// What the world knows of a slot of the engine's table.
#[derive(Clone, Debug, Default)]
struct Slot {
    generation: u32,
    node: u32,
    function: u32,
    /// The request it serves and how long that runs.
    serving: Option<(RequestId, Duration)>,
    /// Whether it counts as work on its node's cores.
    working: bool,
    reduced: Option<Box<Reduced>>,
}

struct World<'a, S> {
    setup: &'a Setup,
    engine: Engine,
    queue: Queue,
    memory: Memory,
    network: Network,
    metrics: Metrics,
    checker: Option<Checker>,
    slots: Vec<Slot>,
    /// Work under way by node, while cores are limited.
    busy: Vec<u32>,
    /// Run times of requests that are not with a sandbox.
    pending: BTreeMap<RequestId, Duration>,
    /// The arrival being handled, until a sandbox takes it.
    current: Option<(RequestId, Duration)>,
    /// Operations on sandboxes, as numbers for draws.
    operations: u64,
    sink: S,
}

impl<S: FnMut(&RequestRecord)> World<'_, S> {
    fn run(mut self, mut next_batch: impl FnMut(&mut Vec<Arrival>) -> bool) -> Result<Outcome, SimError> {
        let faults = fault::schedule(&self.setup.faults, self.setup.config.nodes);
        let (mut batch, mut at_in_batch, mut number, mut next_fault) = (Vec::new(), 0, 0u64, 0);
        let end = Instant::ZERO + self.setup.length;
        let mut last = Instant::ZERO;
        let mut more = true;
        loop {
            if at_in_batch == batch.len() {
                batch.clear();
                at_in_batch = 0;
                while more && batch.is_empty() {
                    more = next_batch(&mut batch);
                }
            }
            let arrival = batch.get(at_in_batch).map_or(Instant::FAR, |a: &Arrival| a.at);
            let event = self.queue.next_at();
            let deadline = self.engine.poll_deadline();
            let fault = faults.get(next_fault).map_or(Instant::FAR, |f| f.0);
            // At one instant: faults, completions, arrivals, deadlines.
            let now = arrival.min(event).min(deadline).min(fault);
            if now == Instant::FAR || (now > end && arrival == Instant::FAR && self.idle()) {
                break;
            }
            self.metrics.advance(now, &self.engine);
            if fault == now {
                let (_, node, lost) = faults[next_fault];
                next_fault += 1;
                self.node_changes(now, node, lost)?;
            } else if event == now {
                if let Some(event) = self.queue.pop() {
                    self.happens(event)?;
                }
            } else if arrival == now {
                let a = batch[at_in_batch];
                at_in_batch += 1;
                let known = a.function.index() < self.setup.functions.len();
                if a.at < last || !known {
                    let what = if known { "earlier than the one before" } else { "no such function" };
                    return Err(SimError::Arrival { number, at: a.at, function: a.function, what });
                }
                last = a.at;
                let request = RequestId(number);
                number += 1;
                self.current = Some((request, a.run));
                self.tell(now, Input::Arrived { request, function: a.function })?;
                if let Some((request, run)) = self.current.take() {
                    self.pending.insert(request, run);
                }
            } else {
                self.engine.handle_deadline(now);
                self.carry_out(now)?;
            }
        }
        let end = last.max(end);
        self.metrics.advance(end, &self.engine);
        if let Some(checker) = &self.checker {
            checker.finish(end)?;
        }
        Ok(self.metrics.finish(self.setup, self.engine.counters(), self.engine.population()))
    }

    /// Whether every request has ended.
    fn idle(&self) -> bool {
        let c = self.engine.counters();
        c.arrived == c.answered + c.dropped + c.failed
    }

    fn tell(&mut self, now: Instant, input: Input) -> Result<(), SimError> {
        if let Some(checker) = &mut self.checker {
            checker.input(now, &input)?;
        }
        self.engine.handle(now, input);
        self.carry_out(now)
    }

    fn carry_out(&mut self, now: Instant) -> Result<(), SimError> {
        while let Some(action) = self.engine.poll_action() {
            if let Some(checker) = &mut self.checker {
                checker.action(now, &action)?;
            }
            self.act(now, action);
        }
        while let Some(record) = self.engine.poll_record() {
            if let Some(checker) = &mut self.checker {
                checker.record(now, &record)?;
            }
            if record.node.is_none() {
                self.pending.remove(&record.request);
            }
            self.metrics.record(&record);
            (self.sink)(&record);
        }
        self.metrics.memory(self.engine.total_used());
        if let Some(checker) = &mut self.checker {
            checker.settle(now, &self.engine)?;
        }
        Ok(())
    }

    fn slot(&mut self, id: SandboxId) -> &mut Slot {
        let at = id.slot as usize;
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, Slot::default);
        }
        &mut self.slots[at]
    }

    /// Takes the run time of a request that goes to a sandbox.
    fn run_of(&mut self, request: RequestId) -> Duration {
        match self.current.take_if(|(r, _)| *r == request) {
            Some((_, run)) => run,
            None => self.pending.remove(&request).unwrap_or(Duration::ZERO),
        }
    }

    fn act(&mut self, now: Instant, action: Action) {
        let setup = self.setup;
        match action {
            Action::Run { sandbox, node, function, request } => {
                let run = self.run_of(request);
                let warm = draw(&setup.profile(function).warm, setup.seed, Purpose::Warm, request.0);
                let (start, run_slowed) = (self.slowed(node, warm), self.slowed(node, run));
                let slot = self.slot(sandbox);
                slot.serving = Some((request, run));
                self.begin_work(sandbox);
                self.queue.push(now + start + run_slowed, sandbox, Kind::Finished { start });
            }
            Action::Spawn { sandbox, node, function, request } => {
                let run = request.map(|r| self.run_of(r));
                self.operations += 1;
                let number = request.map_or(u64::MAX - self.operations, |r| r.0);
                let cold = draw(&setup.profile(function).cold, setup.seed, Purpose::Cold, number);
                let start = self.slowed(node, cold);
                let run_slowed = run.map(|run| self.slowed(node, run));
                let slot = self.slot(sandbox);
                *slot = Slot { generation: sandbox.generation, node: node.0, function: function.0, ..Slot::default() };
                slot.serving = request.zip(run);
                self.begin_work(sandbox);
                self.queue.push(now + start, sandbox, Kind::Started);
                if let Some(run) = run_slowed {
                    self.queue.push(now + start + run, sandbox, Kind::Finished { start });
                }
            }
            Action::Restore { sandbox, node, function, request } => self.restore(now, sandbox, node, function, request),
            Action::Checkpoint { sandbox, node, function } => {
                let time = self.operation(function, Purpose::Checkpoint);
                let pages = setup.functions[function.index()].memory.get() as f64 / 4096.0;
                let costs = &setup.profiles.costs;
                let chunks = f64::from(setup.config.chunksperpage);
                let us =
                    pages * (costs.fingerprint_page_us + chunks * (costs.fingerprint_chunk_us + costs.lookup_chunk_us));
                let time = self.slowed(node, time + Duration::from_millis_f64(us / 1e3));
                self.begin_work(sandbox);
                self.queue.push(now + time, sandbox, Kind::Checkpointed);
            }
            Action::Reduce { sandbox, node, function, method, again } => {
                let time = if again && self.slot(sandbox).reduced.is_some() {
                    // Back to the first image: the process is brought to its paused state again.
                    self.operation(function, Purpose::Restore)
                } else {
                    let reduced = self.memory.reduce(setup, &self.engine, function, node, method);
                    let pages = reduced.pages_read();
                    let read = reduced.base.map_or(now, |(_, from)| self.network.read(now, from, node, pages));
                    let mut time = self.operation(function, Purpose::Checkpoint)
                        + read.since(now)
                        + reduced.encode_time(setup, &setup.config);
                    if !setup.config.nopause {
                        time += self.operation(function, Purpose::Restore);
                    }
                    self.slot(sandbox).reduced = Some(Box::new(reduced));
                    time
                };
                let time = self.slowed(node, time);
                self.begin_work(sandbox);
                self.queue.push(now + time, sandbox, Kind::Reduced);
            }
            Action::GiveUp { sandbox, .. } => {
                self.memory.remove_base(setup, sandbox);
            }
            Action::Purge { sandbox, .. } => {
                self.memory.remove_base(setup, sandbox);
                self.release(sandbox);
            }
        }
    }

    fn restore(&mut self, now: Instant, sandbox: SandboxId, node: NodeId, function: FunctionId, request: RequestId) {
        let setup = self.setup;
        let run = self.run_of(request);
        let profile = setup.profile(function);
        let (base, pages, decode) = match &self.slot(sandbox).reduced {
            Some(r) => (r.base, r.pages_read(), r.decode_time(setup)),
            None => (None, 0.0, Duration::ZERO),
        };
        let read = base.map_or(now, |(_, from)| self.network.read(now, from, node, pages));
        let mut work = decode + draw(&profile.resume, setup.seed, Purpose::Resume, request.0);
        if setup.config.nopause {
            work += draw(&profile.restore, setup.seed, Purpose::Restore, request.0);
        }
        let start = read.since(now) + self.slowed(node, work);
        let run_slowed = self.slowed(node, run);
        self.slot(sandbox).serving = Some((request, run));
        self.begin_work(sandbox);
        self.queue.push(now + start, sandbox, Kind::Restored);
        self.queue.push(now + start + run_slowed, sandbox, Kind::Finished { start });
    }

    /// A draw for an operation without a request.
    fn operation(&mut self, function: FunctionId, purpose: Purpose) -> Duration {
        self.operations += 1;
        let profile = self.setup.profile(function);
        let latency = if matches!(purpose, Purpose::Checkpoint) { &profile.checkpoint } else { &profile.restore };
        draw(latency, self.setup.seed, purpose, u64::MAX - self.operations)
    }

    /// How long work takes on a node whose cores are shared with what is under way now.
    fn slowed(&self, node: NodeId, time: Duration) -> Duration {
        let cores = self.setup.config.cores;
        let busy = self.busy[node.index()] + 1;
        if cores == 0 || busy <= cores {
            time
        } else {
            Duration::from_micros((time.as_micros() as f64 * f64::from(busy) / f64::from(cores)).round() as u64)
        }
    }

    fn begin_work(&mut self, id: SandboxId) {
        if self.setup.config.cores > 0 {
            let slot = &mut self.slots[id.slot as usize];
            if !std::mem::replace(&mut slot.working, true) {
                self.busy[slot.node as usize] += 1;
            }
        }
    }

    fn end_work(&mut self, id: SandboxId) {
        let slot = &mut self.slots[id.slot as usize];
        if std::mem::replace(&mut slot.working, false) {
            self.busy[slot.node as usize] -= 1;
        }
    }

    /// A sandbox is gone; a request that it was serving may be started again.
    fn release(&mut self, id: SandboxId) {
        self.end_work(id);
        let slot = &mut self.slots[id.slot as usize];
        if let Some((request, run)) = slot.serving.take() {
            self.pending.insert(request, run);
        }
        slot.reduced = None;
        slot.generation = slot.generation.wrapping_add(1);
    }

    fn happens(&mut self, event: Event) -> Result<(), SimError> {
        let Event { at, sandbox, kind, .. } = event;
        if self.slots[sandbox.slot as usize].generation != sandbox.generation {
            return Ok(()); // It was purged meanwhile.
        }
        let input = match kind {
            Kind::Started => {
                if self.slots[sandbox.slot as usize].serving.is_none() {
                    self.end_work(sandbox);
                }
                Input::Started { sandbox }
            }
            Kind::Restored => Input::Restored { sandbox },
            Kind::Finished { start } => {
                self.slots[sandbox.slot as usize].serving = None;
                self.end_work(sandbox);
                Input::Finished { sandbox, start }
            }
            Kind::Checkpointed => {
                self.end_work(sandbox);
                let slot = &mut self.slots[sandbox.slot as usize];
                slot.reduced = None;
                let (function, node) = (FunctionId(slot.function), NodeId(slot.node));
                self.memory.add_base(self.setup, sandbox, function, node);
                Input::Checkpointed { sandbox, dump: self.engine.spec(function).dump }
            }
            Kind::Reduced => {
                self.end_work(sandbox);
                match &self.slots[sandbox.slot as usize].reduced {
                    Some(r) => Input::Reduced {
                        sandbox,
                        stored: r.layout.stored_bytes(),
                        bases: r.base.iter().map(|(id, _)| *id).collect(),
                    },
                    None => Input::Failed { sandbox },
                }
            }
        };
        self.tell(at, input)
    }

    fn node_changes(&mut self, now: Instant, node: NodeId, lost: bool) -> Result<(), SimError> {
        if !lost {
            return self.tell(now, Input::NodeBack { node });
        }
        for base in self.memory.bases_on(node) {
            self.memory.remove_base(self.setup, base);
        }
        let there: Vec<SandboxId> = self.engine.sandboxes().filter(|s| s.2 == node).map(|s| s.0).collect();
        there.into_iter().for_each(|id| self.release(id));
        // Warm sandboxes elsewhere lose images that refer to the node.
        for slot in &mut self.slots {
            if slot.reduced.as_ref().is_some_and(|r| r.base.is_some_and(|(_, at)| at == node)) {
                slot.reduced = None;
            }
        }
        self.tell(now, Input::NodeLost { node })
    }
}
