//! What the transports' tests share: pages that can be made again, and the one body that every transport has to pass.

pub mod conformance;

use medes_engine::units::PAGE_BYTES;

/// Pages whose content follows from a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub seed: u64,
    pub pages: u32,
}

impl Content {
    /// Writes page `number`.
    pub fn fill_page(&self, number: u32, page: &mut [u8]) {
        let mut state =
            self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(number).wrapping_mul(0xd1b5_4a32_d192_ed03);
        for word in page.chunks_exact_mut(8) {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            word.copy_from_slice(&(state ^ (state >> 29)).to_le_bytes());
        }
    }

    /// Writes all pages.
    pub fn fill(&self, bytes: &mut [u8]) {
        for (number, page) in (0..).zip(bytes.chunks_exact_mut(PAGE_BYTES)) {
            self.fill_page(number, page);
        }
    }

    /// The first page of `bytes` that is not what the page of that number (in `numbers`) holds.
    pub fn wrong_page(&self, numbers: impl Iterator<Item = u32>, bytes: &[u8]) -> Option<u32> {
        let mut right = [0; PAGE_BYTES];
        let mut pages = bytes.chunks_exact(PAGE_BYTES);
        for number in numbers {
            self.fill_page(number, &mut right);
            if pages.next() != Some(&right[..]) {
                return Some(number);
            }
        }
        None
    }
}
