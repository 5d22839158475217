//! Memory of a process that runs while it is filled.
//!
//! Meanwhile the process may give memory back, move it, or fork. The kernel tells by events, and fills nothing between the
//! change and the reading of its event. So a process has a list of changes behind a lock: who fills looks up under it where a page's address is now, or that it is gone;
//! who reads an event adds to it before anybody fills again. A page that was given back must read as zeros and never as what it once was. A
//! child's missing pages are those of the checkpoint too.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use medes_engine::dedup::Page;
use medes_engine::dedup::image::PAGE;
use medes_engine::dedup::turns;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::lock;
use super::uffd::{Event, Missing};

/// Pages that come together.
pub const PIECE: u64 = turns::PIECE as u64;

/// Milliseconds between looks at whether there is a new process to listen to, or nothing more to do.
const LOOK: u8 = 2;

/// Where nothing is ever mapped: the kernel says so, or that there is nobody. Lower ones (`vm.mmap_min_addr`) it refuses before it looks.
const NOWHERE: u64 = 0x1_0000;

/// What became of some addresses.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// Not what they were.
    Gone(u64, u64),
    /// From, to, bytes.
    Moved(u64, u64, u64),
}

/// Which pages of the image a process has, and where it waits.
#[derive(Clone, Debug, Default)]
struct Served {
    /// All pages of these pieces are there that are not zeros.
    come: BTreeSet<u64>,
    /// Addresses where it waits, and the pages.
    waiting: Vec<(u64, u64)>,
    /// Addresses where it waits and nobody has looked yet.
    faults: Vec<u64>,
}

/// A process with missing memory.
#[derive(Debug)]
pub struct Task {
    /// Whose memory of the checkpoint it has.
    pub origin: usize,
    /// The memory.
    pub missing: Missing,
    /// It was forked by one that was restored, and may end at any time.
    child: bool,
    /// In order.
    changes: RwLock<Vec<Change>>,
    /// How many of them left memory mapped that was emptied.
    emptied: AtomicUsize,
    served: Mutex<Served>,
}

/// Where an address of the checkpoint is after some changes; `None` if it is gone.
fn follow(changes: &[Change], address: u64) -> Option<u64> {
    changes.iter().try_fold(address, |at, change| match *change {
        Change::Gone(start, end) if (start..end).contains(&at) => None,
        Change::Moved(from, to, length) if (from..from.saturating_add(length)).contains(&at) => Some(at - from + to),
        _ => Some(at),
    })
}

/// Where in the checkpoint was what is at an address now; `None` if nothing is of the checkpoint there.
fn origin(changes: &[Change], address: u64) -> Option<u64> {
    changes.iter().rev().try_fold(address, |at, change| match *change {
        Change::Gone(start, end) if (start..end).contains(&at) => None,
        Change::Moved(from, to, length) if (to..to.saturating_add(length)).contains(&at) => Some(at - to + from),
        Change::Moved(from, _, length) if (from..from.saturating_add(length)).contains(&at) => None,
        _ => Some(at),
    })
}

impl Task {
    /// One that was not forked.
    pub fn new(origin: usize, missing: Missing) -> Self {
        let (changes, served) = (RwLock::default(), Mutex::default());
        Self { origin, missing, child: false, changes, emptied: AtomicUsize::new(0), served }
    }

    /// Whether it was forked by another one.
    pub fn is_child(&self) -> bool {
        self.child
    }

    /// Whether it is a child that is gone, or runs another program.
    pub fn has_ended(&self) -> bool {
        let gone = |e: io::Error| e.raw_os_error() == Some(Errno::ESRCH as i32);
        self.child && self.missing.zero(NOWHERE).is_err_and(gone)
    }

    /// How many changes were heard of, and how many of them left memory mapped that was emptied.
    pub fn changes(&self) -> (usize, usize) {
        let changes = self.changes.read().unwrap_or_else(PoisonError::into_inner);
        (changes.len(), self.emptied.load(Ordering::Acquire))
    }

    /// Where an address of the checkpoint is now; `None` if it is gone.
    pub fn place_of(&self, address: u64) -> Option<u64> {
        follow(&self.changes.read().unwrap_or_else(PoisonError::into_inner), address)
    }

    /// Where in the checkpoint was what is at an address now.
    pub fn origin_of(&self, address: u64) -> Option<u64> {
        origin(&self.changes.read().unwrap_or_else(PoisonError::into_inner), address)
    }

    /// Fills pages of the checkpoint that were adjacent at `address`, wherever they are now. Where the kernel is amid a change, `wait` is called until its
    /// event has been read.
    ///
    /// # Errors
    /// As [`Missing::fill`], but that a change is waited for, and that a child may end.
    pub fn fill(&self, address: u64, pages: &[Page], wait: &dyn Fn()) -> io::Result<()> {
        let mut rest = pages;
        while !rest.is_empty() {
            let changes = self.changes.read().unwrap_or_else(PoisonError::into_inner);
            let at = address + (pages.len() - rest.len()) as u64 * PAGE;
            let count = if changes.is_empty() { rest.len() } else { 1 };
            let (now, later) = rest.split_at(count);
            let done = match follow(&changes, at) {
                Some(at) => self.missing.fill(at, now),
                None => Ok(()),
            };
            drop(changes);
            match done {
                Ok(()) => rest = later,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait(),
                Err(_) if self.child => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Whoever waits at an address has zeros, unless there is something by now.
    pub fn zero(&self, address: u64) {
        // Any other error: the address is no memory any more, or the process is gone.
        if self.missing.zero(address).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
            lock(&self.served).faults.push(address);
        }
    }

    /// Somebody waits at an address for a page. `false`: that is there already, or zeros.
    pub fn wait(&self, address: u64, page: u64) -> bool {
        let mut served = lock(&self.served);
        let waits = !served.come.contains(&(page / PIECE));
        if waits {
            served.waiting.push((address, page));
        }
        waits
    }

    /// All of some pieces is there that is not zeros: whoever still waits for a page of them waits for zeros. How many waited.
    pub fn came(&self, pages: Range<u64>) -> usize {
        let mut served = lock(&self.served);
        served.come.extend(pages.clone().step_by(PIECE as usize).map(|page| page / PIECE));
        let (here, others): (Vec<_>, Vec<_>) = served.waiting.drain(..).partition(|(_, page)| pages.contains(page));
        served.waiting = others;
        drop(served);
        here.iter().for_each(|(address, _)| self.zero(*address));
        here.len()
    }

    /// Whether [`Self::came`] was said of all these pages.
    pub fn has(&self, pages: Range<u64>) -> bool {
        let served = lock(&self.served);
        pages.step_by(PIECE as usize).all(|page| served.come.contains(&(page / PIECE)))
    }

    /// Pages that are waited for.
    pub fn wanted(&self) -> Vec<u64> {
        lock(&self.served).waiting.iter().map(|(_, page)| *page).collect()
    }

    /// Takes the addresses at which somebody waits and nobody has looked yet.
    pub fn faults(&self) -> Vec<u64> {
        std::mem::take(&mut lock(&self.served).faults)
    }

    /// Reads events until there are none; gives the children.
    pub fn listen(&self) -> Vec<Arc<Self>> {
        let mut born = Vec::new();
        let mut changes = self.changes.write().unwrap_or_else(PoisonError::into_inner);
        // A process that ended has nothing more to say; who fills it finds out.
        while let Ok(Some(event)) = self.missing.event() {
            match event {
                Event::Fault(address) => lock(&self.served).faults.push(address),
                Event::Emptied { start, end } => {
                    changes.push(Change::Gone(start, end));
                    self.emptied.fetch_add(1, Ordering::Release);
                }
                Event::Unmapped { start, end } => changes.push(Change::Gone(start, end)),
                Event::Moved { from, to, length } => changes.push(Change::Moved(from, to, length)),
                Event::Fork(missing) => {
                    // Nothing was filled since it was born: the kernel waited for this to be read, and who fills waits for the lock.
                    let served = Served { come: lock(&self.served).come.clone(), ..Served::default() };
                    let (changes, served) = (RwLock::new(changes.clone()), Mutex::new(served));
                    let emptied = AtomicUsize::new(0);
                    born.push(Arc::new(Self { origin: self.origin, missing, child: true, changes, emptied, served }));
                }
            }
        }
        born
    }
}

/// A process and its children, as they are born.
#[derive(Debug)]
pub struct Tasks(Mutex<Vec<Arc<Task>>>);

impl From<Vec<Arc<Task>>> for Tasks {
    fn from(tasks: Vec<Arc<Task>>) -> Self {
        Self(Mutex::new(tasks))
    }
}

impl Tasks {
    /// Those that are there now.
    pub fn all(&self) -> Vec<Arc<Task>> {
        lock(&self.0).clone()
    }

    /// Reads what one of them tells.
    pub fn hear(&self, task: &Task) {
        let born = task.listen();
        lock(&self.0).extend(born);
    }

    /// Listens to all of them until it is `done`; `fault`: one of them waits at an address.
    pub fn listen(&self, done: &AtomicBool, fault: impl Fn(&Task, u64)) {
        while !done.load(Ordering::Acquire) {
            let tasks = self.all();
            let mut fds: Vec<PollFd> =
                tasks.iter().map(|t| PollFd::new(t.missing.as_fd(), PollFlags::POLLIN)).collect();
            let _ = poll(&mut fds, PollTimeout::from(LOOK));
            for task in &tasks {
                self.hear(task);
                task.faults().into_iter().for_each(|address| fault(task, address));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_followed_through_changes() {
        let changes =
            [Change::Gone(0x9000, 0xa000), Change::Moved(0x1000, 0x9000, 0x2000), Change::Gone(0xa000, 0xb000)];
        assert_eq!(follow(&changes, 0x1000), Some(0x9000));
        assert_eq!(follow(&changes, 0x2000), None);
        assert_eq!(follow(&changes, 0x9000), None);
        assert_eq!(follow(&changes, 0x5000), Some(0x5000));
        let was = [(0x9000, Some(0x1000)), (0xa000, None), (0x1000, None), (0x2000, None), (0x5000, Some(0x5000))];
        for (address, was) in was {
            assert_eq!(origin(&changes, address), was, "{address:#x}");
        }
    }
}
