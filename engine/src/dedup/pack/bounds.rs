//! What single methods would take for the same pages, to hold the result of all of them to.

use super::Report;
use crate::dedup::patch::Method;

/// Methods that stand for the paper's patches and for compression when a sample is taken.
pub(super) const SAMPLED: [Method; 3] = [Method::Xdelta3, Method::Zstd, Method::Lz4];

/// What methods alone would take, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    /// Pages equal to their base page.
    pub(super) identical: u64,
    /// Pages that were written with every method tried.
    pub(super) coded: u64,
    /// Bytes of their patches by each of [`Method::CODING`], at least.
    pub(super) least: [u64; Method::CODING.len()],
    /// A sample of pages, where the time was limited.
    pub(super) sample: Sample,
}

/// Bytes of the patches of some pages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// As written in the time given.
    pub(super) auto: u64,
    /// By xdelta3, zstd and LZ4, each alone.
    pub(super) alone: [u64; SAMPLED.len()],
}

impl Bounds {
    /// Those of more pages.
    pub(super) fn add(&mut self, other: &Self) {
        self.identical += other.identical;
        self.coded += other.coded;
        self.least.iter_mut().zip(other.least).for_each(|(sum, n)| *sum += n);
        self.sample.auto += other.sample.auto;
        self.sample.alone.iter_mut().zip(other.sample.alone).for_each(|(sum, n)| *sum += n);
    }

    /// The methods that alone might take less than this, the references to base pages counted.
    pub(super) fn doubtful(&self, report: &Report) -> Vec<Method> {
        let taken = report.patch_bytes + report.table_bytes + report.reference_bytes;
        let zero = report.pages.saturating_sub(self.coded + self.identical);
        let pages = Method::CODING.into_iter().zip(self.least).filter(|_| self.coded > 0);
        let less = pages.filter(|(method, patches)| {
            // Kind, length and checksum of each page; with a base, its number too. A page alone takes 6 bytes in any codec.
            let (coded, identical, references) =
                if method.needs_base() { (11, 10, report.reference_bytes) } else { (10, 16, 0) };
            taken > patches + coded * self.coded + identical * self.identical + zero + references
        });
        less.map(|(method, _)| method).collect()
    }

    /// Whether by the sample one method alone might take no more, with a margin for chance.
    pub(super) fn too_short(&self) -> bool {
        self.sample.alone.iter().any(|alone| self.sample.auto * 20 > alone * 19)
    }
}
