//! What a function touches of its memory in its first run.
//!
//! Before that run all private memory of its process is moved aside within the process, page by page and without a copy (`UFFDIO_MOVE`, Linux 6.8), and what
//! the run touches is copied back as it is asked for (userfaultfd(2)); then the rest is moved back. That takes a microsecond or two a page and
//! something like twenty for one that is touched, once a function and node, in a cold start; the first dedup start knows what is touched then. (REAP of Ustiugov et al., ASPLOS 2021,
//! records in the first start from a snapshot instead.)
//!
//! The kernel moves pages within the calling process only, so the runner moves them; it is told what, and it is this module that watches. A fault is heard
//! and answered here, by another process than the one that waits. Children that are forked meanwhile share nothing of what lies aside: they are given copies.
//!
//! What the process gives back meanwhile is heard of and stays given back. While pages are moved that cannot be told in time; if it happens, the
//! sandbox is given up.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use medes_engine::dedup::image::PAGE;
use medes_engine::dedup::{Page, as_pages};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::{Value, json};

use super::lock;
use super::moving::{Task, Tasks};
use super::touched::Touched;
use super::uffd::Missing;

/// Pages that are copied at once.
const BATCH: u64 = 64;

/// Tells the runner something; its answer.
pub type Tell<'a> = dyn Fn(&str, Value) -> io::Result<Value> + 'a;

/// Why nothing is watched.
#[derive(Debug)]
pub enum NotWatched {
    /// The process is as it was.
    Untouched(io::Error),
    /// The process must be ended: some of its memory may be missing.
    Broken(io::Error),
}

/// A private mapping, and where its pages lie meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    start: u64,
    end: u64,
    aside: u64,
}

#[derive(Debug)]
struct Watched {
    root: i32,
    memory: File,
    pagemap: File,
    /// Ascending.
    parts: Vec<Part>,
    /// The process, and its children.
    tasks: Tasks,
    /// Addresses of pages that the process asked for.
    seen: Mutex<BTreeSet<u64>>,
    /// The same of its children: it does not have them itself.
    seen_by_children: Mutex<BTreeSet<u64>>,
    done: AtomicBool,
}

/// A process whose memory lies aside. When dropped, nobody answers it any more.
#[derive(Debug)]
pub struct Watch {
    watched: Arc<Watched>,
    thread: Option<JoinHandle<()>>,
}

/// Whether this kernel lets memory be watched; what there is.
///
/// # Errors
/// What is missing.
pub fn can_watch() -> Result<String, String> {
    let device = "/dev/userfaultfd";
    if !Path::new(device).exists() {
        return Err(format!("no {device}"));
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 8) { Err(format!("no UFFDIO_MOVE in Linux {}", release.trim())) } else { Ok("UFFDIO_MOVE".into()) }
}

/// Private memory of a process that is not backed by files: start and end of each mapping, ascending.
fn mappings(root: i32) -> io::Result<Vec<(u64, u64)>> {
    Ok(mappings_of(&fs::read_to_string(format!("/proc/{root}/maps"))?))
}

fn mappings_of(maps: &str) -> Vec<(u64, u64)> {
    let private = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        let (rights, inode) = (words.next(), words.nth(2));
        let name = words.next().unwrap_or_default();
        // The kernel puts signal frames on the stack, and reads it amid calls.
        rights == Some("rw-p") && inode == Some("0") && !name.starts_with("[stack") && !name.starts_with("[v")
    };
    maps.lines().filter(private).filter_map(range_of).collect()
}

/// Start and end of every mapping.
fn mapped_of(maps: &str) -> Vec<(u64, u64)> {
    maps.lines().filter_map(range_of).collect()
}

fn range_of(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

impl Watched {
    fn part_of(&self, at: u64) -> Option<Part> {
        let after = self.parts.partition_point(|p| p.start <= at);
        self.parts.get(after.checked_sub(1)?).copied().filter(|p| at < p.end)
    }

    /// Whether each page from `first` on, of those `count`, is there.
    fn there(&self, first: u64, count: u64) -> io::Result<Vec<bool>> {
        let mut words = vec![0; count as usize * 8];
        self.pagemap.read_exact_at(&mut words, first / PAGE * 8)?;
        // Bits 63 and 62 of a word: in memory, or swapped out.
        Ok(words.chunks_exact(8).map(|w| w.last().is_some_and(|top| top >> 6 != 0)).collect())
    }

    /// Runs of pages of a range that lie aside: addresses where they belong.
    fn aside(&self, part: Part, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        let there = self.there(range.start - part.start + part.aside, (range.end - range.start) / PAGE)?;
        let mut at = range.start;
        let mut out = Vec::new();
        for run in there.chunk_by(|a, b| a == b) {
            let end = at + run.len() as u64 * PAGE;
            if run.first() == Some(&true) {
                out.push(at..end);
            }
            at = end;
        }
        Ok(out)
    }

    /// Copies pages that lie aside to where they belong in a process.
    fn copy(&self, task: &Task, part: Part, range: Range<u64>, wait: &dyn Fn()) -> io::Result<()> {
        let mut pages: Vec<Page> = vec![[0; PAGE as usize]; ((range.end - range.start) / PAGE).min(BATCH) as usize];
        let mut at = range.start;
        while at < range.end {
            let count = ((range.end - at) / PAGE).min(BATCH) as usize;
            let bytes = pages.as_flattened_mut().get_mut(..count * PAGE as usize).unwrap_or_default();
            self.memory.read_exact_at(bytes, at - part.start + part.aside)?;
            task.fill(at, as_pages(bytes), wait)?;
            at += count as u64 * PAGE;
        }
        Ok(())
    }

    /// Somebody waits at an address.
    fn give(&self, task: &Task, address: u64) -> io::Result<()> {
        let place = task.origin_of(address).and_then(|at| Some((at, self.part_of(at)?)));
        let Some((at, part)) = place else {
            task.zero(address);
            return Ok(());
        };
        lock(if task.is_child() { &self.seen_by_children } else { &self.seen }).insert(at);
        if self.there(at - part.start + part.aside, 1)? == [true] {
            self.copy(task, part, at..at + PAGE, &|| self.tasks.hear(task))
        } else {
            task.zero(address);
            Ok(())
        }
    }

    /// What is to be moved back: where to, whence, and bytes.
    fn rest(&self, task: &Task) -> io::Result<Vec<[u64; 3]>> {
        let mut out: Vec<[u64; 3]> = Vec::new();
        for part in &self.parts {
            for at in self.aside(*part, part.start..part.end)?.into_iter().flat_map(|r| r.step_by(PAGE as usize)) {
                let Some(to) = task.place_of(at).filter(|_| !lock(&self.seen).contains(&at)) else { continue };
                let from = at - part.start + part.aside;
                match out.last_mut() {
                    Some([t, f, bytes]) if (*t + *bytes, *f + *bytes) == (to, from) => *bytes += PAGE,
                    _ => out.push([to, from, PAGE]),
                }
            }
        }
        Ok(out)
    }
}

/// Parts that the runner could not move.
fn left(answer: &Value) -> io::Result<Vec<[u64; 3]>> {
    serde_json::from_value(answer["left"].clone()).map_err(|e| io::Error::other(format!("{answer}: {e}")))
}

impl Watch {
    /// Moves the memory of a runner's process aside. The runner must be awake and have nothing else to do.
    ///
    /// # Errors
    /// See [`NotWatched`].
    pub fn begin(root: i32, tell: &Tell<'_>) -> Result<Self, NotWatched> {
        let before = mappings(root).map_err(NotWatched::Untouched)?;
        let bytes: u64 = before.iter().map(|(start, end)| end - start).sum();
        let answer = tell("/watch", json!({ "bytes": bytes })).map_err(NotWatched::Untouched)?;
        // Closing its descriptor is enough until something has been moved.
        let prepared = Self::prepare(root, &before, bytes, &answer);
        let (watched, room) = prepared.map_err(|e| match tell("/unwatch", json!({})) {
            Ok(_) => NotWatched::Untouched(e),
            Err(_) => NotWatched::Broken(e),
        })?;
        let watched = Arc::new(watched);
        let listener = watched.clone();
        let thread = thread::Builder::new().name("watching".into()).spawn(move || {
            // A process that cannot be given its pages has ended.
            listener.tasks.listen(&listener.done, |task, address| drop(listener.give(task, address)));
        });
        let watch = Self { thread: Some(thread.map_err(NotWatched::Broken)?), watched };
        watch.move_aside(room, bytes, tell).map_err(NotWatched::Broken)?;
        Ok(watch)
    }

    /// Registers all memory, and finds the room for it.
    fn prepare(root: i32, before: &[(u64, u64)], bytes: u64, answer: &Value) -> io::Result<(Watched, u64)> {
        let number = answer["faults"].as_i64().and_then(|n| i32::try_from(n).ok());
        let number = number.ok_or_else(|| io::Error::other(format!("the runner answered {answer}")))?;
        let pid = Pid::from_raw(root).ok_or_else(|| io::Error::other("there is no process"))?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        let missing = Missing::from(pidfd_getfd(process, number, PidfdGetfdFlags::empty())?);
        let new = |(start, end): &(u64, u64)| end - start == bytes && !before.iter().any(|(_, e)| e == end);
        let room = mappings(root)?.into_iter().find(new);
        let (room, _) = room.ok_or_else(|| io::Error::other("the runner has made no room"))?;
        missing.register(room, bytes)?;
        let mut aside = room;
        let mut parts = Vec::new();
        for (start, end) in before {
            // A mapping that is gone by now has nothing to watch.
            if missing.register(*start, end - start).is_ok() {
                parts.push(Part { start: *start, end: *end, aside });
                aside += end - start;
            }
        }
        let watched = Watched {
            root,
            memory: File::open(format!("/proc/{root}/mem"))?,
            pagemap: File::open(format!("/proc/{root}/pagemap"))?,
            parts,
            tasks: vec![Arc::new(Task::new(0, missing))].into(),
            seen: Mutex::default(),
            seen_by_children: Mutex::default(),
            done: AtomicBool::new(false),
        };
        Ok((watched, room))
    }

    fn move_aside(&self, room: u64, bytes: u64, tell: &Tell<'_>) -> io::Result<()> {
        let parts: Vec<[u64; 3]> = self.watched.parts.iter().map(|p| [p.aside, p.start, p.end - p.start]).collect();
        // What cannot be moved stays where it is.
        tell("/move", json!({ "parts": parts }))?;
        let tasks = self.watched.tasks.all();
        // Had it given memory back and used the same addresses again before they were moved, what it wrote would be taken for what it gave back.
        if tasks.iter().any(|task| task.is_child() || task.changes().0 > 0) {
            return Err(io::Error::other("its memory changed while it was moved aside"));
        }
        // What is not there is not asked for: it is read here alone.
        tasks.iter().try_for_each(|task| task.missing.unregister(room, bytes))
    }

    /// Moves back what is still aside; what was touched meanwhile, and how many pages there are. The runner must be awake and have nothing else to do.
    ///
    /// # Errors
    /// The process must be ended: some of its memory may be missing.
    pub fn end(mut self, tell: &Tell<'_>) -> io::Result<(Touched, u64)> {
        let watched = &self.watched;
        let tasks = watched.tasks.all();
        for task in tasks.iter().filter(|task| task.is_child() && !task.has_ended()) {
            for part in &watched.parts {
                for run in watched.aside(*part, part.start..part.end)? {
                    watched.copy(task, *part, run, &thread::yield_now)?;
                }
            }
        }
        let task = tasks.first().ok_or_else(|| io::Error::other("there is no process"))?;
        let (_, emptied) = task.changes();
        let rest = watched.rest(task)?;
        let answer = tell("/move", json!({ "parts": rest }))?;
        for [_, from, bytes] in left(&answer)? {
            let part = watched.parts.iter().find(|p| (p.aside..p.aside + p.end - p.start).contains(&from));
            let part = part.ok_or_else(|| io::Error::other(format!("{from:#x} was not aside")))?;
            let at = from - part.aside + part.start;
            watched.copy(task, *part, at..at + bytes, &thread::yield_now)?;
        }
        if task.changes().1 > emptied {
            return Err(io::Error::other("its memory was emptied while it was moved back"));
        }
        let pages: u64 = rest.iter().map(|[_, _, bytes]| bytes / PAGE).sum();
        let seen = std::mem::take(&mut *lock(&watched.seen));
        let pages = pages + seen.len() as u64;
        let children = std::mem::take(&mut *lock(&watched.seen_by_children));
        let mut touched = Touched::default();
        touched.extend(seen.into_iter().chain(children).map(|at| (0, at)));
        // Nothing is missing any more. A child may have the descriptor as well: closing it is not enough.
        for (start, end) in mapped_of(&fs::read_to_string(format!("/proc/{}/maps", watched.root))?) {
            let _ = task.missing.unregister(start, end - start);
        }
        tell("/unwatch", json!({}))?;
        self.stop();
        Ok((touched, pages))
    }

    /// Nobody answers the process any more.
    pub fn stop(&mut self) {
        self.watched.done.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_of_no_file_is_watched_but_stacks_are_not() {
        let maps = "00400000-00500000 rw-p 00000000 fe:00 17  /usr/bin/python3.11\n\
            01400000-01500000 rw-p 00000000 00:00 0  [heap]\n\
            7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n\
            7f0000001000-7f0000002000 r--p 00000000 00:00 0 \n\
            7f0000002000-7f0000003000 rw-s 00000000 00:01 5  /dev/zero (deleted)\n\
            7ffff0000000-7ffff0021000 rw-p 00000000 00:00 0  [stack]\n\
            7ffff7ff9000-7ffff7ffd000 rw-p 00000000 00:00 0  [vvar]\n\
            nonsense\n";
        let want = [(0x140_0000, 0x150_0000), (0x7f00_0000_0000, 0x7f00_0000_1000)];
        assert_eq!(mappings_of(maps), want);
    }

    #[test]
    fn what_could_not_be_moved_is_read_or_refused() {
        assert_eq!(left(&json!({"left": [[1, 2, 4096]]})).unwrap(), [[1, 2, 4096]]);
        assert!(left(&json!({"left": [[1, 2]]})).is_err() && left(&json!({})).is_err());
    }
}
