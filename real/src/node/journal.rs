//! What was made is on record before it is made, so that it can be removed whatever happens to this program.
//!
//! A file `made` in the folder of what it is about: a line each, `cgroup PATH`, `mount PATH`, `process PID START`. It lies on tmpfs like all else: after
//! a reboot there is neither the record nor what it names. Processes are the exception to "before" (their id is not known then):
//! they are born into recorded cgroups, and where there are none they die with the thread that starts them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use super::{cgroup, process};
use crate::ops::OpError;

/// Name of the record.
const MADE: &str = "made";

/// Something outside of the folder.
pub enum Made<'a> {
    /// A cgroup.
    Cgroup(&'a Path),
    /// A file system that is mounted there.
    Mount(&'a Path),
    /// A process that was just started.
    Process(i32),
}

/// Adds to the record in a folder.
///
/// # Errors
/// The system's.
pub fn record(folder: &Path, made: &Made<'_>) -> io::Result<()> {
    let line = match made {
        Made::Cgroup(path) => format!("cgroup {}\n", path.display()),
        Made::Mount(path) => format!("mount {}\n", path.display()),
        Made::Process(pid) => format!("process {pid} {}\n", process::started(*pid).unwrap_or(0)),
    };
    OpenOptions::new().create(true).append(true).open(folder.join(MADE))?.write_all(line.as_bytes())
}

/// Where CRIU mounts a process namespace's own /proc while it dumps, in the working folder of the process.
const PROC: &str = "proc.crtools";

/// Where CRIU makes an empty folder, and how it begins, below which it puts the mounts of what it restores together; nobody else sees these.
const ROOTS: (&str, &str) = ("/tmp", ".criu.mntns.");
/// In a younger one a CRIU may be about to mount something.
const YOUNG: Duration = Duration::from_secs(2);

/// Removes such folders that CRIUs left which were killed at their work: empty ones in which no process has a mount.
fn remove_roots(within: &Path) {
    let ours = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(ROOTS.1));
    let found: Vec<PathBuf> =
        fs::read_dir(within).into_iter().flatten().flatten().map(|e| e.path()).filter(ours).collect();
    let age = |p: &PathBuf| p.metadata().ok()?.modified().ok()?.elapsed().ok();
    if found.iter().any(|p| age(p).is_some_and(|age| age < YOUNG)) {
        thread::sleep(YOUNG);
    }
    for path in found {
        let name = path.display().to_string();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mounts = processes.filter_map(|p| fs::read_to_string(p.path().join("mountinfo")).ok());
        if !mounts.into_iter().any(|m| m.contains(&name)) {
            // One that is not empty, or gone by now, is none of these.
            let _ = fs::remove_dir(&path);
        }
    }
}

/// Removes the mount that a CRIU leaves in a sandbox's folder when it is killed at its work: every later dump would fail on it.
pub fn unmount(folder: &Path) {
    let path = folder.join(PROC);
    if path.exists() {
        // Nothing may be mounted there any more.
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&path);
    }
}

/// Ends and removes what the record in a folder names, then the folder.
///
/// # Errors
/// The folder cannot be removed.
pub fn undo(folder: &Path) -> Result<(), OpError> {
    let text = fs::read_to_string(folder.join(MADE)).unwrap_or_default();
    let words = |line: &'_ str| {
        let (kind, rest) = line.split_once(' ')?;
        Some((kind.to_string(), rest.to_string()))
    };
    let made: Vec<(String, String)> = text.lines().filter_map(words).collect();
    let of = |kind: &'static str| made.iter().filter(move |(k, _)| k == kind).map(|(_, rest)| rest);
    for process in of("process") {
        let mut numbers = process.split(' ').map(str::parse::<u64>);
        if let (Some(Ok(pid)), Some(Ok(start))) = (numbers.next(), numbers.next())
            && let Ok(pid) = i32::try_from(pid)
            && process::started(pid) == Some(start)
        {
            process::signal(pid, Signal::SIGKILL);
            process::end(pid);
        }
    }
    let newest_first = |kind| of(kind).map(PathBuf::from).collect::<Vec<_>>().into_iter().rev();
    for path in newest_first("mount") {
        // What is not mounted there is what was wanted.
        let _ = umount2(&path, MntFlags::MNT_DETACH);
    }
    newest_first("cgroup").for_each(|path| cgroup::remove(&path));
    unmount(folder);
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(OpError::io(folder, &e)),
        _ => Ok(()),
    }
}

/// Removes all that agents left that used this run folder, or folders in it, and are no more: processes, cgroups, files.
///
/// # Errors
/// What cannot be removed.
pub fn clean(run_dir: &Path) -> Result<(), OpError> {
    let done = clean_folder(run_dir);
    remove_roots(Path::new(ROOTS.0));
    done
}

fn clean_folder(run_dir: &Path) -> Result<(), OpError> {
    let Ok(entries) = fs::read_dir(run_dir) else { return Ok(()) };
    for entry in entries.flatten() {
        // A folder with a record, or of folders with records: no link is followed, and nothing of a sandbox's own is looked into.
        if entry.file_type().is_ok_and(|t| t.is_dir()) && entry.path().join(MADE).exists() {
            clean_folder(&entry.path())?;
        }
    }
    undo(run_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::{MsFlags, mount};

    #[test]
    fn empty_folders_that_a_killed_criu_left_are_removed_and_no_others() {
        let within = tempfile::tempdir().expect("a folder");
        let [left, full, other] = [".criu.mntns.a1", ".criu.mntns.b2", "a3"].map(|n| within.path().join(n));
        for folder in [&left, &full, &other] {
            fs::create_dir(folder).expect("a folder");
        }
        fs::write(full.join("file"), "").expect("a file");
        remove_roots(within.path());
        assert!(!left.exists() && full.exists() && other.exists());
    }

    #[test]
    fn what_a_killed_criu_mounted_goes_with_the_folder() {
        let run_dir = tempfile::tempdir().expect("a folder");
        let folder = run_dir.path().join("s0.0");
        fs::create_dir_all(folder.join(PROC)).expect("a folder");
        record(&folder, &Made::Cgroup(Path::new("/nowhere/medes"))).expect("recorded");
        let none: Option<&str> = None;
        if mount(Some("proc"), &folder.join(PROC), Some("proc"), MsFlags::empty(), none).is_err() {
            println!("without a mount: run as root to test that it is removed");
        }
        record(run_dir.path(), &Made::Cgroup(Path::new("/nowhere/medes"))).expect("recorded");
        clean(run_dir.path()).expect("cleaned");
        assert!(!folder.exists() && !run_dir.path().exists());
    }
}
