//! What is done to every page whatever becomes of it: copied, checksummed, fetched ahead of use.

use super::Page;

/// Bytes copied at a time.
const PART: usize = 1024;

/// Copies a page.
///
/// Not `*to = *from`: that is one call of the C library's `memcpy` for 4096 bytes, which on processors that announce fast short string
/// moves becomes `rep movsb`. AMD's run that at a quarter of the speed where the target lies a few bytes past the
/// source modulo the page, as the memory of a `Vec<Page>` does against a mapped file. Parts of a
/// quarter take the vector loop instead, everywhere.
#[inline]
pub fn copy(to: &mut Page, from: &Page) {
    let (to, _) = to.as_chunks_mut::<PART>();
    let (from, _) = from.as_chunks::<PART>();
    // Written out: the compiler makes one call again of a loop.
    if let ([a, b, c, d], [e, f, g, h]) = (to, from) {
        *a = *e;
        *b = *f;
        *c = *g;
        *d = *h;
    }
}

/// Asks for the first lines of a page ahead of use; the processor's own prefetcher, which stops at the end of each page, then takes over.
#[inline]
pub fn prefetch(page: &Page) {
    #[cfg(target_arch = "x86_64")]
    for line in page.as_chunks::<64>().0.iter().take(6) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the address is that of bytes borrowed here, and a prefetch has no effect but on the caches.
        unsafe { _mm_prefetch(line.as_ptr().cast::<i8>(), _MM_HINT_T0) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = page;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PAGE_BYTES;

    #[test]
    fn all_of_a_page_is_copied() {
        let from: Page = std::array::from_fn(|i| (i * 31 % 251) as u8);
        let mut to = [0; PAGE_BYTES];
        copy(&mut to, &from);
        assert!(to == from);
        prefetch(&from);
    }
}
