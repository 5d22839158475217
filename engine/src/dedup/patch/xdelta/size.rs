//! How many bytes xdelta3 would take for a page, without writing them.
//!
//! The search of the library at level 1 for one page against one page, decision by decision: the same hash tables, the same
//! order of trials, the same choice among overlapping matches, the same addresses. What the library does beside it for streams
//! of any length and for output is left out, which makes this several times as fast. It has to be exact, since `auto` relies on it to
//! store no more than xdelta3 would; tests compare it with the library on every kind of pages.
//!
//! Names follow xdelta3.c.

use super::super::Page;
use crate::units::PAGE_BYTES;

/// `LLOOK`, `LSTEP`, `SLOOK`, `MAXLAZY` of level 1.
const LARGE_LOOK: usize = 9;
const LARGE_STEP: usize = 26;
const SMALL_LOOK: usize = 4;
const MAX_LAZY: usize = 6;
/// Of the code table.
const MIN_MATCH: usize = 4;
const MIN_RUN: usize = 8;
const MAX_SPLIT: u32 = 18;
/// Entries of the tables, for a window of a page and a source window of 16 KiB.
const SMALL: usize = 1 << 12;
const LARGE: usize = 1 << 9;
/// Addresses that the cache of the same ones holds.
const SAME: usize = 3 * 256;

unsafe extern "C" {
    /// The input alphabet, permuted for the large checksums. Never written to.
    static __single_hash: [u16; 256];
}

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Add,
    Run,
    /// From the base page.
    Source,
    /// From the page itself.
    Target,
}

#[derive(Clone, Copy, Debug)]
struct Instruction {
    kind: Kind,
    pos: u32,
    size: u32,
    addr: u32,
}

impl Instruction {
    fn end(self) -> u32 {
        self.pos.wrapping_add(self.size)
    }
}

/// Counts what xdelta3 would write; its tables are kept between pages.
pub struct Sizer {
    /// Positions in the page plus one.
    small: Box<[u16; SMALL]>,
    /// Positions in the base page plus one.
    large: [u16; LARGE],
    found: Vec<Instruction>,
    alphabet: [u16; 256],
}

impl Default for Sizer {
    fn default() -> Self {
        // SAFETY: a constant of the C code, of this type and length, that nothing writes to.
        let alphabet = unsafe { __single_hash };
        Self { small: Box::new([0; SMALL]), large: [0; LARGE], found: Vec::new(), alphabet }
    }
}

/// How many bytes two slices have in common at the front.
#[inline]
fn common(a: &[u8], b: &[u8]) -> usize {
    let mut at = 0;
    for (x, y) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        let differ = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if differ != 0 {
            return at + (differ.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at + a[at..].iter().zip(&b[at..]).take_while(|(x, y)| x == y).count()
}

/// Bytes of a number in VCDIFF.
fn length(n: u32) -> usize {
    match n {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        _ => 3,
    }
}

/// Whether a match is followed by a search for a better one at the next byte.
fn is_lazy(length: usize, pos: usize) -> bool {
    length < MAX_LAZY && pos + length <= PAGE_BYTES - 2
}

/// The large checksum, its halves apart; only their lower 16 bits count.
#[derive(Clone, Copy)]
struct Checksum {
    low: u32,
    high: u32,
}

impl Checksum {
    fn of(bytes: &[u8], alphabet: &[u16; 256]) -> Self {
        let mut sum = Self { low: 0, high: 0 };
        for byte in bytes {
            sum.low += u32::from(alphabet[usize::from(*byte)]);
            sum.high += sum.low;
        }
        sum
    }

    /// One byte further.
    #[inline]
    fn roll(&mut self, out: u8, next: u8, alphabet: &[u16; 256]) {
        let out = u32::from(alphabet[usize::from(out)]);
        self.low = self.low.wrapping_sub(out).wrapping_add(u32::from(alphabet[usize::from(next)]));
        self.high = self.high.wrapping_sub(out * LARGE_LOOK as u32).wrapping_add(self.low);
    }

    #[inline]
    fn slot(self) -> usize {
        ((self.high >> 7 ^ self.low) as usize) % LARGE
    }
}

#[inline]
fn word(page: &Page, at: usize) -> u32 {
    page.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |w| u32::from_ne_bytes(*w))
}

/// What was copied from the base page: first and last address of all matches found, dropped ones too.
#[derive(Clone, Copy, Default)]
struct Window {
    low: u32,
    high: u32,
}

impl Sizer {
    /// Bytes of the page's patch against the base page: what [`super::super::Method::Xdelta3`] writes, which may be more than a page.
    pub fn size(&mut self, page: &Page, base: &Page) -> usize {
        self.found.clear();
        let window = self.search(page, base);
        settle(&mut self.found);
        count(&self.found, window)
    }

    /// Enters the base page from byte `from` on: below it, it was matched already.
    fn enter(&mut self, base: &Page, from: usize) {
        self.large.fill(0);
        let mut at = PAGE_BYTES - LARGE_LOOK;
        loop {
            let checksum = Checksum::of(&base[at..at + LARGE_LOOK], &self.alphabet);
            self.large[checksum.slot()] = at as u16 + 1;
            match at.checked_sub(LARGE_STEP) {
                Some(below) if below >= from => at = below,
                _ => break,
            }
        }
    }

    /// `xd3_string_match_fastest`, with what `xd3_encode_input` does before it: finds matches.
    fn search(&mut self, page: &Page, base: &Page) -> Window {
        let mut window = Window::default();
        let mut pos = common(page, base);
        if pos < MIN_MATCH {
            pos = 0;
        } else {
            self.found.push(Instruction { kind: Kind::Source, pos: 0, size: pos as u32, addr: 0 });
            window.high = pos as u32;
        }
        self.enter(base, pos);
        self.small.fill(0);
        let Self { small, large, found, alphabet } = self;
        let mut last_source = 0;
        'restart: while pos + SMALL_LOOK <= PAGE_BYTES {
            let matched = found.last().map_or(0, |i| i.end() as usize);
            let mut least = if matched > pos { MIN_MATCH.max(1 + matched - pos) } else { MIN_MATCH };
            let (mut run, mut run_of) = (0, 0);
            for byte in &page[pos..pos + SMALL_LOOK] {
                (run, run_of) = if *byte == run_of { (run + 1, run_of) } else { (1, *byte) };
            }
            let mut checksum = Checksum::of(page.get(pos..pos + LARGE_LOOK).unwrap_or_default(), alphabet);
            loop {
                let here = word(page, pos);
                'tried: {
                    if run == SMALL_LOOK {
                        run += page[pos + SMALL_LOOK..].iter().take_while(|b| **b == run_of).count();
                        if run >= least && run >= MIN_RUN {
                            found.push(Instruction { kind: Kind::Run, pos: pos as u32, size: run as u32, addr: 0 });
                            pos += run;
                            continue 'restart;
                        }
                    }
                    let entry = if pos + LARGE_LOOK <= PAGE_BYTES { large[checksum.slot()] } else { 0 };
                    let source = usize::from(entry.saturating_sub(1));
                    // The one tried last is not tried again.
                    let again = (source != 0) & (source == last_source);
                    last_source = if entry != 0 { source } else { last_source };
                    // Four bytes that are equal are the least that helps.
                    if (entry != 0) & !again & (word(base, source) == here) {
                        let ahead = common(&page[pos..], &base[source..]);
                        if ahead >= least {
                            let before = page[..pos].iter().rev().zip(base[..source].iter().rev());
                            let back = before.take_while(|(x, y)| x == y).count();
                            let (from, addr) = ((pos - back) as u32, (source - back) as u32);
                            while back > 0 && found.last().is_some_and(|i| i.pos >= from) {
                                found.pop();
                            }
                            if window.high == 0 || addr < window.low {
                                window.low = addr;
                            }
                            window.high = window.high.max((source + ahead) as u32);
                            let size = (back + ahead) as u32;
                            found.push(Instruction { kind: Kind::Source, pos: from, size, addr });
                            if is_lazy(ahead, pos) {
                                least = ahead;
                                break 'tried;
                            }
                            pos += ahead;
                            continue 'restart;
                        }
                    }
                    let hash = here.wrapping_mul(1_597_334_677);
                    let slot = &mut small[((hash >> 20 ^ hash) as usize) % SMALL];
                    let before = std::mem::replace(slot, pos as u16 + 1);
                    let from = usize::from(before.saturating_sub(1));
                    if (before != 0) & (word(page, from) == here) {
                        let ahead = common(&page[pos..], &page[from..]);
                        if ahead >= least {
                            let (size, addr) = (ahead as u32, from as u32);
                            found.push(Instruction { kind: Kind::Target, pos: pos as u32, size, addr });
                            if is_lazy(ahead, pos) {
                                least = ahead;
                                break 'tried;
                            }
                            pos += ahead;
                            continue 'restart;
                        }
                    }
                    least -= usize::from(least > MIN_MATCH);
                }
                let Some(next) = page.get(pos + SMALL_LOOK) else { break 'restart };
                (run, run_of) = if *next == run_of { (run + 1, run_of) } else { (1, *next) };
                if let Some(next) = page.get(pos + LARGE_LOOK) {
                    checksum.roll(page[pos], *next, alphabet);
                }
                pos += 1;
            }
        }
        window
    }
}

/// `xd3_iopt_flush_instructions`: which of the matches that overlap are used, and how much of them.
fn settle(found: &mut Vec<Instruction>) {
    let Some(mut first) = found.first().copied() else { return };
    let (mut kept, mut next) = (0, 1);
    while let Some(mut second) = found.get(next).copied() {
        next += 1;
        let end = first.end();
        if end <= second.pos {
            found[kept] = first;
            (kept, first) = (kept + 1, second);
            continue;
        }
        let third = found.get(next).copied();
        if third.is_some_and(|third| third.pos <= end + 1) {
            continue;
        }
        let second_end = second.end();
        let gap = second_end.wrapping_sub(first.pos);
        if gap < 2 * MIN_MATCH as u32 || second_end.wrapping_sub(end) <= 2 || second.pos.wrapping_sub(first.pos) <= 2 {
            // One of the two, the longer.
            if first.size < second.size {
                first = second;
            } else if let Some(third) = third {
                found[kept] = first;
                (kept, first, next) = (kept + 1, third, next + 1);
            }
            continue;
        }
        let new = MAX_SPLIT.min(gap - gap / 2);
        let mut less = end.wrapping_sub(second.pos);
        if new > first.size {
            // The second is made shorter.
        } else if new > second.size {
            first.size = first.size.wrapping_sub(less);
            less = 0;
        } else {
            let mut adjust = first.size - new;
            if second.pos > end.wrapping_sub(adjust) {
                adjust = adjust.wrapping_sub(second.pos.wrapping_sub(end.wrapping_sub(adjust)));
            }
            first.size = first.size.wrapping_sub(adjust);
            less = first.end().wrapping_sub(second.pos);
        }
        second.size = second.size.wrapping_sub(less);
        second.pos = second.pos.wrapping_add(less);
        second.addr = second.addr.wrapping_add(less);
        found[kept] = first;
        (kept, first) = (kept + 1, second);
    }
    found[kept] = first;
    found.truncate(kept + 1);
}

/// The sections of a patch, and what is needed to encode.
struct Sections {
    data: usize,
    instructions: usize,
    addresses: usize,
    near: [u32; 4],
    turn: usize,
    same: [u32; SAME],
    /// An instruction that may share its code with the next one: what it is, and its size.
    open: Option<(Kind, u32)>,
}

impl Sections {
    /// `xd3_encode_address`; gives the mode.
    fn address(&mut self, addr: u32, here: u32) -> u32 {
        let (mut best, mut mode) = (addr, 0);
        let mut is_better = |d: u32, of: u32| {
            if d < best {
                (best, mode) = (d, of);
            }
            best < 0x80
        };
        let mut short = addr < 0x80 || is_better(here.wrapping_sub(addr), 1);
        for (near, of) in self.near.iter().zip(2..) {
            short = short || addr >= *near && is_better(addr - near, of);
        }
        let at = addr as usize % SAME;
        if !short && self.same[at] == addr {
            mode = 6 + (at / 256) as u32;
            self.addresses += 1;
        } else {
            self.addresses += length(best);
        }
        self.near[self.turn] = addr;
        self.turn = (self.turn + 1) % self.near.len();
        self.same[at] = addr;
        mode
    }

    /// `xd3_iopt_finish_encoding`: an instruction whose data and address are counted.
    fn finish(&mut self, kind: Kind, size: u32, mode: u32) {
        let is_copy = |kind| matches!(kind, Kind::Source | Kind::Target);
        if let Some((before, of)) = self.open.take() {
            // A code for two.
            let both = match kind {
                Kind::Add => size == 1 && of == 4 && is_copy(before),
                Kind::Run => false,
                _ => before == Kind::Add && of <= 4 && (mode <= 5 && (4..=6).contains(&size) || size == 4),
            };
            if both {
                self.instructions += 1;
                return;
            }
            self.single(before, of);
        }
        self.open = Some((kind, size));
    }

    fn single(&mut self, kind: Kind, size: u32) {
        let in_code = match kind {
            Kind::Run => false,
            Kind::Add => size <= 17,
            _ => (4..=18).contains(&size),
        };
        self.instructions += if in_code { 1 } else { 1 + length(size) };
    }
}

/// Encodes the matches and what lies between them, and the headers: only lengths.
fn count(found: &[Instruction], window: Window) -> usize {
    let mut out =
        Sections { data: 0, instructions: 0, addresses: 0, near: [0; 4], turn: 0, same: [0; SAME], open: None };
    let has_source = window.high > 0 && found.iter().any(|i| i.kind != Kind::Run);
    let taken = if has_source { window.high - window.low } else { 0 };
    let mut done = 0;
    for i in found {
        if i.pos > done {
            out.data += (i.pos - done) as usize;
            out.finish(Kind::Add, i.pos - done, 0);
        }
        let mut mode = 0;
        match i.kind {
            Kind::Source => mode = out.address(i.addr.wrapping_sub(window.low), i.pos + taken),
            Kind::Target => mode = out.address(i.addr + taken, i.pos + taken),
            _ => out.data += 1,
        }
        out.finish(i.kind, i.size, mode);
        done = i.end();
    }
    let rest = PAGE_BYTES as u32 - done.min(PAGE_BYTES as u32);
    if rest > 0 {
        out.data += rest as usize;
        out.finish(Kind::Add, rest, 0);
    }
    if let Some((kind, size)) = out.open.take() {
        out.single(kind, size);
    }
    let Sections { data, instructions, addresses, .. } = out;
    let lengths = [data, instructions, addresses].map(|n| length(n as u32)).iter().sum::<usize>();
    // The page's length in two bytes, and what tells that no section is compressed.
    let body = 2 + 1 + lengths + data + instructions + addresses;
    let source = if has_source { length(taken) + length(window.low) } else { 0 };
    5 + 1 + source + length(body as u32) + body
}
