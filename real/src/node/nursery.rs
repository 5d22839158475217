//! The thread that starts all processes.
//!
//! The kernel ties two things to the *thread* that forks: the process namespace that its next child is put into, and the signal a child gets
//! when its parent dies. So one thread forks, it lives as long as the sandboxes do, and nobody else's children are concerned.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::personality::{self, Persona};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// What a new process is given besides its command.
#[derive(Default)]
pub struct Birth {
    /// Namespaces of its own for processes (of which it is the first one), mounts, IPC, host name and network (empty). What is mounted at these places
    /// besides is not in it; its `/proc` is that of its processes.
    pub own: Option<Vec<CString>>,
    /// A session of its own.
    pub own_session: bool,
    /// Addresses that are the same each time.
    pub still_addresses: bool,
    /// Open `cgroup.procs` files of the cgroups it joins.
    pub cgroups: Vec<File>,
}

type Job = (Command, Birth, Sender<io::Result<Child>>);

/// Starts processes; they die with it, or with this program.
#[derive(Debug)]
pub struct Nursery {
    jobs: Mutex<Sender<Job>>,
}

impl Nursery {
    /// Starts the thread.
    ///
    /// # Errors
    /// No more threads.
    pub fn new() -> io::Result<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        thread::Builder::new().name("nursery".into()).spawn(move || {
            for (command, birth, done) in todo {
                let _ = done.send(spawn(command, birth));
            }
        })?;
        Ok(Self { jobs: Mutex::new(jobs) })
    }

    /// Starts a process.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(&self, command: Command, birth: Birth) -> io::Result<Child> {
        let (done, answer) = mpsc::channel();
        let gone = || io::Error::other("the thread that starts processes is gone");
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).send((command, birth, done)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

/// Namespaces for the child that calls this, between fork and exec: nothing here allocates.
fn separate(hidden: &[CString]) -> io::Result<()> {
    let none: Option<&CStr> = None;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNET)?;
    mount(none, c"/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    for place in hidden {
        // One below another that is gone already is none the worse.
        let _ = umount2(place.as_c_str(), MntFlags::MNT_DETACH);
    }
    mount(Some(c"proc"), c"/proc", Some(c"proc"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, none)?;
    // What it was given open is on a mount that is not in this namespace, which CRIU would not find.
    let null = open(c"/dev/null", OFlag::O_RDWR, nix::sys::stat::Mode::empty())?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}

/// Where something is mounted that a sandbox is not to see: kernel file systems, and what is in memory or made of other file systems, which may be gone when
/// it is restored. Disks stay, and so do `/dev`, `/dev/shm` and whatever is above `own`, the folder of the sandboxes.
pub fn hidden(own: &Path) -> Vec<CString> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut out = hidden_of(&text, own);
    out.reverse();
    out
}

fn hidden_of(mounts: &str, own: &Path) -> Vec<CString> {
    let hides = |line: &str| {
        let (source, rest) = line.split_once(' ')?;
        let place = unescaped(rest.split(' ').next()?);
        let stays =
            ["/", "/dev", "/dev/shm"].iter().any(|p| Path::new(&place) == Path::new(p)) || own.starts_with(&place);
        let disk = source.starts_with('/') || source.contains(':');
        if stays || disk { None } else { CString::new(place).ok() }
    };
    mounts.lines().filter_map(hides).collect()
}

/// A path of the kernel's list, in which spaces and the like are `\\` and three octal digits.
fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        let code = after.get(..3).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                out.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn spawn(mut command: Command, birth: Birth) -> io::Result<Child> {
    let back = if birth.own.is_some() {
        let own = File::open("/proc/thread-self/ns/pid")?;
        unshare(CloneFlags::CLONE_NEWPID)?;
        Some(own)
    } else {
        None
    };
    let Birth { own, own_session, still_addresses, cgroups } = birth;
    let prepare = move || {
        for cgroup in &cgroups {
            // "0" is whoever writes it.
            if nix::unistd::write(cgroup, b"0")? != 1 {
                return Err(io::Error::from(io::ErrorKind::WriteZero));
            }
        }
        // Whatever this program was itself given open (a shell's lock, a log) is not the sandbox's, nor CRIU's to checkpoint.
        // SAFETY: the call takes three numbers and marks descriptors; none is closed before exec.
        if unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        if let Some(hidden) = &own {
            separate(hidden)?;
        }
        if own_session {
            nix::unistd::setsid()?;
        }
        set_pdeathsig(Signal::SIGKILL)?;
        if still_addresses {
            personality::set(personality::get()? | Persona::ADDR_NO_RANDOMIZE)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls on values prepared before the fork and nothing else: no allocation
    // (its errors are numbers), no lock.
    unsafe { command.pre_exec(prepare) };
    let child = command.spawn();
    if let Some(own) = back {
        setns(own, CloneFlags::CLONE_NEWPID)?;
    }
    child
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_and_the_folder_of_sandboxes_are_seen_and_what_may_go_is_not() {
        let mounts = "/dev/vda / ext4 rw 0 0\nproc /proc proc rw 0 0\ndevtmpfs /dev devtmpfs rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n\
            overlay /dev/shm/other/s1.0/root overlay rw 0 0\nhost:/x /data nfs rw 0 0\ntmpfs /run\\040here tmpfs rw 0 0\n\
            tmpfs /run/medes tmpfs rw 0 0\n/dev/vdb /opt ext4 rw 0 0\n";
        let hidden = hidden_of(mounts, Path::new("/run/medes/agent-0"));
        assert_eq!(hidden, [c"/proc", c"/dev/shm/other/s1.0/root", c"/run here"].map(CString::from));
    }
}
