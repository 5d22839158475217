//! `medes cluster`: agents on other hosts, over ssh.
//!
//! `up` looks at every host, copies the binary, the cluster file and the user's files, and starts the agents; what it started is ended again
//! when one of them fails, so that no half of a cluster stays. All hosts are worked on at once, each by its own thread; a host that
//! fails is named, and does not keep the others from being looked at, stopped or cleaned.

mod probe;
mod ssh;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Subcommand;
use medes_real::cluster::{Address, ClusterFile, Machine};
use serde_json::json;

use crate::output::{Output, table};
use probe::{Finding, Level};
use ssh::{Host, home, quoted};

/// Where things go on a host when the cluster file does not say.
const FOLDER: &str = "/tmp/medes-cluster";
/// How long copying and starting may take on one host.
const COPY: Duration = Duration::from_secs(300);
/// How long short commands may take.
const SHORT: Duration = Duration::from_secs(120);
/// How long an agent may take until it can be reached.
const READY: Duration = Duration::from_secs(60);

/// Agents on other hosts, over ssh.
#[derive(Subcommand)]
#[command(
    after_help = "Example:\n  medes cluster check --cluster config/cluster.json\n  medes cluster up --cluster config/cluster.json\n  \
    medes run memcap --backend real --cluster config/cluster.json\n  medes cluster down --cluster config/cluster.json\n\n\
    `ssh` in the cluster file gives user, port, key, options and the folder on the hosts; docs/cloudlab.md walks through it."
)]
pub enum ClusterCmd {
    /// Say per host what is there, what is missing and how to get it. Exit status 1 if an agent could not run somewhere.
    Check(Which),
    /// Check, copy the binary and the files, start the agents. Starts all or none.
    Up {
        #[command(flatten)]
        which: Which,
        /// More files for the hosts (actions of your own, an experiment), copied to `files/` in the hosts' folder.
        #[arg(long, value_name = "FILE")]
        file: Vec<PathBuf>,
    },
    /// Which agents run, since when, with how much memory. Exit status 1 if one does not.
    Status(Which),
    /// The last lines of the agents' logs.
    Logs {
        #[command(flatten)]
        which: Which,
        /// Only this agent's.
        #[arg(long, value_name = "N")]
        node: Option<u32>,
        /// How many lines.
        #[arg(long, value_name = "N", default_value_t = 40)]
        lines: u32,
    },
    /// Stop the agents, and remove what they and `up` left.
    Down(Which),
}

/// Which cluster.
#[derive(clap::Args)]
pub struct Which {
    /// The cluster file.
    #[arg(long, value_name = "FILE", default_value = "config/cluster.json")]
    cluster: PathBuf,
}

/// Hosts with the agents that belong there.
struct Cluster {
    file: ClusterFile,
    folder: String,
    hosts: Vec<(Host, Vec<Machine>)>,
}

/// Carries a subcommand out; `Ok(false)` says that something is missing or down, and has been said.
pub fn run(cmd: &ClusterCmd, out: &Output) -> anyhow::Result<bool> {
    let (ClusterCmd::Check(which)
    | ClusterCmd::Up { which, .. }
    | ClusterCmd::Status(which)
    | ClusterCmd::Logs { which, .. }
    | ClusterCmd::Down(which)) = cmd;
    let cluster = Cluster::load(&which.cluster)?;
    match cmd {
        ClusterCmd::Check(_) => check(&cluster, out),
        ClusterCmd::Up { file, .. } => up(&cluster, file, out),
        ClusterCmd::Status(_) => status(&cluster, out),
        ClusterCmd::Logs { node, lines, .. } => logs(&cluster, *node, *lines, out),
        ClusterCmd::Down(_) => down(&cluster, out),
    }
}

impl Cluster {
    fn load(path: &Path) -> anyhow::Result<Self> {
        let file = ClusterFile::load(path)?;
        let mut by_host: BTreeMap<&str, Vec<Machine>> = BTreeMap::new();
        for machine in &file.grpc_nodes {
            by_host.entry(&machine.addr).or_default().push(machine.clone());
        }
        let hosts = by_host.into_iter().map(|(name, agents)| (Host::new(name, &file.ssh), agents)).collect();
        let folder = file.ssh.folder.clone().unwrap_or_else(|| FOLDER.to_owned());
        // `down` removes it with everything in it.
        if !folder.starts_with('/') || folder.trim_matches('/').is_empty() || folder.split('/').any(|part| part == "..")
        {
            bail!("{}: `ssh.folder` is `{folder}`; give an absolute path of its own, such as {FOLDER}", path.display());
        }
        Ok(Self { file, folder, hosts })
    }

    /// Does something on every host at once; in the order of hosts.
    fn each<T: Send>(
        &self,
        work: impl Fn(&Host, &[Machine]) -> anyhow::Result<T> + Sync,
    ) -> Vec<(&str, anyhow::Result<T>)> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = self.hosts.iter().map(|(host, agents)| scope.spawn(|| work(host, agents))).collect();
            let names = self.hosts.iter().map(|(host, _)| host.name.as_str());
            let done =
                threads.into_iter().map(|t| t.join().unwrap_or_else(|_| bail!("a thread of this program failed")));
            names.zip(done).collect()
        })
    }

    fn ports(&self, agents: &[Machine]) -> Vec<u16> {
        let pages = agents.iter().filter_map(|m| self.file.pages_of(m.machine_id)).map(|a| a.port);
        agents.iter().map(|m| m.port).chain(pages).collect()
    }

    /// A shell line that sets `sudo` to what makes a command run as root, and `at` to the folder.
    fn prelude(&self) -> String {
        format!("sudo=\n[ \"$(id -u)\" = 0 ] || sudo='sudo -n'\nat={}\n", quoted(&self.folder))
    }
}

/// A shell function that prints the pid of an agent that runs: pids are used again, so its command line must be ours.
const ALIVE: &str = "alive() { pid=$(cat \"$at/agent-$1.pid\" 2>/dev/null) && [ -n \"$pid\" ] && \
    tr '\\0' ' ' <\"/proc/$pid/cmdline\" 2>/dev/null | grep -qF \"$at/medes agent\" && echo \"$pid\"; }\n";

/// Prints what was found; whether every agent could run.
fn check(cluster: &Cluster, out: &Output) -> anyhow::Result<bool> {
    let found = cluster.each(|host, agents| {
        let running = !host.must("looking for agents", &alive_script(cluster, agents), SHORT)?.trim().is_empty();
        Ok(probe::probe(host, &cluster.ports(agents), running)?)
    });
    Ok(show_findings(&found, out))
}

/// Prints `node=pid` for each agent that runs.
fn alive_script(cluster: &Cluster, agents: &[Machine]) -> String {
    let mut script = cluster.prelude() + ALIVE;
    for m in agents {
        let n = m.machine_id;
        script.push_str(&format!("pid=$(alive {n}) && echo \"{n}=$pid\"\n"));
    }
    script + "true\n"
}

fn show_findings(found: &[(&str, anyhow::Result<Vec<Finding>>)], out: &Output) -> bool {
    let fine = found.iter().all(|(_, f)| f.as_ref().is_ok_and(|f| f.iter().all(|f| f.level != Level::Missing)));
    if out.json {
        let rows: Vec<_> = found
            .iter()
            .map(|(host, f)| match f {
                Ok(findings) => json!({"host": host, "reached": true, "findings": findings}),
                Err(e) => json!({"host": host, "reached": false, "error": format!("{e:#}")}),
            })
            .collect();
        out.print(json!({"ready": fine, "hosts": rows}).to_string());
        return fine;
    }
    let mut rows = Vec::new();
    for (host, findings) in found {
        match findings {
            Err(e) => rows.push(vec![(*host).to_owned(), "ssh".into(), "no".into(), format!("{e:#}")]),
            Ok(findings) => {
                // What is fine is said in one row, so that what is not stands out.
                let (fine, wanting): (Vec<_>, Vec<_>) = findings.iter().partition(|f| f.level == Level::Fine);
                let fine: Vec<String> = fine.iter().map(|f| format!("{}: {}", f.what, f.text)).collect();
                rows.push(vec![(*host).to_owned(), format!("{} things", fine.len()), "yes".into(), fine.join("; ")]);
                rows.extend(wanting.iter().map(|f| {
                    let mark = if f.level == Level::Missing { "no" } else { "less" };
                    vec![(*host).to_owned(), f.what.to_owned(), mark.to_owned(), f.text.clone()]
                }));
            }
        }
    }
    out.print(table(["host", "what", "there", "state, or how to get it"].map(str::to_owned), rows));
    fine
}

fn up(cluster: &Cluster, files: &[PathBuf], out: &Output) -> anyhow::Result<bool> {
    if cluster.file.controller.is_none() {
        bail!("the cluster file names no `controller`: agents ask it for base pages; give its address and port");
    }
    let secret = match &cluster.file.secret_file {
        Some(path) => {
            let path = home(path);
            Some(std::fs::read(&path).with_context(|| format!("cannot read the secret file {}", path.display()))?)
        }
        None => None,
    };
    let mut copies = Vec::new();
    for path in files {
        let name = path.file_name().with_context(|| format!("{} is no file", path.display()))?;
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        copies.push((format!("{}/files/{}", cluster.folder, name.to_string_lossy()), bytes));
    }
    let binary = std::env::current_exe().and_then(std::fs::read).context("cannot read this program's own file")?;
    let mut remote = cluster.file.clone();
    remote.secret_file = secret.as_ref().map(|_| PathBuf::from(format!("{}/secret", cluster.folder)));
    let description = serde_json::to_vec_pretty(&remote)?;

    let found = cluster.each(|host, agents| {
        let running = host.must("looking for agents", &alive_script(cluster, agents), SHORT)?;
        if !running.trim().is_empty() {
            bail!("agents run there already ({}): `medes cluster down` ends them", running.trim().replace('\n', ", "));
        }
        Ok(probe::probe(host, &cluster.ports(agents), false)?)
    });
    if found.iter().any(|(_, f)| f.as_ref().map_or(true, |f| f.iter().any(|f| f.level == Level::Missing))) {
        show_findings(&found, out);
        bail!("nothing was started: see the table for what is missing on which host");
    }
    out.say(format!("{} hosts are ready; copying and starting {} agents", found.len(), cluster.file.grpc_nodes.len()));
    let started = cluster.each(|host, agents| {
        let at = quoted(&cluster.folder);
        host.must("making the folder", &format!("umask 077 && mkdir -p {at}/files"), SHORT)?;
        host.put(&binary, &format!("{}/medes", cluster.folder), "755", COPY)?;
        host.must("running the copied program", &format!("{at}/medes --version"), SHORT)?;
        host.put(&description, &format!("{}/cluster.json", cluster.folder), "644", SHORT)?;
        if let Some(secret) = &secret {
            host.put(secret, &format!("{}/secret", cluster.folder), "600", SHORT)?;
        }
        for (to, bytes) in &copies {
            host.put(bytes, to, "644", COPY)?;
        }
        host.must("starting the agents", &start_script(cluster, agents), SHORT)?;
        agents.iter().try_for_each(|m| reachable(cluster, host, m))
    });
    let failed: Vec<_> = started.iter().filter_map(|(host, r)| r.as_ref().err().map(|e| (*host, e))).collect();
    if failed.is_empty() {
        out.say("all agents are up; `medes run FILE --backend real --cluster ...` uses them, `medes cluster down` ends them");
        return status(cluster, out);
    }
    let said: Vec<String> = failed.iter().map(|(host, e)| format!("{host}: {e:#}")).collect();
    let (_, left) = stop(cluster);
    let rest = if left.is_empty() { "everything started was ended and removed".to_owned() } else { left.join("; ") };
    bail!("the cluster did not come up: {}; {rest}", said.join("; "))
}

fn start_script(cluster: &Cluster, agents: &[Machine]) -> String {
    let mut script = cluster.prelude();
    for m in agents {
        let n = m.machine_id;
        // A session of its own, so that the end of the ssh connection does not reach it.
        script.push_str(&format!(
            "$sudo setsid sh -c 'echo $$ >\"$0/agent-{n}.pid\"; exec \"$0/medes\" agent --node {n} --cluster \"$0/cluster.json\" \
             --run-dir \"$0/run-{n}\"' \"$at\" >\"$at/agent-{n}.log\" 2>&1 </dev/null &\n"
        ));
    }
    script
}

/// Waits until an agent can be reached from here.
fn reachable(cluster: &Cluster, host: &Host, m: &Machine) -> anyhow::Result<()> {
    let address = Address { addr: m.addr.clone(), port: m.port }.resolve(Path::new("the cluster file"))?;
    let deadline = Instant::now() + READY;
    loop {
        let refused = match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
            Ok(_) => return Ok(()),
            Err(e) => e,
        };
        let alive = host.must("looking for the agent", &alive_script(cluster, std::slice::from_ref(m)), SHORT)?;
        if alive.trim().is_empty() || Instant::now() >= deadline {
            let log = host.must("reading its log", &log_script(cluster, m.machine_id, 5), SHORT).unwrap_or_default();
            let state = if alive.trim().is_empty() { "ended" } else { "runs and cannot be reached" };
            bail!("agent {} {state} at {address} ({refused}); its log ends: {}", m.machine_id, log.trim());
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn log_script(cluster: &Cluster, node: u32, lines: u32) -> String {
    format!(
        "{}$sudo tail -n {lines} \"$at/agent-{node}.log\" 2>/dev/null || echo 'no log: it was never started'\n",
        cluster.prelude()
    )
}

fn status(cluster: &Cluster, out: &Output) -> anyhow::Result<bool> {
    let found = cluster.each(|host, agents| {
        let mut script = cluster.prelude() + ALIVE;
        for m in agents {
            let n = m.machine_id;
            script.push_str(&format!(
                "if pid=$(alive {n}); then echo \"{n} $pid $(ps -o etimes=,rss= -p $pid)\"; else echo \"{n} -\"; fi\n"
            ));
        }
        let text = host.must("looking for agents", &script, SHORT)?;
        Ok(text.lines().filter_map(AgentState::parse).collect::<Vec<_>>())
    });
    let all =
        found.iter().all(|(_, r)| r.as_ref().is_ok_and(|a| !a.is_empty() && a.iter().all(|a| a.running.is_some())));
    if out.json {
        let rows: Vec<_> = found
            .iter()
            .map(|(host, r)| match r {
                Ok(agents) => json!({"host": host, "agents": agents.iter().map(AgentState::json).collect::<Vec<_>>()}),
                Err(e) => json!({"host": host, "error": format!("{e:#}")}),
            })
            .collect();
        out.print(json!({"all_running": all, "hosts": rows}).to_string());
        return Ok(all);
    }
    let mut rows = Vec::new();
    for (host, r) in &found {
        match r {
            Ok(agents) => rows.extend(agents.iter().map(|a| a.row(host))),
            Err(e) => {
                rows.push(vec![(*host).to_owned(), String::new(), format!("{e:#}"), String::new(), String::new()])
            }
        }
    }
    out.print(table(["host", "agent", "state", "up", "own memory"].map(str::to_owned), rows));
    Ok(all)
}

/// An agent as `status` shows it.
struct AgentState {
    node: u32,
    /// Pid, seconds since its start, resident KiB.
    running: Option<(u32, u64, u64)>,
}

impl AgentState {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let node = words.first()?.parse().ok()?;
        let number = |i: usize| words.get(i).and_then(|w| w.parse::<u64>().ok());
        let running = number(1).and_then(|pid| Some((u32::try_from(pid).ok()?, number(2)?, number(3)?)));
        Some(Self { node, running })
    }

    fn json(&self) -> serde_json::Value {
        match self.running {
            Some((pid, s, kb)) => json!({"node": self.node, "running": true, "pid": pid, "up_s": s, "resident_kb": kb}),
            None => json!({"node": self.node, "running": false}),
        }
    }

    fn row(&self, host: &str) -> Vec<String> {
        let (state, up, memory) = match self.running {
            Some((pid, s, kb)) => (format!("running, pid {pid}"), format!("{s} s"), format!("{} MB", kb / 1024)),
            None => ("not running; `medes cluster logs` may say why".to_owned(), String::new(), String::new()),
        };
        vec![host.to_owned(), self.node.to_string(), state, up, memory]
    }
}

fn logs(cluster: &Cluster, node: Option<u32>, lines: u32, out: &Output) -> anyhow::Result<bool> {
    let count = cluster.file.grpc_nodes.len();
    if let Some(n) = node.filter(|n| *n as usize >= count) {
        bail!("there is no agent {n}: the cluster file has 0 to {}", count - 1);
    }
    let found = cluster.each(|host, agents| {
        let wanted = agents.iter().map(|m| m.machine_id).filter(|n| node.is_none_or(|only| only == *n));
        wanted
            .map(|n| Ok((n, host.must("reading a log", &log_script(cluster, n, lines), SHORT)?)))
            .collect::<anyhow::Result<Vec<_>>>()
    });
    let mut all = true;
    for (host, r) in found {
        match r {
            Ok(logs) => {
                for (n, text) in logs {
                    out.print(format!("== agent {n} on {host}\n{}", text.trim_end()));
                }
            }
            Err(e) => {
                all = false;
                out.warn(format!("{e:#}"));
            }
        }
    }
    Ok(all)
}

/// Ends the agents and removes the folder everywhere; how many hosts are clean, and what was left where.
fn stop(cluster: &Cluster) -> (usize, Vec<String>) {
    let done = cluster.each(|host, agents| {
        let mut script = cluster.prelude() + ALIVE;
        for m in agents {
            let n = m.machine_id;
            // First asked, then made to: an agent that is asked cleans up after itself.
            script.push_str(&format!(
                "if pid=$(alive {n}); then\n    $sudo kill $pid\n    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do\n        \
                 alive {n} >/dev/null || break\n        sleep 0.5\n    done\n    ! pid=$(alive {n}) || $sudo kill -9 $pid\nfi\n\
                 if [ -x \"$at/medes\" ] && [ -d \"$at/run-{n}\" ]; then $sudo \"$at/medes\" --quiet clean --run-dir \"$at/run-{n}\" || exit 1; fi\n"
            ));
        }
        script.push_str("$sudo rm -rf \"$at\"\n");
        host.must("stopping the agents", &script, COPY)?;
        Ok(())
    });
    let left: Vec<String> = done.iter().filter_map(|(_, r)| r.as_ref().err().map(|e| format!("{e:#}"))).collect();
    (done.len() - left.len(), left)
}

fn down(cluster: &Cluster, out: &Output) -> anyhow::Result<bool> {
    let (clean, left) = stop(cluster);
    for what in &left {
        out.warn(what);
    }
    out.say(format!(
        "{clean} of {} hosts have no agent and no folder {} any more",
        cluster.hosts.len(),
        cluster.folder
    ));
    if out.json {
        out.print(json!({"clean_hosts": clean, "hosts": cluster.hosts.len(), "left": left}).to_string());
    }
    Ok(left.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_down_must_not_remove_are_refused() {
        let folder = std::env::temp_dir().join(format!("medes-cluster-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("cluster.json");
        for (at, fine) in [("/", false), ("relative", false), ("/a/../b", false), ("//", false), ("/srv/medes", true)] {
            let text = json!({"grpc_nodes": [{"machine_id": 0, "addr": "h", "port": 1}], "ssh": {"folder": at}});
            std::fs::write(&path, text.to_string()).unwrap();
            assert_eq!(Cluster::load(&path).is_ok(), fine, "{at}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn states_are_read() {
        let state = AgentState::parse("3 4711   86 20480").unwrap();
        assert_eq!((state.node, state.running), (3, Some((4711, 86, 20480))));
        assert_eq!(AgentState::parse("3 -").unwrap().running, None);
        assert!(AgentState::parse("what").is_none());
    }
}
