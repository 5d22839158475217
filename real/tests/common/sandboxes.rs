//! What every kind of sandbox has to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use medes_engine::event::Method;
use medes_engine::id::{NodeId, SandboxId};
use medes_engine::units::Bytes;
use medes_real::node::{NodeOptions, clean};
use medes_real::ops::{Answer, Bases, OpError, Sandboxes};

use super::near::Near;

/// Makes sandboxes of a kind.
pub type Make = fn(NodeOptions, Arc<dyn Bases>) -> Result<Box<dyn Sandboxes>, OpError>;

const COUNTER: &str = "
import os
calls = 0
def main(args):
    global calls
    calls += 1
    with open('/tmp/medes-counter', 'a' if calls > 1 else 'w') as file:
        file.write('x')
    if args.get('end'):
        os._exit(3)
    return {'calls': calls, 'written': os.path.getsize('/tmp/medes-counter'), 'ok': True}
";

fn id(slot: u32) -> SandboxId {
    SandboxId { generation: 0, slot }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn right(answer: &Answer) -> serde_json::Value {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["ok"], true, "{body}");
    body
}

/// What is on record below a folder, by kind.
fn on_record(folder: &Path, kind: &str) -> Vec<String> {
    let inner = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let texts = inner.chain([folder.to_path_buf()]).map(|f| fs::read_to_string(f.join("made")).unwrap_or_default());
    let all: String = texts.collect();
    all.lines().filter_map(|l| l.strip_prefix(kind)).map(|rest| rest.trim().to_owned()).collect()
}

/// Nothing of what was on record is there.
fn gone(folder: &Path, processes: &[String], groups: &[String], mounts: &[String]) {
    for process in processes {
        let (pid, start) = process.split_once(' ').unwrap();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let same = stat.rsplit(')').next().unwrap_or_default().split_whitespace().nth(19) == Some(start);
        assert!(!same || stat.contains(") Z "), "process {process} is alive");
    }
    assert!(groups.iter().all(|g| !Path::new(g).exists()), "{groups:?}");
    let mounted = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(mounts.iter().all(|m| !mounted.contains(m.as_str())), "{mounts:?}");
    assert!(!folder.exists());
}

/// Starts, runs, reduces, restores; state stays; memory is counted; whatever ends leaves nothing.
pub fn conform(kind: &str, make: Make) {
    let mut options =
        NodeOptions::new(NodeId(0), &PathBuf::from(format!("/dev/shm/medes-kind-{}-{kind}", std::process::id())));
    let action = options.run_dir.with_extension("py");
    fs::write(&action, COUNTER).unwrap();
    options.functions.insert("counter".into(), action.clone());
    let folder = options.run_dir.clone();
    let sandboxes = make(options.clone(), Arc::new(Near::new(2))).unwrap();

    let none = sandboxes.spawn(id(9), "nothing", soon()).unwrap_err();
    assert!(none.to_string().contains("no such function"), "{none}");
    assert!(!folder.join(id(9).to_string()).exists());

    // A base, and another that is reduced against it and keeps its state.
    for (slot, function) in [(1, "linalg"), (2, "linalg"), (3, "counter")] {
        sandboxes.spawn(id(slot), function, soon()).unwrap();
        right(&sandboxes.run(id(slot), "{\"seed\": 3}", soon()).unwrap());
    }
    let dump = sandboxes.checkpoint(id(1), soon()).unwrap().dump;
    assert!(dump > Bytes::from_mb(5.0) && sandboxes.memory().bases == dump);
    right(&sandboxes.run(id(1), "{\"seed\": 4}", soon()).unwrap());
    let before = sandboxes.memory().sandboxes;
    let reduced = sandboxes.reduce(id(2), Method::Patches, false, soon()).unwrap();
    assert_eq!(reduced.bases, [id(1)]);
    assert!(reduced.stored < dump.scale(0.6) && sandboxes.memory().sandboxes < before, "{reduced:?}");
    assert_eq!(sandboxes.memory().stored, reduced.stored);
    sandboxes.restore(id(2), soon()).unwrap();
    right(&sandboxes.run(id(2), "{\"seed\": 5}", soon()).unwrap());

    assert_eq!(right(&sandboxes.run(id(3), "{}", soon()).unwrap())["calls"], 2);
    sandboxes.reduce(id(3), Method::Compression, false, soon()).unwrap();
    assert!(sandboxes.run(id(3), "{}", soon()).is_err(), "a reduced sandbox does not run");
    for _ in 0..2 {
        sandboxes.restore(id(3), soon()).unwrap();
        let body = right(&sandboxes.run(id(3), "{}", soon()).unwrap());
        assert_eq!(body["calls"], 3, "as it was checkpointed: {body}");
        sandboxes.reduce(id(3), Method::Compression, true, soon()).unwrap();
    }
    sandboxes.restore(id(3), soon()).unwrap();
    assert!(sandboxes.restore(id(3), soon()).is_err(), "it is warm already");

    // A process that ends under its request is an error, in time.
    assert!(sandboxes.run(id(3), "{\"end\": true}", Instant::now() + Duration::from_secs(5)).is_err());
    sandboxes.purge(id(3));
    assert!(!folder.join(id(3).to_string()).exists());
    sandboxes.give_up(id(1));
    assert_eq!(sandboxes.memory().bases, Bytes::ZERO);

    let all = ["process", "cgroup", "mount"].map(|k| on_record(&folder, k));
    assert!(all[0].len() >= 2, "{all:?}");
    drop(sandboxes);
    gone(&folder, &all[0], &all[1], &all[2]);

    // An agent that is killed purges nothing; the next one cleans up.
    let left = make(options, Arc::new(Near::new(2))).unwrap();
    left.spawn(id(1), "counter", soon()).unwrap();
    let all = ["process", "cgroup", "mount"].map(|k| on_record(&folder, k));
    std::mem::forget(left);
    clean(&folder).unwrap();
    gone(&folder, &all[0], &all[1], &all[2]);
    let _ = fs::remove_file(action);
}
