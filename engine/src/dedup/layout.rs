//! Which addresses of two images mean the same thing.
//!
//! With address-space randomisation two sandboxes of one function hold the same objects at different addresses, and
//! every pointer differs: a chunk with a pointer in it has another hash, and a patch must carry every pointer. But
//! randomisation moves memory in large pieces. A [`Layout`] names the regions of an image by what they are: a mapped
//! file by its path, the heap, the stack, an anonymous mapping by its size and how many of that size lie above it
//! (the kernel places mappings downwards). From this follow three things:
//!
//! * [`Layout::canonical`]: a page with each pointer replaced by what it points into and its offset in the page
//!   there. Fingerprints of canonical pages match whatever the addresses were, on any two nodes, without either
//!   knowing the other.
//! * [`Relocation`]: what to add to the pointers of a base page to get those of the image. A patch against the
//!   *relocated* base page holds only what really differs. The table is a few entries; it is kept in the dedup
//!   file, and restoring applies it again. It comes from the regions, and is corrected by what is found
//!   ([`Alignment::learn`]): an allocator that aligns its pools, or libraries loaded in another order, move
//!   pieces within and between regions.
//! * [`Alignment::place`]: the base page at the corresponding address, a candidate that needs no lookup.
//!
//! A pointer here is any 8-byte word, at an address divisible by 8, whose value lies in a mapping. A number that looks
//! like one by chance makes a patch longer and nothing else: patches are taken of whatever came out.
//!
//! Left out: pointers that are packed, compressed or mangled, and regions that two images fill differently.

mod message;

use std::collections::BTreeMap;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Page;
use super::image::{Image, Mapping, MappingKind, Owner, PAGE};

pub use message::BadLayout;

/// A range of addresses that moves as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Region {
    start: u64,
    end: u64,
    /// What it is; equal in all images that have it, and different in one image.
    key: u64,
    /// What kind of thing it is: one for all anonymous memory, one for each file.
    class: u64,
    /// The address that offsets count from.
    anchor: u64,
}

/// The regions of one address space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Space {
    /// By address.
    regions: Vec<Region>,
}

/// The regions of an image, and which of its pages lie where.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    spaces: Vec<Space>,
    /// Process of every page, by page number; `u32::MAX` where there is none.
    process: Vec<u32>,
    /// Address of every page.
    address: Vec<u64>,
}

impl Layout {
    /// The layout of an image. A raw file of pages has no regions: its pages are their own canonical form.
    pub fn of(image: &Image) -> Self {
        let spaces = (0..image.processes().len() as u32).map(|p| space(image.mappings(), p)).collect();
        let places = image.places();
        let process = places.iter().map(|p| if let Owner::Process(i) = p.owner { i } else { u32::MAX }).collect();
        Self { spaces, process, address: places.iter().map(|p| p.address).collect() }
    }

    /// Pages of the image.
    pub fn pages(&self) -> u64 {
        self.process.len() as u64
    }

    fn space(&self, page: u64) -> Option<&Space> {
        self.spaces.get(*self.process.get(page as usize)? as usize)
    }

    /// What makes a page canonical: a function from its words to those of the canonical form. A pointer becomes what
    /// it points into, and its offset in the page there (of an offset in the region only that much is sure to
    /// be the same in another sandbox); any other word stays.
    pub fn canonical(&self, page: u64) -> impl FnMut(u64) -> u64 {
        let regions = self.space(page).map_or(&[][..], |s| &s.regions);
        let (low, high) = match (regions.first(), regions.last()) {
            (Some(first), Some(last)) => (first.start, last.end),
            _ => (0, 0),
        };
        let mut recent = [(0, 0, 0); FEW];
        move |word| {
            if word.wrapping_sub(low) >= high - low {
                return word;
            }
            let near = &mut recent[recently::<FEW>(word)];
            if word < near.0 || word >= near.1 {
                let after = regions.partition_point(|r| r.start <= word);
                match after.checked_sub(1).and_then(|i| regions.get(i)) {
                    Some(r) if word < r.end => *near = (r.start, r.end, r.class),
                    _ => return word,
                }
            }
            // Never zero: that is for words of zeros.
            (near.2 ^ (word % PAGE)) | (1 << 63)
        }
    }
}

/// Ranges of addresses found lately that are remembered: in one page, and from page to page.
const FEW: usize = 16;
const MANY: usize = 256;

/// Where of `N` places the range of an address is remembered: neighbours by 64 KiB apart.
#[inline]
fn recently<const N: usize>(address: u64) -> usize {
    ((address >> 16 ^ address >> 24) as usize) % N
}

/// The regions of one process.
fn space(mappings: &[Mapping], process: u32) -> Space {
    let own: Vec<&Mapping> = mappings.iter().filter(|m| m.process == process).collect();
    let mut regions: Vec<Region> = Vec::new();
    // From the top, as the kernel places them.
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    let mut number = |key: u64| {
        let n = seen.entry(key).or_default();
        *n += 1;
        xxh3_64_with_seed(&key.to_le_bytes(), *n)
    };
    let mut end = own.len();
    while end > 0 {
        // The mappings of one file, one after the other, and the anonymous memory right behind them (its zeroed
        // data) are one region.
        let mut first = end - 1;
        let last = own[end - 1];
        let anonymous = |m: &Mapping| m.kind == MappingKind::Anonymous;
        let touches = |i: usize| i > 0 && own[i - 1].end == own[i].start;
        while touches(first) {
            let (below, this) = (own[first - 1], own[first]);
            let file = !below.path.is_empty() && (below.path == this.path || this.path.is_empty() && anonymous(this));
            if !file {
                break;
            }
            first -= 1;
        }
        let bottom = own[first];
        let (start, top) = (bottom.start, last.end);
        let (class, own_size, anchor) = match bottom.kind {
            MappingKind::Heap => (xxh3_64(b"heap"), 0, start),
            MappingKind::Stack => (xxh3_64(b"stack"), 0, top),
            MappingKind::Kernel => (xxh3_64(b"kernel"), top - start, start),
            // By its path and where in the file it starts: a file may be mapped in several pieces.
            _ if !bottom.path.is_empty() => (xxh3_64(bottom.path.as_bytes()), bottom.offset, start),
            _ => (xxh3_64(b"anonymous"), top - start, start),
        };
        let key = number(xxh3_64_with_seed(&class.to_le_bytes(), own_size));
        regions.push(Region { start, end: top, key, class, anchor });
        end = first;
    }
    regions.reverse();
    Space { regions }
}

/// A range of a base's addresses and what to add to a pointer into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    /// First address in the base.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// Address in the image less address in the base, modulo 2^64.
    pub delta: u64,
}

/// What to add to the pointers of a base's pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relocation {
    /// By address, not overlapping.
    shifts: Vec<Shift>,
    low: u64,
    high: u64,
    /// A hash of the table.
    id: u64,
}

/// Shifts that no relocation has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shift {0} of the relocation is empty or overlaps the one before it")]
pub struct BadShift(pub usize);

impl Relocation {
    /// From a table of shifts, by address and not overlapping.
    ///
    /// # Errors
    /// [`BadShift`] with the position of the first that is not so.
    pub fn new(shifts: Vec<Shift>) -> Result<Self, BadShift> {
        let mut last = 0;
        for (i, s) in shifts.iter().enumerate() {
            if s.start < last || s.end <= s.start {
                return Err(BadShift(i));
            }
            last = s.end;
        }
        let low = shifts.first().map_or(0, |s| s.start);
        let numbers = |s: &Shift| [s.start, s.end, s.delta].map(u64::to_le_bytes).concat();
        let id = xxh3_64(&shifts.iter().flat_map(numbers).collect::<Vec<u8>>());
        Ok(Self { low, high: last, shifts, id })
    }

    /// The table.
    pub fn shifts(&self) -> &[Shift] {
        &self.shifts
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.shifts.is_empty()
    }

    /// Where an address of the base lies in the image.
    pub fn moved(&self, address: u64) -> u64 {
        let after = self.shifts.partition_point(|s| s.start <= address);
        match after.checked_sub(1).and_then(|i| self.shifts.get(i)) {
            Some(shift) if address < shift.end => address.wrapping_add(shift.delta),
            _ => address,
        }
    }

    /// The shift of an address between the ends of the table; of one in a gap, a shift by nothing.
    fn around(&self, address: u64) -> Shift {
        let after = self.shifts.partition_point(|s| s.start <= address);
        let end = self.shifts.get(after).map_or(self.high, |s| s.start);
        match after.checked_sub(1).and_then(|i| self.shifts.get(i)) {
            Some(shift) if address < shift.end => *shift,
            below => Shift { start: below.map_or(self.low, |s| s.end), end, delta: 0 },
        }
    }

    /// Adds to the pointers of a base page.
    pub fn apply(&self, page: &mut Page) {
        self.apply_with(page, &mut Recent::default());
    }

    /// The same, with a memory of the shifts found lately that is kept from page to page, of whatever relocations.
    pub fn apply_with(&self, page: &mut Page, recent: &mut Recent) {
        if recent.of != self.id {
            *recent = Recent { of: self.id, ..Recent::default() };
        }
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, all that the function asks for.
            return unsafe { self.apply_avx2(page, recent) };
        }
        self.apply_words(page, recent);
    }

    /// Word by word.
    fn apply_words(&self, page: &mut Page, recent: &mut Recent) {
        let width = self.high - self.low;
        for bytes in page.as_chunks_mut::<8>().0 {
            let word = u64::from_le_bytes(*bytes);
            if word.wrapping_sub(self.low) < width {
                *bytes = word.wrapping_add(recent.find(self, word).delta).to_le_bytes();
            }
        }
    }

    /// Eight words at a time are looked at; those that may be pointers are shifted one by one, which do not wait for each other.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn apply_avx2(&self, page: &mut Page, recent: &mut Recent) {
        use std::arch::x86_64::{
            _mm256_castsi256_pd, _mm256_cmpgt_epi64, _mm256_loadu_si256, _mm256_movemask_pd, _mm256_set1_epi64x,
            _mm256_sub_epi64,
        };
        // Comparisons are of signed numbers: `x < n` of unsigned ones is `x - MIN < n - MIN` of these.
        let all = |n: u64| _mm256_set1_epi64x(n.cast_signed());
        let (low, width) = (all(self.low.wrapping_add(1 << 63)), all((self.high - self.low) ^ 1 << 63));
        for block in page.as_chunks_mut::<64>().0 {
            let inside = |half: &[u8]| {
                // SAFETY: both halves are 32 bytes long, and the load asks for no alignment.
                let words = unsafe { _mm256_loadu_si256(half.as_ptr().cast()) };
                let is = _mm256_cmpgt_epi64(width, _mm256_sub_epi64(words, low));
                _mm256_movemask_pd(_mm256_castsi256_pd(is)).cast_unsigned()
            };
            let mut left = inside(&block[..32]) | inside(&block[32..]) << 4;
            let words = block.as_chunks_mut::<8>().0;
            while left != 0 {
                let bytes = &mut words[left.trailing_zeros() as usize % 8];
                left &= left - 1;
                let word = u64::from_le_bytes(*bytes);
                *bytes = word.wrapping_add(recent.find(self, word).delta).to_le_bytes();
            }
        }
    }
}

/// Shifts found lately: the pointers of a page lead to few places, in turn, and those of the next page to the same.
#[derive(Clone, Copy, Debug)]
pub struct Recent {
    /// Of which relocation they are.
    of: u64,
    shifts: [Shift; MANY],
}

impl Default for Recent {
    fn default() -> Self {
        Self { of: 0, shifts: [Shift { start: 0, end: 0, delta: 0 }; MANY] }
    }
}

impl Recent {
    #[inline]
    fn find(&mut self, of: &Relocation, word: u64) -> Shift {
        let near = &mut self.shifts[recently::<MANY>(word)];
        if word < near.start || word >= near.end {
            *near = of.around(word);
        }
        *near
    }
}

/// How an image lies relative to a base: shifts of pointers, process by process of the base (processes are
/// paired in order), and for each page the base page at the same place.
#[derive(Clone, Debug, Default)]
pub struct Alignment {
    /// One a process of the base.
    relocations: Vec<Relocation>,
    /// Process of every base page, as a position in `relocations`; `u32::MAX` where there is none.
    process: Vec<u32>,
    /// For every page of the image the base page at the same place; [`NOWHERE`] where there is none.
    place: Vec<u32>,
}

/// No page.
pub const NOWHERE: u32 = u32::MAX;
/// Pages of a base that are taken to move together when shifts are learned.
const PIECE: u64 = 16 * PAGE;

impl Alignment {
    /// Lays an image over a base. Without `relocate`, pointers stay as they are and pages are paired by equal
    /// address (raw pages: by number).
    pub fn new(image: &Image, layout: &Layout, base_layout: &Layout, relocate: bool) -> Self {
        let mut out = Self { relocations: Vec::new(), process: base_layout.process.clone(), place: Vec::new() };
        if relocate {
            let pairs = base_layout.spaces.iter().zip(&layout.spaces);
            out.relocations = pairs.map(|(base, image)| relocation(shifts_between(base, image))).collect();
        }
        out.pair(image, base_layout);
        out
    }

    /// Whether no pointer moves: as far as the regions tell, the image has the addresses of the base.
    pub fn is_still(&self) -> bool {
        self.relocations.iter().all(Relocation::is_empty)
    }

    /// Tables of shifts, one a process of the base.
    pub fn relocations(&self) -> &[Relocation] {
        &self.relocations
    }

    /// Process of every base page, as a position in [`Self::relocations`]; `u32::MAX` where there is none.
    pub fn processes(&self) -> &[u32] {
        &self.process
    }

    /// The table for a base page; `None` if its pointers stay.
    pub fn relocation(&self, base_page: u32) -> Option<&Relocation> {
        let process = *self.process.get(base_page as usize)?;
        self.relocations.get(process as usize).filter(|r| !r.is_empty())
    }

    /// The base page at the same place as a page of the image.
    pub fn place(&self, page: u64) -> Option<u32> {
        self.place.get(page as usize).copied().filter(|p| *p != NOWHERE)
    }

    /// Corrects the shifts by pages that were found to have the same content: pairs (page of the image, page of the
    /// base). Sixteen pages of the base move together, by what most of their pairs say if two at least agree; without pairs, as the
    /// piece before them in their region, or else as the region.
    pub fn learn(&mut self, pairs: &[(u64, u32)], image: &Image, layout: &Layout, base_layout: &Layout) {
        // (process, piece) -> shift -> votes
        let mut votes: BTreeMap<(u32, u64), BTreeMap<u64, u32>> = BTreeMap::new();
        for (page, of_base) in pairs {
            let (page, of_base) = (*page as usize, *of_base as usize);
            let (Some(process), Some(from)) = (layout.process.get(page), base_layout.process.get(of_base)) else {
                continue;
            };
            if process != from || *process as usize >= self.relocations.len() {
                continue;
            }
            let (to, from) = (layout.address[page], base_layout.address[of_base]);
            *votes.entry((*process, from / PIECE)).or_default().entry(to.wrapping_sub(from)).or_default() += 1;
        }
        for (process, space) in base_layout.spaces.iter().enumerate().take(self.relocations.len()) {
            let prior: BTreeMap<u64, u64> = layout
                .spaces
                .get(process)
                .map(|s| s.regions.iter().map(|r| (r.key, r.anchor)).collect())
                .unwrap_or_default();
            let mut shifts: Vec<Shift> = Vec::new();
            for region in &space.regions {
                let mut delta = prior.get(&region.key).map(|anchor| anchor.wrapping_sub(region.anchor));
                let voted =
                    votes.range((process as u32, region.start / PIECE)..=(process as u32, (region.end - 1) / PIECE));
                let mut from = region.start;
                for ((_, piece), votes) in voted {
                    // The most votes; of equals the one that goes on as before, then the smallest.
                    let Some((found, n)) = votes.iter().max_by_key(|(d, n)| (**n, Some(**d) == delta, u64::MAX - **d))
                    else {
                        continue;
                    };
                    if *n < 2 || Some(*found) == delta {
                        continue;
                    }
                    let at = (piece * PIECE).max(region.start);
                    add(&mut shifts, from, at, delta);
                    (from, delta) = (at, Some(*found));
                }
                add(&mut shifts, from, region.end, delta);
            }
            self.relocations[process] = relocation(join(shifts));
        }
        self.pair(image, base_layout);
    }

    /// Finds the base page at the place of every page of the image.
    fn pair(&mut self, image: &Image, base_layout: &Layout) {
        self.place = vec![NOWHERE; image.pages() as usize];
        for n in 0..base_layout.pages().min(u64::from(NOWHERE)) {
            let process = self.process.get(n as usize).copied().unwrap_or(u32::MAX);
            let to = if process == u32::MAX {
                // Pages without an address, of images that have none at all.
                image.processes().is_empty().then_some(n)
            } else {
                let address = base_layout.address[n as usize];
                let moved = self.relocations.get(process as usize).map_or(address, |r| r.moved(address));
                image.number(Owner::Process(process), moved)
            };
            if let Some(place) = to.and_then(|n| self.place.get_mut(n as usize)) {
                *place = n as u32;
            }
        }
    }
}

/// Adds `start..end` with its shift, if there is one.
fn add(shifts: &mut Vec<Shift>, start: u64, end: u64, delta: Option<u64>) {
    if let Some(delta) = delta
        && start < end
    {
        shifts.push(Shift { start, end, delta });
    }
}

/// A table of the shifts that move anything; they come by address from regions that do not overlap.
fn relocation(mut shifts: Vec<Shift>) -> Relocation {
    shifts.retain(|s| s.delta != 0);
    Relocation::new(shifts).unwrap_or_default()
}

/// Joins neighbours (over unmapped gaps too) with the same shift.
fn join(shifts: Vec<Shift>) -> Vec<Shift> {
    let mut out: Vec<Shift> = Vec::new();
    for s in shifts {
        match out.last_mut() {
            Some(last) if last.delta == s.delta => last.end = s.end,
            _ => out.push(s),
        }
    }
    out
}

/// Shifts for every region that both have.
fn shifts_between(base: &Space, image: &Space) -> Vec<Shift> {
    let anchors: BTreeMap<u64, u64> = image.regions.iter().map(|r| (r.key, r.anchor)).collect();
    let found = base.regions.iter().filter_map(|r| {
        let anchor = anchors.get(&r.key)?;
        Some(Shift { start: r.start, end: r.end, delta: anchor.wrapping_sub(r.anchor) })
    });
    join(found.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Shifts of ranges that lie in order, with and without gaps.
    fn relocation() -> impl Strategy<Value = Relocation> {
        let piece = (0u64..3, 1u64..40, any::<u64>());
        let start = prop_oneof![Just(0u64), Just(0x7f00_0000_0000), Just(u64::MAX - (1 << 30))];
        (start, proptest::collection::vec(piece, 1..40)).prop_map(|(start, pieces)| {
            let mut at = start;
            let shift = |(gap, length, delta)| {
                at += gap * 0x9000;
                let start = at;
                at += length * 0x3000 + 8;
                Shift { start, end: at, delta }
            };
            Relocation::new(pieces.into_iter().map(shift).collect()).unwrap()
        })
    }

    proptest! {
        /// Vector code, code without, and the definition agree, whatever relocation was applied before.
        #[test]
        fn pointers_are_shifted_by_what_holds_at_them(both in [relocation(), relocation()], seed in any::<u64>()) {
            let mut recent = Recent::default();
            for of in &both {
                let mut x = seed | 1;
                let words: Vec<u64> = (0..512).map(|_| {
                    x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    // Half of them near or in the ranges, the rest anything.
                    if x >> 63 == 0 { of.low.wrapping_sub(0x5000).wrapping_add((x >> 8) % (of.high - of.low + 0xa000)) } else { x }
                }).collect();
                let mut page: Page = [0; crate::units::PAGE_BYTES];
                page.as_chunks_mut::<8>().0.iter_mut().zip(&words).for_each(|(b, w)| *b = w.to_le_bytes());
                let (mut by_word, mut alone) = (page, page);
                of.apply_with(&mut page, &mut recent);
                of.apply_words(&mut by_word, &mut Recent { of: of.id, ..Recent::default() });
                of.apply(&mut alone);
                prop_assert!(page == by_word && page == alone);
                for (bytes, word) in page.as_chunks::<8>().0.iter().zip(&words) {
                    prop_assert_eq!(u64::from_le_bytes(*bytes), of.moved(*word));
                }
            }
        }
    }
}
