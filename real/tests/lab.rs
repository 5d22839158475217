//! `verbs` between machines: the conformance body and the faults, in the guests of `scripts/rdma-lab`.
//!
//! ```sh
//! scripts/rdma-lab run --nodes 3 --may-die 2 -- target/debug/deps/lab-...
//! ```
//!
//! Node 0 reads and tests. The others own base pages: a supervisor that takes orders through files (the network is what is broken here),
//! and its child that runs the transport, so that it can be killed and started again. Outside the lab there is nothing to test.

mod common;
mod lab_parts;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|a| a == lab_parts::owner::CHILD) {
        return lab_parts::owner::child();
    }
    match lab_parts::node() {
        None => {
            println!("verbs between machines: in the guests of scripts/rdma-lab; scripts/test rdma runs them");
            ExitCode::SUCCESS
        }
        Some(0) => lab_parts::reader::test(),
        Some(_) => lab_parts::owner::supervise(),
    }
}
