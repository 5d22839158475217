//! The bases that images are packed against: their pages and an index of their chunks, or, where bases are on other nodes,
//! what somebody found and a way to read it.

use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use crate::dedup::fingerprint::{ChunkHash, Fingerprinter};
use crate::dedup::image::Image;
use crate::dedup::index::{BaseSlot, Index, PageRef};
use crate::dedup::layout::Layout;
use crate::dedup::unpack::{FetchError, Run};
use crate::dedup::{Page, zero};

use super::{Found, each};

/// Pages fingerprinted and entered into the index at a time.
pub const BATCH: usize = 1024;

/// A base.
pub struct Base {
    /// How dedup files call it.
    pub name: String,
    /// Its regions, and how many pages it has.
    pub layout: Arc<Layout>,
    /// What it is known by.
    pub digest: u64,
    slot: BaseSlot,
    image: Option<Image>,
}

impl Base {
    /// A base whose pages are not at hand.
    pub fn elsewhere(name: String, layout: Arc<Layout>, digest: u64, slot: BaseSlot) -> Self {
        Self { name, layout, digest, slot, image: None }
    }

    /// Its checkpoint, if that is at hand.
    pub fn image(&self) -> Option<&Image> {
        self.image.as_ref()
    }
}

/// Base pages for one page, best first.
pub type Candidates = [Option<PageRef>; 3];

/// Base pages found for the pages of one image, by whoever keeps the index.
pub struct Findings {
    /// The bases; those found most often should come first, since only of the first few is the page at the same place tried.
    pub bases: Vec<Base>,
    /// For each page of the image the best few base pages, best first.
    pub found: Vec<Candidates>,
    /// Reads them.
    pub source: Box<dyn BaseSource>,
}

/// Reads base pages to pack against. Bases are named by their position.
pub trait BaseSource: Send + Sync {
    /// Makes pages ready for [`Self::page`]. Runs are ascending and do not overlap; called before any page is asked for, and again with the
    /// same runs if the image is packed another way.
    ///
    /// # Errors
    /// The first run that cannot be had.
    fn fetch(&self, runs: &[Run]) -> Result<(), FetchError>;

    /// A page of the runs; `None` for any other.
    fn page(&self, base: u32, number: u32) -> Option<&Page>;
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

impl<T: BaseSource> BaseSource for Arc<T> {
    fn fetch(&self, runs: &[Run]) -> Result<(), FetchError> {
        (**self).fetch(runs)
    }

    fn page(&self, base: u32, number: u32) -> Option<&Page> {
        (**self).page(base, number)
    }
}

/// Bases and the index over them.
pub struct BaseSet {
    bases: Vec<Base>,
    index: Index,
    fingerprinter: Fingerprinter,
    relocate: bool,
    /// What was found elsewhere for one image.
    elsewhere: Option<(Vec<Candidates>, Box<dyn BaseSource>)>,
}

/// Fingerprints of adjacent pages of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprints {
    first: u64,
    /// Where the hashes of each page end.
    ends: Vec<u32>,
    hashes: Vec<ChunkHash>,
}

impl Fingerprints {
    /// Every page (by number) and its hashes: none for a page of zeros.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[ChunkHash])> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let slices = starts.zip(&self.ends).map(|(from, to)| self.hashes.get(from as usize..*to as usize));
        (self.first..).zip(slices.map(Option::unwrap_or_default))
    }

    /// For the wire: number of the first page, how many hashes each page has, and the hashes, 8 bytes each, little-endian.
    pub fn packed(&self) -> (u64, Vec<u8>, Vec<u8>) {
        // A page has at most 64.
        let counts = self.iter().map(|(_, hashes)| hashes.len() as u8).collect();
        (self.first, counts, self.hashes.iter().flat_map(|h| h.to_le_bytes()).collect())
    }
}

/// Fingerprints all pages of an image with some threads, [`BATCH`] pages at a time, in order.
pub fn fingerprints(
    image: &Image,
    layout: &Layout,
    fingerprinter: &Fingerprinter,
    relocate: bool,
    threads: usize,
) -> Vec<Fingerprints> {
    each(
        (image.pages() as usize).div_ceil(BATCH),
        threads,
        || (),
        |(), i| {
            let first = (i * BATCH) as u64;
            let mut out = Fingerprints { first, ..Fingerprints::default() };
            for n in first..image.pages().min(first + BATCH as u64) {
                if let Some(page) = image.page(n).filter(|p| !zero::is_zero(p)) {
                    if relocate {
                        fingerprinter.page_mapped(page, layout.canonical(n), &mut out.hashes);
                    } else {
                        fingerprinter.page(page, &mut out.hashes);
                    }
                }
                out.ends.push(out.hashes.len() as u32);
            }
            out
        },
    )
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
        Self { bases: Vec::new(), index: Index::default(), fingerprinter, relocate, elsewhere: None }
    }

    /// The bases found elsewhere for one image, which this set is then for: nothing is searched.
    pub fn found_elsewhere(fingerprinter: Fingerprinter, relocate: bool, findings: Findings) -> Self {
        let Findings { bases, found, source } = findings;
        Self { bases, index: Index::default(), fingerprinter, relocate, elsewhere: Some((found, source)) }
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
        let layout = Arc::new(Layout::of(&image));
        for batch in fingerprints(&image, &layout, &self.fingerprinter, self.relocate, threads) {
            let entries = batch
                .iter()
                .flat_map(|(n, hashes)| hashes.iter().map(move |h| (*h, PageRef { base: slot, page: n as u32 })));
            self.index.insert(&entries.collect::<Vec<_>>());
        }
        let digest = digest(&image);
        self.bases.push(Base { name: image.name().into(), layout, digest, slot, image: Some(image) });
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

    /// A page of a base, by its position.
    pub(super) fn page(&self, base: usize, number: u32) -> Option<&Page> {
        match &self.elsewhere {
            Some((_, source)) => source.page(base as u32, number),
            None => self.bases.get(base)?.image()?.page(u64::from(number)),
        }
    }

    /// What was found elsewhere for a page of the image; `None` if it is to be searched here.
    pub(super) fn found(&self, page: u64) -> Option<Found> {
        let (found, _) = self.elsewhere.as_ref()?;
        Some(Found { best: found.get(page as usize).copied().unwrap_or_default(), near: false })
    }

    /// Where base pages come from, if they have to be read.
    pub(super) fn source(&self) -> Option<&dyn BaseSource> {
        self.elsewhere.as_ref().map(|(_, source)| &**source)
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
