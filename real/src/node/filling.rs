//! Filling a tree that runs already.
//!
//! What the function is known to touch is there. A page that somebody waits for all the same comes at once, with those beside it, and the others in the
//! background once the first request is answered.
//!
//! A fault at an address that the checkpoint has nothing at is answered with zeros at once, and so is one at a page of zeros that has come: such pages are not
//! pushed. A child gets the pages that come while it is there, and in another pass the others that its parent did not have when it was born.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use medes_engine::dedup::Page;
use medes_engine::dedup::file::{BLOCK, DedupFile};
use medes_engine::dedup::turns::Turns;

use super::hold::Held;
use super::lock;
use super::moving::{PIECE, Task, Tasks};
use super::touched::Touched;
use crate::ops::{Give, OpError, Waited};

/// For so long at most the function has the processors to itself before pages come that it does not wait for.
const ALONE: Duration = Duration::from_millis(500);

/// How long processes waited for their pages: from the first that waits until nobody does.
#[derive(Debug, Default)]
pub struct Waits(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    now: usize,
    since: Option<Instant>,
    sum: Duration,
    /// Reading and computing of all that has come.
    spent: [Duration; 2],
}

impl Waits {
    fn begin(&self) {
        let mut w = lock(&self.0);
        w.now += 1;
        w.since.get_or_insert_with(Instant::now);
    }

    fn end(&self, count: usize) {
        let mut w = lock(&self.0);
        w.now = w.now.saturating_sub(count);
        if w.now == 0 {
            let waited = w.since.take().map_or(Duration::ZERO, |s| s.elapsed());
            w.sum += waited;
        }
    }

    /// What was unpacked until now took so long, reading and computing.
    pub fn spent(&self, spent: [Duration; 2]) {
        lock(&self.0).spent = spent;
    }

    /// Until now.
    pub fn sum(&self) -> Duration {
        let w = lock(&self.0);
        w.sum + w.since.map_or(Duration::ZERO, |s| s.elapsed())
    }

    /// Time waited, as reading and computing.
    pub fn split(&self, waited: Duration) -> Waited {
        let [read, decode] = lock(&self.0).spent.map(|d| d.as_secs_f64());
        let read = if read > 0.0 { waited.mul_f64(read / (read + decode)) } else { Duration::ZERO };
        Waited { read, decode: waited.saturating_sub(read) }
    }
}

/// What the filling of a tree and whoever uses the tree have in common.
#[derive(Debug)]
pub struct Behind {
    /// What is still to be unpacked.
    pub turns: Turns,
    /// How long was waited.
    pub waits: Waits,
    /// What was waited for.
    seen: Mutex<Touched>,
    /// Pages of the image.
    pub pages: u64,
    failure: Mutex<Option<OpError>>,
}

impl Behind {
    /// Nothing comes that is not waited for until [`Turns::release`], or for [`ALONE`].
    pub fn new(file: &DedupFile<'_>) -> Self {
        let turns = Turns::on_demand(file, ALONE);
        Self { turns, waits: Waits::default(), seen: Mutex::default(), pages: file.pages(), failure: Mutex::default() }
    }

    /// What was waited for since this was last asked.
    pub fn seen(&self) -> Touched {
        std::mem::take(&mut *lock(&self.seen))
    }

    /// The tree is about to be ended, as it cannot be filled.
    pub fn fail(&self, why: OpError) {
        *lock(&self.failure) = Some(why);
    }

    /// Why it was ended.
    pub fn failure(&self) -> Option<OpError> {
        lock(&self.failure).clone()
    }
}

/// A tree that is filled.
struct Filler<'a> {
    held: &'a Held,
    behind: &'a Behind,
    tasks: Tasks,
}

impl Filler<'_> {
    /// Somebody waits at an address.
    fn fault(&self, task: &Task, address: u64) {
        let at = task.origin_of(address);
        let Some(page) = at.and_then(|at| self.held.page_at(task.origin, at)) else { return task.zero(address) };
        let piece = page / PIECE * PIECE;
        lock(&self.behind.seen).extend(self.held.places(piece..piece + PIECE));
        self.behind.waits.begin();
        if task.wait(address, page) {
            self.behind.turns.ask(page);
        } else {
            task.zero(address);
            self.behind.waits.end(1);
        }
    }

    /// Gives all processes pages that have come: whole pieces.
    fn give(&self, first: u64, pages: &[Page]) -> io::Result<()> {
        self.tasks.all().iter().try_for_each(|task| {
            self.held.push_to(task, first, pages, &thread::yield_now)?;
            self.behind.waits.end(task.came(first..first + pages.len() as u64));
            Ok(())
        })
    }
}

/// Fills a tree that runs from an image: `unpack` is called for what is missing, and again if something was forked meanwhile that lacks pages.
///
/// # Errors
/// Of `unpack`, or of a process that ended too soon.
pub fn fill(
    held: &Held,
    file: &DedupFile<'_>,
    behind: &Behind,
    unpack: &dyn Fn(&Turns, &Give<'_>) -> Result<(), OpError>,
) -> Result<(), OpError> {
    let filler = Filler { held, behind, tasks: held.tasks().to_vec().into() };
    let done = AtomicBool::new(false);
    let failed = |e: io::Error| OpError::Sandbox { what: "filling memory".into(), reason: e.to_string(), gone: true };
    let put = |first: u64, pages: &[Page]| {
        behind.waits.spent(behind.turns.spent());
        filler.give(first, pages).map_err(failed)
    };
    thread::scope(|scope| {
        scope.spawn(|| filler.tasks.listen(&done, |task, address| filler.fault(task, address)));
        let mut result = unpack(&behind.turns, &put);
        while result.is_ok() {
            let tasks = filler.tasks.all();
            let lacks = |block: usize| {
                let first = (block * BLOCK) as u64;
                tasks.iter().any(|t| !t.has(first..(first + BLOCK as u64).min(file.pages())))
            };
            if !(0..file.blocks()).any(lacks) {
                break;
            }
            behind.turns.again(file, lacks);
            tasks.iter().flat_map(|t| t.wanted()).for_each(|page| behind.turns.ask(page));
            result = unpack(&behind.turns, &put);
        }
        done.store(true, Ordering::Release);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_waited_once_however_many_wait() {
        let waits = Waits::default();
        waits.begin();
        waits.begin();
        waits.end(1);
        assert!(lock(&waits.0).since.is_some());
        waits.end(1);
        let sum = waits.sum();
        assert!(lock(&waits.0).since.is_none() && waits.sum() == sum);
        waits.spent([Duration::from_millis(30), Duration::from_millis(10)]);
        let split = waits.split(Duration::from_millis(8));
        assert_eq!((split.read, split.decode), (Duration::from_millis(6), Duration::from_millis(2)));
    }
}
