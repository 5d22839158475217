//! Two real agents as processes of their own, a controller in this one, and a CRIU that can be told to fail.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use medes_engine::config::Config;
use medes_engine::id::{FunctionId, RequestId};
use medes_engine::policy::FunctionSpec;
use medes_engine::record::{Outcome as Ended, RequestRecord, StartKind};
use medes_engine::units::{Bytes, Duration as Span, Instant as At};
use medes_real::bases::index::{IndexSettings, PageIndex};
use medes_real::bases::service::IndexService;
use medes_real::controller::local::{LocalAgents, Program};
use medes_real::controller::{Arrival, Deadlines, Plan, run};
use medes_real::load::Load;
use medes_real::settings::{Action, Settings};
use medes_real::transport::Secret;

use crate::left::{criu, nothing, python, unread, wait_for};

/// Numbers of the functions.
pub const COUNTER: u32 = 0;
pub const SILENT: u32 = 1;

/// Counts its calls, and looks whether what it keeps is what it was.
pub const COUNTS: &str = "
import os, time, zlib
kept = os.urandom(400000)
sum, calls = zlib.crc32(kept), 0
def main(args):
    global calls
    calls += 1
    time.sleep(args.get('sleep', 0))
    return {'calls': calls, 'ok': zlib.crc32(kept) == sum}
";

/// Never answers.
const SLEEPS: &str = "import time\ndef main(args):\n    time.sleep(1000)\n";

/// What stands before the real CRIU: writes down what it is asked (a number in the first field of the request), fails or hangs if it was told to.
const BETWEEN: &str = "
import os, socket, sys, time
at = os.path.dirname(sys.argv[0])
asked = socket.socket(fileno=os.dup(0)).recv(65536, socket.MSG_PEEK)
kind = {b'\\x08\\x01': 'dump', b'\\x08\\x02': 'restore'}.get(asked[:2], 'other')
with open(at + '/log', 'a') as log:
    log.write('%s %d\\n' % (kind, os.getppid()))
try:
    fault = open(at + '/' + kind).read()
except FileNotFoundError:
    fault = ''
if fault == 'hang':
    with open(at + '/hangs', 'a') as hangs:
        hangs.write('%d\\n' % os.getppid())
    time.sleep(1000)
if fault:
    sys.exit(1)
";

/// Longest that a run may take before it counts as one that hangs.
const HANGS: Duration = Duration::from_secs(150);

/// Agents and what they are given.
pub struct Bed {
    /// Where agents keep their things.
    pub folder: PathBuf,
    /// Where the CRIU of these tests keeps its own.
    criu: PathBuf,
    agents: Option<LocalAgents>,
    phrase: String,
    mounted: bool,
}

/// Requests that come together, once what is before them has happened.
pub struct Step {
    before: Box<dyn FnMut() + Send>,
    functions: Vec<u32>,
}

impl Step {
    /// Does what is to be done before the requests, now.
    pub fn happens(mut self) {
        (self.before)();
    }
}

/// What came of a run.
pub struct Told {
    /// In the order of their arrival.
    pub records: Vec<RequestRecord>,
    /// All notes.
    pub notes: String,
    pub outcome: medes_real::controller::Outcome,
}

impl Told {
    /// That each request ended once, answered.
    pub fn all_answered(&self) {
        let wrong: Vec<_> = self.records.iter().filter(|r| r.outcome != Ended::Answered).collect();
        assert!(wrong.is_empty(), "{wrong:?}\n{}", self.notes);
        assert!(!self.notes.contains("answers were wrong"), "{}", self.notes);
    }

    /// How many of the requests from number `first` on were answered by a start of this kind.
    pub fn count(&self, first: usize, kind: StartKind) -> usize {
        self.records.iter().skip(first).filter(|r| r.outcome == Ended::Answered && r.kind == Some(kind)).count()
    }
}

impl Bed {
    /// Starts the agents. With `room`, all they keep has so many MB.
    pub fn new(test: &str, room: Option<u32>) -> Self {
        let folder = PathBuf::from(format!("/dev/shm/medes-f{}-{test}", std::process::id()));
        let beside = PathBuf::from(format!("/dev/shm/medes-f{}-{test}.criu", std::process::id()));
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&beside).unwrap();
        if let Some(mb) = room {
            let (none, size) = (None::<&str>, format!("size={mb}m"));
            nix::mount::mount(none, &folder, Some("tmpfs"), nix::mount::MsFlags::empty(), Some(size.as_str())).unwrap();
        }
        let script = beside.join("criu");
        let real = criu();
        let text = format!("#!{}\n{BETWEEN}\nos.execv('{real}', ['{real}'] + sys.argv[1:])\n", python());
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let phrase = format!("{test}{}", std::process::id());
        let program = Program {
            path: env!("CARGO_BIN_EXE_medes").into(),
            arguments: vec!["--quiet".into(), "agent".into()],
            environment: vec![("MEDES_SECRET".into(), phrase.clone())],
            run_dir: folder.clone(),
        };
        let agents = Some(LocalAgents::start(&program, 2).unwrap());
        Self { folder, criu: beside, agents, phrase, mounted: room.is_some() }
    }

    /// What CRIU was asked, and by which agents' processes.
    pub fn asked(&self, kind: &str) -> Vec<i32> {
        read(self.criu.join("log"), kind)
    }

    /// Requests without a condition.
    pub fn at_once(&self, functions: &[u32]) -> Step {
        self.after(functions, |_| {})
    }

    /// Requests after something has happened or was done.
    pub fn after(&self, functions: &[u32], before: impl FnMut(&Outside) + Send + 'static) -> Step {
        let (outside, mut before) = (Outside { folder: self.folder.clone(), criu: self.criu.clone() }, before);
        Step { before: Box::new(move || before(&outside)), functions: functions.to_vec() }
    }

    /// Runs the steps under the policy that reduces all it can, a second after their last request.
    pub fn run(&self, nopause: bool, deadlines: Deadlines, steps: Vec<Step>) -> Told {
        let mut config = Config::default();
        let settings = [
            ("policy", "medes"),
            ("constraint", "memory"),
            ("memory_share", "0.01"),
            ("idletime", "1"),
            ("nodes", "2"),
            ("memcap", "1000"),
            ("nopause", if nopause { "1" } else { "0" }),
        ];
        for (key, value) in settings {
            config.set(key, value).unwrap();
        }
        let action = |name: &str, code: &str| Action { name: name.into(), code: code.into(), main: "main".into() };
        let load =
            |name: &str| Load { action: name.into(), arguments: Some(r#"{"sleep": 0.4}"#.into()), checked: true };
        let plan = Plan {
            config: &config,
            specs: ["counter", "silent"].map(spec).to_vec(),
            loads: ["counter", "silent"].map(load).to_vec(),
            settings: Settings {
                functions: vec![action("counter", COUNTS), action("silent", SLEEPS)],
                criu: self.criu.join("criu").display().to_string(),
                ..Settings::of(&config)
            },
            deadlines,
            seed: 1,
            length: Span::from_secs(1),
            interval: Span::from_secs(1),
            nodes: self.agents.as_ref().unwrap().addresses(),
            listen: "127.0.0.1:0".parse().unwrap(),
            host: "127.0.0.1".to_owned(),
            secret: Some(Secret::new(&self.phrase)),
            start_timeout: Duration::from_secs(30),
            rest: Duration::ZERO,
            threads: 2,
        };
        let total: usize = steps.iter().map(|s| s.functions.len()).sum();
        let (mut steps, mut start) = (steps.into_iter(), None);
        let next = move |batch: &mut Vec<Arrival>| {
            let start: Instant = *start.get_or_insert_with(Instant::now);
            let Some(mut step) = steps.next() else { return false };
            (step.before)();
            let at = At::ZERO + Span::from_micros(start.elapsed().as_micros() as u64);
            batch.extend(step.functions.iter().map(|f| Arrival { at, function: FunctionId(*f) }));
            true
        };
        let index = IndexService(Arc::new(PageIndex::new(IndexSettings::of(&config))));
        let (mut records, began) = (Vec::new(), Instant::now());
        let outcome =
            run(&plan, Arc::new(index), next, |r: &RequestRecord, _| records.push(*r), |_| began.elapsed() < HANGS);
        let outcome = outcome.unwrap_or_else(|e| panic!("{e} after {:?}, with {records:?}", began.elapsed()));
        records.sort_by_key(|r| r.request);
        let ids: Vec<RequestId> = records.iter().map(|r| r.request).collect();
        assert_eq!(ids, (0..total as u64).map(RequestId).collect::<Vec<_>>(), "each request ends once");
        Told { notes: outcome.notes.join("\n"), records, outcome }
    }

    /// Ends the agents; nothing of them is left.
    pub fn end(mut self) {
        let agents: Vec<i32> = ["dump", "restore", "other"].iter().flat_map(|k| self.asked(k)).collect();
        drop(self.agents.take());
        nothing(&self.folder, &agents, |_| false);
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        drop(self.agents.take());
        if self.mounted {
            let _ = nix::mount::umount(&self.folder);
        }
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_dir_all(&self.criu);
    }
}

/// What can be seen of agents, and done to them, from outside.
pub struct Outside {
    folder: PathBuf,
    criu: PathBuf,
}

impl Outside {
    /// Waits until CRIU was asked so often, and nothing is under way: images are there as long as a reduction is.
    pub fn settled(&self, dumps: usize, restores: usize) {
        let asked = |kind| read(self.criu.join("log"), kind).len();
        let images = || {
            let below = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
            below(self.folder.clone()).flat_map(below).flat_map(below).any(|s| s.join("images").exists())
        };
        wait_for(&format!("{dumps} dumps and {restores} restores"), || {
            asked("dump") >= dumps && asked("restore") >= restores && !images()
        });
        // The answer is on its way to the controller.
        std::thread::sleep(Duration::from_millis(400));
    }

    /// What CRIU is to do from now on when it is asked for `kind`: `fail`, `hang`, or its work.
    pub fn criu(&self, kind: &str, fault: Option<&str>) {
        let file = self.criu.join(kind);
        match fault {
            Some(fault) => fs::write(file, fault).unwrap(),
            None => fs::remove_file(file).unwrap(),
        }
    }

    /// An agent whose CRIU hangs now.
    pub fn hanging(&self) -> i32 {
        let file = self.criu.join("hangs");
        wait_for("a CRIU that hangs", || file.metadata().is_ok_and(|m| m.len() > 0));
        fs::read_to_string(file).unwrap().lines().next().unwrap().parse().unwrap()
    }

    /// Processes of agents, as they asked CRIU.
    pub fn asked(&self, kind: &str) -> Vec<i32> {
        read(self.criu.join("log"), kind)
    }

    /// An agent that has asked another one for pages, and waits.
    pub fn reading_from(&self, owner: i32) -> i32 {
        let asks = || self.asked("dump").into_iter().find(|agent| *agent != owner && unread(owner, *agent));
        wait_for("an agent that reads pages", || asks().is_some());
        asks().unwrap()
    }
}

fn read(log: PathBuf, kind: &str) -> Vec<i32> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines = text.lines().filter_map(|l| l.split_once(' '));
    lines.filter(|(k, _)| *k == kind).filter_map(|(_, pid)| pid.parse().ok()).collect()
}

/// Limits for machines that are busy with other things.
pub fn patient() -> Deadlines {
    let s = Duration::from_secs;
    Deadlines { cold: s(30), dedup: s(15), warm: s(15), run: s(15), operation: s(30), request: s(90) }
}

fn spec(name: &str) -> FunctionSpec {
    FunctionSpec {
        name: name.to_owned(),
        owner: 0,
        // Of the share of the memory that the policy may use, not one fits: it reduces all it is asked about.
        memory: Bytes::from_mb(100.0),
        keep_alive: Span::from_secs(600),
        run: Span::from_millis(400),
        cold_start: Span::from_millis(150),
        warm_start: Span::from_millis(2),
        advantage: 0.5,
        dump: Bytes::from_mb(12.0),
        paused: Bytes::from_mb(3.0),
    }
}
