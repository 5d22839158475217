//! Filling the memory of a process that runs already.
//!
//! While pages come in the background the process may give memory back, move it, or fork. The kernel tells by events, and fills nothing between the
//! change and the reading of its event. So a process has a list of changes behind a lock: who fills looks up under it where a page's address is now, or that it is gone;
//! who reads an event adds to it before anybody fills again. A page that was given back must read as zeros and never as what it once was; a
//! child's missing pages are those of the checkpoint too, and are pushed in another pass. A fault needs no answer: the
//! page comes, or is a page of zeros and reads as such when the descriptors are closed.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;

use medes_engine::dedup::Page;
use medes_engine::dedup::image::PAGE;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::hold::Held;
use super::lock;
use super::uffd::{Event, Missing};
use crate::ops::{Give, OpError};

/// Milliseconds between looks at whether there is a new process to listen to, or nothing more to do.
const LOOK: u8 = 2;

/// What became of some addresses.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// Not what they were.
    Gone(u64, u64),
    /// From, to, bytes.
    Moved(u64, u64, u64),
}

/// A process with missing memory.
#[derive(Debug)]
pub struct Task {
    /// Whose memory of the checkpoint it has.
    pub origin: usize,
    /// The memory.
    pub missing: Missing,
    /// In order.
    pub changes: RwLock<Vec<Change>>,
}

/// Where an address of the checkpoint is after some changes; `None` if it is gone.
fn follow(changes: &[Change], address: u64) -> Option<u64> {
    changes.iter().try_fold(address, |at, change| match *change {
        Change::Gone(start, end) if (start..end).contains(&at) => None,
        Change::Moved(from, to, length) if (from..from.saturating_add(length)).contains(&at) => Some(at - from + to),
        _ => Some(at),
    })
}

/// Whether an address has something of the checkpoint still.
fn has(changes: &[Change], address: u64) -> bool {
    let back = changes.iter().rev().try_fold(address, |at, change| match *change {
        Change::Gone(start, end) if (start..end).contains(&at) => None,
        Change::Moved(from, to, length) if (to..to.saturating_add(length)).contains(&at) => Some(at - to + from),
        Change::Moved(from, _, length) if (from..from.saturating_add(length)).contains(&at) => None,
        _ => Some(at),
    });
    back.is_some()
}

impl Task {
    /// Fills pages of the checkpoint that were adjacent at `address`, wherever they are now.
    ///
    /// # Errors
    /// As [`Missing::fill`], but that a change is waited for.
    pub fn fill(&self, address: u64, pages: &[Page]) -> io::Result<()> {
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
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads events until there are none; children are added to `born`.
    fn listen(&self, born: &Mutex<Vec<Arc<Task>>>) -> io::Result<()> {
        loop {
            let mut changes = self.changes.write().unwrap_or_else(PoisonError::into_inner);
            match self.missing.event()? {
                None => return Ok(()),
                Some(Event::Fault(address)) => {
                    if !has(&changes, address) {
                        match self.missing.zero(address) {
                            // Whoever waits asks again once the change is through.
                            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                            _ => {}
                        }
                    }
                }
                Some(Event::Gone { start, end }) => changes.push(Change::Gone(start, end)),
                Some(Event::Moved { from, to, length }) => changes.push(Change::Moved(from, to, length)),
                Some(Event::Fork(missing)) => {
                    let changes = RwLock::new(changes.clone());
                    lock(born).push(Arc::new(Self { origin: self.origin, missing, changes }));
                }
            }
        }
    }
}

/// Fills a tree that runs: `unpack` is called with what takes the pages, once for the tree and once more for whatever was forked meanwhile.
///
/// # Errors
/// Of `unpack`, or of a process that ended too soon.
pub fn fill(held: &Held, unpack: &dyn Fn(&Give<'_>) -> Result<(), OpError>) -> Result<(), OpError> {
    let all = Mutex::new(held.tasks().to_vec());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let tasks = lock(&all).clone();
                let mut fds: Vec<PollFd> =
                    tasks.iter().map(|t| PollFd::new(t.missing.as_fd(), PollFlags::POLLIN)).collect();
                if poll(&mut fds, PollTimeout::from(LOOK)).is_ok() {
                    for task in &tasks {
                        // A process that ended has nothing more to say; who fills it finds out.
                        let _ = task.listen(&all);
                    }
                }
            }
        });
        let mut from = 0;
        let result = loop {
            let tasks = lock(&all).get(from..).unwrap_or_default().to_vec();
            if tasks.is_empty() {
                break Ok(());
            }
            let children = from > 0;
            let put = |first: u64, pages: &[Page]| match held.push_to(&tasks, first, pages) {
                // A child may end at any time.
                Err(_) if children => Ok(()),
                done => done.map_err(|e| OpError::Sandbox {
                    what: "filling memory".into(),
                    reason: e.to_string(),
                    gone: true,
                }),
            };
            if let Err(e) = unpack(&put) {
                break Err(e);
            }
            from += tasks.len();
        };
        done.store(true, Ordering::Release);
        result
    })
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
        for (address, has_some) in [(0x9000, true), (0xa000, false), (0x1000, false), (0x2000, false), (0x5000, true)] {
            assert_eq!(has(&changes, address), has_some, "{address:#x}");
        }
    }
}
