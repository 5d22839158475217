//! Memory asked for ahead of its use.
//!
//! In a run with tens of thousands of functions most of a request's time is spent waiting for cache lines. What the next
//! arrivals and the next event will touch is known before they are handled, so it can be on its way meanwhile.

/// Tables of fewer functions stay in the caches: there is nothing to gain.
pub const MANY: usize = 2048;

/// Asks for the cache lines of `items[at]`; does nothing beyond the end, and changes nothing ever.
#[inline]
pub fn fetch<T>(items: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(item) = items.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = std::ptr::from_ref(item).cast::<i8>();
        for line in 0..size_of::<T>().div_ceil(64).min(2) {
            // SAFETY: a prefetch reads and writes nothing that a program could see, whatever the address; this one is
            // inside of `item` or, at the most, one byte behind it.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(64 * line)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (items, at);
}

#[cfg(test)]
mod tests {
    #[test]
    fn items_stay_what_they_are_and_none_need_be_there() {
        let items = [[7u64; 20]; 3];
        (0..5).for_each(|at| super::fetch(&items, at));
        super::fetch::<u8>(&[], 0);
        assert_eq!(items, [[7; 20]; 3]);
    }
}
