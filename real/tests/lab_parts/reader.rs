//! The reader's side: the tests.

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use medes_engine::id::NodeId;
use medes_real::transport::verbs::Verbs;
use medes_real::transport::{Region, Transport};

use super::owner::Orders;
use super::{faults, settings};
use crate::common::Content;
use crate::common::conformance::{Bed, CASES};

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

/// Runs all tests, one after the other, then sends the other nodes home.
pub fn test() -> ExitCode {
    let (one, two) = (Arc::new(Orders::to(1)), Arc::new(Orders::to(2)));
    for owner in [&one, &two] {
        println!("{}", owner.give("start"));
    }
    let (verbs, events) = Verbs::start(NodeId(0), settings(0)).expect("verbs");
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
