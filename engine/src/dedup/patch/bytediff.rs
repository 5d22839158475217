//! The runs of bytes in which a page differs from its base page.
//!
//! Sandboxes of one function differ in scattered pointers, counters and strings. Where they do is found by comparing 32 bytes
//! at a time (AVX2, chosen at run time; else eight at a time, with the same result), and written as
//!
//! ```text
//! patch := run*                     until the page is complete; bytes after the last run are the base page's
//! run   := token [gap] [length] byte*
//! ```
//!
//! The token's upper four bits are the number of equal bytes before the run, its lower four the run's length
//! less one; 15 means that the rest of the number follows, as seven bits a byte, the lowest first, the top bit
//! saying that another byte follows. Runs with less than three equal bytes between them are written as one: a token costs
//! more.

use super::{Codec, DecodeError, Method};
use crate::dedup::{Page, vector};
use crate::units::PAGE_BYTES;

/// Equal bytes between two runs at which they are still joined.
const JOIN: usize = 2;
/// 64-bit words in a mask with a bit for each byte of a page.
const WORDS: usize = PAGE_BYTES / 64;

/// A bit for each byte of a page: whether it differs.
pub type Mask = [u64; WORDS];

/// The codec. Its scratch memory is kept between pages.
pub struct ByteDiff {
    differs: fn(&Page, &Page, &mut Mask),
    mask: Mask,
}

impl Default for ByteDiff {
    fn default() -> Self {
        Self { differs: fastest(), mask: [0; WORDS] }
    }
}

impl ByteDiff {
    /// The codec without vector instructions.
    pub fn portable() -> Self {
        Self { differs: differs_portable, mask: [0; WORDS] }
    }
}

fn fastest() -> fn(&Page, &Page, &mut Mask) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        return differs_by_avx2;
    }
    differs_portable
}

/// How far two pages are apart; ordered by what a patch would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Distance {
    /// Bytes that differ.
    pub bytes: u32,
    /// Runs of such bytes.
    pub runs: u32,
}

impl PartialOrd for Distance {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Distance {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.bytes + 2 * self.runs).cmp(&(other.bytes + 2 * other.runs))
    }
}

/// Compares pages, the fastest way this processor can.
#[derive(Clone, Copy)]
pub struct Differ(fn(&Page, &Page, &mut Mask));

impl Default for Differ {
    fn default() -> Self {
        Self(fastest())
    }
}

impl Differ {
    /// How far two pages are apart.
    pub fn distance(self, a: &Page, b: &Page) -> Distance {
        let mut mask = [0; WORDS];
        (self.0)(a, b, &mut mask);
        let (mut bytes, mut runs, mut before) = (0, 0, 0);
        for word in mask {
            bytes += word.count_ones();
            // A run starts where a bit is set and the one before is not.
            runs += (word & !(word << 1 | before)).count_ones();
            before = word >> 63;
        }
        Distance { bytes, runs }
    }
}

fn differs_portable(a: &Page, b: &Page, mask: &mut Mask) {
    let (a, _) = a.as_chunks::<64>();
    let (b, _) = b.as_chunks::<64>();
    for ((a, b), bits) in a.iter().zip(b).zip(mask) {
        *bits = 0;
        if a == b {
            continue;
        }
        let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
        for (i, (x, y)) in words.enumerate() {
            let x = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
            // The top bit of every byte that is not zero, gathered into one byte.
            let top = (((x & 0x7f7f_7f7f_7f7f_7f7f) + 0x7f7f_7f7f_7f7f_7f7f) | x) & 0x8080_8080_8080_8080;
            *bits |= ((top >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * i);
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn differs_by_avx2(a: &Page, b: &Page, mask: &mut Mask) {
    // SAFETY: this function is reached only through `fastest`, which has seen that the processor has AVX2.
    unsafe { differs_avx2(a, b, mask) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn differs_avx2(a: &Page, b: &Page, mask: &mut Mask) {
    use std::arch::x86_64::{__m256i, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8};
    let (a, _) = a.as_chunks::<32>();
    let (b, _) = b.as_chunks::<32>();
    let halves = a.iter().zip(b).map(|(x, y)| {
        // SAFETY: both are 32 bytes long, and the load asks for no alignment.
        let (x, y) = unsafe {
            (_mm256_loadu_si256(x.as_ptr().cast::<__m256i>()), _mm256_loadu_si256(y.as_ptr().cast::<__m256i>()))
        };
        u64::from(!_mm256_movemask_epi8(_mm256_cmpeq_epi8(x, y)).cast_unsigned())
    });
    let mut low = 0;
    for (i, half) in halves.enumerate() {
        if i % 2 == 0 {
            low = half;
        } else {
            mask[i / 2] = low | half << 32;
        }
    }
}

/// Position of the first bit that is `set`, at or after `from`; the page's length if there is none.
fn next(mask: &Mask, from: usize, set: bool) -> usize {
    let flip = if set { 0 } else { u64::MAX };
    let mut at = from / 64;
    let mut skip = u64::MAX << (from % 64);
    while let Some(word) = mask.get(at) {
        let bits = (word ^ flip) & skip;
        if bits != 0 {
            return at * 64 + bits.trailing_zeros() as usize;
        }
        skip = u64::MAX;
        at += 1;
    }
    PAGE_BYTES
}

fn write_rest(mut n: usize, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

impl Codec for ByteDiff {
    fn method(&self) -> Method {
        Method::ByteDiff
    }

    fn encode(&mut self, page: &Page, base: &Page, limit: usize, out: &mut Vec<u8>) -> bool {
        (self.differs)(page, base, &mut self.mask);
        let start = out.len();
        let mut done = 0;
        let mut from = next(&self.mask, 0, true);
        while from < PAGE_BYTES {
            let mut to = next(&self.mask, from, false);
            let mut after = next(&self.mask, to, true);
            while after < PAGE_BYTES && after - to <= JOIN {
                to = next(&self.mask, after, false);
                after = next(&self.mask, to, true);
            }
            let (gap, more) = (from - done, to - from - 1);
            out.push((gap.min(15) << 4 | more.min(15)) as u8);
            if gap >= 15 {
                write_rest(gap - 15, out);
            }
            if more >= 15 {
                write_rest(more - 15, out);
            }
            out.extend_from_slice(&page[from..to]);
            if out.len() - start >= limit {
                out.truncate(start);
                return false;
            }
            done = to;
            from = after;
        }
        limit > 0
    }

    fn decode(&mut self, patch: &[u8], base: &Page, page: &mut Page) -> Result<(), DecodeError> {
        vector::copy(page, base);
        apply(patch, page)
    }
}

/// Writes the runs of a patch over a copy of the base page.
///
/// # Errors
/// If it is no patch; `page` then holds anything.
pub fn apply(patch: &[u8], page: &mut Page) -> Result<(), DecodeError> {
    let mut at = 0;
    let mut to = 0;
    let read = |at: &mut usize, nibble: u8| -> Result<usize, DecodeError> {
        if nibble < 15 {
            return Ok(usize::from(nibble));
        }
        let mut n = 0;
        for shift in [0, 7, 14] {
            let byte = *patch.get(*at).ok_or(DecodeError::Short(*at))?;
            *at += 1;
            n |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n + 15);
            }
        }
        Err(DecodeError::Long(*at))
    };
    while let Some(token) = patch.get(at) {
        at += 1;
        to += read(&mut at, token >> 4)?;
        let length = read(&mut at, token & 15)? + 1;
        let from = patch.get(at..at + length).ok_or(DecodeError::Short(patch.len()))?;
        page.get_mut(to..to + length).ok_or(DecodeError::Long(at))?.copy_from_slice(from);
        at += length;
        to += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined_and_numbers_extended_as_documented() {
        let base = [7u8; PAGE_BYTES];
        let mut page = base;
        page[3] = 1;
        page[6] = 2; // Two equal bytes between: one run of four.
        for b in &mut page[100..120] {
            *b = 9;
        }
        page[4095] = 0;
        let mut out = Vec::new();
        assert!(ByteDiff::default().encode(&page, &base, PAGE_BYTES, &mut out));
        let mut expected = vec![0x33, 1, 7, 7, 2];
        expected.extend([0xff, 93 - 15, 4]); // 93 equal, then 15 + 4 + 1 = 20 bytes.
        expected.extend([9; 20]);
        expected.extend([0xf0, 0x80 | (3960 & 0x7f) as u8, (3960 >> 7) as u8, 0]); // 3975 equal.
        assert_eq!(out, expected);
        assert_eq!(Differ::default().distance(&page, &base), Distance { bytes: 23, runs: 4 });
        let mut back = [0; PAGE_BYTES];
        ByteDiff::default().decode(&out, &base, &mut back).unwrap();
        assert_eq!(back, page);
        assert!(!ByteDiff::default().encode(&page, &base, expected.len(), &mut out));
        assert_eq!(out, expected, "nothing is left behind");
    }

    #[test]
    fn damage_is_refused() {
        let (base, mut page) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
        let mut codec = ByteDiff::default();
        for patch in [&[0x01u8, 1][..], &[0xf0], &[0xff, 0xff, 0xff, 0xff], &[0xf0, 0xff, 0x7f, 1], &[0x0f]] {
            assert!(codec.decode(patch, &base, &mut page).is_err(), "{patch:?}");
        }
    }
}
