//! Processes by their ids: signals, ends, memory.

use std::collections::BTreeMap;
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

/// What of a process's memory is its own, and what it maps from files, by library (a folder of Python's `site-packages`; the rest is `runtime`): memory
/// that all processes share that map the same file.
pub fn resident(pid: i32) -> Resident {
    resident_of(&fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default())
}

/// See [`resident`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resident {
    /// Its own.
    pub private: Bytes,
    /// By library.
    pub files: BTreeMap<String, Bytes>,
}

fn resident_of(smaps: &str) -> Resident {
    let mut out = Resident::default();
    let mut library: Option<String> = None;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(first) = words.first() else { continue };
        if !first.ends_with(':') {
            library = words.get(5).filter(|path| path.starts_with('/')).map(|path| library_of(path));
            continue;
        }
        let bytes = || Bytes::new(words.get(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) << 10);
        match (*first, &library) {
            ("Rss:", Some(library)) => *out.files.entry(library.clone()).or_default() += bytes(),
            // Pages of a file that the process has written to are its own.
            ("Anonymous:", Some(library)) => {
                let shared = out.files.entry(library.clone()).or_default();
                *shared = shared.saturating_sub(bytes());
                out.private += bytes();
            }
            ("Rss:", None) => out.private += bytes(),
            _ => {}
        }
    }
    out.files.retain(|_, size| *size > Bytes::ZERO);
    out
}

/// `numpy` of `/opt/x/lib/python3.11/site-packages/numpy.libs/libopenblas.so`.
fn library_of(path: &str) -> String {
    let behind = path.split_once("/site-packages/").and_then(|(_, rest)| rest.split('/').next());
    behind.map_or("runtime", |name| name.trim_end_matches(".libs")).to_owned()
}

/// Memory of a process that is not of files. Zero if it is gone.
pub fn anonymous(pid: i32) -> Bytes {
    kib(&PathBuf::from(format!("/proc/{pid}/status")), "RssAnon:")
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

#[cfg(test)]
mod memory_tests {
    use super::*;

    #[test]
    fn memory_is_its_own_or_mapped_from_files_of_libraries() {
        let smaps = "00400000-00500000 r-xp 00000000 fe:00 1  /usr/bin/python3.11\nRss: 40 kB\nPss: 9 kB\nAnonymous: 8 kB\n\
            01400000-01500000 rw-p 00000000 00:00 0 [heap]\nRss: 100 kB\nAnonymous: 100 kB\n\
            02400000-02500000 r-xp 00000000 fe:00 2 /opt/v/lib/python3.11/site-packages/numpy.libs/libblas.so\nRss: 20 kB\nAnonymous: 0 kB\n\
            03400000-03500000 r-xp 00000000 fe:00 3 /opt/v/lib/python3.11/site-packages/numpy/core.so\nRss: 4 kB\nAnonymous: 4 kB\n\
            04400000-04500000 rw-p 00000000 00:00 0\nRss: 12 kB\nAnonymous: 12 kB\n";
        let kb = |n: u64| Bytes::new(n << 10);
        let files = BTreeMap::from([("runtime".to_owned(), kb(32)), ("numpy".to_owned(), kb(20))]);
        assert_eq!(resident_of(smaps), Resident { private: kb(8 + 100 + 4 + 12), files });
        assert_eq!(resident_of(""), Resident::default());
    }
}
