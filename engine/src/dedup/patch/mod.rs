//! Ways to store a page: alone, as a difference to a base page, or not at all.
//!
//! A [`Codec`] writes a page as bytes and reads it back; it is told the base page if it uses one. Decoders take any
//! bytes: what is not a patch is an error, and what decodes to another page is found by the page's checksum, which
//! the dedup file keeps beside every patch. [`Codecs`] holds one of each for a thread, since most need tables
//! that are worth keeping.
//!
//! | method | base | what |
//! |---|---|---|
//! | `zero` | | nothing stored |
//! | `identical` | yes | nothing stored |
//! | `whole` | | the page |
//! | `byte-diff` | yes | the runs of bytes that differ ([`bytediff`]); ours, the fastest |
//! | `zstd-prefix` | yes | zstd level 1 with the base page as what came before |
//! | `xdelta3` | yes | VCDIFF by xdelta3 level 1, as in the paper |
//! | `zstd` | | zstd level 1 of the page alone |
//! | `lz4` | | LZ4 of the page alone |

pub mod bytediff;
mod library;
mod xdelta;

use serde::{Deserialize, Serialize};

use super::{Page, ZERO_PAGE, vector, zero};
use crate::units::PAGE_BYTES;

pub use xdelta::Sizer;

/// How a page is stored. The numbers are those of the dedup file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Method {
    /// A page of zeros.
    Zero = 0,
    /// The base page as it is.
    Identical = 1,
    /// The page itself.
    Whole = 2,
    /// Runs of bytes that differ.
    ByteDiff = 3,
    /// zstd after the base page.
    ZstdPrefix = 4,
    /// xdelta3.
    Xdelta3 = 5,
    /// zstd of the page alone.
    Zstd = 6,
    /// LZ4 of the page alone.
    Lz4 = 7,
}

impl Method {
    /// All methods, by number.
    pub const ALL: [Self; 8] = [
        Self::Zero,
        Self::Identical,
        Self::Whole,
        Self::ByteDiff,
        Self::ZstdPrefix,
        Self::Xdelta3,
        Self::Zstd,
        Self::Lz4,
    ];
    /// Those that write bytes, in the order of their cost ([`Method::cost_ns`]).
    pub const CODING: [Self; 5] = [Self::ByteDiff, Self::Lz4, Self::ZstdPrefix, Self::Zstd, Self::Xdelta3];

    /// Position in a table of [`Method::CODING`]'s length; `None` for methods that write nothing of their own.
    pub const fn coding_index(self) -> Option<usize> {
        (self as usize).checked_sub(Self::ByteDiff as usize)
    }

    /// Bytes that any patch by this method takes at least, of a page that is neither zero nor equal to its base page: from the formats.
    /// A zstd frame (magic number left out) has two bytes of header and a block of three and one more, xdelta3 a header of five
    /// bytes and a window of eleven and more; LZ4 takes a byte for every 255 at most.
    pub const fn least(self) -> usize {
        match self {
            Self::Zero | Self::Identical => 0,
            Self::Whole => PAGE_BYTES,
            Self::ByteDiff => 2,
            Self::ZstdPrefix | Self::Zstd => 6,
            Self::Xdelta3 => 14,
            Self::Lz4 => 16,
        }
    }

    /// The method of a number in a file.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Identical => "identical",
            Self::Whole => "whole",
            Self::ByteDiff => "byte-diff",
            Self::ZstdPrefix => "zstd-prefix",
            Self::Xdelta3 => "xdelta3",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    /// Whether it needs a base page.
    pub const fn needs_base(self) -> bool {
        matches!(self, Self::Identical | Self::ByteDiff | Self::ZstdPrefix | Self::Xdelta3)
    }

    /// Nominal time to encode a page, ns: rounded medians over real page pairs on one core of a 2020s server. What a
    /// time budget is counted in, so that the same input gives the same output on every machine.
    pub const fn cost_ns(self) -> u32 {
        match self {
            Self::Zero | Self::Identical | Self::Whole => 100,
            Self::ByteDiff => 400,
            Self::Lz4 => 4_000,
            Self::ZstdPrefix => 5_000,
            Self::Zstd => 9_000,
            Self::Xdelta3 => 15_000,
        }
    }
}

/// A patch that no encoder wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It ends too early.
    #[error("the patch ends too early, at byte {0}")]
    Short(usize),
    /// It writes past the end of the page.
    #[error("the patch writes past the end of the page, at byte {0} of it")]
    Long(usize),
    /// Bytes are left over.
    #[error("{0} bytes are left over after the page is complete")]
    Rest(usize),
    /// The library refuses it.
    #[error("not a {0} patch")]
    Foreign(&'static str),
    /// It restores another number of bytes than a page has.
    #[error("the patch gives {0} bytes, a page has {PAGE_BYTES}")]
    Length(usize),
    /// It needs a base page and none was given.
    #[error("the patch needs a base page")]
    NoBase,
}

/// A way to write a page and read it back.
pub trait Codec: Send {
    /// Which method it is.
    fn method(&self) -> Method;

    /// Appends the page to `out`, if it gets by with less than `limit` bytes; otherwise leaves `out` as it is.
    /// Says whether it did. `base` is looked at only by methods that need one.
    fn encode(&mut self, page: &Page, base: &Page, limit: usize, out: &mut Vec<u8>) -> bool;

    /// Reads a page back into `page`, whatever it held.
    ///
    /// # Errors
    /// If the bytes are not a patch; `page` then holds anything.
    fn decode(&mut self, patch: &[u8], base: &Page, page: &mut Page) -> Result<(), DecodeError>;
}

struct Whole;

impl Codec for Whole {
    fn method(&self) -> Method {
        Method::Whole
    }

    fn encode(&mut self, page: &Page, _: &Page, limit: usize, out: &mut Vec<u8>) -> bool {
        let fits = page.len() < limit;
        if fits {
            out.extend_from_slice(page);
        }
        fits
    }

    fn decode(&mut self, patch: &[u8], _: &Page, page: &mut Page) -> Result<(), DecodeError> {
        vector::copy(page, patch.as_array::<PAGE_BYTES>().ok_or(DecodeError::Length(patch.len()))?);
        Ok(())
    }
}

struct Constant(Method);

impl Codec for Constant {
    fn method(&self) -> Method {
        self.0
    }

    fn encode(&mut self, page: &Page, base: &Page, limit: usize, _: &mut Vec<u8>) -> bool {
        limit > 0 && if self.0 == Method::Zero { zero::is_zero(page) } else { page == base }
    }

    fn decode(&mut self, patch: &[u8], base: &Page, page: &mut Page) -> Result<(), DecodeError> {
        if !patch.is_empty() {
            return Err(DecodeError::Rest(patch.len()));
        }
        vector::copy(page, if self.0 == Method::Zero { &ZERO_PAGE } else { base });
        Ok(())
    }
}

/// One codec of each method, for one thread.
pub struct Codecs([Box<dyn Codec>; 8]);

impl Default for Codecs {
    fn default() -> Self {
        Self(Method::ALL.map(|m| -> Box<dyn Codec> {
            match m {
                Method::Zero | Method::Identical => Box::new(Constant(m)),
                Method::Whole => Box::new(Whole),
                Method::ByteDiff => Box::new(bytediff::ByteDiff::default()),
                Method::ZstdPrefix => Box::new(library::Zstd::prefix()),
                Method::Xdelta3 => Box::new(xdelta::Xdelta3::default()),
                Method::Zstd => Box::new(library::Zstd::alone()),
                Method::Lz4 => Box::new(library::Lz4::default()),
            }
        }))
    }
}

impl Codecs {
    /// The codec of a method.
    pub fn get(&mut self, method: Method) -> &mut dyn Codec {
        &mut *self.0[method as usize]
    }

    /// [`Codec::encode`] of a method; `false` without a base page where one is needed.
    pub fn encode(
        &mut self,
        method: Method,
        page: &Page,
        base: Option<&Page>,
        limit: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        match base {
            None if method.needs_base() => false,
            base => self.get(method).encode(page, base.unwrap_or(&ZERO_PAGE), limit, out),
        }
    }

    /// [`Codec::decode`] of a method.
    ///
    /// # Errors
    /// As there, and without a base page where one is needed.
    pub fn decode(
        &mut self,
        method: Method,
        patch: &[u8],
        base: Option<&Page>,
        page: &mut Page,
    ) -> Result<(), DecodeError> {
        match base {
            None if method.needs_base() => Err(DecodeError::NoBase),
            base => self.get(method).decode(patch, base.unwrap_or(&ZERO_PAGE), page),
        }
    }
}

#[cfg(test)]
mod tests;
