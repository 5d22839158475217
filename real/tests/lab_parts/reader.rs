//! The reader's side: the tests.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use medes_engine::id::NodeId;
use medes_real::transport::verbs::Verbs;
use medes_real::transport::{PageRun, PeerEvent, Region, Transport};

use super::owner::Orders;
use super::{faults, settings};
use crate::common::Content;
use crate::common::conformance::{Bed, CASES, read};

/// How long the first page may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A reader here, an owner on another node.
pub struct Remote {
    pub verbs: Verbs,
    pub owner: Arc<Orders>,
}

impl Bed for Remote {
    fn publish(&self, content: Content) -> Region {
        self.owner.publish(content)
    }

    fn withdraw(&self, region: &Region) {
        self.owner.withdraw(region);
    }

    fn reader(&self) -> &dyn Transport {
        &self.verbs
    }
}

/// Reads a page of the other node until one comes. The first connection has both machines load what they need of the host's file system, and the
/// kernel repeats a lost request to connect after four seconds only: how long that takes says nothing about the transport.
pub fn meet(verbs: &Verbs, owner: &Orders, events: &Receiver<PeerEvent>) {
    let content = Content { seed: 1, pages: 1 };
    let (region, begun) = (owner.publish(content), Instant::now());
    let mut attempts = 1;
    while let Err(e) = read(verbs, &region, &[PageRun { first: 0, pages: 1 }], PATIENCE) {
        assert!(begun.elapsed() < PATIENCE, "no page came in {PATIENCE:?}, {attempts} attempts: {e}");
        std::thread::sleep(Duration::from_millis(500));
        attempts += 1;
    }
    println!("the first page came after {:.1} s, attempts: {attempts}", begun.elapsed().as_secs_f64());
    owner.withdraw(&region);
    // Whom it took two attempts to reach was lost and came back: nothing that a test has to see.
    while events.try_recv().is_ok() {}
}

/// Runs all tests, one after the other, then sends the other nodes home.
pub fn test() -> ExitCode {
    let (one, two) = (Arc::new(Orders::to(1)), Arc::new(Orders::to(2)));
    for owner in [&one, &two] {
        println!("{}", owner.give("start"));
    }
    let (verbs, events) = Verbs::start(NodeId(0), settings(0)).expect("verbs");
    meet(&verbs, &one, &events);
    let bed: &'static Remote = Box::leak(Box::new(Remote { verbs, owner: one.clone() }));
    let mut trials: Vec<Trial> = CASES
        .iter()
        .map(|(name, case)| {
            Trial::test(format!("verbs::{name}"), move || {
                case(bed);
                Ok(())
            })
        })
        .collect();
    trials.extend(faults::trials(bed, &two, events));
    let one_at_a_time = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let conclusion = libtest_mimic::run(&one_at_a_time, trials);
    println!("node 1 {}", one.give("end"));
    conclusion.exit_code()
}
