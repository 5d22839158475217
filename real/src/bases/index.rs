//! The page index at the controller: which base pages have a chunk, of all bases of the cluster.
//!
//! Pure logic on the wire's messages, for any number of threads: the gRPC service ([`super::service`]) and tests call it alike. The bases'
//! books are locked before the index; searches go side by side, a registration enters its pages part by part between them.
//!
//! A base is found only when all its pages are entered. Removal (withdrawn, or its node is lost) takes no scan of the index: the base's
//! slot is marked dead ([`medes_engine::dedup::index`]). Nothing an agent sends is trusted: counts, lengths and page numbers are checked, and
//! what all bases together may take is bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use medes_engine::config::{Config, DedupScope};
use medes_engine::dedup::choose::{BaseInfo, Votes, Weights, reference};
use medes_engine::dedup::fingerprint::{ChunkHash, MOST_CHUNKS};
use medes_engine::dedup::index::{BaseSlot, PageRef, SharedIndex};
use medes_engine::id::{NodeId, SandboxId};

use crate::wire::{
    BaseHead, LookupAnswer, LookupBatch, MAX_BATCH_PAGES, MAX_MESSAGE, RegisterAnswer, RegisterPart, unpack_sandbox,
};

/// Base pages named for a page, at most.
pub const CANDIDATES: usize = 3;
/// Bases that one stream of lookups names at most: so many fit the two bytes of an answer.
const MOST_NAMED: usize = u16::MAX as usize - 1;

/// How the index chooses, and how much it takes.
#[derive(Clone, Debug)]
pub struct IndexSettings {
    /// The reference's score instead of votes.
    pub weights: Option<Weights>,
    /// Whose base pages a sandbox may be patched against.
    pub scope: DedupScope,
    /// Owner of each function, for [`DedupScope::Owner`]; a function that is not there is its own.
    pub owners: BTreeMap<String, String>,
    /// Entries (pages times chunks) of all bases at most; each takes some 30 bytes.
    pub most_entries: u64,
}

impl Default for IndexSettings {
    fn default() -> Self {
        Self { weights: None, scope: DedupScope::Cluster, owners: BTreeMap::new(), most_entries: 1 << 27 }
    }
}

impl IndexSettings {
    /// Those of a run.
    pub fn of(config: &Config) -> Self {
        let [dup, refcount, local] = config.basechoice;
        // All weights zero: nothing to score by, so votes.
        let weights = (config.basechoice != [0.0; 3]).then_some(Weights { dup, refcount, local });
        Self { weights, scope: config.dedup_scope, ..Self::default() }
    }
}

/// Why the index refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// A message that no agent of ours sends.
    #[error("not a right message: {0}")]
    Malformed(String),
    /// No room.
    #[error("{base} has {pages} pages, for which the index has no room: {reason}")]
    Full {
        /// The base.
        base: SandboxId,
        /// Its pages.
        pages: u32,
        /// What is full.
        reason: String,
    },
    /// The base was withdrawn, or its node lost, while it was being entered.
    #[error("{0} was withdrawn while its pages were entered")]
    Withdrawn(SandboxId),
}

/// Base pages of a cluster by their chunks.
#[derive(Default)]
pub struct PageIndex {
    settings: IndexSettings,
    index: SharedIndex,
    books: RwLock<Books>,
}

#[derive(Default)]
struct Books {
    bases: BTreeMap<SandboxId, Known>,
    /// Which base has a slot.
    slots: BTreeMap<BaseSlot, SandboxId>,
    of_node: BTreeMap<NodeId, BTreeSet<SandboxId>>,
    registrations: u64,
}

struct Known {
    head: Arc<BaseHead>,
    slot: BaseSlot,
    /// Number of its registration.
    registration: u64,
    /// All pages are entered.
    whole: bool,
    refcount: u32,
}

/// A registration under way; dropped before it is finished, the base is taken out again.
pub struct Registration<'a> {
    index: &'a PageIndex,
    base: SandboxId,
    slot: BaseSlot,
    number: u64,
    pages: u32,
    entered: u64,
    finished: bool,
}

/// Bases that a stream of lookups has named, by their position in it.
#[derive(Debug, Default)]
pub struct Named(BTreeMap<SandboxId, u16>);

/// Hashes of the pages of a batch.
fn fingerprints<'a>(
    counts: &'a [u8],
    hashes: &'a [u8],
) -> Result<impl Iterator<Item = Vec<ChunkHash>> + use<'a>, IndexError> {
    let total: usize = counts.iter().map(|n| usize::from(*n)).sum();
    if counts.len() > MAX_BATCH_PAGES || counts.iter().any(|n| *n > MOST_CHUNKS) || hashes.len() != total * 8 {
        let (pages, bytes) = (counts.len(), hashes.len());
        return Err(IndexError::Malformed(format!("{pages} pages with {total} hashes in {bytes} bytes")));
    }
    let mut all = hashes.as_chunks::<8>().0.iter().map(|b| ChunkHash::from_le_bytes(*b));
    Ok(counts.iter().map(move |n| all.by_ref().take(usize::from(*n)).collect()))
}

impl PageIndex {
    /// An empty index.
    pub fn new(settings: IndexSettings) -> Self {
        Self { settings, ..Self::default() }
    }

    fn read<T>(&self, f: impl FnOnce(&Books) -> T) -> T {
        f(&self.books.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, f: impl FnOnce(&mut Books) -> T) -> T {
        f(&mut self.books.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins to enter a base. One of the same name is taken out: it is an earlier attempt.
    ///
    /// # Errors
    /// The head is none, or there is no room.
    pub fn register(&self, head: BaseHead) -> Result<Registration<'_>, IndexError> {
        let (base, pages) = (unpack_sandbox(head.sandbox), head.pages);
        if head.layout.len() > MAX_MESSAGE || pages == u32::MAX {
            return Err(IndexError::Malformed(format!("{pages} pages, a layout of {} bytes", head.layout.len())));
        }
        self.withdraw(base);
        let full = |reason: String| IndexError::Full { base, pages, reason };
        self.write(|books| {
            let most = self.settings.most_entries;
            let slot = self.index.write(|index| {
                if index.len() + u64::from(pages) > most {
                    return Err(full(format!("{} of {most} entries are taken", index.len())));
                }
                index.add_base().map_err(|e| full(e.to_string()))
            })?;
            books.registrations += 1;
            let number = books.registrations;
            books.of_node.entry(NodeId(head.node)).or_default().insert(base);
            books.slots.insert(slot, base);
            let head = Arc::new(head);
            books.bases.insert(base, Known { head, slot, registration: number, whole: false, refcount: 0 });
            Ok(Registration { index: self, base, slot, number, pages, entered: 0, finished: false })
        })
    }

    /// Takes a base out: none of its pages is found any more. One that is not there is out already.
    pub fn withdraw(&self, base: SandboxId) {
        self.write(|books| self.take_out(books, base));
    }

    fn take_out(&self, books: &mut Books, base: SandboxId) {
        let Some(known) = books.bases.remove(&base) else { return };
        books.slots.remove(&known.slot);
        let node = NodeId(known.head.node);
        if let Some(bases) = books.of_node.get_mut(&node) {
            bases.remove(&base);
            if bases.is_empty() {
                books.of_node.remove(&node);
            }
        }
        self.index.write(|index| index.remove_base(known.slot));
    }

    /// Takes out all bases of a node.
    pub fn node_lost(&self, node: NodeId) {
        self.write(|books| {
            for base in books.of_node.get(&node).cloned().unwrap_or_default() {
                self.take_out(books, base);
            }
        });
    }

    /// So many more, or fewer, dedup sandboxes depend on a base.
    pub fn refer(&self, base: SandboxId, change: i32) {
        self.write(|books| {
            if let Some(known) = books.bases.get_mut(&base) {
                known.refcount = known.refcount.saturating_add_signed(change);
            }
        });
    }

    /// Bases, and entries of all.
    pub fn size(&self) -> (usize, u64) {
        self.read(|books| (books.bases.len(), self.index.read(|index| index.len())))
    }

    /// The best base pages for a batch of pages. `named` belongs to the stream of batches.
    ///
    /// # Errors
    /// A message that no agent of ours sends.
    pub fn lookup(&self, batch: &LookupBatch, named: &mut Named) -> Result<LookupAnswer, IndexError> {
        let per_page = if self.settings.weights.is_some() { 1 } else { CANDIDATES };
        let mut answer = LookupAnswer { first: batch.first, per_page: per_page as u32, ..LookupAnswer::default() };
        let pages = fingerprints(&batch.counts, &batch.hashes)?;
        self.read(|books| {
            let allowed = |slot: BaseSlot| {
                let known = books.slots.get(&slot).and_then(|base| books.bases.get(base))?;
                (known.whole && self.may_share(&known.head.function, &batch.function)).then_some(known)
            };
            let info = |slot: BaseSlot| {
                let known = allowed(slot);
                let local = known.is_some_and(|k| k.head.node == batch.node);
                BaseInfo { refcount: known.map_or(0, |k| k.refcount), local }
            };
            let (mut votes, mut hits) = (Votes::default(), Vec::new());
            self.index.read(|index| {
                for hashes in pages {
                    let mut best = [None; CANDIDATES];
                    hits.clear();
                    index.lookup(&hashes, |_, hit| hits.extend(allowed(hit.base).map(|_| hit)));
                    if let Some(weights) = self.settings.weights {
                        best[0] = reference(&hits, info, weights);
                    } else {
                        votes.clear();
                        hits.iter().for_each(|hit| votes.add(*hit));
                        votes.best(info, &mut best);
                    }
                    for found in &best[..per_page] {
                        name(*found, allowed, named, &mut answer);
                    }
                }
            });
        });
        Ok(answer)
    }

    fn may_share(&self, base: &str, function: &str) -> bool {
        let owner = |f: &str| self.settings.owners.get(f).map_or_else(|| f.to_string(), Clone::clone);
        match self.settings.scope {
            DedupScope::Function => base == function,
            DedupScope::Owner => base == function || owner(base) == owner(function),
            DedupScope::Cluster => true,
        }
    }
}

/// Writes a base page, or none, into an answer; a base that the stream has not named gets a position and its head goes along.
fn name<'a>(
    found: Option<PageRef>,
    allowed: impl Fn(BaseSlot) -> Option<&'a Known>,
    named: &mut Named,
    answer: &mut LookupAnswer,
) {
    let known = found.and_then(|page| Some((page.page, allowed(page.base)?)));
    let place = known.and_then(|(page, known)| {
        let base = unpack_sandbox(known.head.sandbox);
        let next = named.0.len();
        let position = match named.0.get(&base) {
            Some(position) => *position,
            None if next < MOST_NAMED => {
                answer.heads.push(BaseHead::clone(&known.head));
                named.0.insert(base, next as u16);
                next as u16
            }
            None => return None,
        };
        Some((position + 1, page))
    });
    let (position, page) = place.unwrap_or_default();
    answer.bases.extend(position.to_le_bytes());
    answer.pages.extend(page.to_le_bytes());
}

impl Registration<'_> {
    /// Enters the next pages.
    ///
    /// # Errors
    /// They are not the next, or the base was withdrawn meanwhile.
    pub fn part(&mut self, part: &RegisterPart) -> Result<(), IndexError> {
        let pages = part.counts.len() as u64;
        if part.first != self.entered || self.entered + pages > self.pages.into() {
            let (first, of) = (part.first, self.pages);
            return Err(IndexError::Malformed(format!("{pages} pages from {first} of {of} after {}", self.entered)));
        }
        let mut entries = Vec::with_capacity(part.hashes.len() / 8);
        for (number, hashes) in (part.first as u32..).zip(fingerprints(&part.counts, &part.hashes)?) {
            let page = PageRef { base: self.slot, page: number };
            entries.extend(hashes.into_iter().map(|hash| (hash, page)));
        }
        let room = self.index.settings.most_entries;
        self.index.read(|books| {
            // Under the books' lock: the slot of a base that is taken out may be another's already.
            if !self.is_of(books) {
                return Err(IndexError::Withdrawn(self.base));
            }
            self.index.index.write(|index| {
                if index.len() + entries.len() as u64 > room {
                    let reason = format!("{} of {room} entries are taken", index.len());
                    return Err(IndexError::Full { base: self.base, pages: self.pages, reason });
                }
                index.insert(&entries);
                Ok(())
            })
        })?;
        self.entered += pages;
        Ok(())
    }

    fn is_of(&self, books: &Books) -> bool {
        books.bases.get(&self.base).is_some_and(|known| known.registration == self.number)
    }

    /// Ends the registration: from now on the base is found.
    ///
    /// # Errors
    /// Pages are missing, or the base was withdrawn meanwhile; it is not there then.
    pub fn finish(mut self) -> Result<RegisterAnswer, IndexError> {
        if self.entered != u64::from(self.pages) {
            return Err(IndexError::Malformed(format!("{} of {} pages", self.entered, self.pages)));
        }
        let number = self.number;
        let found = self.index.write(|books| {
            let known = books.bases.get_mut(&self.base).filter(|known| known.registration == number);
            known.map(|known| known.whole = true)
        });
        found.ok_or(IndexError::Withdrawn(self.base))?;
        self.finished = true;
        Ok(RegisterAnswer { pages: self.entered })
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.index.write(|books| {
                if self.is_of(books) {
                    self.index.take_out(books, self.base);
                }
            });
        }
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
