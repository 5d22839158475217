//! Fingerprints: a few chunk hashes that stand for a page.
//!
//! A chunk is 64 bytes; two pages that share a chunk hash are worth comparing. Three ways to choose the chunks
//! (REFERENCE): *value-sampled*, the default, walks the page in steps of 16 bytes, skips chunks of zeros, and
//! keeps a chunk if its hash is even, until it has enough: content decides, so shifted content is found again.
//! *Fixed-offset* takes the chunks at `k * 4096 / n`. *Non-null* takes the first chunk that is not zero in each
//! of `n` equal segments.
//!
//! The hash is a parameter. *Fold*, the default, is 64 bits wide, keyed, and built for chunks that overlap: each 16 bytes
//! are mixed once by a 64 x 64 -> 128 bit multiplication with two words of the key, and a chunk's hash joins four
//! such units, rotated by their position, by one more multiplication. So a step of the walk costs two multiplications, where
//! a hash of the whole chunk costs five or more, on any processor with a 64-bit multiplier and with the same result on all. *SHA-1* is
//! the reference's, cut to 64 bits. A wrong match costs a bad patch and nothing else, and who wants to cause them
//! on purpose needs the cluster's key.

use std::num::NonZeroU8;

use sha1::{Digest, Sha1};

use super::Page;
use super::zero::{all_zero, first_nonzero};
use crate::units::PAGE_BYTES;

/// Bytes of a chunk.
pub const CHUNK: usize = 64;
/// Distance of candidate chunks.
pub const STEP: usize = 16;
/// Most chunks in a fingerprint.
pub const MOST_CHUNKS: u8 = 64;

/// Hash of a chunk.
pub type ChunkHash = u64;

/// Which chunks stand for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampling {
    /// The first chunks with an even hash.
    ValueSampled,
    /// The chunks at equal distances.
    FixedOffset,
    /// The first chunk that is not zero in each of equal segments.
    NonNull,
}

impl Sampling {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ValueSampled, Self::FixedOffset, Self::NonNull];

    /// The name in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ValueSampled => "value-sampled",
            Self::FixedOffset => "fixed-offset",
            Self::NonNull => "non-null",
        }
    }
}

/// How chunks are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HashKind {
    /// Folded multiplications, 64 bits, with this key.
    Fold(u64),
    /// SHA-1, its first 64 bits; even by its last bit.
    Sha1,
}

impl HashKind {
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fold(_) => "fold",
            Self::Sha1 => "sha1",
        }
    }

    /// Hash of a chunk, and whether value sampling keeps it.
    pub fn hash(self, chunk: &[u8; CHUNK]) -> (ChunkHash, bool) {
        match self {
            Self::Fold(key) => {
                let fold = Fold::new(key);
                let words = chunk.as_chunks::<8>().0;
                let word = |i: usize| words.get(i).map_or(0, |w| u64::from_le_bytes(*w));
                let hash = fold.join(std::array::from_fn(|i| fold.unit(word(2 * i), word(2 * i + 1))));
                (hash, hash & 1 == 0)
            }
            Self::Sha1 => {
                let digest: [u8; 20] = Sha1::digest(chunk).into();
                let (head, _) = digest.as_chunks::<8>();
                (head.first().map_or(0, |h| u64::from_be_bytes(*h)), digest[19] & 1 == 0)
            }
        }
    }
}

/// The folded-multiplication hash with its key spread out.
#[derive(Clone, Copy)]
struct Fold {
    low: u64,
    high: u64,
    last: u64,
}

impl Fold {
    fn new(key: u64) -> Self {
        // SplitMix64 spreads the key; the constants are its author's.
        let mut state = key;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ z >> 31
        };
        Self { low: next(), high: next(), last: next() | 1 }
    }

    /// Mixes 16 bytes.
    #[inline]
    fn unit(self, low: u64, high: u64) -> u64 {
        fold(low ^ self.low, high ^ self.high)
    }

    /// Joins the units of a chunk.
    #[inline]
    fn join(self, units: [u64; CHUNK / STEP]) -> u64 {
        let [a, b, c, d] = units;
        let sum = a.wrapping_add(b.rotate_left(17)).wrapping_add(c.rotate_left(33)).wrapping_add(d.rotate_left(49));
        fold(sum, self.last)
    }
}

/// Both halves of a 128-bit product, as one.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// How fingerprints are taken. All who share an index must use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fingerprinter {
    sampling: Sampling,
    chunks: NonZeroU8,
    hash: HashKind,
    /// Hash of the chunk of zeros.
    zero: ChunkHash,
}

/// A number of chunks that no fingerprint has.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("chunksperpage is {0}; it must be 1 to {MOST_CHUNKS}")]
pub struct ChunksOutOfRange(pub u32);

impl Default for Fingerprinter {
    /// Value-sampled, 5 chunks, folded multiplications with key 0.
    fn default() -> Self {
        let hash = HashKind::Fold(0);
        let chunks = NonZeroU8::MIN.saturating_add(4);
        Self { sampling: Sampling::ValueSampled, chunks, hash, zero: hash.hash(&[0; CHUNK]).0 }
    }
}

impl Fingerprinter {
    /// Fingerprints of `chunks` chunks.
    ///
    /// # Errors
    /// If `chunks` is not within 1 to [`MOST_CHUNKS`].
    pub fn new(sampling: Sampling, chunks: u32, hash: HashKind) -> Result<Self, ChunksOutOfRange> {
        let count = u8::try_from(chunks).ok().filter(|n| *n <= MOST_CHUNKS).and_then(NonZeroU8::new);
        let chunks = count.ok_or(ChunksOutOfRange(chunks))?;
        Ok(Self { sampling, chunks, hash, zero: hash.hash(&[0; CHUNK]).0 })
    }

    /// Chunks in a fingerprint at most.
    pub fn chunks(&self) -> usize {
        usize::from(self.chunks.get())
    }

    /// Which chunks.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// How they are hashed.
    pub fn hash(&self) -> HashKind {
        self.hash
    }

    /// Appends the page's fingerprint to `out`: 1 to [`Self::chunks`] hashes, not necessarily distinct. A page
    /// in which no chunk qualifies has the hash of the chunk of zeros.
    pub fn page(&self, page: &Page, out: &mut Vec<ChunkHash>) {
        self.page_mapped(page, |word| word, out);
    }

    /// The fingerprint of the page that has `map(w)` in place of each 8-byte word `w`. `map` must give zero for zero
    /// only. It is called only for the words that the walk comes to.
    pub fn page_mapped(&self, page: &Page, mut map: impl FnMut(u64) -> u64, out: &mut Vec<ChunkHash>) {
        let before = out.len();
        match (self.sampling, self.hash) {
            (Sampling::ValueSampled, HashKind::Fold(key)) => {
                value_sampled_fold(page, self.chunks(), Fold::new(key), map, out);
            }
            _ => {
                let mut mapped = *page;
                for word in mapped.as_chunks_mut::<8>().0 {
                    *word = map(u64::from_le_bytes(*word)).to_le_bytes();
                }
                self.walk(&mapped, out);
            }
        }
        if out.len() == before {
            out.push(self.zero);
        }
    }

    fn walk(&self, page: &Page, out: &mut Vec<ChunkHash>) {
        let n = self.chunks();
        match self.sampling {
            Sampling::ValueSampled => {
                let chunks = (0..=PAGE_BYTES - CHUNK).step_by(STEP).filter_map(|at| page[at..].first_chunk::<CHUNK>());
                let occupied = chunks.filter(|c| !all_zero(&c[..]));
                let kept = occupied.map(|c| self.hash.hash(c)).filter(|(_, keep)| *keep);
                out.extend(kept.map(|(hash, _)| hash).take(n));
            }
            Sampling::FixedOffset => {
                let starts = (0..n).map(|k| k * PAGE_BYTES / n);
                out.extend(starts.filter_map(|at| page[at..].first_chunk()).map(|c| self.hash.hash(c).0));
            }
            Sampling::NonNull => {
                for k in 0..n {
                    let end = (k + 1) * PAGE_BYTES / n;
                    let starts = (k * PAGE_BYTES / n..end).step_by(STEP);
                    let mut chunks = starts.filter_map(|at| page[at..].first_chunk::<CHUNK>());
                    if let Some(chunk) = chunks.find(|c| !all_zero(&c[..])) {
                        out.push(self.hash.hash(chunk).0);
                    }
                }
            }
        }
    }
}

/// The walk of value sampling for the folding hash: each 16 bytes are read, mapped and mixed once.
#[inline]
fn value_sampled_fold(page: &Page, n: usize, fold: Fold, mut map: impl FnMut(u64) -> u64, out: &mut Vec<ChunkHash>) {
    let nothing = fold.unit(0, 0);
    let mut units = [nothing; CHUNK / STEP];
    // A bit for each of the last four units: whether it is occupied.
    let mut occupied = 0u32;
    let mut kept = 0;
    let all = page.as_chunks::<STEP>().0;
    let mut at = 0;
    while let Some(bytes) = all.get(at) {
        let words = u128::from_le_bytes(*bytes);
        let (low, high) = (words as u64, (words >> 64) as u64);
        occupied = occupied << 1 & 15;
        let unit = if words == 0 {
            if occupied == 0 {
                // A run of zeros longer than a chunk: on to its end.
                let Some(next) = first_nonzero(page, at * STEP) else { return };
                if next / STEP > at {
                    at = next / STEP;
                    units = [nothing; CHUNK / STEP];
                    continue;
                }
            }
            nothing
        } else {
            occupied |= 1;
            fold.unit(map(low), map(high))
        };
        units = [units[1], units[2], units[3], unit];
        at += 1;
        if at >= CHUNK / STEP && occupied != 0 {
            let hash = fold.join(units);
            if hash & 1 == 0 {
                out.push(hash);
                kept += 1;
                if kept == n {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule of the reference, word by word.
    fn by_the_book(page: &Page, n: usize, hash: HashKind) -> Vec<ChunkHash> {
        let mut out = Vec::new();
        for at in (0..=PAGE_BYTES - CHUNK).step_by(STEP) {
            let chunk: &[u8; CHUNK] = page[at..].first_chunk().unwrap();
            let (h, even) = hash.hash(chunk);
            if chunk.iter().any(|b| *b != 0) && even && out.len() < n {
                out.push(h);
            }
        }
        if out.is_empty() {
            out.push(hash.hash(&[0; CHUNK]).0);
        }
        out
    }

    fn sparse_page() -> impl Strategy<Value = Page> {
        let sparse = proptest::collection::vec((0..PAGE_BYTES, 1u8..), 0..40).prop_map(|bytes| {
            let mut page = [0; PAGE_BYTES];
            for (at, b) in bytes {
                page[at] = b;
            }
            page
        });
        let dense = any::<u64>().prop_map(|seed| {
            let mut x = seed | 1;
            std::array::from_fn(|_| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (x >> 56) as u8
            })
        });
        prop_oneof![sparse, dense]
    }

    proptest! {
        #[test]
        fn value_sampling_follows_the_reference(page in sparse_page(), n in 1u32..=64, sha in any::<bool>()) {
            let hash = if sha { HashKind::Sha1 } else { HashKind::Fold(7) };
            let mut out = Vec::new();
            Fingerprinter::new(Sampling::ValueSampled, n, hash).unwrap().page(&page, &mut out);
            prop_assert_eq!(out, by_the_book(&page, n as usize, hash));
        }

        #[test]
        fn every_way_gives_one_to_n_hashes(page in sparse_page(), n in 1u32..=64) {
            for sampling in Sampling::ALL {
                let mut out = Vec::new();
                Fingerprinter::new(sampling, n, HashKind::Fold(0)).unwrap().page(&page, &mut out);
                prop_assert!((1..=n as usize).contains(&out.len()));
            }
        }
    }

    #[test]
    fn sha1_is_sha1_and_the_key_matters() {
        // SHA-1 of 64 zero bytes: c8d7d0ef0eedfa82d2ea1aa592845b9a6d4b02b7.
        assert_eq!(HashKind::Sha1.hash(&[0; 64]), (0xc8d7_d0ef_0eed_fa82, false));
        assert_ne!(HashKind::Fold(1).hash(&[3; 64]).0, HashKind::Fold(2).hash(&[3; 64]).0);
        assert_eq!(Fingerprinter::new(Sampling::NonNull, 65, HashKind::Sha1), Err(ChunksOutOfRange(65)));
        assert!(Fingerprinter::new(Sampling::NonNull, 0, HashKind::Sha1).is_err());
    }
}
