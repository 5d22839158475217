//! The loop around the engine.

mod lost;
mod measured;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration as Wall, Instant as Clock};

use medes_engine::engine::Engine;
use medes_engine::event::{Action, Input, Method};
use medes_engine::id::{FunctionId, NodeId, RequestId, SandboxId};
use medes_engine::metrics::{BasePages, Metrics};
use medes_engine::record::{HostSample, Outcome as Ended, RequestRecord, StartParts};
use medes_engine::units::{Bytes, Duration, Instant};
use tokio::sync::{Notify, mpsc};

use super::agents::{Cluster, Fed, feed};
use super::books::{Images, Orders, Pending, Sums, speed};
use super::link::{Event, Send as ToLink};
use super::{Arrival, Directory, Outcome, Plan, RunError};
use crate::settings::TransportKind;
use crate::wire::{Order, OrderKind, Step, StepKind, pack_sandbox, unpack_sandbox};

/// Beyond an order's own time, for the way to the agent and back: then it has failed.
const GRACE: Duration = Duration::from_millis(1500);
/// How often progress is told, and a stop asked for.
pub(super) const TICK: Wall = Wall::from_millis(200);
/// Kinds of failures that are told one by one.
const TOLD: usize = 20;

/// Runs `plan` on the arrivals that `next_batch` appends until it returns false. Each request that ends goes to `sink`; `tick` is told how
/// many have arrived, and ends the run by returning false.
///
/// # Errors
/// The run could not begin, an agent was refused, or `tick` stopped it.
pub fn run<D: Directory>(
    plan: &Plan<'_>,
    directory: Arc<D>,
    next_batch: impl FnMut(&mut Vec<Arrival>) -> bool + Send,
    sink: impl FnMut(&RequestRecord, &StartParts),
    mut tick: impl FnMut(u64) -> bool,
) -> Result<Outcome, RunError> {
    let engine = Engine::new(plan.config, plan.specs.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(plan.threads.max(1))
        .thread_name("controller")
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let (mut cluster, missing) = runtime.block_on(Cluster::reach(plan, directory.clone(), &mut tick))?;
    let mut controller = Controller::new(plan, engine, directory, sink, cluster.senders());
    controller.notes.append(&mut cluster.notes);
    controller.suspected.clone_from(&cluster.suspected);
    controller.transport = cluster.transport;
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        let (arrivals, start) = (cluster.arrivals.clone(), controller.start);
        let stop = &stop;
        scope.spawn(move || feed(start, next_batch, arrivals, stop));
        let done = runtime.block_on(controller.drive(&mut cluster, missing, tick));
        stop.store(true, Ordering::Relaxed);
        done
    });
    let finished = outcome.map(|()| controller.finish());
    // Its senders keep the links open.
    drop(controller);
    runtime.block_on(cluster.close());
    runtime.shutdown_timeout(Wall::from_secs(1));
    finished
}

struct Controller<'a, D, S> {
    plan: &'a Plan<'a>,
    engine: Engine,
    directory: Arc<D>,
    metrics: Metrics,
    sink: S,
    senders: Vec<mpsc::UnboundedSender<ToLink>>,
    nodes: Vec<Node>,
    start: Clock,
    /// Time as last told to the engine.
    now: Instant,
    orders: Orders,
    images: Images,
    sums: Sums,
    arrived: HashMap<RequestId, Instant>,
    parts: HashMap<RequestId, StartParts>,
    requests: u64,
    /// How they ended, each once.
    answered: u64,
    unanswered: u64,
    twice: u64,
    /// Failures that need no agent to be found.
    own: VecDeque<Input>,
    wrong: u64,
    late: u64,
    failures: u64,
    lost: u64,
    notes: Vec<String>,
    suspected: Vec<Arc<Notify>>,
    /// Who cannot read base pages of whom.
    unread: BTreeSet<(NodeId, NodeId)>,
    /// What dedup starts read.
    base_pages: BasePages,
    /// How pages of other nodes are read.
    transport: TransportKind,
    /// How fast the hosts were.
    host: Vec<HostSample>,
}

#[derive(Clone, Copy, Default)]
struct Node {
    /// 0 while it is not there.
    generation: u32,
    /// Last order sent.
    sent: u64,
    used: Bytes,
    believed: Instant,
}

impl<'a, D: Directory, S: FnMut(&RequestRecord, &StartParts)> Controller<'a, D, S> {
    fn new(
        plan: &'a Plan<'a>,
        engine: Engine,
        directory: Arc<D>,
        sink: S,
        senders: Vec<mpsc::UnboundedSender<ToLink>>,
    ) -> Self {
        Self {
            plan,
            engine,
            directory,
            metrics: Metrics::new(plan.specs.len(), plan.interval, plan.length),
            sink,
            nodes: vec![Node::default(); senders.len()],
            senders,
            start: Clock::now(),
            now: Instant::ZERO,
            orders: Orders::default(),
            images: Images::default(),
            sums: Sums::default(),
            arrived: HashMap::new(),
            parts: HashMap::new(),
            requests: 0,
            answered: 0,
            unanswered: 0,
            twice: 0,
            own: VecDeque::new(),
            wrong: 0,
            late: 0,
            failures: 0,
            lost: 0,
            notes: Vec::new(),
            suspected: Vec::new(),
            unread: BTreeSet::new(),
            base_pages: BasePages::default(),
            transport: TransportKind::default(),
            host: Vec::new(),
        }
    }

    async fn drive(
        &mut self,
        cluster: &mut Cluster,
        there: Vec<u32>,
        mut tick: impl FnMut(u64) -> bool,
    ) -> Result<(), RunError> {
        for (i, generation) in there.into_iter().enumerate() {
            self.nodes[i].generation = generation;
            if generation == 0 {
                let node = NodeId(i as u32);
                self.notes.push(format!("agent {node} was not there at the start"));
                self.tell(Instant::ZERO, Input::NodeLost { node });
            }
        }
        let (end, mut feeding) = (Instant::ZERO + self.plan.length, true);
        let mut ticked = Clock::now();
        loop {
            if ticked.elapsed() >= TICK {
                ticked = Clock::now();
                if !tick(self.requests) {
                    return Err(RunError::Stopped);
                }
            }
            let now = self.clock(Clock::now());
            if !feeding && now >= end && self.idle() {
                return Ok(());
            }
            let due = self.engine.poll_deadline().min(self.orders.deadline());
            if due <= now {
                self.time_passes(now);
                continue;
            }
            let due = self.start + Wall::from_micros(due.as_micros().min(1 << 50));
            let due = due.min(ticked + TICK);
            tokio::select! {
                biased;
                event = cluster.events.recv() => match event {
                    Some((node, at, event)) => self.happens(node, at, event)?,
                    None => return Err(RunError::Stopped),
                },
                fed = cluster.fed.recv(), if feeding => match fed {
                    Some(Fed::Arrival(arrival)) => self.arrives(arrival),
                    Some(Fed::End) | None => feeding = false,
                },
                () = tokio::time::sleep_until(due.into()) => {}
            }
        }
    }

    /// Time of the run; never goes back.
    fn clock(&self, at: Clock) -> Instant {
        let micros = u64::try_from(at.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX);
        Instant::from_micros(micros).max(self.now)
    }

    fn idle(&self) -> bool {
        let c = self.engine.counters();
        c.arrived == c.answered + c.dropped + c.failed
    }

    fn passes(&mut self, to: Instant) {
        self.now = self.now.max(to);
        self.metrics.advance(self.now, &self.engine);
    }

    fn time_passes(&mut self, now: Instant) {
        while let Some(order) = self.orders.late(now) {
            self.late += 1;
            self.fail(order.node, order.sandbox, || format!("{:?} was not answered by its deadline", order.kind));
            self.tell(now, Input::Failed { sandbox: order.sandbox });
        }
        self.passes(now);
        if self.engine.poll_deadline() <= self.now {
            self.engine.handle_deadline(self.now);
            self.carry_out();
        }
    }

    fn arrives(&mut self, arrival: Arrival) {
        let request = RequestId(self.requests);
        self.requests += 1;
        self.arrived.insert(request, arrival.at);
        self.tell(arrival.at, Input::Arrived { request, function: arrival.function });
    }

    fn tell(&mut self, at: Instant, input: Input) {
        self.passes(at);
        self.engine.handle(self.now, input);
        self.carry_out();
        while let Some(input) = self.own.pop_front() {
            self.engine.handle(self.now, input);
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            self.act(action);
        }
        while let Some(record) = self.engine.poll_record() {
            // A request that ended already is not there any more.
            self.twice += u64::from(self.arrived.remove(&record.request).is_none());
            let parts = self.parts.remove(&record.request).unwrap_or_default();
            self.answered += u64::from(record.outcome == Ended::Answered);
            self.unanswered += u64::from(record.outcome != Ended::Answered);
            self.sums.starts.add(&record, &parts);
            self.metrics.record(&record);
            (self.sink)(&record, &parts);
        }
    }

    fn act(&mut self, action: Action) {
        let d = self.plan.deadlines;
        match action {
            Action::Spawn { sandbox, node, function, request } => {
                self.order(OrderKind::Spawn, sandbox, node, function, request, d.cold, |_| {});
            }
            Action::Run { sandbox, node, function, request } => {
                self.order(OrderKind::Run, sandbox, node, function, Some(request), d.warm, |_| {});
            }
            Action::Restore { sandbox, node, function, request } => {
                self.order(OrderKind::Restore, sandbox, node, function, Some(request), d.dedup, |_| {});
            }
            Action::Checkpoint { sandbox, node, function } => {
                self.drop_image(sandbox);
                self.order(OrderKind::Checkpoint, sandbox, node, function, None, d.operation, |_| {});
            }
            Action::Reduce { sandbox, node, function, method, again } => {
                if !again {
                    self.drop_image(sandbox);
                }
                self.order(OrderKind::Reduce, sandbox, node, function, None, d.operation, |order| {
                    order.compress = method == Method::Compression;
                    order.again = again;
                });
            }
            Action::GiveUp { sandbox, node, function } => {
                self.directory.forget(sandbox);
                self.order(OrderKind::GiveUp, sandbox, node, function, None, d.operation, |_| {});
            }
            Action::Purge { sandbox, node, function, reason } => {
                tracing::debug!("{sandbox} on {node} is purged: {reason:?}");
                self.orders.forget(sandbox);
                self.drop_image(sandbox);
                self.directory.forget(sandbox);
                self.order(OrderKind::Purge, sandbox, node, function, None, d.operation, |_| {});
            }
        }
    }

    fn drop_image(&mut self, sandbox: SandboxId) {
        for base in self.images.gone(sandbox) {
            self.directory.refer(base, -1);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "an action's fields")]
    fn order(
        &mut self,
        kind: OrderKind,
        sandbox: SandboxId,
        node: NodeId,
        function: FunctionId,
        request: Option<RequestId>,
        limit: Wall,
        more: impl FnOnce(&mut Order),
    ) {
        let (limits, load) = (self.plan.deadlines, &self.plan.loads[function.index()]);
        let limit = Duration::from_micros(limit.as_micros() as u64);
        let mut run = Duration::ZERO;
        let mut arguments = String::new();
        if let Some(request) = request {
            let arrived = self.arrived.get(&request).copied().unwrap_or(self.now);
            let left = Duration::from_micros(limits.request.as_micros() as u64).saturating_sub(self.now.since(arrived));
            if left == Duration::ZERO {
                // Its deadline has passed: it is not begun again.
                self.own.push_back(Input::Failed { sandbox });
                return;
            }
            run = Duration::from_micros(limits.run.as_micros() as u64).min(left);
            arguments = load.request(self.plan.seed.wrapping_mul(1_000_003).wrapping_add(request.0));
        }
        let id = self.orders.id();
        let millis = |d: Duration| u32::try_from(d.as_micros().div_ceil(1000)).unwrap_or(u32::MAX);
        let mut order = Order {
            id,
            kind: kind.into(),
            sandbox: pack_sandbox(sandbox),
            function: load.action.clone(),
            arguments,
            start_ms: millis(limit),
            run_ms: millis(run),
            ..Order::default()
        };
        more(&mut order);
        let at = &mut self.nodes[node.index()];
        at.sent = id;
        let sent = self.senders[node.index()].send(ToLink { generation: at.generation, order });
        let waits = !matches!(kind, OrderKind::GiveUp | OrderKind::Purge);
        if waits {
            let (chosen, parts) = (self.now, StartParts::default());
            let pending = Pending { kind, node, sandbox, function, request, chosen, started: None, parts };
            self.orders.add(id, pending, self.now + limit + run + GRACE);
        }
        if sent.is_err() && waits {
            self.orders.forget(sandbox);
            self.own.push_back(Input::Failed { sandbox });
        }
    }

    fn happens(&mut self, node: NodeId, at: Clock, event: Event) -> Result<(), RunError> {
        let at = self.clock(at);
        match event {
            Event::Step(step) => self.step(at, node, step),
            Event::Memory(memory, received) => self.measured(at, node, memory, received),
            Event::Lost { reason } => {
                self.lost += 1;
                self.note(format!("agent {node} was lost at {:.1} s: {reason}", at.as_secs_f64()));
                self.lose(at, node);
            }
            Event::Peer { peer, lost } => self.peer(at, node, peer, &lost),
            Event::Up { generation, trouble } => {
                self.note(format!("agent {node} was there again at {:.1} s", at.as_secs_f64()));
                if !trouble.is_empty() {
                    self.note(format!("agent {node}: {trouble}"));
                }
                self.nodes[node.index()] = Node { generation, ..Node::default() };
                self.tell(at, Input::NodeBack { node });
            }
            Event::Refused { reason, .. } => self.note(format!("agent {node} cannot be used: {reason}")),
        }
        Ok(())
    }

    fn step(&mut self, at: Instant, node: NodeId, step: Step) {
        let kind = step.kind();
        let Some(order) = self.orders.get(step.order).filter(|o| o.node == node) else { return };
        let took = Duration::from_micros(step.took);
        match kind {
            StepKind::Started | StepKind::Restored => {
                if order.started.replace(took).is_some() {
                    return; // Said again after a broken stream.
                }
                order.parts.resume =
                    Duration::from_micros(step.resume.max(if kind == StepKind::Started { step.took } else { 0 }));
                order.parts.read = Duration::from_micros(step.read);
                order.parts.patch = Duration::from_micros(step.patch);
                let (sandbox, waits) = (order.sandbox, order.request.is_some());
                if let [local, remote] = step.pages[..] {
                    self.base_pages.local += local as f64;
                    self.base_pages.remote += remote as f64;
                }
                if !waits {
                    self.orders.remove(step.order);
                }
                let input =
                    if kind == StepKind::Started { Input::Started { sandbox } } else { Input::Restored { sandbox } };
                self.tell(at, input);
            }
            StepKind::Finished => self.finished(at, &step),
            StepKind::Checkpointed => {
                let Some(order) = self.orders.remove(step.order) else { return };
                self.sums.operation(order.function, "base", &step);
                self.tell(at, Input::Checkpointed { sandbox: order.sandbox, dump: Bytes::new(step.bytes) });
            }
            StepKind::Reduced => {
                let Some(order) = self.orders.remove(step.order) else { return };
                let bases: Vec<SandboxId> = step.bases.iter().map(|b| unpack_sandbox(*b)).collect();
                let fresh = step.fingerprint > 0 || step.patch > 0;
                self.sums.operation(order.function, if fresh { "dedup" } else { "dedup-again" }, &step);
                for base in self.images.reduced(order.sandbox, node, &bases) {
                    self.directory.refer(base, 1);
                }
                self.tell(at, Input::Reduced { sandbox: order.sandbox, stored: Bytes::new(step.bytes), bases });
                self.packed_too_late(at, node);
            }
            StepKind::Failed => {
                let Some(order) = self.orders.remove(step.order) else { return };
                self.failures += 1;
                self.fail(node, order.sandbox, || format!("{:?} failed: {}", order.kind, step.text));
                self.tell(at, Input::Failed { sandbox: order.sandbox });
            }
            StepKind::Done => {}
        }
    }

    fn finished(&mut self, at: Instant, step: &Step) {
        let Some(order) = self.orders.remove(step.order) else { return };
        let Some(request) = order.request else { return };
        if !self.plan.loads[order.function.index()].right(step.status, &step.text) {
            self.wrong += 1;
            let text: String = step.text.chars().take(200).collect();
            self.fail(order.node, order.sandbox, || format!("answered {}, which is wrong: {text}", step.status));
            self.tell(at, Input::Failed { sandbox: order.sandbox });
            return;
        }
        let (run, wake) = (Duration::from_micros(step.run), Duration::from_micros(step.resume));
        let start = at.since(order.chosen).saturating_sub(run);
        let mut parts = order.parts;
        let [read, patch] = [step.read, step.patch].map(Duration::from_micros);
        (parts.read, parts.patch, parts.resume) = (parts.read + read, parts.patch + patch, parts.resume + wake);
        let there = order.started.unwrap_or(Duration::ZERO) + wake + read + patch;
        parts.control = start.saturating_sub(there);
        self.parts.insert(request, parts);
        self.tell(at, Input::Finished { sandbox: order.sandbox, start });
    }

    fn fail(&mut self, node: NodeId, sandbox: SandboxId, what: impl FnOnce() -> String) {
        let what = what();
        tracing::warn!("{sandbox} on {node}: {what}");
        self.note(format!("{sandbox} on {node} at {:.1} s: {what}", self.now.as_secs_f64()));
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < TOLD {
            self.notes.push(note);
        }
    }

    /// How all requests ended, for the reader of the run.
    fn ends(&self) -> String {
        let open = self.arrived.len();
        let checked = self.plan.loads.iter().filter(|l| l.checked).count();
        format!(
            "{} requests arrived: {} answered, {} dropped or failed, {open} without an end, {} ended more than once; {checked} of {} functions check \
             their own answers, and none that was wrong counts as answered",
            self.requests,
            self.answered,
            self.unanswered,
            self.twice,
            self.plan.loads.len()
        )
    }

    fn finish(&mut self) -> Outcome {
        let end = self.now.max(Instant::ZERO + self.plan.length);
        self.metrics.advance(end, &self.engine);
        let mut notes = vec![self.ends()];
        let BasePages { local, remote } = self.base_pages;
        if local + remote > 0.0 {
            let over = self.transport.name();
            notes.push(format!(
                "dedup starts read {local} base pages of their own node, and {remote} of other nodes over {over}"
            ));
        }
        notes.extend(speed(&self.host));
        notes.append(&mut self.notes);
        let counts = [
            (self.wrong, "answers were wrong"),
            (self.late, "orders were not answered in time"),
            (self.failures, "orders failed"),
            (self.lost, "times an agent was lost"),
        ];
        notes.extend(counts.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
        let (plan, engine) = (self.plan, &self.engine);
        let metrics = std::mem::replace(&mut self.metrics, Metrics::new(0, plan.interval, plan.length));
        let names = plan.specs.iter().map(|f| f.name.as_str());
        let outcome = metrics.finish(plan.config, plan.seed, names, engine.counters(), engine.population());
        let outcome = medes_engine::metrics::Outcome { base_pages: self.base_pages, ..outcome };
        let name = |f: FunctionId| plan.specs[f.index()].name.clone();
        let (starts, operations) = std::mem::take(&mut self.sums).rows(name);
        Outcome { outcome, starts, operations, host: std::mem::take(&mut self.host), notes }
    }
}
