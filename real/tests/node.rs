//! Real sandboxes of one node. They need root, CRIU and the functions' libraries.

#[path = "common/near.rs"]
mod near;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use medes_engine::event::Method;
use medes_engine::id::{NodeId, SandboxId};
use medes_real::node::{LocalSandboxes, NodeOptions};
use medes_real::ops::{Answer, Sandboxes};

use near::Near;

/// A run folder of a test's own, or nothing where these tests cannot run; then a line says how they could.
fn options(test: &str) -> Option<NodeOptions> {
    let options =
        NodeOptions::new(NodeId(0), &PathBuf::from(format!("/dev/shm/medes-test-{}-{test}", std::process::id())));
    let missing = [
        (!nix::unistd::getuid().is_root()).then_some("root"),
        (!options.criu.exists()).then_some("CRIU (scripts/setup-criu)"),
        (!options.python.exists()).then_some("the functions' libraries (scripts/make-dumps)"),
    ];
    let missing: Vec<&str> = missing.into_iter().flatten().collect();
    if missing.is_empty() {
        return Some(options);
    }
    println!("skipped: {test}: it needs {}; scripts/test as root gets them", missing.join(", "));
    None
}

fn id(slot: u32) -> SandboxId {
    SandboxId { generation: 0, slot }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn right(answer: &Answer) {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["ok"], true, "{body}");
}

/// The action of tests: counts its calls, keeps what it was told.
const COUNTER: &str = "
calls, kept = 0, []
def main(args):
    global calls
    calls += 1
    kept.append(args.get('say'))
    return {'calls': calls, 'kept': kept, 'ok': True}
";

fn count(sandboxes: &LocalSandboxes, id: SandboxId, say: &str) -> (u64, Vec<String>) {
    let answer = sandboxes.run(id, &serde_json::json!({ "say": say }).to_string(), soon()).unwrap();
    right(&answer);
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    (body["calls"].as_u64().unwrap(), serde_json::from_value(body["kept"].clone()).unwrap())
}

fn with_counter(options: &mut NodeOptions) {
    let path = options.run_dir.with_extension("counter.py");
    fs::write(&path, COUNTER).unwrap();
    options.functions.insert("counter".into(), path);
}

#[test]
fn state_survives_reductions() {
    let Some(mut options) = options("state") else { return };
    with_counter(&mut options);
    let run_dir = options.run_dir.clone();
    let counter = options.functions["counter"].clone();
    let sandboxes = LocalSandboxes::new(options, Arc::new(Near::new(2))).unwrap();
    let id = id(1);
    let started = sandboxes.spawn(id, "counter", soon()).unwrap();
    println!("{started:?}");
    assert_eq!(count(&sandboxes, id, "a").0, 1);
    assert_eq!(count(&sandboxes, id, "b").0, 2);
    let reduced = sandboxes.reduce(id, Method::Patches, false, soon()).unwrap();
    println!("{reduced:?} {:?}", sandboxes.memory());
    for round in 0..3 {
        let restored = sandboxes.restore(id, soon()).unwrap();
        println!("{restored:?}");
        assert_eq!(count(&sandboxes, id, "c"), (3, vec!["a".into(), "b".into(), "c".into()]), "round {round}");
        assert_eq!(count(&sandboxes, id, "d").0, 4);
        let reduced = sandboxes.reduce(id, Method::Patches, true, soon()).unwrap();
        println!("{reduced:?} {:?}", sandboxes.memory());
    }
    sandboxes.purge(id);
    drop(sandboxes);
    assert!(!run_dir.exists());
    fs::remove_file(counter).unwrap();
}
