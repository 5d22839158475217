//! The thread that starts all processes.
//!
//! The kernel ties two things to the *thread* that forks: the process namespace that its next child is put into, and the signal a child gets
//! when its parent dies. So one thread forks, it lives as long as the sandboxes do, and nobody else's children are concerned.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::personality::{self, Persona};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// What a new process is given besides its command.
#[derive(Default)]
pub struct Birth {
    /// A process namespace of its own, of which it is the first process.
    pub own_pids: bool,
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

fn spawn(mut command: Command, birth: Birth) -> io::Result<Child> {
    let back = if birth.own_pids {
        let own = File::open("/proc/thread-self/ns/pid")?;
        unshare(CloneFlags::CLONE_NEWPID)?;
        Some(own)
    } else {
        None
    };
    let Birth { own_session, still_addresses, cgroups, .. } = birth;
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
