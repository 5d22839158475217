//! A process restored up to where its memory would be filled, and held there.
//!
//! `criu restore` with lazy pages registers all private anonymous memory with userfaultfd and hands the descriptors to the page server that
//! listens in its working folder: for each process its id (an int) and the descriptor (by SCM_RIGHTS). That server is this module. The tree is left
//! stopped (SIGSTOP), its private memory missing but for the few pages that the kernel touched on the way (restartable sequences, signal frames), which
//! are served from the checkpoint. On a request the pages are pushed in, block after block as they are decoded and verified, from several threads; then
//! the descriptors are closed, so that pages of zeros, which are not pushed at all, read as such, and the process goes on. No fault is ever
//! served from anything but verified pages. Nothing runs before the last page is there, unless [`super::filling`] follows a process that does.
//!
//! Private mappings of files cannot be missing: CRIU fills their changed pages (relocated data of libraries) at once, and a held process has them.

use std::fs;
use std::io::{self, IoSliceMut, Read};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use medes_engine::dedup::Page;
use medes_engine::dedup::image::{Image, Owner, PAGE, Source};
use medes_engine::dedup::zero::is_zero;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::criu::{Pending, until};
use super::moving::Task;
use super::uffd::{Event, Missing};
use crate::ops::OpError;

/// Where CRIU looks for its page server, in the working folder.
const SOCKET: &str = "lazy-pages.socket";
/// Longest wait for the second half of a message.
const HALF: Duration = Duration::from_secs(2);

/// Pages that are missing in a held process.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// Number of the first page in the image.
    first: u64,
    /// How many.
    pages: u64,
    /// Which process, as a position.
    task: usize,
    /// Address of the first page.
    address: u64,
}

/// A held process tree.
#[derive(Debug)]
pub struct Held {
    /// Its first process.
    pub root: i32,
    tasks: Vec<Arc<Task>>,
    /// By page number.
    spans: Vec<Span>,
    /// Positions of spans, by process and address.
    places: Vec<usize>,
}

/// The page server, before CRIU runs.
pub struct Server {
    listener: UnixListener,
    stream: Option<UnixStream>,
    /// Process id in its namespace, and its memory.
    tasks: Vec<(u32, Missing)>,
}

impl Server {
    /// Listens in the folder of the images.
    ///
    /// # Errors
    /// The system's.
    pub fn new(folder: &Path) -> Result<Self, OpError> {
        let path = folder.join(SOCKET);
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(|e| OpError::io(&path, &e))?;
        Ok(Self { listener, stream: None, tasks: Vec::new() })
    }

    /// Serves a restore of `image` until CRIU is done; the tree is held then.
    ///
    /// # Errors
    /// CRIU's, or the deadline has come. What CRIU began to restore is in its cgroup.
    pub fn serve(mut self, pending: Pending, image: &Image, deadline: Instant) -> Result<Held, OpError> {
        let broken = |e: io::Error| OpError::Sandbox { what: "holding".into(), reason: e.to_string(), gone: false };
        loop {
            let mut fds = vec![PollFd::new(pending.as_fd(), PollFlags::POLLIN)];
            fds.push(PollFd::new(self.stream.as_ref().map_or(self.listener.as_fd(), AsFd::as_fd), PollFlags::POLLIN));
            fds.extend(self.tasks.iter().map(|(_, m)| PollFd::new(m.as_fd(), PollFlags::POLLIN)));
            match poll(&mut fds, until(deadline)) {
                Ok(0) if Instant::now() >= deadline => return Err(OpError::Late { what: "holding".into() }),
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(e) => return Err(broken(e.into())),
            }
            let ready: Vec<bool> = fds.iter().map(|f| f.any().unwrap_or(false)).collect();
            for (i, _) in ready.iter().skip(2).enumerate().filter(|(_, r)| **r) {
                self.answer(i, image).map_err(broken)?;
            }
            if ready.get(1) == Some(&true) {
                self.greet().map_err(broken)?;
            }
            if ready.first() == Some(&true) {
                let response = pending.finish(deadline)?;
                let root = response.restore.map_or(0, |r| r.pid);
                return Ok(held(root, self.tasks, image));
            }
        }
    }

    /// Takes the connection, or the next process.
    fn greet(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else {
            let stream = self.listener.accept()?.0;
            stream.set_read_timeout(Some(HALF))?;
            self.stream = Some(stream);
            return Ok(());
        };
        let mut word = [0; 4];
        if stream.read(&mut word[..1])? == 0 {
            // CRIU has closed it: wait for nothing more there.
            self.stream = None;
            return Ok(());
        }
        stream.read_exact(&mut word[1..])?;
        // A process without memory has no descriptor, and the end of the restore is a number that is no process ("FTSR").
        let pid = i32::from_le_bytes(word);
        if pid <= 0 || word == *b"FTSR" {
            return Ok(());
        }
        let fd = descriptor(stream)?;
        self.tasks.push((pid.cast_unsigned(), fd.into()));
        Ok(())
    }

    /// Serves what a process waits for, from the checkpoint.
    fn answer(&self, task: usize, image: &Image) -> io::Result<()> {
        let Some((pid, missing)) = self.tasks.get(task) else { return Ok(()) };
        let process = image.processes().iter().position(|p| p.pid == *pid);
        let mut waiting = Vec::new();
        loop {
            while let Some(event) = missing.event()? {
                match event {
                    Event::Fault(address) => waiting.push(address),
                    // Nothing of the checkpoint runs yet; what CRIU unmaps on its way is its own.
                    Event::Fork(_) | Event::Moved { .. } | Event::Emptied { .. } | Event::Unmapped { .. } => {}
                }
            }
            let Some(address) = waiting.last() else { return Ok(()) };
            let page = process.and_then(|p| image.at(Owner::Process(p as u32), *address));
            let done = match page {
                Some(page) => missing.fill(*address, std::slice::from_ref(page)),
                None => missing.zero(*address),
            };
            match done {
                Ok(()) => drop(waiting.pop()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
                Err(e) => return Err(e),
            }
        }
    }
}

/// Receives a descriptor.
fn descriptor(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
            return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    Err(io::Error::other("CRIU sent no descriptor"))
}

/// Which pages of the image are missing where.
fn held(root: i32, tasks: Vec<(u32, Missing)>, image: &Image) -> Held {
    let mut spans = Vec::new();
    for s in image.segments() {
        let (Owner::Process(p), Source::Here(first), true) = (s.owner, s.source, s.lazy) else { continue };
        let pid = image.processes().get(p as usize).map(|p| p.pid);
        let Some(task) = tasks.iter().position(|(t, _)| Some(*t) == pid) else { continue };
        // A call fills pages of one mapping.
        let (mut address, end) = (s.start, s.start + s.pages * PAGE);
        while address < end {
            let stop = image.mapping(p, address).map_or(end, |m| m.end.min(end));
            let pages = (stop - address) / PAGE;
            spans.push(Span { first: first + (address - s.start) / PAGE, pages, task, address });
            address = stop;
        }
    }
    spans.sort_by_key(|s| s.first);
    let mut places: Vec<usize> = (0..spans.len()).collect();
    places.sort_by_key(|i| (spans[*i].task, spans[*i].address));
    let task = |(origin, (_, missing))| Arc::new(Task::new(origin, missing));
    Held { root, tasks: tasks.into_iter().enumerate().map(task).collect(), spans, places }
}

impl Held {
    /// Puts pages of the image, from number `first` on, where they belong; those that are not missing are left out. From any number of threads.
    /// Pages of zeros read as such when the descriptors are closed; with `zeros` they are there at once.
    ///
    /// # Errors
    /// The process is gone or there is no memory.
    pub fn push(&self, first: u64, pages: &[Page], zeros: bool) -> io::Result<()> {
        self.tasks.iter().try_for_each(|task| self.put(task, first, pages, zeros, &thread::yield_now))
    }

    /// [`Self::push`] to one process, without zeros; `wait` as in [`Task::fill`].
    pub(super) fn push_to(&self, task: &Task, first: u64, pages: &[Page], wait: &dyn Fn()) -> io::Result<()> {
        self.put(task, first, pages, false, wait)
    }

    fn put(&self, task: &Task, first: u64, pages: &[Page], zeros: bool, wait: &dyn Fn()) -> io::Result<()> {
        let end = first + pages.len() as u64;
        let from = self.spans.partition_point(|s| s.first + s.pages <= first);
        let spans = self.spans.iter().skip(from).take_while(|s| s.first < end).filter(|s| s.task == task.origin);
        for span in spans {
            let (start, stop) = (span.first.max(first), (span.first + span.pages).min(end));
            let slice = pages.get((start - first) as usize..(stop - first) as usize).unwrap_or_default();
            let mut address = span.address + (start - span.first) * PAGE;
            for run in slice.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
                let next = address + run.len() as u64 * PAGE;
                if run.first().is_some_and(|p| !is_zero(p)) {
                    task.fill(address, run, wait)?;
                } else if zeros {
                    (address..next).step_by(PAGE as usize).for_each(|at| task.zero(at));
                }
                address = next;
            }
        }
        Ok(())
    }

    /// Number of the page of the image that belongs at an address of a restored process.
    pub(super) fn page_at(&self, task: usize, address: u64) -> Option<u64> {
        let after =
            self.places.partition_point(|i| self.spans.get(*i).is_some_and(|s| (s.task, s.address) <= (task, address)));
        let span = self.spans.get(*self.places.get(after.checked_sub(1)?)?)?;
        let page = address.checked_sub(span.address)? / PAGE;
        (span.task == task && page < span.pages).then_some(span.first + page)
    }

    /// Where pages of the image belong: process, and address.
    pub(super) fn places(&self, pages: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
        let from = self.spans.partition_point(|s| s.first + s.pages <= pages.start);
        let end = pages.end;
        self.spans.iter().skip(from).take_while(move |s| s.first < end).flat_map(move |s| {
            let (first, past) = (s.first.max(pages.start), (s.first + s.pages).min(end));
            (first..past).map(|page| (s.task, s.address + (page - s.first) * PAGE))
        })
    }

    /// The processes that were restored.
    pub(super) fn tasks(&self) -> &[Arc<Task>] {
        &self.tasks
    }

    /// Lets go of the memory: what is missing still is zeros from now on. The tree stays stopped.
    pub fn let_go(self) -> i32 {
        self.root
    }
}
