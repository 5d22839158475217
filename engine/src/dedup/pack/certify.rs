//! The proof that no single method would have taken less, and where it fails, the work that makes it hold.
//!
//! For every method there is a lower bound of what the image would take by it alone: pages on which it was tried count with their
//! exact size, all others with the least that any patch of this method takes ([`Method::least`]). While the file at hand is larger
//! than that bound, the method is tried on more pages, which raises the bound and can only make the file smaller. In the end either
//! the bound is reached or the method was tried on every page; then its patches, page by page, are no smaller than those at hand,
//! and only page tables and references to bases can decide: such methods are named, and the caller compares files.
//!
//! xdelta3, the slowest, is not run for this: what it would write is counted ([`crate::dedup::patch::Sizer`]).
//!
//! How much work that is does not depend on a budget but on the image: compression alone is far from good patches, so a few
//! pages settle it; the nearer a method comes, the more pages it takes.

use std::cmp::Reverse;

use super::draft::{BlockOut, Draft};
use super::each_with;
use super::encode::Encoder;
use crate::dedup::Page;
use crate::dedup::file::BLOCK;
use crate::dedup::patch::Method;
use crate::units::PAGE_BYTES;

/// Pages on which a method is tried between two looks at the bound.
const STEP: usize = 64;
/// Pages side by side, which compress alike: one of them is looked at.
const ALIKE: usize = 16;
/// Most that a block's entry in the manifest takes.
const BLOCK_ENTRY: u64 = 28;

/// A page on which a method is to be tried.
struct Job {
    block: usize,
    /// Position in the block.
    at: usize,
    /// Its draft; a page that is equal to its base page has none.
    draft: Option<usize>,
    base: Option<(u32, u32)>,
}

/// Bytes that a page takes in a file by this method, of which `size` are its patch: kind, length, checksum, patch, and a byte at
/// least for the base page's number.
fn stored(method: Method, size: usize) -> u64 {
    let number = method.needs_base() && size < PAGE_BYTES;
    (1 + usize::from(number) + if size < 128 { 1 } else { 2 } + 8 + size) as u64
}

/// Tries methods until none alone is known to take less; gives those of which only a comparison of files can tell. `references` is what
/// bases and shifts take in the manifest.
pub(super) fn certify(pool: &mut [Encoder<'_>], blocks: &mut [BlockOut], references: u64) -> Vec<Method> {
    let mut open = Vec::new();
    for method in Method::CODING {
        // The manifest is compressed, so that it may be longer for smaller numbers: its index counts against us whole.
        let mut margin = 64 + BLOCK_ENTRY * blocks.len() as u64;
        if !(method.needs_base() && same_references(blocks)) {
            margin += references;
        }
        if !prove(method, pool, blocks, margin) && !is_all(method, blocks) {
            open.push(method);
        }
    }
    open
}

/// Whether every base that is referred to has a page that is equal to one of the image: so it is in the file of any method with bases.
fn same_references(blocks: &[BlockOut]) -> bool {
    let mut referred = [false; 64];
    let mut equal = [false; 64];
    for block in blocks {
        for e in block.entries.iter().filter(|e| e.method == Method::Identical) {
            equal.iter_mut().skip(e.base.0 as usize).take(1).for_each(|b| *b = true);
        }
        for (base, _) in block.drafts.iter().filter_map(|d| d.base) {
            match referred.get_mut(base as usize) {
                Some(b) => *b = true,
                None => return false,
            }
        }
    }
    referred.iter().zip(equal).all(|(r, e)| !r || e)
}

/// Whether the image is written by this method as it would be by it alone.
fn is_all(method: Method, blocks: &[BlockOut]) -> bool {
    let entries = || blocks.iter().flat_map(|b| &b.entries);
    let drafts = blocks.iter().flat_map(|b| &b.drafts);
    let identical = entries().any(|e| e.method == Method::Identical);
    (method.needs_base() || !identical)
        && drafts.map(|d| d.known(method).map(|size| (d, size))).all(|known| {
            known.is_some_and(|(d, size)| {
                d.method == method && size < PAGE_BYTES || d.method == Method::Whole && size == PAGE_BYTES
            })
        })
}

/// Tries the method until its bound is reached; says whether it is.
fn prove(method: Method, pool: &mut [Encoder<'_>], blocks: &mut [BlockOut], margin: u64) -> bool {
    let mut tables: u64 = blocks.iter_mut().map(BlockOut::table).sum();
    let patches = |blocks: &[BlockOut]| -> u64 {
        let drafts = blocks.iter().flat_map(|b| &b.drafts).map(|d| d.size() as u64);
        drafts.sum::<u64>() + blocks.iter().map(|b| b.patches.len() as u64).sum::<u64>()
    };
    let mut taken = patches(blocks);
    let mut bound = bound(method, blocks);
    let jobs = pool.first().map(|encoder| jobs(method, encoder, blocks)).unwrap_or_default();
    let mut next = 0;
    loop {
        if taken + tables + margin <= bound {
            tables = blocks.iter_mut().map(BlockOut::table).sum();
            if taken + tables + margin <= bound {
                return true;
            }
        }
        if next == jobs.len() {
            return false;
        }
        let end = jobs.len().min(next + STEP);
        let step = jobs.get(next..end).unwrap_or_default();
        next = end;
        let results = each_with(pool, step.len(), |encoder, i| {
            let job = &step[i];
            // Only what is smaller is needed.
            let than = job.draft.and_then(|d| blocks[job.block].drafts.get(d)).map_or(0, Draft::size);
            let size = encoder.attempt((job.block * BLOCK + job.at) as u64, job.base, method, than);
            let patch = if size < than { encoder.tried().to_vec() } else { Vec::new() };
            (size, patch)
        });
        for (job, (size, patch)) in step.iter().zip(results) {
            bound += stored(method, size) - stored(method, method.least());
            let block = &mut blocks[job.block];
            if let Some(draft) = job.draft.and_then(|d| block.drafts.get_mut(d)) {
                let before = draft.size();
                draft.note(method, size, &patch, &mut block.scratch);
                taken -= (before - draft.size()) as u64;
            }
        }
    }
}

/// What the image takes by the method alone at least: page tables and patches.
fn bound(method: Method, blocks: &[BlockOut]) -> u64 {
    let mut sum = 0;
    for block in blocks {
        for e in &block.entries {
            sum += match e.method {
                Method::Zero => 1,
                Method::Identical if method.needs_base() => 10,
                Method::Identical => stored(method, method.least()),
                _ => 0,
            };
        }
        for draft in &block.drafts {
            let size = draft.known(method).unwrap_or(method.least());
            sum += stored(method, size);
        }
    }
    sum
}

/// The pages on which the method was not tried. With a base page those first that take most; alone, those first that are likely to
/// compress worst, several side by side.
fn jobs(method: Method, encoder: &Encoder<'_>, blocks: &[BlockOut]) -> Vec<Job> {
    let mut all = Vec::new();
    for (block, out) in blocks.iter().enumerate() {
        let open = (0..out.drafts.len()).filter(|d| out.drafts[*d].known(method).is_none());
        let of_page = |d: usize| Job { block, at: out.drafts[d].at, draft: Some(d), base: out.drafts[d].base };
        let first = all.len();
        all.extend(open.map(of_page));
        if !method.needs_base() {
            let same = out.entries.iter().enumerate().filter(|(_, e)| e.method == Method::Identical);
            all.extend(same.map(|(at, _)| Job { block, at, draft: None, base: None }));
            all[first..].sort_by_key(|j| j.at);
        }
    }
    if method.needs_base() {
        all.sort_by_key(|j| Reverse(j.draft.and_then(|d| blocks[j.block].drafts.get(d)).map_or(0, |d| d.size())));
        return all;
    }
    let mut groups: Vec<(usize, Vec<Job>)> = Vec::with_capacity(all.len().div_ceil(ALIKE));
    let mut all = all.into_iter().peekable();
    while let Some(head) = all.peek() {
        let page = encoder.page((head.block * BLOCK + head.at) as u64);
        groups.push((page.map_or(0, unruly), all.by_ref().take(ALIKE).collect()));
    }
    groups.sort_by_key(|(unruly, _)| Reverse(*unruly));
    groups.into_iter().flat_map(|(_, jobs)| jobs).collect()
}

/// Words of a page that are neither pointers nor small numbers: the more, the worse it compresses, as a rule.
fn unruly(page: &Page) -> usize {
    page.as_chunks::<8>().0.iter().filter(|w| u64::from_le_bytes(**w) >> 48 != 0).count()
}
