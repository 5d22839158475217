//! Fingerprints: a few chunk hashes that stand for a page.
//!
//! A chunk is 64 bytes; two pages that share a chunk hash are worth comparing. Three ways to choose the chunks
//! (REFERENCE): *value-sampled*, the default, walks the page in steps of 16 bytes, skips chunks of zeros, and
//! keeps a chunk if its hash is even, until it has enough: content decides, so shifted content is found again.
//! *Fixed-offset* takes the chunks at `k * 4096 / n`. *Non-null* takes the first chunk that is not zero in each
//! of `n` equal segments.
//!
//! The hash is a parameter: XXH3 with a key of the cluster's (a page made to collide needs the key), or SHA-1 as
//! in the reference, cut to 64 bits. A wrong match costs a bad patch and nothing else.

use std::num::NonZeroU8;

use sha1::{Digest, Sha1};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Page;
use super::zero::first_nonzero;
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
    /// XXH3, 64 bits, with this key.
    Xxh3(u64),
    /// SHA-1, its first 64 bits; even by its last bit.
    Sha1,
}

impl HashKind {
    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xxh3(_) => "xxh3",
            Self::Sha1 => "sha1",
        }
    }

    /// Hash of a chunk, and whether value sampling keeps it.
    #[inline]
    pub fn hash(self, chunk: &[u8; CHUNK]) -> (ChunkHash, bool) {
        match self {
            Self::Xxh3(key) => {
                let hash = xxh3_64_with_seed(chunk, key);
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
    /// Value-sampled, 5 chunks, XXH3 with key 0.
    fn default() -> Self {
        let hash = HashKind::Xxh3(0);
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
        let before = out.len();
        // One loop for each hash: the branch on it is out of the walk.
        match self.hash {
            HashKind::Xxh3(key) => self.walk(page, out, |c| HashKind::Xxh3(key).hash(c)),
            HashKind::Sha1 => self.walk(page, out, |c| HashKind::Sha1.hash(c)),
        }
        if out.len() == before {
            out.push(self.zero);
        }
    }

    #[inline]
    fn walk(&self, page: &Page, out: &mut Vec<ChunkHash>, hash: impl Fn(&[u8; CHUNK]) -> (ChunkHash, bool)) {
        let n = self.chunks();
        match self.sampling {
            Sampling::ValueSampled => value_sampled(page, n, out, hash),
            Sampling::FixedOffset => {
                let starts = (0..n).map(|k| k * PAGE_BYTES / n);
                out.extend(starts.filter_map(|at| page[at..].first_chunk()).map(|c| hash(c).0));
            }
            Sampling::NonNull => {
                for k in 0..n {
                    let end = (k + 1) * PAGE_BYTES / n;
                    let starts = (k * PAGE_BYTES / n..end).step_by(STEP);
                    let mut chunks = starts.filter_map(|at| page[at..].first_chunk::<CHUNK>());
                    if let Some(chunk) = chunks.find(|c| !super::zero::all_zero(&c[..])) {
                        out.push(hash(chunk).0);
                    }
                }
            }
        }
    }
}

#[inline]
fn value_sampled(page: &Page, n: usize, out: &mut Vec<ChunkHash>, hash: impl Fn(&[u8; CHUNK]) -> (ChunkHash, bool)) {
    let mut kept = 0;
    let mut at = 0;
    // First byte that is not zero, at or after `at`.
    let Some(mut occupied) = first_nonzero(page, 0) else { return };
    while let Some(chunk) = page.get(at..).and_then(<[u8]>::first_chunk::<CHUNK>) {
        if occupied < at {
            match first_nonzero(page, at) {
                Some(next) => occupied = next,
                None => return,
            }
        }
        if occupied >= at + CHUNK {
            // Skip to the first candidate that reaches the occupied byte.
            at = (occupied - CHUNK) / STEP * STEP + STEP;
            continue;
        }
        let (h, keep) = hash(chunk);
        if keep {
            out.push(h);
            kept += 1;
            if kept == n {
                return;
            }
        }
        at += STEP;
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
            let hash = if sha { HashKind::Sha1 } else { HashKind::Xxh3(7) };
            let mut out = Vec::new();
            Fingerprinter::new(Sampling::ValueSampled, n, hash).unwrap().page(&page, &mut out);
            prop_assert_eq!(out, by_the_book(&page, n as usize, hash));
        }

        #[test]
        fn every_way_gives_one_to_n_hashes(page in sparse_page(), n in 1u32..=64) {
            for sampling in Sampling::ALL {
                let mut out = Vec::new();
                Fingerprinter::new(sampling, n, HashKind::Xxh3(0)).unwrap().page(&page, &mut out);
                prop_assert!((1..=n as usize).contains(&out.len()));
            }
        }
    }

    #[test]
    fn sha1_is_sha1_and_the_key_matters() {
        // SHA-1 of 64 zero bytes: c8d7d0ef0eedfa82d2ea1aa592845b9a6d4b02b7.
        assert_eq!(HashKind::Sha1.hash(&[0; 64]), (0xc8d7_d0ef_0eed_fa82, false));
        assert_ne!(HashKind::Xxh3(1).hash(&[3; 64]).0, HashKind::Xxh3(2).hash(&[3; 64]).0);
        assert_eq!(Fingerprinter::new(Sampling::NonNull, 65, HashKind::Sha1), Err(ChunksOutOfRange(65)));
        assert!(Fingerprinter::new(Sampling::NonNull, 0, HashKind::Sha1).is_err());
    }
}
