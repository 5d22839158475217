//! Tests for zeros, in a form that the compiler turns into vector instructions on any target: blocks of fixed
//! size folded with OR, no branch within a block. No `unsafe` and no runtime detection is needed for them.

use super::Page;

const BLOCK: usize = 256;

fn block_is_zero(block: &[u8; BLOCK]) -> bool {
    let (words, _) = block.as_chunks::<8>();
    words.iter().fold(0, |all, w| all | u64::from_ne_bytes(*w)) == 0
}

/// Whether all bytes of the page are zero. Stops at the first block of 256 bytes that is not.
pub fn is_zero(page: &Page) -> bool {
    page.as_chunks::<BLOCK>().0.iter().all(block_is_zero)
}

/// Whether all of these bytes are zero.
pub fn all_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    blocks.iter().all(block_is_zero) && rest.iter().all(|b| *b == 0)
}

/// Position of the first byte at or after `from` that is not zero; `None` if there is none.
pub fn first_nonzero(page: &Page, from: usize) -> Option<usize> {
    let rest = page.get(from..)?;
    let mut at = from;
    let (words, tail) = rest.as_chunks::<16>();
    let mut words = words.iter();
    // Up to a block boundary one by one, then whole blocks.
    while let Some(w) = words.next() {
        let word = u128::from_le_bytes(*w);
        if word != 0 {
            return Some(at + (word.trailing_zeros() / 8) as usize);
        }
        at += 16;
        while at.is_multiple_of(BLOCK) && at + BLOCK <= page.len() {
            let Some(block) = page[at..].first_chunk::<BLOCK>() else { break };
            if !block_is_zero(block) {
                break;
            }
            at += BLOCK;
            words = words.as_slice().get(BLOCK / 16..).unwrap_or_default().iter();
        }
    }
    tail.iter().position(|b| *b != 0).map(|i| at + i)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PAGE_BYTES;

    #[test]
    fn one_byte_anywhere_is_found() {
        let mut page = [0u8; PAGE_BYTES];
        assert!(is_zero(&page) && first_nonzero(&page, 0).is_none() && first_nonzero(&page, PAGE_BYTES).is_none());
        for at in 0..PAGE_BYTES {
            page[at] = 1;
            assert!(!is_zero(&page) && !all_zero(&page[..]), "{at}");
            for from in [0, 3, 16, 100, 256, 2048] {
                let expected = (at >= from).then_some(at);
                assert_eq!(first_nonzero(&page, from), expected, "{at} from {from}");
            }
            page[at] = 0;
        }
        assert!(all_zero(&[0; 77]) && !all_zero(&[0, 0, 1]));
    }
}
