//! Which of the base pages that an index finds to patch against.
//!
//! The reference scores base *sandboxes*: every one that any hash of the page hit is a candidate, with the page it hit
//! first; the score is the sandbox's reference count and whether it is on the same node. Which page fits best does not
//! enter. Ours counts *votes*: of all hashes of the page, how many hit this base page; then locality, then the
//! reference count. The caller may add the page at the same place of a base as a candidate, and compare the few best
//! with the page itself ([`super::pack`] does both).

use serde::{Deserialize, Serialize};

use super::index::{BaseSlot, PageRef};

/// What is known of a base beside its pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BaseInfo {
    /// Dedup sandboxes that depend on it.
    pub refcount: u32,
    /// Whether it is on the same node.
    pub local: bool,
}

/// Weights of the reference's score (`basechoice` in `controller.ini`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// Read by the reference and not used in its score; nor here.
    pub dup: f64,
    /// Of the reference count.
    pub refcount: f64,
    /// Of being on the same node.
    pub local: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { dup: 1.0, refcount: 2.0, local: 10.0 }
    }
}

/// The reference's choice among the pages hit, given in the order in which the hashes hit them. Of equal scores the
/// base hit first wins.
pub fn reference(hits: &[PageRef], info: impl Fn(BaseSlot) -> BaseInfo, weights: Weights) -> Option<PageRef> {
    let mut best: Option<(f64, PageRef)> = None;
    for (i, hit) in hits.iter().enumerate() {
        if hits[..i].iter().any(|earlier| earlier.base == hit.base) {
            continue;
        }
        let info = info(hit.base);
        let score = weights.refcount * f64::from(info.refcount) + if info.local { weights.local } else { 0.0 };
        if best.is_none_or(|(s, _)| score > s) {
            best = Some((score, *hit));
        }
    }
    best.map(|(_, page)| page)
}

/// Counts votes for base pages; the memory is kept between pages.
#[derive(Default)]
pub struct Votes {
    tally: Vec<(PageRef, u32)>,
}

impl Votes {
    /// Forgets the last page's votes.
    pub fn clear(&mut self) {
        self.tally.clear();
    }

    /// One more hash hit this page.
    pub fn add(&mut self, page: PageRef) {
        match self.tally.iter_mut().find(|(p, _)| *p == page) {
            Some((_, n)) => *n += 1,
            None => self.tally.push((page, 1)),
        }
    }

    /// Every page hit.
    pub fn all(&self) -> impl Iterator<Item = PageRef> {
        self.tally.iter().map(|(p, _)| *p)
    }

    /// The best `out.len()` pages, best first: by votes, then locality, then reference count, then the lowest slot
    /// and page number.
    pub fn best(&mut self, info: impl Fn(BaseSlot) -> BaseInfo, out: &mut [Option<PageRef>]) {
        out.fill(None);
        let rank = |(page, votes): &(PageRef, u32)| {
            let info = info(page.base);
            (u32::MAX - votes, !info.local, u32::MAX - info.refcount, *page)
        };
        let n = out.len().min(self.tally.len());
        if n == 0 {
            return;
        }
        if n < self.tally.len() {
            self.tally.select_nth_unstable_by_key(n - 1, rank);
        }
        self.tally[..n].sort_unstable_by_key(rank);
        for (to, (page, _)) in out.iter_mut().zip(&self.tally[..n]) {
            *to = Some(*page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(base: u16, page: u32) -> PageRef {
        PageRef { base: BaseSlot(base), page }
    }

    #[test]
    fn the_reference_takes_the_first_page_of_the_best_sandbox() {
        let info = |b: BaseSlot| BaseInfo { refcount: [0, 4, 6][usize::from(b.0)], local: b.0 == 0 };
        let hits = [page(1, 7), page(0, 3), page(0, 9), page(0, 9), page(2, 1)];
        // Scores: 10 for the local one, 8, 12.
        assert_eq!(reference(&hits, info, Weights::default()), Some(page(2, 1)));
        let weights = Weights { refcount: 1.0, ..Weights::default() };
        assert_eq!(reference(&hits, info, weights), Some(page(0, 3)), "its first page, not the one hit twice");
        assert_eq!(reference(&[], info, weights), None);
    }

    #[test]
    fn votes_come_before_locality_and_references() {
        let info = |b: BaseSlot| BaseInfo { refcount: u32::from(b.0), local: b.0 == 1 };
        let mut votes = Votes::default();
        for hit in [page(1, 7), page(0, 9), page(2, 4), page(0, 9), page(3, 4)] {
            votes.add(hit);
        }
        let mut out = [None; 3];
        votes.best(info, &mut out);
        assert_eq!(out, [Some(page(0, 9)), Some(page(1, 7)), Some(page(3, 4))]);
        let mut six = [Some(page(9, 9)); 6];
        votes.best(info, &mut six);
        assert_eq!(six[3..], [Some(page(2, 4)), None, None]);
        votes.clear();
        votes.best(info, &mut out);
        assert_eq!(out, [None; 3]);
    }
}
