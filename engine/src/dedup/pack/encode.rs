//! The passes over the pages of one block.

use std::collections::BTreeMap;

use super::draft::{BlockOut, Draft};
use super::{BaseSet, Choose, Coding, Found, Options};
use crate::dedup::choose::{BaseInfo, Votes, reference};
use crate::dedup::file::{BLOCK, Entry};
use crate::dedup::fingerprint::ChunkHash;
use crate::dedup::image::Image;
use crate::dedup::index::PageRef;
use crate::dedup::layout::{Alignment, Layout, Recent};
use crate::dedup::patch::bytediff::{Differ, Distance};
use crate::dedup::patch::{Codecs, Method, Sizer};
use crate::dedup::{Page, ZERO_PAGE, checksum, vector, zero};
use crate::units::PAGE_BYTES;

/// A page at the same place that differs in no more bytes than this is not searched for further.
const NEAR: u32 = 256;
/// Bases whose page at the same place is tried.
pub(super) const PLACES: usize = 4;
/// Of so many pages one is looked at to learn how the image lies to its bases; those between are settled when they are written.
const SURVEYED: u64 = 2;
/// Fingerprints pages and looks them up.
pub(super) struct Searcher<'a> {
    bases: &'a BaseSet,
    choose: Choose,
    hashes: Vec<ChunkHash>,
    hits: Vec<PageRef>,
    votes: Votes,
    /// Dedup sandboxes that refer to a base: none is known here, all bases are on this node.
    info: BaseInfo,
}

impl<'a> Searcher<'a> {
    pub(super) fn new(bases: &'a BaseSet, options: &Options) -> Self {
        Self {
            bases,
            choose: options.choose,
            hashes: Vec::new(),
            hits: Vec::new(),
            votes: Votes::default(),
            info: BaseInfo { refcount: 0, local: true },
        }
    }

    /// Appends the page's fingerprint to `self.hashes`.
    fn fingerprint(&mut self, n: u64, page: &Page, layout: &Layout) {
        if self.bases.relocates() {
            self.bases.fingerprinter().page_mapped(page, layout.canonical(n), &mut self.hashes);
        } else {
            self.bases.fingerprinter().page(page, &mut self.hashes);
        }
    }

    fn search(&mut self, n: u64, page: &Page, layout: &Layout) -> Found {
        if let Some(found) = self.bases.found(n) {
            return found;
        }
        self.hashes.clear();
        self.hits.clear();
        self.votes.clear();
        self.fingerprint(n, page, layout);
        let (hits, votes) = (&mut self.hits, &mut self.votes);
        let mut found = Found::default();
        let info = self.info;
        if let Choose::Reference(weights) = self.choose {
            self.bases.index().lookup(&self.hashes, |_, hit| hits.push(hit));
            found.best[0] = reference(hits, |_| info, weights);
        } else {
            self.bases.index().lookup(&self.hashes, |_, hit| votes.add(hit));
            votes.best(|_| info, &mut found.best);
        }
        found
    }

    /// Searches many pages by votes with one lookup, which hides the time that the index's memory takes.
    fn search_all(&mut self, pages: &[(u64, &Page)], layout: &Layout, mut found: impl FnMut(usize, Found)) {
        self.hashes.clear();
        let mut ends = Vec::with_capacity(pages.len());
        for (n, page) in pages {
            self.fingerprint(*n, page, layout);
            ends.push(self.hashes.len());
        }
        let info = self.info;
        let (votes, mut at) = (&mut self.votes, 0);
        votes.clear();
        let mut finish = |votes: &mut Votes, at: usize| {
            let mut f = Found::default();
            votes.best(|_| info, &mut f.best);
            votes.clear();
            found(at, f);
        };
        self.bases.index().lookup(&self.hashes, |i, hit| {
            while ends.get(at).is_some_and(|end| i >= *end) {
                finish(votes, at);
                at += 1;
            }
            votes.add(hit);
        });
        for at in at..pages.len() {
            finish(votes, at);
        }
    }
}

/// Writes pages.
pub(super) struct Encoder<'a> {
    image: &'a Image,
    layout: &'a Layout,
    bases: &'a BaseSet,
    alignments: &'a [Alignment],
    options: &'a Options,
    searcher: Searcher<'a>,
    codecs: Codecs,
    sizer: Sizer,
    differ: Differ,
    trial: Vec<u8>,
    /// Memory of relocated pages that are not in use.
    spare: Vec<Box<Page>>,
    recent: Recent,
}

/// A base page to write against: which, and as it is after relocation.
struct Chosen<'a> {
    base: (u32, u32),
    page: Content<'a>,
    /// Whether it is known to be the page itself, or known not to be.
    same: Option<bool>,
}

/// The nearest base page so far, and how near it is.
type Nearest<'a> = Option<(Distance, Chosen<'a>)>;

/// A page as it lies in its image, or a changed copy.
enum Content<'a> {
    Plain(&'a Page),
    Relocated(Box<Page>),
}

impl Chosen<'_> {
    fn page(&self) -> &Page {
        match &self.page {
            Content::Plain(page) => page,
            Content::Relocated(page) => page,
        }
    }
}

impl<'a> Encoder<'a> {
    pub(super) fn new(
        image: &'a Image,
        layout: &'a Layout,
        bases: &'a BaseSet,
        alignments: &'a [Alignment],
        options: &'a Options,
    ) -> Self {
        Self {
            image,
            layout,
            bases,
            alignments,
            options,
            searcher: Searcher::new(bases, options),
            codecs: Codecs::default(),
            sizer: Sizer::default(),
            differ: Differ::default(),
            trial: Vec::new(),
            spare: Vec::new(),
            recent: Recent::default(),
        }
    }

    /// The pages of block `i`.
    fn pages(&self, i: usize) -> impl Iterator<Item = (u64, &'a Page)> + use<'a> {
        let (image, first) = (self.image, (i * BLOCK) as u64);
        (first..image.pages().min(first + BLOCK as u64)).filter_map(move |n| Some((n, image.page(n)?)))
    }

    /// What is found for some pages of block `i`: the page at the same place where that is near, or else by fingerprint.
    pub(super) fn survey(&mut self, i: usize) -> Vec<Found> {
        if self.bases.source().is_some() {
            // Everything was found elsewhere, and no base page is here yet.
            return self.pages(i).map(|(n, _)| self.bases.found(n).unwrap_or_default()).collect();
        }
        let mut out = Vec::with_capacity(BLOCK);
        let mut far = Vec::new();
        for (n, page) in self.pages(i) {
            let mut found = Found { near: true, ..Found::default() };
            if n % SURVEYED == 0 && !zero::is_zero(page) {
                match self.near(n, page).0 {
                    Some(base) => {
                        let slot = self.bases.slot(base.0 as usize);
                        found =
                            Found { best: [slot.map(|s| PageRef { base: s, page: base.1 }), None, None], near: true };
                    }
                    None => far.push((n, page)),
                }
            }
            out.push(found);
        }
        let first = (i * BLOCK) as u64;
        let at = |j: usize| far.get(j).map_or(0, |(n, _)| (n - first) as usize);
        self.searcher.search_all(&far, self.layout, |j, found| {
            if let Some(to) = out.get_mut(at(j)) {
                *to = found;
            }
        });
        out
    }

    /// Writes block `i`; `found` holds what was searched before, if it was.
    pub(super) fn block(&mut self, i: usize, found: Option<&[Found]>) -> BlockOut {
        let mut out = BlockOut::default();
        for (j, (n, page)) in self.pages(i).enumerate() {
            let mut entry = Entry { method: Method::Zero, base: (0, 0), length: 0, checksum: 0 };
            if !zero::is_zero(page) {
                entry.checksum = checksum(page);
                let chosen = self.choose(n, page, found.and_then(|f| f.get(j)));
                out.matched += u64::from(chosen.is_some());
                let base = chosen.as_ref().map(Chosen::page);
                let same = chosen.as_ref().and_then(|c| c.same);
                let at = chosen.as_ref().map(|c| c.base);
                if base.is_some() && same.unwrap_or_else(|| base == Some(page)) {
                    entry.method = Method::Identical;
                    entry.base = at.unwrap_or_default();
                } else if let Coding::One(method) = self.options.coding {
                    let before = out.patches.len();
                    entry.method = Method::Whole;
                    if self.codecs.encode(method, page, base, self.limit(method), &mut out.patches) {
                        entry.method = method;
                        entry.base = at.filter(|_| method.needs_base()).unwrap_or_default();
                    } else {
                        out.patches.extend_from_slice(page);
                    }
                    entry.length = (out.patches.len() - before) as u32;
                } else {
                    let mut draft = Draft::new(j, at);
                    self.trial.clear();
                    let limit = self.limit(Method::ByteDiff);
                    let fits = self.codecs.encode(Method::ByteDiff, page, base, limit, &mut self.trial);
                    let size = if fits { self.trial.len() } else { PAGE_BYTES };
                    draft.note(Method::ByteDiff, size, &self.trial, &mut out.scratch);
                    out.drafts.push(draft);
                }
                if let Some(chosen) = chosen {
                    self.give_back(chosen);
                }
            }
            out.entries.push(entry);
        }
        if let Coding::Auto { budget_ns } = self.options.coding {
            // The best possible has no limit of time.
            self.spend(i, budget_ns.filter(|_| self.options.choose != Choose::Best), &mut out);
        }
        out
    }

    /// Pages of a block that refer to the base page at the same place.
    pub(super) fn placed(&self, i: usize, entries: &[Entry]) -> u64 {
        let first = (i * BLOCK) as u64;
        let placed = (first..).zip(entries).filter(|(n, e)| {
            let place = self.alignments.get(e.base.0 as usize).and_then(|a| a.place(*n));
            e.method.needs_base() && place == Some(e.base.1)
        });
        placed.count() as u64
    }

    /// Writes a page of the image by a method, against a base page if that needs one. Gives what the page takes by this method alone;
    /// if that is less than `than`, the patch is [`Self::tried`].
    pub(super) fn attempt(&mut self, n: u64, base: Option<(u32, u32)>, method: Method, than: usize) -> usize {
        self.trial.clear();
        let Some(page) = self.image.page(n) else { return PAGE_BYTES };
        let chosen = base.filter(|_| method.needs_base()).and_then(|(b, n)| self.relocated(b as usize, n));
        let base = chosen.as_ref().map(Chosen::page);
        let limit = self.limit(method);
        // xdelta3 is slow: it writes only what is used.
        let counted = base.filter(|_| method == Method::Xdelta3).map(|base| self.sizer.size(page, base));
        let size = match counted {
            Some(size) if size >= than.min(limit) => size,
            _ if self.codecs.encode(method, page, base, limit, &mut self.trial) => self.trial.len(),
            _ => PAGE_BYTES,
        };
        if let Some(chosen) = chosen {
            self.give_back(chosen);
        }
        if size < limit { size } else { PAGE_BYTES }
    }

    /// A page of the image.
    pub(super) fn page(&self, n: u64) -> Option<&'a Page> {
        self.image.page(n)
    }

    /// The patch of the last attempt.
    pub(super) fn tried(&self) -> &[u8] {
        &self.trial
    }

    /// A patch of as many bytes is not used.
    fn limit(&self, method: Method) -> usize {
        if method.needs_base() { PAGE_BYTES.min(self.options.patch_threshold as usize + 1) } else { PAGE_BYTES }
    }

    /// Takes back the memory of a base page that is no longer looked at.
    fn give_back(&mut self, chosen: Chosen<'a>) {
        if let Content::Relocated(page) = chosen.page {
            self.spare.push(page);
        }
    }

    /// A base page as it is after relocation.
    fn relocated(&mut self, base: usize, number: u32) -> Option<Chosen<'a>> {
        let page = self.bases.page(base, number)?;
        let page = match self.alignments.get(base)?.relocation(number) {
            None => Content::Plain(page),
            Some(relocation) => {
                let mut copy = self.spare.pop().unwrap_or_else(|| Box::new(ZERO_PAGE));
                vector::copy(&mut copy, page);
                relocation.apply_with(&mut copy, &mut self.recent);
                Content::Relocated(copy)
            }
        };
        Some(Chosen { base: (base as u32, number), page, same: None })
    }

    fn candidate(&mut self, page: PageRef) -> Option<Chosen<'a>> {
        self.relocated(self.bases.position(page.base)?, page.page)
    }

    fn choose(&mut self, n: u64, page: &Page, known: Option<&Found>) -> Option<Chosen<'a>> {
        if self.bases.bases().is_empty() || matches!(self.options.coding, Coding::One(m) if !m.needs_base()) {
            return None;
        }
        match self.options.choose {
            Choose::Reference(_) | Choose::Votes => {
                let found = self.searcher.search(n, page, self.layout);
                found.best[0].and_then(|p| self.candidate(p))
            }
            Choose::Nearest => self.nearest(n, page, known),
            Choose::Best => self.best(n, page),
        }
    }

    /// The first page at the same place that is near; and the nearest of those at the same place.
    fn near(&mut self, n: u64, page: &Page) -> (Option<(u32, u32)>, Nearest<'a>) {
        let mut best = None;
        for base in 0..self.alignments.len().min(PLACES) {
            let place = self.alignments[base].place(n);
            let Some(candidate) = place.and_then(|number| self.relocated(base, number)) else { continue };
            let found = candidate.base;
            if self.nearer(page, candidate, &mut best) <= NEAR {
                return (Some(found), best);
            }
        }
        (None, best)
    }

    /// Keeps the nearer of two candidates; says how many bytes the nearer one differs in.
    fn nearer(&mut self, page: &Page, mut candidate: Chosen<'a>, best: &mut Nearest<'a>) -> u32 {
        let distance = self.differ.distance(page, candidate.page());
        candidate.same = Some(distance.bytes == 0);
        let loser = match best {
            Some((d, _)) if *d <= distance => Some(candidate),
            _ => best.replace((distance, candidate)).map(|(_, c)| c),
        };
        if let Some(loser) = loser {
            self.give_back(loser);
        }
        best.as_ref().map_or(u32::MAX, |(d, _)| d.bytes)
    }

    /// The nearest of the pages at the same place and the few that searching gives.
    fn nearest(&mut self, n: u64, page: &Page, known: Option<&Found>) -> Option<Chosen<'a>> {
        let (near, mut best) = self.near(n, page);
        if near.is_some() {
            return best.map(|(_, c)| c);
        }
        let found = match known {
            Some(found) if !found.near => *found,
            _ => self.searcher.search(n, page, self.layout),
        };
        for at in found.best.into_iter().flatten() {
            let placed = self.bases.position(at.base).and_then(|b| self.alignments.get(b)?.place(n));
            if placed != Some(at.page)
                && let Some(candidate) = self.candidate(at)
                && self.nearer(page, candidate, &mut best) == 0
            {
                break;
            }
        }
        best.map(|(_, c)| c)
    }

    /// Of everything that searching gives and the pages at the same place, the one with the smallest patch.
    fn best(&mut self, n: u64, page: &Page) -> Option<Chosen<'a>> {
        let found = self.searcher.search(n, page, self.layout);
        let mut all: BTreeMap<(u32, u32), ()> = BTreeMap::new();
        for at in self.searcher.votes.all().chain(found.best.into_iter().flatten()) {
            all.extend(self.bases.position(at.base).map(|b| ((b as u32, at.page), ())));
        }
        for (base, alignment) in self.alignments.iter().enumerate() {
            all.extend(alignment.place(n).map(|number| ((base as u32, number), ())));
        }
        let mut best: Option<(usize, Chosen<'a>)> = None;
        for (base, number) in all.into_keys() {
            let Some(candidate) = self.relocated(base as usize, number) else { continue };
            if candidate.page() == page {
                return Some(candidate);
            }
            let size = self.smallest(page, candidate.page());
            if best.as_ref().is_none_or(|(least, _)| size < *least) {
                best = Some((size, candidate));
            }
        }
        best.map(|(_, c)| c)
    }

    /// Bytes that a page takes against a base page by the method asked for or, of all, the smallest.
    fn smallest(&mut self, page: &Page, base: &Page) -> usize {
        let one = if let Coding::One(method) = self.options.coding { Some(method) } else { None };
        let mut least = PAGE_BYTES;
        for method in Method::CODING.into_iter().filter(|m| one.is_none_or(|one| one == *m)) {
            if least <= method.least() {
                continue;
            }
            self.trial.clear();
            let limit = self.limit(method);
            if self.codecs.encode(method, page, Some(base), limit, &mut self.trial) {
                least = least.min(self.trial.len());
            }
        }
        least
    }
}
