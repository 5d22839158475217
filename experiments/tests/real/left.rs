//! What agents and sandboxes may leave behind: processes, cgroups, mounts, files.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Processes, other than this one, whose command line has `word`; zombies have none.
pub fn processes(word: &str) -> Vec<(i32, String)> {
    let mut out = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(word) && pid.cast_unsigned() != std::process::id() {
            out.push((pid, line));
        }
    }
    out
}

/// Control groups, in any hierarchy, that these agents have made.
fn cgroups(agents: &[i32]) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let roots = mounts.lines().filter_map(|l| {
        let mut fields = l.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup").then_some(path)
    });
    let mut out = Vec::new();
    for root in roots {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let of = |pid: &i32| name.starts_with("medes-n") && name.split('-').nth(2) == Some(&pid.to_string());
            if agents.iter().any(of) {
                out.push(entry.path().display().to_string());
            }
        }
    }
    out
}

/// What is still there of agents that had these process ids and kept their things in `folder`.
fn left(folder: &Path, agents: &[i32]) -> Vec<String> {
    let name = folder.display().to_string();
    let mut out: Vec<String> =
        processes(&name).into_iter().map(|(pid, line)| format!("process {pid} {line}")).collect();
    out.extend(cgroups(agents).into_iter().map(|g| format!("cgroup {g}")));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    out.extend(mounts.lines().filter(|l| l.contains(&format!("{name}/"))).map(|l| format!("mount {l}")));
    out.extend(fs::read_dir(folder).into_iter().flatten().flatten().map(|e| format!("file {}", e.path().display())));
    out
}

/// That nothing is left, or nothing but what `but` knows; what has just been killed may take a moment.
pub fn nothing(folder: &Path, agents: &[i32], but: impl Fn(&str) -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let all: Vec<String> = left(folder, agents).into_iter().filter(|l| !but(l)).collect();
        if all.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "left behind: {all:#?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits for something, not for ever.
pub fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The end that nobody can prevent.
pub fn kill(pid: i32) {
    // Gone already is what was wanted.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
}

/// Stops a process, or lets it go on.
pub fn stand_still(pid: i32, still: bool) {
    use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), if still { SIGSTOP } else { SIGCONT }).unwrap();
}

/// Whether process `of` has not read what process `from` sent it over TCP.
pub fn unread(of: i32, from: i32) -> bool {
    let sockets = |pid: i32| -> Vec<String> {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let links = fds.filter_map(|fd| fs::read_link(fd.path()).ok()).map(|l| l.display().to_string());
        links.filter_map(|l| Some(l.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect()
    };
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    // Number, local and remote address, state, queues (sent:received), timer, retransmissions, user, timeout, inode.
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
    let of_process = |inodes: &[String], row: &[&str]| inodes.iter().any(|i| i == row[9]);
    let (of, from) = (sockets(of), sockets(from));
    rows.iter()
        .filter(|r| of_process(&of, r) && !r[4].ends_with(":00000000"))
        .any(|r| rows.iter().any(|peer| of_process(&from, peer) && (peer[1], peer[2]) == (r[2], r[1])))
}

/// Whether such tests can run here; if not, a line says how they could.
pub fn possible(test: &str) -> bool {
    let (criu, python) = (criu(), python());
    let missing = [
        (!nix::unistd::getuid().is_root()).then_some("root"),
        (!Path::new(&criu).exists()).then_some("CRIU (scripts/setup-criu)"),
        (!Path::new(&python).exists()).then_some("the functions' libraries (scripts/make-dumps)"),
    ];
    let missing: Vec<&str> = missing.into_iter().flatten().collect();
    if !missing.is_empty() {
        skip(&format!("{test}: it needs {}; scripts/test as root gets them", missing.join(", ")));
    }
    missing.is_empty()
}

/// Says that something is not tested here, where `cargo test` does not swallow it.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// The CRIU that agents take.
pub fn criu() -> String {
    std::env::var("MEDES_CRIU").unwrap_or_else(|_| "/opt/medes/criu/bin/criu".into())
}

/// The Python that functions run with.
pub fn python() -> String {
    std::env::var("MEDES_FUNCTIONS_VENV").unwrap_or_else(|_| "/opt/medes/functions".into()) + "/bin/python"
}
