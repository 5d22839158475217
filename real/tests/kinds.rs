//! All kinds of sandboxes do the same: processes, and containers of runc. They need root, CRIU and the functions' libraries.

mod common {
    pub mod near;
    pub mod sandboxes;
}

use std::io::Write as _;
use std::path::Path;

use common::sandboxes::conform;
use medes_engine::id::NodeId;
use medes_real::node::runc::{Containers, version};
use medes_real::node::{LocalSandboxes, NodeOptions};

/// Whether the tests can run here; if not, a line says how they could.
fn possible(what: &str) -> bool {
    let options = NodeOptions::new(NodeId(0), Path::new("/"));
    let missing = [
        (!nix::unistd::getuid().is_root()).then_some("root"),
        (!options.criu.exists()).then_some("CRIU (scripts/setup-criu)"),
        (!options.python.exists()).then_some("the functions' libraries (scripts/make-dumps)"),
        (what == "containers" && version().is_err()).then_some("runc (apt-get install runc)"),
    ];
    let missing: Vec<&str> = missing.into_iter().flatten().collect();
    if !missing.is_empty() {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: {what}: they need {}; scripts/test as root gets them",
            missing.join(", ")
        );
    }
    missing.is_empty()
}

#[test]
fn processes_are_sandboxes() {
    if possible("processes") {
        conform("process", |options, bases| Ok(Box::new(LocalSandboxes::new(options, bases)?)));
    }
}

#[test]
fn containers_are_sandboxes() {
    if possible("containers") {
        conform("runc", |options, bases| Ok(Box::new(Containers::new(options, bases)?)));
    }
}
