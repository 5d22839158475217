//! One decoder: the first byte chooses the base page, the rest is the patch. What decodes must encode and decode again,
//! and xdelta3 must take what is counted for it.

use medes_engine::dedup::Page;
use medes_engine::dedup::patch::{Codecs, Method, Sizer};

/// The base pages that inputs choose from.
pub fn base(choice: u8) -> Page {
    match choice % 3 {
        0 => [0; 4096],
        1 => std::array::from_fn(|i| b"the page of a sandbox, "[i % 23]),
        _ => {
            let mut x = 1u64;
            std::array::from_fn(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x as u8
            })
        }
    }
}

/// Runs one input.
#[allow(dead_code)]
pub fn run(method: Method, data: &[u8]) {
    let Some((choice, patch)) = data.split_first() else { return };
    let base = base(*choice);
    let mut codecs = Codecs::default();
    let mut page = [0xa5; 4096];
    if codecs.decode(method, patch, Some(&base), &mut page).is_err() {
        return;
    }
    let mut again = Vec::new();
    if codecs.encode(method, &page, Some(&base), usize::MAX, &mut again) {
        let mut back = [0x5a; 4096];
        assert_eq!(codecs.decode(method, &again, Some(&base), &mut back), Ok(()));
        assert!(back == page);
        if method == Method::Xdelta3 {
            assert_eq!(Sizer::default().size(&page, &base), again.len());
        }
    }
}
