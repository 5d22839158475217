//! The sandboxes of one run, and the orders about them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use medes_engine::event::Method;
use medes_engine::id::SandboxId;
use tokio::sync::{mpsc, watch};

use super::service::lock;
use crate::host;
use crate::memory;
use crate::ops::{OpError, Sandboxes};
use crate::transport::PeerEvent;
use crate::wire::{Memory, Order, OrderKind, Said, SeenPeer, Step, StepKind, pack_sandbox, unpack_sandbox};

/// Longest answer of a function that is passed on, bytes.
const MAX_ANSWER: usize = 256 << 10;
/// Longest wait for whoever holds a run that has ended: a measurement under way, a stream that is just closing.
const LETTING_GO: Duration = Duration::from_millis(500);

/// Whether a job is done.
type Done = watch::Receiver<bool>;

pub(super) struct World {
    pub(super) epoch: u64,
    sandboxes: Arc<dyn Sandboxes>,
    report_every: Duration,
    state: Mutex<State>,
    /// Orders under way that change memory, and how many there were.
    moving: AtomicU32,
    moved: AtomicU64,
    received: AtomicU64,
}

#[derive(Default)]
struct State {
    /// What was said of each order that the controller may send again.
    said: BTreeMap<u64, Vec<Step>>,
    /// The last job of each sandbox.
    last: HashMap<u64, Done>,
    /// Purges under way, of sandboxes that nothing else is done with.
    purges: Vec<Done>,
    there: BTreeSet<SandboxId>,
    out: Option<mpsc::UnboundedSender<Said>>,
    ended: bool,
}

async fn done(mut job: Done) {
    // An error is a job that is gone: done.
    let _ = job.wait_for(|done| *done).await;
}

impl World {
    pub(super) fn new(epoch: u64, sandboxes: Arc<dyn Sandboxes>, report_every: Duration) -> Self {
        Self {
            epoch,
            sandboxes,
            report_every,
            state: Mutex::default(),
            moving: AtomicU32::new(0),
            moved: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }

    /// A new stream to the controller: what is said goes there from now on, memory as long as it is the last.
    pub(super) fn attach(self: &Arc<Self>) -> mpsc::UnboundedReceiver<Said> {
        let (out, said) = mpsc::unbounded_channel();
        lock(&self.state).out = Some(out.clone());
        let world = self.clone();
        tokio::spawn(async move {
            while !out.is_closed() {
                let Some(said) = world.measure().await else { return };
                if out.send(said).is_err() {
                    return;
                }
                // Not to be kept by this once its run is over.
                tokio::select! {
                    () = tokio::time::sleep(world.report_every) => {}
                    () = out.closed() => return,
                }
            }
        });
        said
    }

    /// Tells the controller which other agents the transport loses and finds again, as long as it has something to tell.
    pub(super) fn tell_of_peers(self: Arc<Self>, mut seen: mpsc::UnboundedReceiver<PeerEvent>) {
        // Weak: this outlives the run if the transport does.
        let world = Arc::downgrade(&self);
        tokio::spawn(async move {
            while let Some(event) = seen.recv().await {
                let Some(world) = world.upgrade() else { return };
                let (node, lost) = match event {
                    PeerEvent::Lost(node, reason) => {
                        tracing::warn!("base pages of {node} are lost: {reason}");
                        (node, reason)
                    }
                    PeerEvent::Back(node) => {
                        tracing::info!("{node} can be read from again");
                        (node, String::new())
                    }
                };
                let peer = Some(SeenPeer { node: node.0, lost });
                if let Some(out) = &lock(&world.state).out {
                    // Nobody listens: the controller hears of it by the reads that fail.
                    let _ = out.send(Said { peer, ..Said::default() });
                }
            }
        });
    }

    async fn measure(&self) -> Option<Said> {
        if lock(&self.state).ended {
            return None;
        }
        let received = self.received.load(Ordering::Acquire);
        let (moving, moved) = (self.moving.load(Ordering::Acquire), self.moved.load(Ordering::Acquire));
        let sandboxes = self.sandboxes.clone();
        let measured = tokio::task::spawn_blocking(move || (sandboxes.memory(), host::probe()));
        let (m, probe) = measured.await.ok()?;
        let memory = Memory {
            sandboxes: m.sandboxes.get(),
            bases: m.bases.get(),
            stored: m.stored.get(),
            agent: m.agent.get(),
            moving: moving > 0 || self.moved.load(Ordering::Acquire) != moved,
            probe_ns: u64::try_from(probe.as_nanos()).unwrap_or(u64::MAX),
        };
        Some(Said { memory: Some(memory), received, ..Said::default() })
    }

    /// Takes an order up. One that is known is answered with what was said of it.
    pub(super) fn take(self: &Arc<Self>, order: Order) {
        let begun = Instant::now();
        let (finished, job) = watch::channel(false);
        let mut state = lock(&self.state);
        self.received.fetch_max(order.id, Ordering::AcqRel);
        state.said = state.said.split_off(&order.settled);
        if let Some(steps) = state.said.get(&order.id) {
            for step in steps.clone() {
                state.say(step);
            }
            return;
        }
        if state.ended {
            return;
        }
        state.said.insert(order.id, Vec::new());
        let kind = order.kind();
        let mut first: Vec<Done> = Vec::new();
        if kind == OrderKind::End {
            first.extend(state.last.drain().map(|(_, job)| job));
        } else {
            let before = state.last.insert(order.sandbox, job.clone()).filter(|job| !*job.borrow());
            state.purges.retain(|job| !*job.borrow());
            match kind {
                OrderKind::Purge | OrderKind::GiveUp if before.is_none() => state.purges.push(job),
                OrderKind::Spawn | OrderKind::Restore | OrderKind::Checkpoint => {
                    first.extend(state.purges.iter().cloned())
                }
                _ => {}
            }
            first.extend(before);
        }
        drop(state);
        let world = self.clone();
        let moves = kind != OrderKind::Run;
        if moves {
            self.moving.fetch_add(1, Ordering::AcqRel);
        }
        tokio::spawn(async move {
            for job in first {
                done(job).await;
            }
            let (id, sandbox) = (order.id, order.sandbox);
            let doing = world.clone();
            if let Err(e) = tokio::task::spawn_blocking(move || doing.perform(&order, begun)).await {
                let text = format!("the agent failed in the operation: {e}");
                world.say(Step { order: id, kind: StepKind::Failed.into(), text, gone: true, ..Step::default() });
            }
            if moves {
                world.moved.fetch_add(1, Ordering::AcqRel);
                world.moving.fetch_sub(1, Ordering::AcqRel);
            }
            let _ = finished.send(true);
            if kind == OrderKind::Purge {
                lock(&world.state).last.retain(|key, job| *key != sandbox || !*job.borrow());
            }
        });
    }

    fn say(&self, step: Step) {
        lock(&self.state).say(step);
    }

    fn perform(&self, order: &Order, begun: Instant) {
        let id = unpack_sandbox(order.sandbox);
        let start = begun + Duration::from_millis(order.start_ms.into());
        let say = |kind: StepKind, step: Step| self.say(Step { order: order.id, kind: kind.into(), ..step });
        let at = Instant::now();
        let result = match order.kind() {
            OrderKind::Spawn => {
                lock(&self.state).there.insert(id);
                self.sandboxes.spawn(id, &order.function, start).and_then(|s| {
                    say(StepKind::Started, Step { took: us(s.took), ..Step::default() });
                    self.run(order, Instant::now(), 0)
                })
            }
            OrderKind::Restore => self.sandboxes.restore(id, start).and_then(|r| {
                let step = Step {
                    took: us(r.took),
                    resume: us(r.resume),
                    read: us(r.unpacked.read),
                    patch: us(r.unpacked.decode),
                    pages: r.unpacked.pages.to_vec(),
                    ..Step::default()
                };
                say(StepKind::Restored, step);
                self.run(order, Instant::now(), 0)
            }),
            OrderKind::Run => self.run(order, begun, order.start_ms),
            OrderKind::Checkpoint => self.sandboxes.checkpoint(id, start).map(|c| {
                let step = Step {
                    bytes: c.dump.get(),
                    took: us(at.elapsed()),
                    resume: us(c.checkpoint),
                    fingerprint: us(c.registered.fingerprint),
                    lookup: us(c.registered.enter),
                    pages: vec![c.registered.pages],
                    ..Step::default()
                };
                say(StepKind::Checkpointed, step);
            }),
            OrderKind::Reduce => {
                let method = if order.compress { Method::Compression } else { Method::Patches };
                self.sandboxes.reduce(id, method, order.again, start).map(|r| {
                    let step = Step {
                        bytes: r.stored.get(),
                        bases: r.bases.iter().map(|b| pack_sandbox(*b)).collect(),
                        took: us(at.elapsed()),
                        resume: us(r.checkpoint),
                        hold: us(r.hold),
                        fingerprint: us(r.packing.fingerprint),
                        lookup: us(r.packing.lookup),
                        read: us(r.packing.read),
                        patch: us(r.packing.encode),
                        pages: r.packing.base_pages.to_vec(),
                        ..Step::default()
                    };
                    say(StepKind::Reduced, step);
                })
            }
            OrderKind::GiveUp => {
                self.sandboxes.give_up(id);
                say(StepKind::Done, Step::default());
                Ok(())
            }
            OrderKind::Purge => {
                self.sandboxes.purge(id);
                lock(&self.state).there.remove(&id);
                say(StepKind::Done, Step::default());
                Ok(())
            }
            OrderKind::End => {
                self.purge_all();
                say(StepKind::Done, Step::default());
                Ok(())
            }
            OrderKind::Begin => Ok(()),
        };
        if let Err(e) = result {
            let bases = match &e {
                OpError::BaseLost { base, .. } => vec![pack_sandbox(*base)],
                _ => Vec::new(),
            };
            say(StepKind::Failed, Step { text: e.to_string(), gone: e.gone(), bases, ..Step::default() });
        }
        if matches!(order.kind(), OrderKind::Checkpoint | OrderKind::Reduce | OrderKind::End) {
            memory::give_back();
        }
    }

    /// Runs the order's request, if it has one. `wake_ms` comes on top of the run's own time.
    fn run(&self, order: &Order, from: Instant, wake_ms: u32) -> Result<(), OpError> {
        if order.arguments.is_empty() {
            return Ok(());
        }
        let deadline = from + Duration::from_millis(u64::from(order.run_ms) + u64::from(wake_ms));
        let answer = self.sandboxes.run(unpack_sandbox(order.sandbox), &order.arguments, deadline)?;
        if answer.body.len() > MAX_ANSWER {
            let reason = format!("answered {} bytes; at most {MAX_ANSWER} are passed on", answer.body.len());
            return Err(OpError::Sandbox { what: format!("running {}", order.function), reason, gone: false });
        }
        self.say(Step {
            order: order.id,
            kind: StepKind::Finished.into(),
            text: answer.body.to_string(),
            status: answer.status.into(),
            took: us(from.elapsed()),
            resume: us(answer.wake),
            run: us(answer.run),
            read: us(answer.waited.read),
            patch: us(answer.waited.decode),
            ..Step::default()
        });
        Ok(())
    }

    fn purge_all(&self) {
        let there: Vec<SandboxId> = std::mem::take(&mut lock(&self.state).there).into_iter().collect();
        there.into_iter().for_each(|id| self.sandboxes.purge(id));
    }

    /// Takes no more orders, waits for those under way, purges everything, and waits until nothing is left of the run: its folder, groups and
    /// regions go with the last who holds it, and the next run should not pay for that.
    pub(super) async fn end(self: Arc<Self>) {
        let jobs: Vec<Done> = {
            let mut state = lock(&self.state);
            state.ended = true;
            state.out = None;
            state.last.drain().map(|(_, job)| job).collect()
        };
        for job in jobs {
            done(job).await;
        }
        // A panic in an operation was reported where it happened; there is nobody left to tell of one here.
        let (held, until) = (Arc::downgrade(&self), Instant::now() + LETTING_GO);
        let _ = tokio::task::spawn_blocking(move || self.purge_all()).await;
        while held.strong_count() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if held.strong_count() > 0 {
            tracing::debug!("something still holds the sandboxes of the run that has ended");
        }
    }
}

impl State {
    /// Keeps a step, and sends it if somebody listens.
    fn say(&mut self, step: Step) {
        let kept = self.said.entry(step.order).or_default();
        if !kept.iter().any(|k| k.kind == step.kind) {
            kept.push(step.clone());
        }
        if let Some(out) = &self.out {
            // Nobody listens: the controller asks again when it is back.
            let _ = out.send(Said { step: Some(step), ..Said::default() });
        }
    }
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
