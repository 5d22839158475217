//! All pages of an image, made before its process goes on and given to it bit by bit.
//!
//! They are there for as long as a request takes, and are written once: most of what that costs is the kernel's, which finds and clears memory for them (100 MB
//! took 50 to 75 ms of a core in small pages, and 21 to 27 in large ones). So they lie in parts that it can back by one large page each (`transparent_hugepage` of `madvise` or `always`; mappings of that size are aligned to it since
//! Linux 6.7), and a part is given back whole as soon as the process has its pages.

use std::io;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use medes_engine::dedup::file::BLOCK;
use medes_engine::dedup::image::PAGE;
use medes_engine::dedup::{Page, as_pages};
use memmap2::{Advice, MmapMut};

/// Pages of a part: whole blocks, and one large page of x86-64.
const PART: u64 = 512;
const _: () = assert!(PART.is_multiple_of(BLOCK as u64));

/// The pages, by part. Whoever gives pages to a process reads, and any number may at once: one that waits for another could wait for ever, as a process tells
/// that its memory changes to one thread alone.
#[derive(Debug)]
pub struct Kept {
    parts: Vec<RwLock<Option<MmapMut>>>,
    pages: u64,
}

impl Kept {
    /// Room for so many pages, none of which takes memory yet.
    pub fn new(pages: u64) -> Self {
        Self { parts: (0..pages.div_ceil(PART)).map(|_| RwLock::default()).collect(), pages }
    }

    /// The numbers of the pages of each part, in order.
    pub fn parts(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        (0..self.parts.len() as u64).map(|part| part * PART..((part + 1) * PART).min(self.pages))
    }

    /// The part that a page is in, and where in it.
    fn place(&self, page: u64) -> io::Result<(&RwLock<Option<MmapMut>>, usize)> {
        let part = self.parts.get((page / PART) as usize);
        let part = part.ok_or_else(|| io::Error::other(format!("page {page} of an image of {}", self.pages)))?;
        Ok((part, (page % PART * PAGE) as usize))
    }

    /// Keeps adjacent pages, all of one block.
    ///
    /// # Errors
    /// There is no memory, or the image has no such pages.
    pub fn put(&self, first: u64, pages: &[Page]) -> io::Result<()> {
        let (part, at) = self.place(first)?;
        let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
        let memory = match &mut *part {
            Some(memory) => memory,
            none => {
                let memory = MmapMut::map_anon((PART * PAGE) as usize)?;
                // Small pages do as well.
                let _ = memory.advise(Advice::HugePage);
                none.insert(memory)
            }
        };
        let bytes = pages.as_flattened();
        let place = memory.get_mut(at..at + bytes.len()).ok_or_else(|| io::Error::other("pages of two blocks"))?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    /// What is kept of adjacent pages of one part, if anything is: those of them that the image has.
    pub fn with<T>(&self, pages: Range<u64>, give: impl FnOnce(&[Page]) -> T) -> Option<T> {
        let (part, at) = self.place(pages.start).ok()?;
        let part = part.read().unwrap_or_else(PoisonError::into_inner);
        let count = pages.end.min(self.pages).saturating_sub(pages.start);
        Some(give(as_pages(part.as_ref()?.get(at..at + (count * PAGE) as usize)?)))
    }

    /// Gives the memory of a page's part back.
    pub fn let_go(&self, page: u64) {
        if let Ok((part, _)) = self.place(page) {
            part.write().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(n: u64) -> Page {
        std::array::from_fn(|i| (n as usize * 31 + i) as u8)
    }

    #[test]
    fn pages_are_kept_until_they_are_let_go() {
        // A whole part, and one of a block and three pages.
        let pages = PART + BLOCK as u64 + 3;
        let kept = Kept::new(pages);
        assert!(kept.with(0..8, |_| ()).is_none(), "nothing yet");
        let all: Vec<Page> = (0..pages).map(page).collect();
        std::thread::scope(|scope| {
            for (block, pages) in all.chunks(BLOCK).enumerate().rev() {
                let kept = &kept;
                scope.spawn(move || kept.put((block * BLOCK) as u64, pages).unwrap());
            }
        });
        assert_eq!(kept.parts().collect::<Vec<_>>(), [0..PART, PART..pages]);
        for part in kept.parts() {
            assert!(kept.with(part.clone(), |got| got == &all[part.start as usize..part.end as usize]).unwrap());
        }
        // A piece, and one that the image ends in.
        assert!(kept.with(520..528, |got| got == &all[520..528]).unwrap());
        assert_eq!(kept.with(pages - 3..pages + 5, <[Page]>::len), Some(3));
        kept.let_go(PART + 1);
        assert!(kept.with(520..528, |_| ()).is_none() && kept.with(0..8, |_| ()).is_some());
        // Pages that the image does not have, and that are not of one part.
        assert!(kept.put(pages + PART, &all[..1]).is_err() && kept.put(PART - 1, &all[..2]).is_err());
        assert!(kept.with(2 * PART..2 * PART + 8, |_| ()).is_none());
    }
}
