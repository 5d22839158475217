//! Pages whose method is still open: the smallest of those tried, which become more as long as there is time or need.

use std::cmp::Reverse;
use std::ops::Range;

use super::encode::Encoder;
use crate::dedup::file::{self, BLOCK, Entry};
use crate::dedup::image::Image;
use crate::dedup::patch::Method;
use crate::units::PAGE_BYTES;

/// A byte difference of no more bytes than this is not tried with zstd after the base page, when time is limited.
const WORTH_PREFIX: usize = 48;
/// And of no more than this not with zstd alone.
const WORTH_ALONE: usize = 1024;
/// What is tried on a page when time is not limited, in this order.
const OPEN: [Method; 4] = [Method::ZstdPrefix, Method::Zstd, Method::Lz4, Method::Xdelta3];

/// A page with what is known of the methods that write bytes.
pub(super) struct Draft {
    /// Position in the block.
    pub(super) at: usize,
    /// The base page chosen.
    pub(super) base: Option<(u32, u32)>,
    /// The smallest so far.
    pub(super) method: Method,
    /// Its patch in the block's scratch memory; empty for a whole page.
    patch: Range<usize>,
    /// What the page takes by each method alone, by [`Method::coding_index`]; `None` if it was not tried.
    sizes: [Option<u16>; Method::CODING.len()],
}

impl Draft {
    /// Of a page for which nothing was tried.
    pub(super) fn new(at: usize, base: Option<(u32, u32)>) -> Self {
        let mut sizes = [None; Method::CODING.len()];
        for method in Method::CODING {
            if let Some(i) = method.coding_index().filter(|_| method.needs_base() && base.is_none()) {
                sizes[i] = Some(PAGE_BYTES as u16);
            }
        }
        Self { at, base, method: Method::Whole, patch: 0..0, sizes }
    }

    /// Bytes of its patch as it would be written now.
    pub(super) fn size(&self) -> usize {
        if self.method == Method::Whole { PAGE_BYTES } else { self.patch.len() }
    }

    /// What it takes by a method alone, if that was tried; the page's size where the method gains nothing.
    pub(super) fn known(&self, method: Method) -> Option<usize> {
        self.sizes.get(method.coding_index()?).copied().flatten().map(usize::from)
    }

    /// Takes down what a method gave: `size` bytes, which are `patch` unless that is empty.
    pub(super) fn note(&mut self, method: Method, size: usize, patch: &[u8], scratch: &mut Vec<u8>) {
        if let Some(known) = method.coding_index().and_then(|i| self.sizes.get_mut(i)) {
            *known = Some(size as u16);
        }
        if size < self.size() && patch.len() == size {
            let start = scratch.len();
            scratch.extend_from_slice(patch);
            self.patch = start..scratch.len();
            self.method = method;
        }
    }
}

/// A block, written but for its drafts.
#[derive(Default)]
pub(super) struct BlockOut {
    pub(super) entries: Vec<Entry>,
    pub(super) patches: Vec<u8>,
    pub(super) matched: u64,
    pub(super) placed: u64,
    pub(super) cut_short: u64,
    pub(super) drafts: Vec<Draft>,
    /// Patches that drafts have or had.
    pub(super) scratch: Vec<u8>,
}

impl BlockOut {
    /// Brings the entries up to what the drafts are; gives the bytes of the table.
    pub(super) fn table(&mut self) -> u64 {
        for draft in &self.drafts {
            if let Some(entry) = self.entries.get_mut(draft.at) {
                entry.method = draft.method;
                entry.length = draft.size() as u32;
                entry.base = draft.base.filter(|_| draft.method.needs_base()).unwrap_or_default();
            }
        }
        let mut table = Vec::with_capacity(self.entries.len() * 12);
        file::write_table(&self.entries, &mut table);
        table.len() as u64
    }

    /// Writes the drafts of block `i`.
    pub(super) fn finish(&mut self, i: usize, image: &Image) {
        self.table();
        for draft in std::mem::take(&mut self.drafts) {
            match image.page((i * BLOCK + draft.at) as u64) {
                Some(page) if draft.method == Method::Whole => self.patches.extend_from_slice(page),
                _ => self.patches.extend_from_slice(self.scratch.get(draft.patch).unwrap_or_default()),
            }
        }
        self.scratch = Vec::new();
    }
}

impl Encoder<'_> {
    /// Spends `budget_ns` a page on the drafts of block `i`, those first that take most; `None`: tries all that may gain.
    pub(super) fn spend(&mut self, i: usize, budget_ns: Option<u32>, out: &mut BlockOut) {
        let mut purse = budget_ns.map(|ns| u64::from(ns) * out.entries.len() as u64);
        let mut order: Vec<usize> = (0..out.drafts.len()).collect();
        order.sort_by_key(|d| Reverse(out.drafts[*d].size()));
        for d in order {
            let Some(draft) = out.drafts.get_mut(d) else { continue };
            let page = (i * BLOCK + draft.at) as u64;
            for method in OPEN {
                let size = draft.size();
                let worth = match (method, purse) {
                    _ if draft.known(method).is_some() => false,
                    (_, None) => size > method.least(),
                    // zstd knows the page's own repetitions as well as the base.
                    (Method::ZstdPrefix, _) => size > WORTH_PREFIX,
                    (Method::Zstd, _) => draft.base.is_none() || size > WORTH_ALONE,
                    _ => false,
                };
                if !worth {
                    continue;
                }
                if let Some(purse) = &mut purse {
                    let Some(left) = purse.checked_sub(u64::from(method.cost_ns())) else {
                        out.cut_short += 1;
                        break;
                    };
                    *purse = left;
                }
                let size = self.attempt(page, draft.base, method, size);
                draft.note(method, size, self.tried(), &mut out.scratch);
            }
        }
    }
}
