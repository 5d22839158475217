//! Deduplication of memory pages: functions on bytes, used by both worlds and by the offline tools.
//!
//! The way of a checkpoint through the modules: [`image`] opens it and gives its pages; [`layout`] says which
//! addresses of two images mean the same thing; [`fingerprint`] takes a few chunk hashes of each page; [`index`]
//! tells which base pages have such a chunk; [`choose`] picks one; [`patch`] writes the page as a difference to
//! it, or compressed, or not at all; [`pack`] does this for a whole image and [`file`](mod@file) is what it
//! writes; [`unpack`] turns that back into pages and refuses to give anything but the bytes that went in.
//! [`scan`] measures how much is redundant at all.
//!
//! Nothing here reads a clock or decides by the thread it runs on: the same images and options give the same
//! bytes, with any number of threads. Input is not trusted: a damaged or foreign file is an error that names
//! the file and the place in it.

pub mod choose;
pub mod file;
pub mod fingerprint;
pub mod image;
pub mod index;
pub mod layout;
pub mod pack;
pub mod patch;
pub mod scan;
pub mod turns;
pub mod unpack;
pub mod vector;
pub mod zero;

use crate::units::PAGE_BYTES;

/// The bytes of one page.
pub type Page = [u8; PAGE_BYTES];

/// A page of zeros.
pub static ZERO_PAGE: Page = [0; PAGE_BYTES];

/// Checksum of a page, kept with whatever stands for it: XXH3, 64 bits. It finds damage and wrong base pages;
/// it does not withstand someone who forges both page and checksum.
pub fn checksum(page: &Page) -> u64 {
    // The same XXH3 as elsewhere from a library that chooses the widest vectors when it runs.
    twox_hash::XxHash3_64::oneshot(page)
}

/// Views bytes as whole pages; what is over after the last whole page is left out.
pub fn as_pages(bytes: &[u8]) -> &[Page] {
    bytes.as_chunks().0
}

/// Views bytes as whole pages to write to; what is over after the last whole page is left out.
pub fn as_pages_mut(bytes: &mut [u8]) -> &mut [Page] {
    bytes.as_chunks_mut().0
}
