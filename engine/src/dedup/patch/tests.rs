use proptest::prelude::*;

use super::bytediff::{ByteDiff, Differ};
use super::*;

fn noise(seed: u64) -> Page {
    let mut x = seed | 1;
    std::array::from_fn(|_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    })
}

/// Pages as they come: noise, text, constants, with runs of zeros.
fn page() -> impl Strategy<Value = Page> {
    let filled = (any::<u64>(), 0u8..4).prop_map(|(seed, kind)| match kind {
        0 => noise(seed),
        1 => std::array::from_fn(|i| b"the page of a sandbox, "[(i + seed as usize) % 23]),
        2 => [seed as u8; PAGE_BYTES],
        _ => noise(seed).map(|b| b & 3),
    });
    (filled, 0..PAGE_BYTES, 0..PAGE_BYTES).prop_map(|(mut page, from, to)| {
        if from < to {
            page[from..to].fill(0);
        }
        page
    })
}

/// Two pages: unrelated, or one with edits of the other, or shifted.
fn pair() -> impl Strategy<Value = (Page, Page)> {
    let edits = proptest::collection::vec((0..PAGE_BYTES, any::<u64>(), 1usize..24), 0..80);
    (page(), page(), edits, 0u8..3).prop_map(|(base, other, edits, kind)| {
        let mut page = match kind {
            0 => return (other, base),
            1 => base,
            _ => std::array::from_fn(|i| base[(i + 24) % PAGE_BYTES]),
        };
        for (at, seed, length) in edits {
            let bytes = noise(seed);
            let length = length.min(PAGE_BYTES - at);
            page[at..at + length].copy_from_slice(&bytes[..length]);
        }
        (page, base)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_encoded_comes_back((page, base) in pair()) {
        let mut codecs = Codecs::default();
        for method in Method::ALL {
            let mut out = vec![1, 2, 3];
            if codecs.encode(method, &page, Some(&base), PAGE_BYTES + 600, &mut out) {
                let mut back = noise(9);
                prop_assert_eq!(codecs.decode(method, &out[3..], Some(&base), &mut back), Ok(()), "{:?}", method);
                prop_assert!(back == page, "{:?}", method);
                // The limit holds to the byte and nothing is left behind.
                let size = out.len() - 3;
                if page != ZERO_PAGE && page != base {
                    prop_assert!(size >= method.least(), "{method:?}: {size} bytes");
                }
                let mut limited = vec![9];
                prop_assert!(codecs.encode(method, &page, Some(&base), size + 1, &mut limited));
                prop_assert!(!codecs.encode(method, &page, Some(&base), size, &mut limited));
                prop_assert_eq!(limited.len(), size + 1);
            } else {
                prop_assert!(!matches!(method, Method::Whole | Method::ByteDiff | Method::Zstd | Method::ZstdPrefix | Method::Lz4), "{:?}", method);
                prop_assert_eq!(out.len(), 3);
            }
        }
    }

    /// Sizes are those of the library, to the byte.
    #[test]
    fn xdelta3_is_counted_as_it_writes((page, base) in pair(), words in proptest::collection::vec((0usize..512, 0u64..6), 0..200)) {
        let mut page = page;
        // Words that look alike, as memory has them: many short matches that overlap.
        for (at, word) in words {
            page[8 * at..8 * at + 8].copy_from_slice(&(0x7f00_1234_5000 + word * 0x101).to_le_bytes());
        }
        let (mut out, mut sizer) = (Vec::new(), Sizer::default());
        for (page, base) in [(&page, &base), (&base, &page), (&page, &ZERO_PAGE), (&page, &noise(7))] {
            out.clear();
            let fits = Codecs::default().encode(Method::Xdelta3, page, Some(base), usize::MAX, &mut out);
            let size = sizer.size(page, base);
            prop_assert_eq!(size, if fits { out.len() } else { size.max(PAGE_BYTES + 1) });
        }
    }

    #[test]
    fn vector_and_portable_code_agree((page, base) in pair()) {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        ByteDiff::default().encode(&page, &base, usize::MAX, &mut a);
        ByteDiff::portable().encode(&page, &base, usize::MAX, &mut b);
        prop_assert_eq!(a, b);
        let differing = page.iter().zip(&base).filter(|(x, y)| x != y).count();
        prop_assert_eq!(Differ::default().distance(&page, &base).bytes as usize, differing);
    }

    /// Any damage gives an error or some page, never a crash; and the page's checksum tells it.
    #[test]
    fn damage_never_passes_as_the_page((page, base) in pair(), at in any::<usize>(), bit in 0u8..8, cut in any::<usize>(), trim in any::<bool>()) {
        let mut codecs = Codecs::default();
        let good = crate::dedup::checksum(&page);
        for method in Method::CODING {
            let mut out = Vec::new();
            if !codecs.encode(method, &page, Some(&base), usize::MAX, &mut out) || out.is_empty() {
                continue;
            }
            if trim {
                out.truncate(cut % out.len());
            } else {
                let at = at % out.len();
                out[at] ^= 1 << bit;
            }
            let mut back = noise(5);
            if codecs.decode(method, &out, Some(&base), &mut back).is_ok() {
                prop_assert_eq!(crate::dedup::checksum(&back) == good, back == page);
            }
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(patch in proptest::collection::vec(any::<u8>(), 0..300), base in page()) {
        let mut codecs = Codecs::default();
        let mut back = noise(1);
        for method in Method::ALL {
            let _ = codecs.decode(method, &patch, Some(&base), &mut back);
        }
    }
}

#[test]
fn a_base_page_is_asked_for() {
    let mut codecs = Codecs::default();
    let mut page = noise(3);
    for method in Method::ALL {
        let refused = codecs.decode(method, &[], None, &mut page) == Err(DecodeError::NoBase);
        assert_eq!(refused, method.needs_base(), "{method:?}");
        assert_eq!(Method::from_number(method as u8), Some(method));
        assert_eq!(codecs.get(method).method(), method);
    }
    assert_eq!(Method::from_number(8), None);
}
