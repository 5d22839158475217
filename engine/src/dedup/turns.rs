//! In which order the blocks of a dedup file are unpacked.
//!
//! Whoever unpacks a whole image takes its blocks one after the other. Where most of what is needed of an image is there and it is in use while the rest comes,
//! somebody may wait for a page and ask for it. It comes at once with the few beside it: one thread is kept for that, which has nothing else under way, and
//! the others are held back until the user is served.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::file::{BLOCK, DedupFile};

/// The clock. Nothing that is decided or simulated comes here: pages are unpacked for machines, whose time is the only one.
#[expect(
    clippy::disallowed_methods,
    reason = "times of real work on real memory, which decide nothing but how long to wait"
)]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Pages that come together when one of them is asked for.
pub const PIECE: usize = 8;

#[derive(Debug, Default)]
struct State {
    /// Blocks that nobody has taken.
    left: Vec<bool>,
    /// How many.
    count: usize,
    /// No block before this one is left.
    next: usize,
    /// Pieces that somebody waits for, the latest last.
    asked: Vec<usize>,
    /// All pieces that were ever asked for.
    known: BTreeSet<usize>,
    /// Nobody is to wait for a piece to be asked for any more.
    over: bool,
    /// The user has the processors until then, unless [`Turns::release`] is called.
    held: Option<Instant>,
}

/// Blocks that are still to be unpacked. All calls may be made from any number of threads.
#[derive(Debug)]
pub struct Turns {
    state: Mutex<State>,
    changed: Condvar,
    kept: bool,
    /// The pages that are wanted, by block, as positions in it; `None`: all.
    chosen: Option<BTreeMap<usize, Vec<usize>>>,
    /// Reading base pages and computing pages, summed over threads, ns.
    spent: [AtomicU64; 2],
}

impl Turns {
    fn new(blocks: usize, kept: bool) -> Self {
        let turns =
            Self { state: Mutex::default(), changed: Condvar::new(), kept, chosen: None, spent: Default::default() };
        turns.set(vec![true; blocks]);
        turns
    }

    /// One block after the other.
    pub fn in_order(file: &DedupFile<'_>) -> Self {
        Self::new(file.blocks(), false)
    }

    /// What is asked for alone, for so long or until [`Self::release`]; then one block after the other as well.
    pub fn on_demand(file: &DedupFile<'_>, held: Duration) -> Self {
        let turns = Self::new(file.blocks(), true);
        turns.state().held = Some(now() + held);
        turns
    }

    fn released<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while let Some(rest) = state.held.and_then(|until| until.checked_duration_since(now())) {
            state = self.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    /// Some pages alone, given ascending; numbers that the file does not have are left out.
    pub fn these(file: &DedupFile<'_>, pages: &[u64]) -> Self {
        let mut chosen: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for page in pages.iter().filter(|p| **p < file.pages()) {
            chosen.entry(Self::block_of(*page)).or_default().push(*page as usize % BLOCK);
        }
        let turns = Self { chosen: Some(chosen), ..Self::new(file.blocks(), false) };
        turns.again(file, |block| turns.chosen(block).is_some_and(|c| !c.is_empty()));
        turns
    }

    /// The user is served: nobody waits any more.
    pub fn release(&self) {
        self.state().held = None;
        self.changed.notify_all();
    }

    /// Positions of the pages of a block that are wanted, ascending; `None`: all.
    fn chosen(&self, block: usize) -> Option<&[usize]> {
        self.chosen.as_ref().map(|c| c.get(&block).map_or(&[][..], Vec::as_slice))
    }

    /// Some blocks are to be unpacked once more; what was asked for is forgotten.
    pub fn again(&self, file: &DedupFile<'_>, which: impl Fn(usize) -> bool) {
        self.set((0..file.blocks()).map(which).collect());
    }

    fn set(&self, left: Vec<bool>) {
        let count = left.iter().filter(|l| **l).count();
        *self.state() = State { left, count, ..State::default() };
    }

    /// The block that has a page.
    fn block_of(page: u64) -> usize {
        page as usize / BLOCK
    }

    /// Whether a thread is kept for what is asked for.
    pub fn keeps_one(&self) -> bool {
        self.kept
    }

    /// Somebody waits for this page. If its block is under way already, it comes with that.
    pub fn ask(&self, page: u64) {
        let mut state = self.state();
        let (block, piece) = (Self::block_of(page), page as usize / PIECE);
        if state.left.get(block) == Some(&true) && state.known.insert(piece) {
            state.asked.push(piece);
            self.changed.notify_all();
        }
    }

    /// What the `kept` thread, or another, is to unpack next: a block, and the positions in it of its pages that are wanted, `None`: all.
    pub(super) fn take(&self, kept: bool) -> Option<(usize, Option<Cow<'_, [usize]>>)> {
        if kept {
            let piece = self.take_piece()?;
            let first = piece * PIECE % BLOCK;
            return Some((piece * PIECE / BLOCK, Some((first..first + PIECE).collect())));
        }
        let block = self.take_block()?;
        Some((block, self.chosen(block).map(Cow::Borrowed)))
    }

    /// The first block that is left.
    fn take_block(&self) -> Option<usize> {
        let mut state = self.released(self.state());
        let from = state.next;
        let block = from + state.left.get(from..)?.iter().position(|left| *left)?;
        state.next = block + 1;
        if let Some(left) = state.left.get_mut(block) {
            *left = false;
        }
        state.count -= 1;
        if state.count == 0 {
            self.changed.notify_all();
        }
        Some(block)
    }

    /// Waits for a piece that is asked for. `None`: all blocks are taken, or nobody takes them any more.
    fn take_piece(&self) -> Option<usize> {
        let mut state = self.state();
        loop {
            // The latest first: whoever waits for it has just come to need it.
            let piece = state.asked.pop();
            if piece.is_some() || state.count == 0 || state.over {
                return piece;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Unpacking has failed: nobody waits for a page to be asked for.
    pub(super) fn fail(&self) {
        self.state().over = true;
        self.changed.notify_all();
    }

    pub(super) fn spend(&self, read: Duration, compute: Duration) {
        for (sum, time) in self.spent.iter().zip([read, compute]) {
            sum.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    /// Time spent until now, summed over threads: reading base pages, and computing and verifying pages.
    pub fn spent(&self) -> [Duration; 2] {
        [0, 1].map(|i| Duration::from_nanos(self.spent[i].load(Ordering::Relaxed)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The piece of a page that is alone in what was taken.
    fn piece(taken: Option<(usize, Option<Cow<'_, [usize]>>)>) -> Option<usize> {
        let (block, chosen) = taken?;
        let chosen = chosen?;
        assert_eq!(chosen.len(), PIECE);
        Some((block * BLOCK + chosen[0]) / PIECE)
    }

    #[test]
    fn pieces_are_taken_once_and_blocks_in_order() {
        let t = Turns::new(3, true);
        assert!(matches!(t.take(false), Some((0, None))));
        // Pieces of block 1 by their number in it.
        let ask = |piece: usize| t.ask((BLOCK + piece * PIECE + PIECE - 1) as u64);
        let taken = |piece: usize| Some(BLOCK / PIECE + piece);
        [3, 5, 3, 5].into_iter().for_each(ask);
        // Of a block that is under way, and of none.
        [0, BLOCK * 77].into_iter().for_each(|page| t.ask(page as u64));
        assert_eq!([piece(t.take(true)), piece(t.take(true))], [taken(5), taken(3)]);
        // All of the block comes once more later: what is there already stays.
        ask(7);
        assert!(matches!(t.take(false), Some((1, None))));
        assert!(matches!(t.take(false), Some((2, None))));
        assert_eq!([piece(t.take(true)), piece(t.take(true))], [taken(7), None]);
        assert!(t.take(false).is_none());
    }

    #[test]
    fn blocks_are_held_back() {
        let t = Turns::new(2, true);
        t.state().held = Some(now() + Duration::from_secs(3600));
        std::thread::scope(|scope| {
            let blocks = scope.spawn(|| t.take(false).map(|(block, _)| block));
            t.ask(0);
            assert_eq!(piece(t.take(true)), Some(0));
            t.release();
            assert!(blocks.join().is_ok_and(|block| block == Some(0)));
        });
        t.state().held = Some(now() + Duration::from_millis(2));
        assert!(t.take(false).is_some());
    }

    #[test]
    fn who_waits_for_a_piece_is_woken() {
        let t = Turns::new(3, true);
        std::thread::scope(|scope| {
            let kept = scope.spawn(|| std::iter::from_fn(|| t.take(true).map(|(block, _)| block)).collect::<Vec<_>>());
            t.ask((BLOCK * 2) as u64);
            while t.take(false).is_some() {}
            // Whoever is sooner.
            assert!(kept.join().is_ok_and(|got| got.is_empty() || got == [2]));
        });
    }

    #[test]
    fn nobody_waits_after_a_failure() {
        let t = Turns::new(3, true);
        std::thread::scope(|scope| {
            let kept = scope.spawn(|| t.take(true).is_none());
            t.fail();
            assert!(kept.join().is_ok_and(|none| none));
        });
        // The others go on and find out themselves.
        assert!(t.take(false).is_some());
    }
}
