//! `medes run --backend real` as a program: stopped at any moment, continued, with functions of the user's, in containers.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::bed::COUNTS;
use crate::left::{kill, nothing, possible, processes, skip, wait_for};

/// Two cells of three seconds: a minute of requests, twenty times as fast. The function is one of the user's, under the name of a profile's.
const FILE: &str = r#"
title = "Two policies"
question = "Does it go on?"
seeds = [1]
profile = "measured"
functions = "rank"
request_rows = "all"
[trace]
source = "requests:requests.txt"
[parameters]
policy = ["fixed", "medes"]
constraint = "memory"
memory_share = 0.01
idletime = 1
nodes = 2
memcap = 1000
[real]
time_scale = 20
[real.deadlines]
cold_s = 30
warm_s = 15
dedup_s = 15
[real.functions.vanilla]
file = "counts.py"
arguments = '{"sleep": 0.05}'
checked = true
"#;

/// A folder with an experiment of twenty requests.
struct Place(tempfile::TempDir);

impl Place {
    fn new(edit: impl Fn(&str) -> String) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::write(place.at("two.toml"), edit(FILE)).unwrap();
        fs::write(place.at("counts.py"), COUNTS).unwrap();
        let lines: String = (0..20).map(|i| format!("{} mine python\n", i * 2900)).collect();
        fs::write(place.at("requests.txt"), lines + "-1\n").unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn medes(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_medes"));
        command.args(line.split(' ')).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    fn start(&self) -> Ends {
        let log = fs::File::create(self.at("log")).unwrap();
        Ends(self.medes("run two.toml --backend real --out out").stderr(log).stdout(Stdio::null()).spawn().unwrap())
    }

    fn works(&self, line: &str) -> String {
        let Output { status, stdout, stderr } = self.medes(line).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "medes {line}: {status}\n{out}\n{err}");
        format!("{out}{err}")
    }

    /// Cells that are finished.
    fn cells(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.at("out/cells")).into_iter().flatten().flatten().map(|e| e.path());
        entries.filter(|p| p.extension().is_some_and(|e| e == "json")).collect()
    }

    /// A column of a table.
    fn column_of(&self, table: &str, name: &str) -> Vec<String> {
        let mut file = csv::Reader::from_path(self.at(table)).unwrap();
        let at = file.headers().unwrap().iter().position(|h| h == name).unwrap_or_else(|| panic!("no column {name}"));
        file.records().map(|r| r.unwrap()[at].to_owned()).collect()
    }

    fn column(&self, name: &str) -> Vec<String> {
        self.column_of("out/summary.csv", name)
    }

    /// Each request of each cell was answered; one that was not has no start.
    fn all_answered(&self) {
        let sum =
            |i: usize| ["cold", "warm", "dedup"].iter().map(|c| self.column(c)[i].parse::<u64>().unwrap()).sum::<u64>();
        let requests = self.column("requests");
        assert!(!requests.is_empty());
        for (i, requests) in requests.iter().enumerate() {
            assert_eq!(
                (requests.as_str(), sum(i)),
                ("20", 20),
                "{}",
                fs::read_to_string(self.at("out/summary.csv")).unwrap()
            );
        }
    }
}

fn run_dir(controller: &Ends) -> PathBuf {
    PathBuf::from(format!("/dev/shm/medes-run-{}", controller.0.id()))
}

/// Ctrl-C.
fn interrupt(controller: &Ends) {
    let id = nix::unistd::Pid::from_raw(controller.0.id().cast_signed());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
}

/// The agents of a controller, once functions run under them.
fn agents(folder: &Path) -> Vec<i32> {
    let name = folder.display().to_string();
    let runners = format!("{name}/agent-");
    wait_for("sandboxes", || processes(&runners).iter().any(|(_, line)| line.contains("runner.py")));
    processes(&runners).into_iter().filter(|(_, line)| line.contains(" agent ")).map(|(pid, _)| pid).collect()
}

#[test]
fn a_killed_controller_leaves_nothing_and_the_next_start_goes_on() {
    if !possible("a controller that is killed") {
        return;
    }
    let place = Place::new(str::to_owned);
    let mut controller = place.start();
    let folder = run_dir(&controller);
    wait_for("the first cell", || place.cells().len() == 1);
    let agents = agents(&folder);
    assert_eq!(agents.len(), 2);
    kill(controller.0.id().cast_signed());
    controller.0.wait().unwrap();
    // Agents end by themselves; what they do not remove is the next start's.
    let first = place.cells();
    assert_eq!(first.len(), 1, "killed too late");
    let written = first[0].metadata().unwrap().modified().unwrap();
    wait_for("the end of the agents", || processes(&folder.display().to_string()).is_empty());
    let said = place.works("run two.toml --backend real --out out");
    assert!(!folder.exists(), "the next start has removed what was left");
    nothing(&folder, &agents, |_| false);
    assert!(said.contains("1 of 2 cells are there"), "{said}");
    assert_eq!(first[0].metadata().unwrap().modified().unwrap(), written, "a cell that is there is not run again");
    assert_eq!(place.column("policy"), ["fixed", "medes"]);
    place.all_answered();
    // The user's file ran under the profile's name: it sleeps, which the shipped function does not.
    let runs = place.column_of("out/starts.csv", "run_ms");
    assert!(!runs.is_empty() && runs.iter().all(|ms| ms.parse::<f64>().unwrap() >= 50.0), "{runs:?}");
    simulated_on_its_host(&place);
}

/// A real run says how fast its host was, every half second of both cells on both nodes, and is simulated on it: on one that the profile takes for ten times
/// as fast, cold starts are ten times as short.
fn simulated_on_its_host(place: &Place) {
    let (policies, nodes) = (place.column_of("out/host.csv", "policy"), place.column_of("out/host.csv", "node"));
    for wanted in [("fixed", "0"), ("fixed", "1"), ("medes", "0"), ("medes", "1")] {
        let samples = policies.iter().zip(&nodes).filter(|(p, n)| (p.as_str(), n.as_str()) == wanted).count();
        assert!((4..40).contains(&samples), "{wanted:?}: {samples} samples in three seconds and what comes after");
    }
    // A host that stays as fast as it is: over a start that takes ten times as long the real one may change.
    let host = fs::read_to_string(place.at("out/host.csv")).unwrap();
    let steady =
        |line: &str| line.rsplit_once(',').filter(|(_, us)| us.parse::<f64>().is_ok()).map(|(l, _)| format!("{l},300"));
    let steady: Vec<String> = host.lines().map(|line| steady(line).unwrap_or_else(|| line.to_owned())).collect();
    fs::write(place.at("out/host.csv"), steady.join("\n")).unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/measured.toml");
    let shipped = fs::read_to_string(shipped).unwrap();
    let cold = |probe_us: f64| {
        fs::write(place.at("host.toml"), shipped.replace("[costs]", &format!("[costs]\nprobe_us = {probe_us}")))
            .unwrap();
        place.works("run two.toml --host out --set cores=1 --set profile=host.toml --out simulated");
        let (kinds, times) =
            (place.column_of("simulated/starts.csv", "kind"), place.column_of("simulated/starts.csv", "resume_ms"));
        let cold = kinds.iter().position(|k| k == "cold").unwrap();
        times[cold].parse::<f64>().unwrap()
    };
    let ratio = cold(1e4) / cold(1e5);
    assert!((8.0..12.0).contains(&ratio), "{ratio}");
}

#[test]
fn ctrl_c_leaves_nothing_and_clean_removes_what_is_left_of_all_that_was_killed() {
    if !possible("Ctrl-C, and the end of all at once") {
        return;
    }
    let place = Place::new(str::to_owned);
    let mut controller = place.start();
    let folder = run_dir(&controller);
    let pids = agents(&folder);
    interrupt(&controller);
    assert_eq!(controller.0.wait().unwrap().code(), Some(1), "{}", fs::read_to_string(place.at("log")).unwrap());
    assert!(!folder.exists());
    nothing(&folder, &pids, |_| false);

    let mut controller = place.start();
    let folder = run_dir(&controller);
    let pids = agents(&folder);
    kill(controller.0.id().cast_signed());
    pids.iter().for_each(|pid| kill(*pid));
    controller.0.wait().unwrap();
    wait_for("the end of the agents", || pids.iter().all(|p| !Path::new(&format!("/proc/{p}/exe")).exists()));
    // A run of another test that starts just now removes it too, and then there is nothing left to say.
    let said = place.works("clean");
    assert!(!folder.exists(), "{said}");
    nothing(&folder, &pids, |_| false);
}

#[test]
fn the_controller_has_as_many_threads_as_it_is_told() {
    if !possible("the reference's command line") {
        return;
    }
    let place = Place::new(str::to_owned);
    fs::create_dir(place.at("conf")).unwrap();
    fs::write(place.at("conf/controller.ini"), "[policy]\npolicy = 5\n").unwrap();
    let line = "controller 5 requests.txt --config conf --set nodes=1 --out out";
    let log = fs::File::create(place.at("log")).unwrap();
    let mut controller = Ends(place.medes(line).stderr(log).stdout(Stdio::null()).spawn().unwrap());
    let tasks = format!("/proc/{}/task", controller.0.id());
    let threads = || {
        let all = fs::read_dir(&tasks).into_iter().flatten().flatten();
        all.filter_map(|t| fs::read_to_string(t.path().join("comm")).ok()).filter(|c| c.trim() == "controller").count()
    };
    wait_for("five threads", || threads() == 5);
    interrupt(&controller);
    assert_eq!(controller.0.wait().unwrap().code(), Some(1), "{}", fs::read_to_string(place.at("log")).unwrap());
}

#[test]
fn containers_through_agents() {
    if !possible("containers through agents") {
        return;
    }
    if let Err(e) = medes_real::node::runc::version() {
        skip(&format!("containers through agents: {e}"));
        return;
    }
    let edit = |file: &str| {
        file.replace("[\"fixed\", \"medes\"]", "\"medes\"").replace("[real]", "[real]\nsandbox = \"runc\"")
    };
    let place = Place::new(edit);
    place.works("run two.toml --backend real --out out");
    place.all_answered();
}

/// A process that does not outlive its test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent with a folder of its own, once it listens.
fn agent(folder: &Path) -> Ends {
    let mut command = Command::new(env!("CARGO_BIN_EXE_medes"));
    command.args(["agent", "--node", "0", "--run-dir"]).arg(folder);
    let mut agent = Ends(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(agent.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("listens on"), "{line}");
    agent
}

#[test]
fn an_agent_on_a_disk_takes_a_tmpfs_of_its_own_and_gives_it_back() {
    if !possible("an agent on a disk") {
        return;
    }
    let folder = std::env::temp_dir().join(format!("medes-disk-{}", std::process::id()));
    let kind = || {
        let said = Command::new("stat").args(["-f", "-c", "%T"]).arg(&folder).output().unwrap();
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    };
    let mounted = || fs::read_to_string("/proc/self/mounts").unwrap().contains(&format!(" {} ", folder.display()));
    for end in [nix::sys::signal::Signal::SIGTERM, nix::sys::signal::Signal::SIGKILL] {
        let mut agent = agent(&folder);
        assert_eq!(kind(), "tmpfs");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent.0.id().cast_signed()), end).unwrap();
        agent.0.wait().unwrap();
        if end == nix::sys::signal::Signal::SIGKILL {
            let said = Command::new(env!("CARGO_BIN_EXE_medes")).arg("clean").arg("--run-dir").arg(&folder).status();
            assert!(said.unwrap().success());
        }
        assert!(!mounted() && !folder.exists());
    }
}
