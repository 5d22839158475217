//! The codecs of libraries: zstd and LZ4.

use lz4_flex::block;
use zstd_safe::{CCtx, CParameter, DCtx, Strategy};

use super::{Codec, DecodeError, Method};
use crate::dedup::Page;
use crate::units::PAGE_BYTES;

/// What every zstd frame starts with; not stored.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// More than any page takes in zstd or LZ4.
const BOUND: usize = PAGE_BYTES + 512;

/// zstd at its level 1 with tables fitted to a page: the page alone, or after the base page. Stored is the frame
/// without its magic number, and without the page's length, checksum and dictionary id.
pub(super) struct Zstd {
    method: Method,
    encoder: CCtx<'static>,
    decoder: DCtx<'static>,
    buffer: Vec<u8>,
}

impl Zstd {
    /// After the base page.
    pub(super) fn prefix() -> Self {
        Self::new(Method::ZstdPrefix)
    }

    /// The page alone.
    pub(super) fn alone() -> Self {
        Self::new(Method::Zstd)
    }

    fn new(method: Method) -> Self {
        let mut encoder = CCtx::create();
        // Clearing the hash table is most of the work at level 1: 2^11 entries suffice for two pages.
        let parameters = [
            CParameter::CompressionLevel(1),
            CParameter::Strategy(Strategy::ZSTD_fast),
            CParameter::WindowLog(13),
            CParameter::HashLog(12),
            CParameter::ChainLog(6),
            CParameter::MinMatch(4),
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
        ];
        for parameter in parameters {
            // One that this version of zstd does not take leaves its default, which works as well.
            let _ = encoder.set_parameter(parameter);
        }
        Self { method, encoder, decoder: DCtx::create(), buffer: Vec::with_capacity(BOUND) }
    }
}

impl Codec for Zstd {
    fn method(&self) -> Method {
        self.method
    }

    fn encode(&mut self, page: &Page, base: &Page, limit: usize, out: &mut Vec<u8>) -> bool {
        if self.method == Method::ZstdPrefix {
            // SAFETY: `CCtx<'static>` asks for a prefix that lives for ever, because zstd keeps a pointer to it for the next
            // frame only. That frame is written below, before `base` can end, and the prefix is taken away again
            // in any case.
            let base: &'static [u8] = unsafe { &*std::ptr::from_ref::<[u8]>(base) };
            if self.encoder.ref_prefix(base).is_err() {
                return false;
            }
        }
        self.buffer.clear();
        let done = self.encoder.compress2(&mut self.buffer, page);
        if self.method == Method::ZstdPrefix {
            let _ = self.encoder.ref_prefix(&[]);
        }
        match (done, self.buffer.strip_prefix(&MAGIC)) {
            (Ok(_), Some(frame)) if frame.len() < limit => {
                out.extend_from_slice(frame);
                true
            }
            _ => false,
        }
    }

    fn decode(&mut self, patch: &[u8], base: &Page, page: &mut Page) -> Result<(), DecodeError> {
        self.buffer.clear();
        self.buffer.extend_from_slice(&MAGIC);
        self.buffer.extend_from_slice(patch);
        let dictionary: &[u8] = if self.method == Method::ZstdPrefix { base } else { &[] };
        let decoded = self.decoder.decompress_using_dict(&mut page[..], &self.buffer, dictionary);
        match decoded {
            Ok(PAGE_BYTES) => Ok(()),
            Ok(n) => Err(DecodeError::Length(n)),
            Err(_) => Err(DecodeError::Foreign(self.method.name())),
        }
    }
}

/// LZ4's block format, the page alone.
#[derive(Default)]
pub(super) struct Lz4 {
    buffer: Vec<u8>,
}

impl Codec for Lz4 {
    fn method(&self) -> Method {
        Method::Lz4
    }

    fn encode(&mut self, page: &Page, _: &Page, limit: usize, out: &mut Vec<u8>) -> bool {
        self.buffer.resize(block::get_maximum_output_size(PAGE_BYTES), 0);
        match block::compress_into(page, &mut self.buffer) {
            Ok(n) if n < limit => {
                out.extend_from_slice(&self.buffer[..n]);
                true
            }
            _ => false,
        }
    }

    fn decode(&mut self, patch: &[u8], _: &Page, page: &mut Page) -> Result<(), DecodeError> {
        match block::decompress_into(patch, page) {
            Ok(PAGE_BYTES) => Ok(()),
            Ok(n) => Err(DecodeError::Length(n)),
            Err(_) => Err(DecodeError::Foreign("lz4")),
        }
    }
}
