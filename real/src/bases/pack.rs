//! An image against the bases of the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use medes_engine::dedup::image::Image;
use medes_engine::dedup::index::{BaseSlot, PageRef};
use medes_engine::dedup::layout::Layout;
use medes_engine::dedup::pack::{Base, BaseSet, Candidates, Findings, PackError, fingerprints, pack};
use medes_engine::event::Method;

use super::name::BaseName;
use super::{ClusterBases, in_time};
use crate::ops::{OpError, PackTimes, Packed};
use crate::wire::{BaseHead, LookupAnswer, LookupBatch};

/// Bases that an image is packed against at most: those found most often. Each is a dependence, and pages of it may have to be read.
const MOST_BASES: usize = 8;

/// What the controller found for an image, checked.
struct Found {
    /// In the order in which the controller named them.
    heads: Vec<BaseHead>,
    pages: Vec<Candidates>,
}

impl ClusterBases {
    pub(super) fn pack_image(
        &self,
        image: &Image,
        function: &str,
        method: Method,
        deadline: Instant,
    ) -> Result<Packed, OpError> {
        let options = self.settings.options(method);
        let mut times = PackTimes::default();
        let mut found = Found { heads: Vec::new(), pages: Vec::new() };
        if method == Method::Patches {
            found = self.find(image, function, &mut times, deadline)?;
        }
        let mut lost = vec![false; found.heads.len()];
        loop {
            in_time("packing", deadline)?;
            let (set, order) = self.base_set(&found, &lost, deadline)?;
            let reader = set.1;
            let started = Instant::now();
            let done = pack(image, &set.0, &options);
            let (spent, took) = (reader.spent(), started.elapsed());
            times.read += spent;
            times.encode += took.saturating_sub(spent);
            match done {
                Ok(packed) => {
                    let heads = order.iter().filter_map(|at| found.heads.get(*at));
                    let used = packed.report.by_base.iter().zip(heads).filter(|(pages, _)| **pages > 0);
                    let mut bases = Vec::new();
                    for (pages, head) in used {
                        bases.push(BaseName::from(head).id);
                        let (same, here) = (head.function == function, head.node == self.node.0);
                        times.base_pages[2 * usize::from(!same) + usize::from(!here)] += pages;
                    }
                    return Ok(Packed { file: packed.file, bases, times });
                }
                Err(PackError::Fetch(_)) => {
                    // Without the base that is gone the image can still be packed.
                    let gone = reader.lost().and_then(|(at, error)| Some((*order.get(*at)?, error)));
                    match gone {
                        Some((at, OpError::BaseLost { .. })) if !lost[at] => lost[at] = true,
                        Some((_, error)) => return Err(error.clone()),
                        None => return Err(OpError::Damaged("the encoder asked for a base that is none".into())),
                    }
                }
                Err(e) => return Err(OpError::Damaged(format!("{}: {e}", image.name()))),
            }
        }
    }

    /// Asks the controller for base pages.
    fn find(&self, image: &Image, function: &str, times: &mut PackTimes, deadline: Instant) -> Result<Found, OpError> {
        let started = Instant::now();
        let layout = Layout::of(image);
        let taken =
            fingerprints(image, &layout, &self.settings.fingerprinter, self.settings.relocate, self.settings.threads);
        times.fingerprint = started.elapsed();
        let started = Instant::now();
        let batches = taken.iter().map(|batch| {
            let (first, counts, hashes) = batch.packed();
            LookupBatch { node: self.node.0, function: function.into(), first, counts, hashes }
        });
        let answers = self.client.lookup(batches.collect(), deadline)?;
        let found = open(&answers, image.pages())?;
        times.lookup = started.elapsed();
        Ok(found)
    }

    /// The bases found most often that are not lost, with a reader of their pages; and the position of each in what was found.
    #[expect(clippy::type_complexity, reason = "taken apart at once")]
    fn base_set(
        &self,
        found: &Found,
        lost: &[bool],
        deadline: Instant,
    ) -> Result<((BaseSet, Arc<super::read::Reader>), Vec<usize>), OpError> {
        let mut votes: BTreeMap<usize, u64> = BTreeMap::new();
        for best in found.pages.iter().filter_map(|p| p[0]) {
            *votes.entry(usize::from(best.base.0)).or_default() += 1;
        }
        let mut order: Vec<usize> = votes.keys().copied().filter(|at| lost.get(*at) == Some(&false)).collect();
        order.sort_by_key(|at| (std::cmp::Reverse(votes.get(at).copied()), *at));
        order.truncate(MOST_BASES);
        let heads: Vec<&BaseHead> = order.iter().filter_map(|at| found.heads.get(*at)).collect();
        let mut bases = Vec::new();
        for (position, head) in heads.iter().enumerate() {
            let layout = Layout::from_bytes(&head.layout, head.pages.into());
            let layout = layout.map_err(|e| OpError::Controller(format!("a base that it named: {e}")))?;
            let name = BaseName::from(*head).to_string();
            bases.push(Base::elsewhere(name, Arc::new(layout), head.address, BaseSlot(position as u16)));
        }
        let reader = Arc::new(self.reader(heads.iter().map(|h| BaseName::from(*h)), deadline));
        let position: BTreeMap<usize, u16> = order.iter().copied().zip(0..).collect();
        let taken = |page: &PageRef| {
            let base = BaseSlot(*position.get(&usize::from(page.base.0))?);
            Some(PageRef { base, page: page.page })
        };
        let pages = found.pages.iter().map(|best| {
            let mut out = [None; 3];
            best.iter().flatten().filter_map(taken).zip(&mut out).for_each(|(page, to)| *to = Some(page));
            out
        });
        let findings = Findings { bases, found: pages.collect(), source: Box::new(reader.clone()) };
        let set = BaseSet::found_elsewhere(self.settings.fingerprinter, self.settings.relocate, findings);
        Ok(((set, reader), order))
    }
}

/// Reads the controller's answers, which must be for all pages in order and name pages that exist.
fn open(answers: &[LookupAnswer], pages: u64) -> Result<Found, OpError> {
    let bad = |what: &str| OpError::Controller(format!("its answer is none: {what}"));
    let mut found = Found { heads: Vec::new(), pages: Vec::new() };
    for answer in answers {
        if answer.first != found.pages.len() as u64 {
            return Err(bad("pages are missing"));
        }
        found.heads.extend_from_slice(&answer.heads);
        let per_page = answer.per_page.max(1) as usize;
        let (bases, rest) = answer.bases.as_chunks::<2>();
        let (numbers, more) = answer.pages.as_chunks::<4>();
        if bases.len() != numbers.len() || bases.len() % per_page != 0 || !rest.is_empty() || !more.is_empty() {
            return Err(bad("its parts differ in length"));
        }
        for (bases, numbers) in bases.chunks(per_page).zip(numbers.chunks(per_page)) {
            let mut best = [None; 3];
            for (to, (base, number)) in best.iter_mut().zip(bases.iter().zip(numbers)) {
                let Some(at) = u16::from_le_bytes(*base).checked_sub(1) else { continue };
                let page = u32::from_le_bytes(*number);
                if found.heads.get(usize::from(at)).is_none_or(|head| page >= head.pages) {
                    return Err(bad("a page that no base has"));
                }
                *to = Some(PageRef { base: BaseSlot(at), page });
            }
            found.pages.push(best);
        }
    }
    if found.pages.len() as u64 == pages { Ok(found) } else { Err(bad("pages are missing")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_are_not_right_are_refused() {
        let head = BaseHead { pages: 4, ..BaseHead::default() };
        let right = LookupAnswer {
            first: 0,
            bases: vec![1, 0, 0, 0],
            pages: vec![3, 0, 0, 0, 9, 9, 9, 9],
            heads: vec![head],
            per_page: 0,
        };
        let found = open(std::slice::from_ref(&right), 2).expect("right");
        assert_eq!(found.pages, [[Some(PageRef { base: BaseSlot(0), page: 3 }), None, None], [None; 3]]);
        assert_eq!(open(&[LookupAnswer { per_page: 2, ..right.clone() }], 1).expect("right").pages.len(), 1);
        let wrong = [
            LookupAnswer { first: 1, ..right.clone() },
            LookupAnswer { bases: vec![1, 0, 0], ..right.clone() },
            LookupAnswer { bases: vec![2, 0, 0, 0], ..right.clone() },
            LookupAnswer { pages: vec![4, 0, 0, 0, 0, 0, 0, 0], ..right.clone() },
            LookupAnswer { per_page: 3, ..right.clone() },
            LookupAnswer { heads: vec![], ..right.clone() },
        ];
        for answer in wrong {
            assert!(open(&[answer], 2).is_err());
        }
        assert!(open(&[right], 3).is_err());
    }
}
