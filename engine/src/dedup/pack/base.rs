//! The bases that images are packed against: their pages, and an index of their chunks.

use xxhash_rust::xxh3::Xxh3Default;

use crate::dedup::fingerprint::Fingerprinter;
use crate::dedup::image::Image;
use crate::dedup::index::{BaseSlot, Index, PageRef};
use crate::dedup::layout::Layout;
use crate::dedup::zero;

use super::each;

/// Pages entered into the index at a time.
const BATCH: usize = 1024;

/// A base.
pub struct Base {
    /// Its checkpoint.
    pub image: Image,
    /// Its regions.
    pub layout: Layout,
    /// What it is known by.
    pub digest: u64,
    slot: BaseSlot,
}

/// Why a base was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AddBaseError {
    /// The index has no slot left.
    #[error("{name}: {source}")]
    Full {
        /// The image.
        name: String,
        /// Of the index.
        source: crate::dedup::index::TooManyBases,
    },
    /// Page numbers would not fit.
    #[error("{name} has {pages} pages; a base has at most {most}")]
    Large {
        /// The image.
        name: String,
        /// Its pages.
        pages: u64,
        /// What is allowed.
        most: u64,
    },
}

/// Bases and the index over them.
pub struct BaseSet {
    bases: Vec<Base>,
    index: Index,
    fingerprinter: Fingerprinter,
    relocate: bool,
}

/// What an image is known by: a hash of its pages, so that a dedup file finds its bases again.
pub fn digest(image: &Image) -> u64 {
    let mut hash = Xxh3Default::new();
    for file in image.files() {
        hash.update(file.pages().as_flattened());
    }
    hash.digest()
}

impl BaseSet {
    /// No bases yet. With `relocate`, pointers are taken out of fingerprints and corrected in base pages (see
    /// [`crate::dedup::layout`]); without, pages are taken as they are, as in the paper.
    pub fn new(fingerprinter: Fingerprinter, relocate: bool) -> Self {
        Self { bases: Vec::new(), index: Index::default(), fingerprinter, relocate }
    }

    /// Adds a base: fingerprints all its pages with `threads` threads and enters them.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn add(&mut self, image: Image, threads: usize) -> Result<(), AddBaseError> {
        let most = u64::from(u32::MAX) - 1;
        if image.pages() > most {
            return Err(AddBaseError::Large { name: image.name().into(), pages: image.pages(), most });
        }
        let name = || image.name().to_string();
        let slot = self.index.add_base().map_err(|source| AddBaseError::Full { name: name(), source })?;
        let layout = Layout::of(&image);
        let batches = (image.pages() as usize).div_ceil(BATCH);
        let entries = each(
            batches,
            threads,
            || (),
            |(), i| {
                let mut out = Vec::with_capacity(BATCH * self.fingerprinter.chunks());
                let mut hashes = Vec::new();
                for n in (i * BATCH) as u64..((i + 1) * BATCH) as u64 {
                    let Some(page) = image.page(n).filter(|p| !zero::is_zero(p)) else { continue };
                    hashes.clear();
                    if self.relocate {
                        self.fingerprinter.page_mapped(page, layout.canonical(n), &mut hashes);
                    } else {
                        self.fingerprinter.page(page, &mut hashes);
                    }
                    out.extend(hashes.iter().map(|h| (*h, PageRef { base: slot, page: n as u32 })));
                }
                out
            },
        );
        for batch in entries {
            self.index.insert(&batch);
        }
        let digest = digest(&image);
        self.bases.push(Base { image, layout, digest, slot });
        Ok(())
    }

    /// The bases, in the order in which they were added.
    pub fn bases(&self) -> &[Base] {
        &self.bases
    }

    /// The index over them.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// How fingerprints are taken.
    pub fn fingerprinter(&self) -> &Fingerprinter {
        &self.fingerprinter
    }

    /// Whether pointers are corrected.
    pub fn relocates(&self) -> bool {
        self.relocate
    }

    /// Position of the base in a slot.
    pub fn position(&self, slot: BaseSlot) -> Option<usize> {
        // Slots are given out in order and bases are never taken out of a set, so this is the first guess.
        match self.bases.get(usize::from(slot.0)) {
            Some(base) if base.slot == slot => Some(usize::from(slot.0)),
            _ => self.bases.iter().position(|b| b.slot == slot),
        }
    }

    /// Slot of a base.
    pub fn slot(&self, position: usize) -> Option<BaseSlot> {
        self.bases.get(position).map(|b| b.slot)
    }
}
