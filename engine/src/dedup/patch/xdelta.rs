//! xdelta3, as in the paper: the original C code (engine/vendor/xdelta3, Apache-2.0), called through two of its functions.
//!
//! VCDIFF at compression level 1, without its own checksum (the dedup file has one) and without a secondary compressor.

mod size;

use std::ffi::c_int;

use super::{Codec, DecodeError, Method};
use crate::dedup::Page;
use crate::units::PAGE_BYTES;

pub use size::Sizer;

/// `XD3_COMPLEVEL_1`.
const LEVEL_1: c_int = 1 << 20;
/// `XD3_NOCOMPRESS` is bit 13 and stays clear: no other flag is set.
const ENCODE: c_int = LEVEL_1;

unsafe extern "C" {
    /// Encodes `input` against `source` in one step; 0 on success, `ENOSPC` if `output` is too small.
    fn xd3_encode_memory(
        input: *const u8,
        input_size: u32,
        source: *const u8,
        source_size: u32,
        output: *mut u8,
        output_size: *mut u32,
        available: u32,
        flags: c_int,
    ) -> c_int;

    /// Decodes in one step; 0 on success.
    fn xd3_decode_memory(
        input: *const u8,
        input_size: u32,
        source: *const u8,
        source_size: u32,
        output: *mut u8,
        output_size: *mut u32,
        available: u32,
        flags: c_int,
    ) -> c_int;
}

/// The codec. Its output buffer is kept between pages.
pub(super) struct Xdelta3 {
    buffer: Vec<u8>,
}

impl Default for Xdelta3 {
    fn default() -> Self {
        Self { buffer: vec![0; PAGE_BYTES] }
    }
}

impl Codec for Xdelta3 {
    fn method(&self) -> Method {
        Method::Xdelta3
    }

    fn encode(&mut self, page: &Page, base: &Page, limit: usize, out: &mut Vec<u8>) -> bool {
        let mut size = 0;
        let room = self.buffer.len() as u32;
        // SAFETY: each pointer is given with the length of what it points to; the function writes at most `room` bytes to the
        // buffer and their number to `size`, and keeps none of the pointers.
        let status = unsafe {
            xd3_encode_memory(
                page.as_ptr(),
                PAGE_BYTES as u32,
                base.as_ptr(),
                PAGE_BYTES as u32,
                self.buffer.as_mut_ptr(),
                &raw mut size,
                room,
                ENCODE,
            )
        };
        match self.buffer.get(..size as usize) {
            Some(patch) if status == 0 && patch.len() < limit => {
                out.extend_from_slice(patch);
                true
            }
            _ => false,
        }
    }

    fn decode(&mut self, patch: &[u8], base: &Page, page: &mut Page) -> Result<(), DecodeError> {
        let length = u32::try_from(patch.len()).map_err(|_| DecodeError::Foreign("xdelta3"))?;
        let mut size = 0;
        // SAFETY: as for encoding; the function writes at most a page to `page`. It is written for input that is
        // not trusted: instructions are checked against the sizes of source and target.
        let status = unsafe {
            xd3_decode_memory(
                patch.as_ptr(),
                length,
                base.as_ptr(),
                PAGE_BYTES as u32,
                page.as_mut_ptr(),
                &raw mut size,
                PAGE_BYTES as u32,
                0,
            )
        };
        match (status, size as usize) {
            (0, PAGE_BYTES) => Ok(()),
            (0, n) => Err(DecodeError::Length(n)),
            _ => Err(DecodeError::Foreign("xdelta3")),
        }
    }
}
