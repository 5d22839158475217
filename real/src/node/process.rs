//! Processes by their ids: signals, ends, memory.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use medes_engine::units::Bytes;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Longest that a killed process is waited for.
const DYING: Duration = Duration::from_secs(5);

/// When a process started, in clock ticks since boot: with its id, a name that is not used twice. `None` if there is none.
pub fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything; after it come state (3rd field) and the rest. The 22nd is the start.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Whether a process runs, whoever's child it is: one that has ended and was not waited for does not.
pub fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A process and all that descend from it.
pub fn tree(root: i32) -> Vec<i32> {
    let mut out = vec![root];
    let mut at = 0;
    while let Some(pid) = out.get(at).copied() {
        at += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            out.extend(children.split_whitespace().filter_map(|c| c.parse::<i32>().ok()));
        }
    }
    out
}

/// Sends a signal; a process that is gone is none the worse.
pub fn signal(pid: i32, signal: Signal) {
    if pid > 1 {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Whether a child of ours still runs; if not, nothing is left of it.
pub fn runs(pid: i32) -> bool {
    matches!(waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
}

/// Kills a child and waits until it is gone. The first process of a namespace takes all others with it.
pub fn end(pid: i32) {
    signal(pid, Signal::SIGKILL);
    let until = Instant::now() + DYING;
    let mut pause = Duration::from_micros(200);
    loop {
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) if Instant::now() < until => {
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(5));
            }
            _ => return,
        }
    }
}

/// Proportional set size of a process: pages shared by n processes count 1/n. Zero if it is gone.
pub fn proportional(pid: i32) -> Bytes {
    kib(&PathBuf::from(format!("/proc/{pid}/smaps_rollup")), "Pss:")
}

/// This program's own resident memory without what it shares through tmpfs and memfd.
pub fn own_resident() -> Bytes {
    let status = PathBuf::from("/proc/self/status");
    kib(&status, "RssAnon:") + kib(&status, "RssFile:")
}

/// A line `NAME   N kB` of a file below /proc.
fn kib(path: &PathBuf, name: &str) -> Bytes {
    let text = fs::read_to_string(path).unwrap_or_default();
    let number = text.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok());
    Bytes::new(number.unwrap_or(0) * 1024)
}
