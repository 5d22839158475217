//! From a chunk's hash to the base pages that have the chunk.
//!
//! An open-addressed table of buckets of one cache line, four entries each: the whole hash, the page's number, the
//! base's slot. A full bucket runs over into the next one and keeps, in 32 bits, what kinds of hashes ran over it, so that a search knows
//! where to stop: almost always after one line, also of a bucket that others ran over.
//!
//! *Size*: 64 bytes for 4 entries. The table grows by half when 3 of 4 places are taken, so an entry costs 21.3 bytes in a
//! table made to measure ([`Index::with_capacity`]) and up to 32 just after growing (a test counts them). Fuller tables
//! were slower: at 7 of 8 a search reads two lines as often as one.
//!
//! *Hot hashes* (the chunk of zeros, pages of libraries that every base has) keep at most [`CHAIN`] live
//! entries; more are not entered. *Removal of a base* marks its slot dead: no search gives its entries any more, and
//! insertions use their places again; when the table is full, they are left behind instead of growing it. A slot is given to a
//! new base only when nothing of the old one is left.
//!
//! *Batches*: the functions take many hashes at once and fetch the buckets ahead of use, since a table of
//! millions of entries is far larger than the caches. *Readers*: searching takes `&self`, any number at once; a
//! writer needs `&mut`. [`SharedIndex`] puts a lock around it that is taken once a batch.

use std::sync::{PoisonError, RwLock};

use memmap2::MmapMut;

use super::fingerprint::ChunkHash;

/// Live entries that one hash may have.
pub const CHAIN: usize = 8;

const WAYS: usize = 4;
/// Of 8 places in the table, how many are taken before it grows.
const LOAD: usize = 6;
/// How many buckets ahead of use an insertion fetches.
const AHEAD: usize = 16;
/// Hashes that are searched together.
const GROUP: usize = 64;

/// A base image in an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BaseSlot(pub u16);

/// A page of a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRef {
    /// The base.
    pub base: BaseSlot,
    /// Number of the page in it.
    pub page: u32,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    hashes: [u64; WAYS],
    pages: [u32; WAYS],
    bases: [u16; WAYS],
    /// For the hashes whose way led over this bucket to a later one a bit each, by [`class`]; only a rebuild takes them off.
    over: u32,
    /// Bit set: the place is taken.
    taken: u32,
}

/// No more bases fit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the index holds {} live bases already; remove some first", u16::MAX)]
pub struct TooManyBases;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    Live,
    /// Removed, with entries left in the table.
    Dead,
}

/// The table.
pub struct Index {
    buckets: Table,
    /// State of each base slot, and its entries in the table.
    slots: Vec<(Slot, u64)>,
    live: u64,
    dead: u64,
    dropped: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self::with_capacity(0)
    }
}

impl Index {
    /// An index that takes `entries` entries without growing.
    pub fn with_capacity(entries: usize) -> Self {
        Self { buckets: Table::new(buckets_for(entries)), slots: Vec::new(), live: 0, dead: 0, dropped: 0 }
    }

    /// Entries that searches can give.
    pub fn len(&self) -> u64 {
        self.live
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Entries that were not entered because their hash had [`CHAIN`] already.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> u64 {
        (self.buckets.len() * size_of::<Bucket>() + self.slots.len() * size_of::<(Slot, u64)>()) as u64
    }

    /// A slot for a new base.
    ///
    /// # Errors
    /// [`TooManyBases`] when 65 535 are in use.
    pub fn add_base(&mut self) -> Result<BaseSlot, TooManyBases> {
        let free = |slots: &[(Slot, u64)]| slots.iter().position(|s| s.0 == Slot::Free);
        let slot = if self.slots.len() < usize::from(u16::MAX) {
            self.slots.push((Slot::Free, 0));
            self.slots.len() - 1
        } else {
            if free(&self.slots).is_none() {
                self.rebuild(self.buckets.len());
            }
            free(&self.slots).ok_or(TooManyBases)?
        };
        self.slots[slot] = (Slot::Live, 0);
        Ok(BaseSlot(slot as u16))
    }

    /// Forgets a base: none of its pages is found any more. Takes constant time.
    pub fn remove_base(&mut self, base: BaseSlot) {
        if let Some(slot) = self.slots.get_mut(usize::from(base.0))
            && slot.0 == Slot::Live
        {
            slot.0 = if slot.1 == 0 { Slot::Free } else { Slot::Dead };
            self.live -= slot.1;
            self.dead += slot.1;
        }
    }

    /// Whether the base is in the index.
    pub fn has_base(&self, base: BaseSlot) -> bool {
        self.slots.get(usize::from(base.0)).is_some_and(|s| s.0 == Slot::Live)
    }

    /// Enters a batch of (hash, page). Entries of bases that are not live are left out, as is one that is in
    /// already.
    pub fn insert(&mut self, entries: &[(ChunkHash, PageRef)]) {
        let places = (self.buckets.len() * WAYS * LOAD / 8) as u64;
        let added = entries.len() as u64;
        if self.live + self.dead + added > places {
            // Without the dead it may do; else half as large again.
            let needed = buckets_for((self.live + added) as usize);
            let roomy = needed <= self.buckets.len() * 3 / 4;
            self.rebuild(if roomy { self.buckets.len() } else { needed.max(self.buckets.len() * 3 / 2) });
        }
        for i in 0..entries.len() {
            if let Some((ahead, _)) = entries.get(i + AHEAD) {
                self.prefetch(*ahead);
            }
            let (hash, page) = entries[i];
            self.insert_one(hash, page);
        }
    }

    fn insert_one(&mut self, hash: ChunkHash, page: PageRef) {
        if !self.has_base(page.base) {
            return;
        }
        let home = self.home(hash);
        let mut at = home;
        let mut chain = 0;
        let mut free = None;
        loop {
            let bucket = &self.buckets[at];
            for way in 0..WAYS {
                let taken = bucket.taken & (1 << way) != 0;
                if !taken || !self.has_base(BaseSlot(bucket.bases[way])) {
                    free = free.or(Some((at, way)));
                } else if bucket.hashes[way] == hash {
                    if bucket.pages[way] == page.page && bucket.bases[way] == page.base.0 {
                        return;
                    }
                    chain += 1;
                }
            }
            if chain >= CHAIN {
                self.dropped += 1;
                return;
            }
            // Entries of this hash lie no further on than the first bucket that none like it ran over; a place to
            // put it may.
            if free.is_some() && bucket.over & class(hash) == 0 {
                break;
            }
            at = self.after(at);
            if at == home {
                break;
            }
        }
        // There is a place: the table is never more than 3/4 full.
        let Some((to, way)) = free else { return };
        let mut at = home;
        while at != to {
            self.buckets[at].over |= class(hash);
            at = self.after(at);
        }
        let bucket = &mut self.buckets[to];
        if bucket.taken & (1 << way) != 0
            && let Some(old) = self.slots.get_mut(usize::from(bucket.bases[way]))
        {
            old.1 -= 1;
            self.dead -= 1;
            if old.1 == 0 {
                old.0 = Slot::Free;
            }
        }
        bucket.hashes[way] = hash;
        bucket.pages[way] = page.page;
        bucket.bases[way] = page.base.0;
        bucket.taken |= 1 << way;
        self.slots[usize::from(page.base.0)].1 += 1;
        self.live += 1;
    }

    /// Searches a batch of hashes; calls `found` with the position in `hashes` and each page, in order of
    /// position.
    pub fn lookup(&self, hashes: &[ChunkHash], mut found: impl FnMut(usize, PageRef)) {
        let mut homes = [0; GROUP];
        for (group, first) in hashes.chunks(GROUP).zip((0..).step_by(GROUP)) {
            // All fetches of a group before its first search: none waits behind a branch that was guessed wrongly.
            for (home, hash) in homes.iter_mut().zip(group) {
                *home = self.prefetch(*hash);
            }
            for (i, (hash, home)) in group.iter().zip(homes).enumerate() {
                self.lookup_one(*hash, home, |page| found(first + i, page));
            }
        }
    }

    #[inline]
    fn lookup_one(&self, hash: ChunkHash, home: usize, mut found: impl FnMut(PageRef)) {
        let mut at = home;
        loop {
            let bucket = &self.buckets[at];
            let mut hits = 0u32;
            for (way, h) in bucket.hashes.iter().enumerate() {
                hits |= u32::from(*h == hash) << way;
            }
            hits &= bucket.taken;
            while hits != 0 {
                let way = hits.trailing_zeros() as usize % WAYS;
                hits &= hits - 1;
                let page = PageRef { base: BaseSlot(bucket.bases[way]), page: bucket.pages[way] };
                if self.has_base(page.base) {
                    found(page);
                }
            }
            if bucket.over & class(hash) == 0 {
                break;
            }
            at = self.after(at);
            if at == home {
                break;
            }
        }
    }

    /// The bucket where the search for a hash begins: the hash scaled to their number, which need not be a
    /// power of two.
    #[inline]
    fn home(&self, hash: ChunkHash) -> usize {
        // Mixed, since value sampling keeps only even hashes and a caller's hash may be poor in its upper bits.
        let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((u128::from(mixed) * self.buckets.len() as u128) >> 64) as usize
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.buckets.len() { 0 } else { at + 1 }
    }

    /// Fetches the bucket of a hash, which it says, and the one after it: entries that ran over are mostly there, and its line comes
    /// at next to no cost with the first, where waiting for it would take as long as all the rest.
    #[inline]
    fn prefetch(&self, hash: ChunkHash) -> usize {
        let home = self.home(hash);
        for bucket in [&self.buckets[home], &self.buckets[self.after(home)]] {
            #[cfg(target_arch = "x86_64")]
            {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                // SAFETY: the address is that of a bucket of ours, and a prefetch has no effect but on the caches.
                unsafe { _mm_prefetch(std::ptr::from_ref(bucket).cast::<i8>(), _MM_HINT_T0) };
            }
            #[cfg(not(target_arch = "x86_64"))]
            let _ = bucket;
        }
        home
    }

    /// Moves the live entries into a table of `buckets` buckets and forgets the dead.
    fn rebuild(&mut self, buckets: usize) {
        let old = std::mem::replace(&mut self.buckets, Table::new(buckets.max(buckets_for(self.live as usize))));
        for slot in &mut self.slots {
            if slot.0 == Slot::Dead {
                slot.0 = Slot::Free;
            }
            slot.1 = 0;
        }
        self.live = 0;
        self.dead = 0;
        let dropped = self.dropped;
        for bucket in old.iter() {
            for way in 0..WAYS {
                let page = PageRef { base: BaseSlot(bucket.bases[way]), page: bucket.pages[way] };
                if bucket.taken & (1 << way) != 0 {
                    self.insert_one(bucket.hashes[way], page);
                }
            }
        }
        self.dropped = dropped;
    }
}

/// One of 32 bits for a hash, from other bits than those that say its bucket.
#[inline]
fn class(hash: ChunkHash) -> u32 {
    1 << (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20 & 31)
}

fn buckets_for(entries: usize) -> usize {
    (entries * 8).div_ceil(WAYS * LOAD).max(16)
}

/// Buckets in memory that the system gave zeroed and, where it can, in large pages: a search touches one line
/// somewhere in it, and with pages of 4 KiB would miss the address cache each time as well.
struct Table {
    memory: MmapMut,
    len: usize,
}

impl Table {
    fn new(len: usize) -> Self {
        // Out of memory is the end for a table as for a vector.
        let memory = MmapMut::map_anon(len * size_of::<Bucket>()).expect("memory for the index");
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Self { memory, len }
    }
}

impl std::ops::Deref for Table {
    type Target = [Bucket];

    #[inline]
    fn deref(&self) -> &[Bucket] {
        // SAFETY: the mapping is `len * size_of::<Bucket>()` bytes long, starts at a page (so it is aligned to 64), is ours
        // alone while borrowed, and every bit pattern (zeros at first) is a valid `Bucket` of integers.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }
}

impl std::ops::DerefMut for Table {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Bucket] {
        // SAFETY: as for `deref`; `&mut self` makes the borrow the only one.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }
}

/// An index that threads share: searches side by side, changes alone. The lock is taken once a batch.
#[derive(Default)]
pub struct SharedIndex(RwLock<Index>);

impl SharedIndex {
    /// Shares an index.
    pub fn new(index: Index) -> Self {
        Self(RwLock::new(index))
    }

    /// Searches, or does anything else that changes nothing.
    pub fn read<T>(&self, f: impl FnOnce(&Index) -> T) -> T {
        f(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Enters or removes.
    pub fn write<T>(&self, f: impl FnOnce(&mut Index) -> T) -> T {
        f(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn search(index: &Index, hash: u64) -> Vec<PageRef> {
        let mut out = Vec::new();
        index.lookup(&[hash], |_, p| out.push(p));
        out.sort();
        out
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add,
        Remove(usize),
        Insert(usize, Vec<(u8, u8)>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            1 => Just(Step::Add),
            1 => (0usize..6).prop_map(Step::Remove),
            6 => (0usize..6, proptest::collection::vec((0u8..40, any::<u8>()), 0..60)).prop_map(|(b, v)| Step::Insert(b, v)),
        ];
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        /// Against a plain map: everything entered is found unless its chain was full, nothing else is.
        #[test]
        fn behaves_as_a_multimap(steps in steps()) {
            let mut index = Index::default();
            let mut bases: Vec<BaseSlot> = Vec::new();
            let mut model: BTreeMap<u64, Vec<PageRef>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Add => bases.push(index.add_base().unwrap()),
                    Step::Remove(i) if i < bases.len() => {
                        let base = bases.swap_remove(i);
                        index.remove_base(base);
                        for v in model.values_mut() {
                            v.retain(|p| p.base != base);
                        }
                    }
                    Step::Insert(i, entries) if i < bases.len() => {
                        let batch: Vec<_> = entries
                            .iter()
                            // Few hashes and few homes: long chains, many that run over.
                            .map(|(h, p)| (u64::from(*h % 10) + (u64::from(*h / 10) << 62), PageRef { base: bases[i], page: u32::from(*p) }))
                            .collect();
                        index.insert(&batch);
                        for (h, p) in batch {
                            let chain = model.entry(h).or_default();
                            if !chain.contains(&p) && chain.len() < CHAIN {
                                chain.push(p);
                            }
                        }
                    }
                    _ => {}
                }
                prop_assert_eq!(index.len() as usize, model.values().map(Vec::len).sum::<usize>());
                for (h, pages) in &mut model {
                    pages.sort();
                    prop_assert_eq!(&search(&index, *h), pages);
                }
            }
        }
    }

    fn entries(base: BaseSlot, n: u32) -> Vec<(u64, PageRef)> {
        (0..n).map(|i| (xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes()) & !1, PageRef { base, page: i / 5 })).collect()
    }

    #[test]
    fn bytes_per_entry_are_as_stated() {
        let n = 200_000;
        let mut index = Index::with_capacity(n as usize);
        let base = index.add_base().unwrap();
        index.insert(&entries(base, n));
        let each = index.bytes() as f64 / index.len() as f64;
        assert!((21.0..21.5).contains(&each), "{each}");
        let mut growing = Index::default();
        let base = growing.add_base().unwrap();
        let mut worst: f64 = 0.0;
        for part in entries(base, n).chunks(500) {
            growing.insert(part);
            if growing.len() > 10_000 {
                worst = worst.max(growing.bytes() as f64 / growing.len() as f64);
            }
        }
        assert!(worst < 32.1, "{worst}");
    }

    #[test]
    fn removed_bases_cost_no_growth() {
        let mut index = Index::with_capacity(20_000);
        let bytes = index.bytes();
        for round in 0..200 {
            let base = index.add_base().unwrap();
            index.insert(&entries(base, 10_000));
            assert_eq!(index.len(), 10_000, "round {round}");
            index.remove_base(base);
            assert!(index.is_empty() && search(&index, entries(base, 1)[0].0).is_empty());
        }
        assert!(index.bytes() < bytes * 2, "{} from {bytes}", index.bytes());
    }

    #[test]
    fn slots_run_out_and_come_back() {
        let mut index = Index::default();
        let bases: Vec<_> = (0..u16::MAX).map(|_| index.add_base().unwrap()).collect();
        index.insert(&entries(bases[7], 10));
        assert_eq!(index.add_base(), Err(TooManyBases));
        index.remove_base(bases[7]);
        assert_eq!(index.add_base(), Ok(bases[7]));
        assert!(index.is_empty());
    }

    #[test]
    fn readers_run_side_by_side_with_a_writer() {
        let shared = SharedIndex::new(Index::default());
        let base = shared.write(Index::add_base).unwrap();
        let all = entries(base, 40_000);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for part in all.chunks(1_000) {
                        let hashes: Vec<_> = part.iter().map(|e| e.0).collect();
                        // Either the whole batch is in already or none of it.
                        let mut hits = 0;
                        shared.read(|index| index.lookup(&hashes, |_, _| hits += 1));
                        assert!(hits == 0 || hits >= 1_000, "{hits}");
                    }
                });
            }
            for part in all.chunks(1_000) {
                shared.write(|index| index.insert(part));
            }
        });
        assert_eq!(shared.read(Index::len), 40_000);
    }
}
