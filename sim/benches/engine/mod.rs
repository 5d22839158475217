//! The engine with the least world that can drive it: actions end after fixed times, nothing is measured or checked.

use std::collections::VecDeque;

use medes_engine::engine::{Counters, Engine};
use medes_engine::event::{Action, Input};
use medes_engine::id::{RequestId, SandboxId};
use medes_engine::units::{Duration, Instant};
use medes_sim::{Arrival, Setup};

/// Every action but a spawn takes this long.
const SHORT: Duration = Duration::from_millis(5);
/// What a spawn takes.
const COLD: Duration = Duration::from_millis(500);

struct World {
    engine: Engine,
    /// What will have happened, in order of time: one line for each of the two times that things take.
    short: VecDeque<(Instant, Ending)>,
    cold: VecDeque<(Instant, Ending)>,
}

#[derive(Clone, Copy)]
enum Ending {
    Run(SandboxId, Duration),
    Checkpoint(SandboxId),
    Reduce(SandboxId),
}

/// Serves the arrivals, each run taking no time beyond its start.
pub fn alone(setup: &Setup, arrivals: &[Arrival]) -> Counters {
    let engine = match Engine::new(&setup.config, setup.specs()) {
        Ok(engine) => engine,
        Err(error) => panic!("{error}"),
    };
    let mut world = World { engine, short: VecDeque::new(), cold: VecDeque::new() };
    for (i, a) in arrivals.iter().enumerate() {
        world.catch_up(a.at);
        world.engine.handle(a.at, Input::Arrived { request: RequestId(i as u64), function: a.function });
        world.carry_out(a.at);
    }
    world.catch_up(Instant::ZERO + setup.length);
    world.engine.counters()
}

impl World {
    /// Everything that is due before `now`, or then.
    fn catch_up(&mut self, now: Instant) {
        loop {
            let short = self.short.front().map_or(Instant::FAR, |e| e.0);
            let cold = self.cold.front().map_or(Instant::FAR, |e| e.0);
            let (event, deadline) = (short.min(cold), self.engine.poll_deadline());
            if event.min(deadline) > now {
                return;
            }
            let at = event.min(deadline);
            if event <= deadline {
                let line = if short <= cold { &mut self.short } else { &mut self.cold };
                if let Some((_, ending)) = line.pop_front() {
                    self.ends(at, ending);
                }
            } else {
                self.engine.handle_deadline(at);
            }
            self.carry_out(at);
        }
    }

    /// An action under way ends. Answers about sandboxes that are gone are the engine's to ignore.
    fn ends(&mut self, at: Instant, ending: Ending) {
        match ending {
            Ending::Run(sandbox, start) => {
                if start == COLD {
                    self.engine.handle(at, Input::Started { sandbox });
                }
                self.engine.handle(at, Input::Finished { sandbox, start });
            }
            Ending::Checkpoint(sandbox) => {
                self.engine
                    .handle(at, Input::Checkpointed { sandbox, dump: medes_engine::units::Bytes::from_mb(50.0) });
            }
            Ending::Reduce(sandbox) => {
                let stored = medes_engine::units::Bytes::from_mb(20.0);
                self.engine.handle(at, Input::Reduced { sandbox, stored, bases: Vec::new() });
            }
        }
    }

    fn carry_out(&mut self, now: Instant) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Run { sandbox, .. } => self.short.push_back((now + SHORT, Ending::Run(sandbox, SHORT))),
                Action::Spawn { sandbox, .. } => self.cold.push_back((now + COLD, Ending::Run(sandbox, COLD))),
                Action::Restore { sandbox, .. } => {
                    // Restored at once; the run follows.
                    self.engine.handle(now, Input::Restored { sandbox });
                    self.short.push_back((now + SHORT, Ending::Run(sandbox, SHORT)));
                }
                Action::Checkpoint { sandbox, .. } => {
                    self.short.push_back((now + SHORT, Ending::Checkpoint(sandbox)));
                }
                Action::Reduce { sandbox, .. } => self.short.push_back((now + SHORT, Ending::Reduce(sandbox))),
                _ => {}
            }
        }
        while let Some(record) = self.engine.poll_record() {
            std::hint::black_box(record);
        }
    }
}
