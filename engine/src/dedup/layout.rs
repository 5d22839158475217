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

use std::collections::BTreeMap;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Page;
use super::image::{Image, Mapping, MappingKind, Owner, PAGE};

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
        let mut last = Region { start: 0, end: 0, key: 0, class: 0, anchor: 0 };
        move |word| {
            if word.wrapping_sub(low) >= high - low {
                return word;
            }
            if word < last.start || word >= last.end {
                let after = regions.partition_point(|r| r.start <= word);
                match after.checked_sub(1).and_then(|i| regions.get(i)) {
                    Some(r) if word < r.end => last = *r,
                    _ => return word,
                }
            }
            // Never zero: that is for words of zeros.
            (last.class ^ (word % PAGE)) | (1 << 63)
        }
    }
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

/// Replaces the words of a page that lie in `low..high`.
#[inline]
fn replace(page: &mut Page, low: u64, high: u64, mut f: impl FnMut(u64) -> u64) {
    let width = high.wrapping_sub(low);
    if width == 0 {
        return;
    }
    // Eight words at a time: whether any may be a pointer is a test without branches.
    for block in page.as_chunks_mut::<64>().0 {
        let words = block.as_chunks_mut::<8>().0;
        let any = words.iter().fold(false, |any, w| any | (u64::from_le_bytes(*w).wrapping_sub(low) < width));
        if any {
            for w in words {
                let word = u64::from_le_bytes(*w);
                if word.wrapping_sub(low) < width {
                    *w = f(word).to_le_bytes();
                }
            }
        }
    }
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
        Ok(Self { low, high: last, shifts })
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

    /// Adds to the pointers of a base page.
    pub fn apply(&self, page: &mut Page) {
        let mut last = match self.shifts.first() {
            Some(shift) => *shift,
            None => return,
        };
        replace(page, self.low, self.high, |word| {
            if word < last.start || word >= last.end {
                let after = self.shifts.partition_point(|s| s.start <= word);
                match after.checked_sub(1).and_then(|i| self.shifts.get(i)) {
                    Some(shift) if word < shift.end => last = *shift,
                    _ => return word,
                }
            }
            word.wrapping_add(last.delta)
        });
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
    pub fn new(image: &Image, layout: &Layout, base: &Image, base_layout: &Layout, relocate: bool) -> Self {
        let mut out = Self { relocations: Vec::new(), process: base_layout.process.clone(), place: Vec::new() };
        if relocate {
            let pairs = base_layout.spaces.iter().zip(&layout.spaces);
            out.relocations = pairs.map(|(base, image)| relocation(shifts_between(base, image))).collect();
        }
        out.pair(image, base, base_layout);
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
    pub fn learn(&mut self, pairs: &[(u64, u32)], image: &Image, layout: &Layout, base: &Image, base_layout: &Layout) {
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
        self.pair(image, base, base_layout);
    }

    /// Finds the base page at the place of every page of the image.
    fn pair(&mut self, image: &Image, base: &Image, base_layout: &Layout) {
        self.place = vec![NOWHERE; image.pages() as usize];
        for n in 0..base.pages().min(u64::from(NOWHERE)) {
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
