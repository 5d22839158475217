//! Memory asked for ahead of its use, and in large pages.
//!
//! In a run with tens of thousands of functions most of a request's time is spent waiting for cache lines. What the next
//! arrivals and the next event will touch is known before they are handled, so it can be on its way meanwhile.

/// Tables of fewer functions stay in the caches: there is nothing to gain.
pub const MANY: usize = 2048;

/// Asks for the cache lines of `items[at]`, two at the most; does nothing beyond the end, and changes nothing ever.
#[inline]
pub fn fetch<T>(items: &[T], at: usize) {
    lines::<2, T>(items, at);
}

/// The same of its first line alone.
#[inline]
pub fn fetch_head<T>(items: &[T], at: usize) {
    lines::<1, T>(items, at);
}

#[inline]
fn lines<const MOST: usize, T>(items: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(item) = items.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let first = std::ptr::from_ref(item).cast::<i8>();
        for line in 0..size_of::<T>().div_ceil(64).min(MOST) {
            // SAFETY: a prefetch reads and writes nothing that a program could see, whatever the address; this one is
            // inside of `item` or, at the most, one byte behind it.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(64 * line)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (items, at);
}

/// Room for one more in a table that grows. A large one is in large pages from then on, see [`in_large_pages`].
#[inline]
pub fn make_room<T>(table: &mut Vec<T>) {
    if table.len() == table.capacity() {
        grow(table);
    }
}

#[cold]
fn grow<T>(table: &mut Vec<T>) {
    table.reserve(table.len().max(64));
    in_large_pages(table);
}

/// A page of the largest kind that a table can have without being told to by an administrator.
const LARGE_PAGE: usize = 2 << 20;

/// Asks the system to back a table by large pages, as far as it has such, and all its room, used or not. Where functions are many, each line that is
/// touched is of another page, and the processor has to translate its address anew. Changes nothing but time.
pub fn in_large_pages<T>(table: &Vec<T>) {
    #[cfg(target_os = "linux")]
    {
        let start = table.as_ptr() as usize;
        let end = start + table.capacity() * size_of::<T>();
        let (from, to) = (start.next_multiple_of(LARGE_PAGE), end / LARGE_PAGE * LARGE_PAGE);
        if from < to {
            let at = table.as_ptr().cast::<u8>().wrapping_add(from - start).cast_mut();
            // SAFETY: the range lies inside of the table's allocation, and the advice leaves what is there as it is.
            // A system without large pages refuses, and small ones do as well.
            let _ = unsafe { rustix::mm::madvise(at.cast(), to - from, rustix::mm::Advice::LinuxHugepage) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = table;
}

#[cfg(test)]
mod tests {
    #[test]
    fn items_stay_what_they_are_and_none_need_be_there() {
        let items = [[7u64; 20]; 3];
        (0..5).for_each(|at| super::fetch(&items, at));
        (0..5).for_each(|at| super::fetch_head(&items, at));
        super::fetch::<u8>(&[], 0);
        assert_eq!(items, [[7; 20]; 3]);
    }

    #[test]
    fn a_table_stays_what_it_is_while_it_grows_into_large_pages() {
        let mut table: Vec<[u64; 16]> = Vec::new();
        for i in 0..100_000u64 {
            super::make_room(&mut table);
            assert!(table.capacity() > table.len());
            table.push([i; 16]);
        }
        assert!(table.iter().zip(0..).all(|(item, i)| *item == [i; 16]));
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
        let mut here = false;
        let inside = table.as_ptr() as usize + 4 * super::LARGE_PAGE;
        // The mapping that has the middle of the table is marked, where there are such pages.
        let marked = maps.lines().any(|line| {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            if let Some((Ok(from), Ok(to))) =
                range.map(|(from, to)| (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16)))
            {
                here = (from..to).contains(&inside);
            }
            here && line.starts_with("VmFlags") && line.contains(" hg")
        });
        let possible = std::path::Path::new("/sys/kernel/mm/transparent_hugepage/enabled").exists();
        assert!(marked || !possible, "{maps}");
    }
}
