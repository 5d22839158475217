//! How much of an image is to be found in another, chunk by chunk: the measurements behind the paper's redundancy figures.
//!
//! Nothing is deduplicated here. Chunks are cut from the image at multiples of their size within each page and searched at every
//! 16-byte offset of the pages of the other image, where allocators put things; matches are compared byte for byte, so none
//! is a coincidence of hashes. Chunks of zeros are counted apart: they are everywhere.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use super::Page;
use super::fingerprint::{CHUNK, STEP};
use super::image::{Image, MappingKind, Place};
use super::zero::all_zero;
use crate::units::PAGE_BYTES;

/// Chunk sizes of the paper's figure, and the whole page.
pub const SIZES: [usize; 6] = [64, 128, 256, 512, 1024, PAGE_BYTES];

/// Distance of the chunks that the heat map samples.
const SAMPLE: usize = 128;

/// Every chunk of an image at every 16-byte offset (whole pages: at offset 0), each content once.
pub struct ChunkIndex<'a> {
    image: &'a Image,
    size: usize,
    /// 0, or one more than the place: page * 256 + offset / 16.
    slots: Vec<u32>,
}

impl<'a> ChunkIndex<'a> {
    /// Indexes chunks of `size` bytes (rounded into 64 ..= 4096) of up to 16 million pages.
    pub fn new(image: &'a Image, size: usize) -> Self {
        let size = size.clamp(CHUNK, PAGE_BYTES);
        let offsets = (PAGE_BYTES - size) / STEP + 1;
        let chunks = (image.pages() as usize).min(1 << 24) * offsets;
        let mut index = Self { image, size, slots: vec![0; (chunks * 3 / 2).next_power_of_two().max(16)] };
        for (n, page) in image.iter().enumerate().take(1 << 24) {
            for at in (0..=PAGE_BYTES - size).step_by(STEP) {
                let chunk = &page[at..at + size];
                if page[at..at + STEP].iter().all(|b| *b == 0) && all_zero(chunk) {
                    continue;
                }
                if let Err(slot) = index.search(chunk) {
                    index.slots[slot] = (n * (PAGE_BYTES / STEP) + at / STEP + 1) as u32;
                }
            }
        }
        index
    }

    /// Bytes in its chunks.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Page number and offset of a chunk with this content.
    pub fn find(&self, chunk: &[u8]) -> Option<(u64, usize)> {
        self.search(chunk).ok()
    }

    fn search(&self, chunk: &[u8]) -> Result<(u64, usize), usize> {
        let mask = self.slots.len() - 1;
        let mut slot = xxh3_64(chunk) as usize & mask;
        loop {
            let Some(place) = self.slots[slot].checked_sub(1) else { return Err(slot) };
            let (n, at) = (u64::from(place) / 256, place as usize % 256 * STEP);
            if self.image.page(n).and_then(|p| p.get(at..at + self.size)) == Some(chunk) {
                return Ok((n, at));
            }
            slot = (slot + 1) & mask;
        }
    }
}

/// Bytes of an image by whether another has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// All bytes.
    pub bytes: u64,
    /// In chunks of zeros.
    pub zero: u64,
    /// In other chunks that the other image has.
    pub found: u64,
}

impl Tally {
    /// Share of the bytes that are redundant, zeros among them; 0 of nothing.
    pub fn redundant(&self) -> f64 {
        (self.zero + self.found) as f64 / (self.bytes as f64).max(1.0)
    }

    /// Share of zeros.
    pub fn zeros(&self) -> f64 {
        self.zero as f64 / (self.bytes as f64).max(1.0)
    }

    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.zero += other.zero;
        self.found += other.found;
    }
}

fn page_tally(index: &ChunkIndex<'_>, page: &Page) -> Tally {
    let mut tally = Tally { bytes: PAGE_BYTES as u64, ..Tally::default() };
    for chunk in page.chunks_exact(index.size) {
        if all_zero(chunk) {
            tally.zero += chunk.len() as u64;
        } else if index.find(chunk).is_some() {
            tally.found += chunk.len() as u64;
        }
    }
    tally
}

/// Redundancy of an image against the indexed one.
pub fn redundancy(index: &ChunkIndex<'_>, image: &Image) -> Tally {
    image.iter().fold(Tally::default(), |mut sum, page| {
        sum.add(page_tally(index, page));
        sum
    })
}

/// The same by kind of mapping; `places` are those of the image ([`Image::places`]).
pub fn redundancy_by_kind(index: &ChunkIndex<'_>, image: &Image, places: &[Place]) -> BTreeMap<MappingKind, Tally> {
    let mut out: BTreeMap<MappingKind, Tally> = BTreeMap::new();
    for (page, place) in image.iter().zip(places) {
        out.entry(place.kind).or_default().add(page_tally(index, page));
    }
    out
}

/// Redundancy as in the paper's heat map: chunks of 64 bytes every 128 bytes of the image, each match extended
/// over up to 64 bytes more, relative to all bytes. The index must be of chunks of 64 bytes.
pub fn sampled(index: &ChunkIndex<'_>, image: &Image) -> Tally {
    let mut sum = Tally::default();
    for page in image.iter() {
        sum.bytes += PAGE_BYTES as u64;
        for sample in page.chunks_exact(SAMPLE) {
            let (chunk, more) = sample.split_at(CHUNK);
            if all_zero(chunk) {
                sum.zero += (CHUNK + more.iter().take_while(|b| **b == 0).count()) as u64;
            } else if let Some((n, at)) = index.find(chunk) {
                let follows = index.image.page(n).and_then(|p| p.get(at + CHUNK..)).unwrap_or_default();
                let extended = more.iter().zip(follows).take_while(|(a, b)| a == b).count();
                sum.found += (CHUNK + extended) as u64;
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64) -> Page {
        let mut x = seed | 1;
        std::array::from_fn(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
    }

    #[test]
    fn shifted_and_edited_content_is_counted_to_the_byte() {
        let base = [noise(1), noise(3)];
        let mut edited = base[0];
        edited[200] ^= 1;
        // The second page 48 bytes further on; what is pushed out is lost, what comes in is zero.
        let mut shifted = [0; PAGE_BYTES];
        shifted[48..].copy_from_slice(&base[1][..PAGE_BYTES - 48]);
        let image = Image::from_pages("i", &[edited, shifted, [0; PAGE_BYTES], noise(5)]);
        let base = Image::from_pages("b", &base);
        let all = 4 * PAGE_BYTES as u64;
        let index = ChunkIndex::new(&base, 64);
        // One chunk of the first page, the first of the second (48 zeros and 16 bytes) and the last page are new.
        let t = redundancy(&index, &image);
        assert_eq!(t, Tally { bytes: all, zero: 4096, found: 4096 - 64 + 4096 - 64 });
        let whole = redundancy(&ChunkIndex::new(&base, PAGE_BYTES), &image);
        assert_eq!(whole, Tally { bytes: all, zero: 4096, found: 0 });
        // Samples: byte 200 lies 8 bytes into the extension of the sample at 128.
        let t = sampled(&index, &image);
        assert_eq!(t, Tally { bytes: all, zero: 4096, found: 4096 - 56 + 4096 - 128 });
        let kinds = redundancy_by_kind(&index, &image, &image.places());
        assert_eq!(kinds[&MappingKind::Unknown], redundancy(&index, &image));
        assert_eq!(redundancy(&index, &base).redundant(), 1.0);
    }
}
