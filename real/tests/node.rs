//! Real sandboxes of one node. They need root, CRIU and the functions' libraries.

#[path = "common/near.rs"]
mod near;
#[path = "node/watching.rs"]
mod watching;
#[path = "common/wrapped.rs"]
mod wrapped;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use medes_engine::event::Method;
use medes_engine::id::{NodeId, SandboxId};
use medes_engine::units::Bytes;
use medes_real::node::{FUNCTIONS, LocalSandboxes, NodeOptions, Push, clean};
use medes_real::ops::{Answer, Bases, OpError, Sandboxes};

use near::Near;
use wrapped::Wrapped;

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
    let _ =
        writeln!(std::io::stderr(), "skipped: {test}: it needs {}; scripts/test as root gets them", missing.join(", "));
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

fn with_action(options: &mut NodeOptions, name: &str, source: &str) {
    let path = options.run_dir.with_extension(format!("{name}.py"));
    fs::write(&path, source).unwrap();
    options.functions.insert(name.into(), path);
}

/// Processes on record below a folder, with their start times.
fn on_record(folder: &Path) -> Vec<(i32, String)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path().join("made")).unwrap_or_default();
        for line in text.lines().filter_map(|l| l.strip_prefix("process ")) {
            let (pid, start) = line.split_once(' ').unwrap();
            out.push((pid.parse().unwrap(), start.to_string()));
        }
    }
    out
}

/// Which of them still run.
fn alive(processes: &[(i32, String)]) -> Vec<i32> {
    let runs = |(pid, start): &&(i32, String)| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().nth(19) == Some(start) && !stat.contains(") Z ")
    };
    processes.iter().filter(runs).map(|(pid, _)| *pid).collect()
}

/// Cgroups of this test process's agents that are named in a record.
fn groups_on_record(folder: &Path) -> Vec<PathBuf> {
    let mut files = vec![folder.join("made")];
    files.extend(fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path().join("made")));
    let text: String = files.iter().map(|f| fs::read_to_string(f).unwrap_or_default()).collect();
    text.lines().filter_map(|l| l.strip_prefix("cgroup ")).map(PathBuf::from).collect()
}

fn start(options: NodeOptions) -> LocalSandboxes {
    start_with(options, Near::new(2))
}

/// Actions are read by then.
fn start_with(options: NodeOptions, bases: impl Bases + 'static) -> LocalSandboxes {
    let files: Vec<PathBuf> = options.functions.values().cloned().collect();
    let sandboxes = LocalSandboxes::new(options, Arc::new(bases)).unwrap();
    for file in files {
        let _ = fs::remove_file(file);
    }
    sandboxes
}

#[test]
fn state_survives_reductions() {
    for (name, nopause, push) in
        [("state", false, Push::First), ("state-nopause", true, Push::First), ("state-behind", false, Push::Behind)]
    {
        let Some(mut options) = options(name) else { return };
        with_action(&mut options, "counter", COUNTER);
        (options.nopause, options.push) = (nopause, push);
        let sandboxes = start(options);
        let id = id(1);
        sandboxes.spawn(id, "counter", soon()).unwrap();
        assert_eq!(count(&sandboxes, id, "a").0, 1);
        assert_eq!(count(&sandboxes, id, "b").0, 2);
        let whole = sandboxes.memory().sandboxes;
        let first = sandboxes.reduce(id, Method::Patches, false, soon()).unwrap();
        assert!(first.stored < whole && sandboxes.memory().sandboxes < whole, "{first:?} {:?}", sandboxes.memory());
        assert_eq!(first.hold.is_zero(), nopause);
        for round in 0..3 {
            sandboxes.restore(id, soon()).unwrap();
            assert_eq!(count(&sandboxes, id, "c"), (3, vec!["a".into(), "b".into(), "c".into()]), "round {round}");
            assert_eq!(count(&sandboxes, id, "d").0, 4);
            let again = sandboxes.reduce(id, Method::Patches, true, soon()).unwrap();
            assert!(again.checkpoint.is_zero() && again.stored == first.stored);
        }
    }
}

#[test]
fn a_fresh_checkpoint_keeps_what_came_later() {
    let Some(mut options) = options("fresh") else { return };
    with_action(&mut options, "counter", COUNTER);
    options.fresh = true;
    let sandboxes = start(options);
    let id = id(1);
    sandboxes.spawn(id, "counter", soon()).unwrap();
    for n in [1, 2, 3] {
        assert_eq!(count(&sandboxes, id, "x").0, n);
        sandboxes.reduce(id, Method::Compression, n > 1, soon()).unwrap();
        sandboxes.restore(id, soon()).unwrap();
    }
    assert_eq!(count(&sandboxes, id, "y").0, 4);
}

#[test]
fn all_ten_answer_rightly_after_all_that_can_happen() {
    let Some(options) = options("ten") else { return };
    let run_dir = options.run_dir.clone();
    let sandboxes = start(options);
    for (slot, (function, _)) in (0..).zip(FUNCTIONS) {
        let (base, other) = (id(2 * slot), id(2 * slot + 1));
        for id in [base, other] {
            sandboxes.spawn(id, function, soon()).unwrap();
            right(&sandboxes.run(id, "{\"seed\": 3}", soon()).unwrap());
        }
        let dump = sandboxes.checkpoint(base, soon()).unwrap().dump;
        assert_eq!(sandboxes.memory().bases, dump);
        right(&sandboxes.run(base, "{}", soon()).unwrap());
        let reduced = sandboxes.reduce(other, Method::Patches, false, soon()).unwrap();
        assert_eq!(reduced.bases, [base]);
        assert!(reduced.stored < dump.scale(0.8), "{function}: {:?} of {dump:?}", reduced.stored);
        sandboxes.restore(other, soon()).unwrap();
        right(&sandboxes.run(other, "{\"seed\": 4}", soon()).unwrap());
        // Each is gone, with all it had, once it is purged.
        let (processes, groups) = (on_record(&run_dir), groups_on_record(&run_dir));
        sandboxes.purge(base);
        sandboxes.purge(other);
        assert!(processes.len() >= 3 && alive(&processes).is_empty());
        assert!(
            groups
                .iter()
                .filter(|g| g.ends_with(base.to_string()) || g.ends_with(other.to_string()))
                .all(|g| !g.exists())
        );
        assert!(!run_dir.join(other.to_string()).exists());
        assert_eq!(sandboxes.memory().bases, Bytes::ZERO);
    }
    let groups = groups_on_record(&run_dir);
    drop(sandboxes);
    assert!(!run_dir.exists() && groups.iter().all(|g| !g.exists()));
}

#[test]
fn pages_pushed_behind_find_forks_and_moves() {
    let Some(mut options) = options("behind") else { return };
    options.push = Push::Behind;
    let sandboxes = start(options);
    for (slot, function) in [(1, "mapreduce"), (2, "imagepro"), (3, "linalg")] {
        sandboxes.spawn(id(slot), function, soon()).unwrap();
        right(&sandboxes.run(id(slot), "{\"seed\": 3}", soon()).unwrap());
        for again in [false, true] {
            sandboxes.reduce(id(slot), Method::Patches, again, soon()).unwrap();
            sandboxes.restore(id(slot), soon()).unwrap();
            right(&sandboxes.run(id(slot), "{\"seed\": 4}", soon()).unwrap());
            right(&sandboxes.run(id(slot), "{\"seed\": 5}", soon()).unwrap());
        }
    }
}

#[test]
fn a_criu_that_fails_leaves_the_sandbox_as_it_was() {
    let Some(mut options) = options("criu") else { return };
    let (script, flag) = (options.run_dir.with_extension("sh"), options.run_dir.with_extension("flag"));
    fs::write(
        &script,
        format!("#!/bin/sh\n[ ! -e {} ] || exit 1\nexec {} \"$@\"\n", flag.display(), options.criu.display()),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    with_action(&mut options, "counter", COUNTER);
    options.criu.clone_from(&script);
    let sandboxes = start(options);
    let id = id(1);
    sandboxes.spawn(id, "counter", soon()).unwrap();
    assert_eq!(count(&sandboxes, id, "a").0, 1);
    fs::write(&flag, "").unwrap();
    for _ in 0..2 {
        let error = sandboxes.reduce(id, Method::Patches, false, soon()).unwrap_err();
        assert!(matches!(error, OpError::Criu { gone: false, .. }), "{error}");
        assert!(!sandboxes.checkpoint(id, soon()).unwrap_err().gone());
    }
    assert_eq!(count(&sandboxes, id, "b").0, 2);
    // It fails in the restore: nothing runs, and the sandbox is gone.
    fs::remove_file(&flag).unwrap();
    sandboxes.reduce(id, Method::Patches, false, soon()).unwrap();
    sandboxes.restore(id, soon()).unwrap();
    fs::write(&flag, "").unwrap();
    sandboxes.reduce(id, Method::Patches, true, soon()).unwrap();
    assert!(sandboxes.restore(id, soon()).unwrap_err().gone());
    assert!(sandboxes.run(id, "{}", soon()).unwrap_err().gone());
    fs::remove_file(&flag).unwrap();
    fs::remove_file(&script).unwrap();
}

#[test]
fn a_full_disk_leaves_the_sandbox_warm() {
    let Some(mut options) = options("full") else { return };
    with_action(&mut options, "counter", COUNTER);
    let run_dir = options.run_dir.clone();
    fs::create_dir(&run_dir).unwrap();
    let (none, size) = (None::<&str>, Some("size=2m"));
    nix::mount::mount(none, &run_dir, Some("tmpfs"), nix::mount::MsFlags::empty(), size).unwrap();
    let sandboxes = start(options);
    let id = id(1);
    sandboxes.spawn(id, "counter", soon()).unwrap();
    assert_eq!(count(&sandboxes, id, "a").0, 1);
    let error = sandboxes.reduce(id, Method::Patches, false, soon()).unwrap_err();
    assert!(!error.gone(), "{error}");
    assert_eq!(count(&sandboxes, id, "b").0, 2);
    drop(sandboxes);
    nix::mount::umount(&run_dir).unwrap();
    fs::remove_dir(&run_dir).unwrap();
}

#[test]
fn a_flipped_bit_ends_the_sandbox_before_anything_runs() {
    for nopause in [false, true] {
        let Some(mut options) = options(if nopause { "bit-nopause" } else { "bit" }) else { return };
        with_action(&mut options, "counter", COUNTER);
        (options.nopause, options.push) = (nopause, Push::First);
        let run_dir = options.run_dir.clone();
        let bases = Wrapped::new(Near::new(2));
        bases.damage.store(5, Ordering::Relaxed);
        let sandboxes = start_with(options, bases);
        let id = id(1);
        sandboxes.spawn(id, "counter", soon()).unwrap();
        assert_eq!(count(&sandboxes, id, "a").0, 1);
        sandboxes.reduce(id, Method::Patches, false, soon()).unwrap();
        let error = sandboxes.restore(id, soon()).unwrap_err();
        assert!(matches!(error, OpError::Damaged(_)), "{error}");
        assert!(alive(&on_record(&run_dir)).is_empty());
        assert!(sandboxes.run(id, "{}", soon()).unwrap_err().gone());
    }
    // Pushed behind, the damage may be met after the process went on; it ends at the page.
    let Some(mut options) = options("bit-behind") else { return };
    with_action(&mut options, "counter", COUNTER);
    let bases = Wrapped::new(Near::new(1));
    let damage = bases.damage.clone();
    let sandboxes = start_with(options, bases);
    let mut went_on = 0;
    for tenths in 0..8 {
        damage.store(tenths, Ordering::Relaxed);
        let id = id(1 + tenths as u32);
        sandboxes.spawn(id, "counter", soon()).unwrap();
        assert_eq!(count(&sandboxes, id, "a").0, 1);
        sandboxes.reduce(id, Method::Patches, false, soon()).unwrap();
        match sandboxes.restore(id, soon()) {
            Err(error) => assert!(tenths > 0 && matches!(error, OpError::Damaged(_)), "{error}"),
            Ok(_) => {
                // An answer is right: it came before anybody needed the page. Where there is none, it is said why.
                match sandboxes.run(id, "{\"say\": \"b\"}", soon()) {
                    Ok(answer) => right(&answer),
                    Err(error) => assert!(tenths > 0 && matches!(error, OpError::Damaged(_)), "{error}"),
                }
                let again = sandboxes.reduce(id, Method::Patches, true, soon());
                went_on += u32::from(tenths > 0);
                // A bit that no page depends on does no harm.
                if again.is_ok() && sandboxes.restore(id, soon()).is_ok() {
                    assert_eq!(count(&sandboxes, id, "c").0, 2);
                    continue;
                }
                assert!(tenths > 0);
            }
        }
        assert!(sandboxes.run(id, "{}", soon()).is_err());
    }
    assert!(went_on > 0, "what the function is known to touch is not all of it");
}

#[test]
fn silent_and_dead_functions_are_errors_in_time() {
    let Some(mut options) = options("silent") else { return };
    let source = "import os, time\ndef main(args):\n    os._exit(3) if args.get('die') else time.sleep(1000)\n";
    with_action(&mut options, "silent", source);
    with_action(&mut options, "broken", "this is no Python");
    let run_dir = options.run_dir.clone();
    let sandboxes = start(options);
    sandboxes.spawn(id(1), "silent", soon()).unwrap();
    let error = sandboxes.run(id(1), "{}", Instant::now() + Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, OpError::Late { .. }), "{error}");
    sandboxes.purge(id(1));
    sandboxes.spawn(id(2), "silent", soon()).unwrap();
    assert!(sandboxes.run(id(2), "{\"die\": 1}", soon()).unwrap_err().gone());
    assert!(sandboxes.reduce(id(2), Method::Patches, false, soon()).unwrap_err().gone());
    // Killed while it is paused.
    sandboxes.spawn(id(3), "silent", soon()).unwrap();
    let processes = on_record(&run_dir);
    let (pid, _) = processes.iter().find(|p| !alive(std::slice::from_ref(p)).is_empty()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(sandboxes.run(id(3), "{}", soon()).unwrap_err().gone());
    // Functions that do not start leave nothing.
    assert!(sandboxes.spawn(id(4), "broken", soon()).is_err());
    assert!(sandboxes.spawn(id(5), "unheard-of", soon()).is_err());
    assert!(!run_dir.join(id(4).to_string()).exists() && !run_dir.join(id(5).to_string()).exists());
}

/// Not a test of its own: the agent that the next one kills.
#[test]
fn agent_to_be_killed() {
    let Some(run_dir) = std::env::var_os("MEDES_TEST_AGENT") else { return };
    let mut options = NodeOptions::new(NodeId(0), Path::new(&run_dir));
    options.functions.insert("counter".into(), Path::new(&run_dir).with_extension("counter.py"));
    let sandboxes = start(options);
    for slot in 0..3 {
        sandboxes.spawn(id(slot), "counter", soon()).unwrap();
    }
    sandboxes.reduce(id(1), Method::Patches, false, soon()).unwrap();
    fs::write(Path::new(&run_dir).join("ready"), "").unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_agent_leaves_nothing_after_cleaning() {
    let Some(mut options) = options("kill") else { return };
    with_action(&mut options, "counter", COUNTER);
    let (run_dir, python) = (options.run_dir.clone(), options.python.clone());
    let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "agent_to_be_killed"])
        .env("MEDES_TEST_AGENT", &run_dir)
        .spawn()
        .unwrap();
    let until = soon();
    while !run_dir.join("ready").exists() {
        assert!(Instant::now() < until && agent.try_wait().unwrap().is_none(), "the agent did not get ready");
        std::thread::sleep(Duration::from_millis(10));
    }
    let (processes, groups) = (on_record(&run_dir), groups_on_record(&run_dir));
    agent.kill().unwrap();
    agent.wait().unwrap();
    // One that its end did not take along: on record all the same.
    let mut stray = std::process::Command::new(python).args(["-c", "import time; time.sleep(1000)"]).spawn().unwrap();
    let start = fs::read_to_string(format!("/proc/{}/stat", stray.id())).unwrap();
    let start = start.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().to_string();
    let mut record = fs::read_to_string(run_dir.join("s0.0/made")).unwrap();
    record += &format!("process {} {start}\n", stray.id());
    fs::write(run_dir.join("s0.0/made"), record).unwrap();
    clean(&run_dir).unwrap();
    // Whoever was first has waited for it.
    let _ = stray.wait();
    assert!(alive(&[(stray.id().cast_signed(), start)]).is_empty());
    assert!(processes.len() >= 4 && alive(&processes).is_empty());
    assert!(!run_dir.exists() && groups.iter().all(|g| !g.exists()), "{groups:?}");
}

#[test]
fn a_sandbox_that_takes_more_than_its_cap_is_killed_and_others_are_not() {
    let Some(mut options) = options("cap") else { return };
    let source = "def main(args):\n    kept = b'x' * (args['mb'] * 1000000)\n    return {'ok': len(kept) > 0}\n";
    with_action(&mut options, "takes", source);
    options.sandbox_memory = Some(Bytes::from_mb(64.0));
    let run_dir = options.run_dir.clone();
    let sandboxes = start(options);
    for slot in [1, 2] {
        sandboxes.spawn(id(slot), "takes", soon()).unwrap();
    }
    let caps = |g: &PathBuf| ["memory.max", "memory.limit_in_bytes"].iter().any(|f| g.join(f).exists());
    if !groups_on_record(&run_dir).iter().any(caps) {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: cap: no cgroup here has the memory controller; mount one on /sys/fs/cgroup/memory"
        );
        return;
    }
    right(&sandboxes.run(id(1), "{\"mb\": 10}", soon()).unwrap());
    // Its cap holds for what is restored as well.
    sandboxes.reduce(id(1), Method::Patches, false, soon()).unwrap();
    sandboxes.restore(id(1), soon()).unwrap();
    right(&sandboxes.run(id(1), "{\"mb\": 10}", soon()).unwrap());
    let error = sandboxes.run(id(1), "{\"mb\": 200}", soon()).unwrap_err();
    assert!(error.gone(), "{error}");
    right(&sandboxes.run(id(2), "{\"mb\": 10}", soon()).unwrap());
}

/// What a function sees of the machine: who it is among the processes there are, its host name's namespace, what is mounted.
const LOOKS: &str = "
import os
def main(args):
    mounts = [line.split()[1] for line in open('/proc/self/mounts')]
    own = {kind: os.readlink('/proc/self/ns/' + kind) for kind in ('pid', 'mnt', 'ipc', 'uts')}
    processes = [p for p in os.listdir('/proc') if p.isdigit()]
    return {'ok': os.getpid() == 1, 'own': own, 'processes': processes, 'mounts': mounts}
";

#[test]
fn a_sandbox_sees_its_own_processes_and_no_mounts_that_may_go() {
    let Some(mut options) = options("looks") else { return };
    with_action(&mut options, "looks", LOOKS);
    let run_dir = options.run_dir.clone();
    // What comes and goes on a machine is not in the sandboxes, and so may go.
    let beside = run_dir.with_extension("beside");
    fs::create_dir(&beside).unwrap();
    let none = None::<&str>;
    nix::mount::mount(none, &beside, Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
    let sandboxes = start(options);
    let looks = || {
        let answer = sandboxes.run(id(1), "{}", soon()).unwrap();
        right(&answer);
        let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["processes"], serde_json::json!(["1"]), "{body}");
        for kind in ["pid", "mnt", "ipc", "uts"] {
            let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert_ne!(body["own"][kind], ours.display().to_string(), "{body}");
        }
        let mounts: Vec<String> = serde_json::from_value(body["mounts"].clone()).unwrap();
        assert!(mounts.iter().any(|m| m == "/") && mounts.iter().any(|m| m == "/proc"), "{mounts:?}");
        assert!(!mounts.iter().any(|m| *m == beside.display().to_string()), "{mounts:?}");
    };
    sandboxes.spawn(id(1), "looks", soon()).unwrap();
    looks();
    sandboxes.reduce(id(1), Method::Patches, false, soon()).unwrap();
    nix::mount::umount(&beside).unwrap();
    fs::remove_dir(&beside).unwrap();
    sandboxes.restore(id(1), soon()).unwrap();
    looks();
}
