//! The passes over the pages of one block.

use std::collections::BTreeMap;

use super::{BaseSet, Choose, Coding, Found, Options};
use crate::dedup::choose::{BaseInfo, Votes, reference};
use crate::dedup::file::{BLOCK, Entry};
use crate::dedup::fingerprint::ChunkHash;
use crate::dedup::image::Image;
use crate::dedup::index::PageRef;
use crate::dedup::layout::{Alignment, Layout};
use crate::dedup::patch::bytediff::{Differ, Distance};
use crate::dedup::patch::{Codecs, Method};
use crate::dedup::{Page, checksum, zero};
use crate::units::PAGE_BYTES;

/// A page at the same place that differs in no more bytes than this is not searched for further.
const NEAR: u32 = 256;
/// Bases whose page at the same place is tried.
const PLACES: usize = 4;
/// No method that writes anything gets below this: a smaller patch need not be compared with others.
const FLOOR: usize = 4;

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

    fn search(&mut self, n: u64, page: &Page, layout: &Layout) -> Found {
        self.hashes.clear();
        self.hits.clear();
        self.votes.clear();
        if self.bases.relocates() {
            self.bases.fingerprinter().page_mapped(page, layout.canonical(n), &mut self.hashes);
        } else {
            self.bases.fingerprinter().page(page, &mut self.hashes);
        }
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

    /// Searches every page of a block.
    pub(super) fn block(&mut self, i: usize, image: &Image, layout: &Layout) -> Vec<Found> {
        let first = (i * BLOCK) as u64;
        let pages = (first..image.pages().min(first + BLOCK as u64)).filter_map(|n| Some((n, image.page(n)?)));
        pages
            .map(|(n, page)| if zero::is_zero(page) { Found::default() } else { self.search(n, page, layout) })
            .collect()
    }
}

/// A block, written.
#[derive(Default)]
pub(super) struct BlockOut {
    pub(super) entries: Vec<Entry>,
    pub(super) patches: Vec<u8>,
    pub(super) matched: u64,
    pub(super) placed: u64,
    pub(super) cut_short: u64,
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
    differ: Differ,
    trial: Vec<u8>,
}

/// A base page to write against: which, and as it is after relocation.
struct Chosen<'a> {
    base: (u32, u32),
    page: Content<'a>,
}

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
            differ: Differ::default(),
            trial: Vec::new(),
        }
    }

    /// Writes block `i`; `found` holds what was searched before, if it was.
    pub(super) fn block(&mut self, i: usize, found: Option<&[Found]>) -> BlockOut {
        let first = (i * BLOCK) as u64;
        let mut out = BlockOut::default();
        // Nominal time left, ns.
        let mut purse: u64 = 0;
        for n in first..self.image.pages().min(first + BLOCK as u64) {
            let Some(page) = self.image.page(n) else { break };
            if let Coding::Auto { budget_ns: Some(ns) } = self.options.coding {
                purse += u64::from(ns);
            }
            let mut entry = Entry { method: Method::Zero, base: (0, 0), length: 0, checksum: 0 };
            if !zero::is_zero(page) {
                entry.checksum = checksum(page);
                let known = found.and_then(|f| f.get((n - first) as usize));
                let chosen = self.choose(n, page, known);
                out.matched += u64::from(chosen.is_some());
                let base = chosen.as_ref().map(Chosen::page);
                if base == Some(page) {
                    entry.method = Method::Identical;
                } else {
                    let before = out.patches.len();
                    let cut;
                    (entry.method, cut) = self.write(page, base, &mut purse, &mut out.patches);
                    entry.length = (out.patches.len() - before) as u32;
                    out.cut_short += u64::from(cut);
                }
                if let Some(chosen) = chosen.filter(|_| entry.method.needs_base()) {
                    entry.base = chosen.base;
                    let place = self.alignments.get(chosen.base.0 as usize).and_then(|a| a.place(n));
                    out.placed += u64::from(place == Some(chosen.base.1));
                }
            }
            out.entries.push(entry);
        }
        out
    }

    /// A base page as it is after relocation.
    fn relocated(&self, base: usize, number: u32) -> Option<Chosen<'a>> {
        let page = self.bases.bases().get(base)?.image.page(u64::from(number))?;
        let page = match self.alignments.get(base)?.relocation(number) {
            None => Content::Plain(page),
            Some(relocation) => {
                let mut page = Box::new(*page);
                relocation.apply(&mut page);
                Content::Relocated(page)
            }
        };
        Some(Chosen { base: (base as u32, number), page })
    }

    fn candidate(&self, page: PageRef) -> Option<Chosen<'a>> {
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

    /// The nearest of the pages at the same place and the few that searching gives.
    fn nearest(&mut self, n: u64, page: &Page, known: Option<&Found>) -> Option<Chosen<'a>> {
        let mut best: Option<(Distance, Chosen<'a>)> = None;
        let differ = self.differ;
        let mut try_one = |candidate: Chosen<'a>| {
            let distance = differ.distance(page, candidate.page());
            if best.as_ref().is_none_or(|(d, _)| distance < *d) {
                best = Some((distance, candidate));
            }
            best.as_ref().map_or(u32::MAX, |(d, _)| d.bytes)
        };
        for (base, alignment) in self.alignments.iter().enumerate().take(PLACES) {
            if let Some(candidate) = alignment.place(n).and_then(|number| self.relocated(base, number))
                && try_one(candidate) <= NEAR
            {
                return best.map(|(_, c)| c);
            }
        }
        let found = match known {
            Some(found) => *found,
            None => self.searcher.search(n, page, self.layout),
        };
        for at in found.best.into_iter().flatten() {
            let placed = self.bases.position(at.base).and_then(|b| self.alignments.get(b)?.place(n));
            if placed != Some(at.page)
                && let Some(candidate) = self.candidate(at)
                && try_one(candidate) == 0
            {
                break;
            }
        }
        best.map(|(_, c)| c)
    }

    /// Of everything that searching gives and the pages at the same place, the one with the smallest patch.
    fn best(&mut self, n: u64, page: &Page) -> Option<Chosen<'a>> {
        self.searcher.search(n, page, self.layout);
        let mut all: BTreeMap<(u32, u32), ()> = BTreeMap::new();
        for at in self.searcher.votes.all() {
            all.extend(self.bases.position(at.base).map(|b| ((b as u32, at.page), ())));
        }
        for (base, alignment) in self.alignments.iter().enumerate() {
            all.extend(alignment.place(n).map(|number| ((base as u32, number), ())));
        }
        let mut best: Option<(usize, Chosen<'a>)> = None;
        let mut scratch = Vec::new();
        for (base, number) in all.into_keys() {
            let Some(candidate) = self.relocated(base as usize, number) else { continue };
            if candidate.page() == page {
                return Some(candidate);
            }
            scratch.clear();
            let mut purse = u64::MAX;
            self.write(page, Some(candidate.page()), &mut purse, &mut scratch);
            if best.as_ref().is_none_or(|(size, _)| scratch.len() < *size) {
                best = Some((scratch.len(), candidate));
            }
        }
        best.map(|(_, c)| c)
    }

    /// Appends a page to `out` by the method asked for or the smallest; says which, and whether the time left
    /// did not suffice to try all.
    fn write(&mut self, page: &Page, base: Option<&Page>, purse: &mut u64, out: &mut Vec<u8>) -> (Method, bool) {
        let start = out.len();
        let most = PAGE_BYTES.min(self.options.patch_threshold as usize + 1);
        let limit = |m: Method| if m.needs_base() { most } else { PAGE_BYTES };
        let mut done = Method::Whole;
        let mut cut = false;
        match self.options.coding {
            Coding::One(method) => {
                if self.codecs.encode(method, page, base, limit(method), out) {
                    done = method;
                }
            }
            Coding::Auto { budget_ns } => {
                let mut size = PAGE_BYTES;
                for method in Method::CODING {
                    if method.needs_base() && base.is_none() || size <= FLOOR {
                        continue;
                    }
                    if budget_ns.is_some() {
                        match need(method, base.is_some(), size) {
                            Need::Must => *purse = purse.saturating_sub(u64::from(method.cost_ns())),
                            Need::May if *purse < u64::from(method.cost_ns()) => {
                                cut = true;
                                continue;
                            }
                            Need::May => *purse -= u64::from(method.cost_ns()),
                            Need::Skip => continue,
                        }
                    }
                    self.trial.clear();
                    if self.codecs.encode(method, page, base, size.min(limit(method)), &mut self.trial) {
                        size = self.trial.len();
                        out.truncate(start);
                        out.extend_from_slice(&self.trial);
                        done = method;
                    }
                }
            }
        }
        if done == Method::Whole {
            out.extend_from_slice(page);
        }
        (done, cut)
    }
}

/// Whether a method is tried under a budget.
enum Need {
    /// In any case: without it a dump could take more than compression or patches alone.
    Must,
    /// If time is left.
    May,
    /// No.
    Skip,
}

/// Whether a method is tried against a patch of `size` bytes under a budget.
fn need(method: Method, has_base: bool, size: usize) -> Need {
    match method {
        Method::ByteDiff => Need::Must,
        // zstd knows the page's own repetitions as well as the base.
        Method::ZstdPrefix if size > 512 => Need::Must,
        Method::ZstdPrefix if size > 48 => Need::May,
        Method::Zstd if !has_base || size > 1024 => Need::Must,
        Method::Zstd if size > 256 => Need::May,
        // Next to never smaller than zstd, and dearer.
        _ => Need::Skip,
    }
}
