//! Which reads fetch a list of page runs: runs that are adjacent at the owner become one read, wherever its parts go.

use medes_engine::units::PAGE_BYTES;

use super::PageRun;

/// Bytes of a page.
pub const PAGE: u64 = PAGE_BYTES as u64;

/// What one read may be.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Parts of the destination that it may fill, at least one.
    pub parts: usize,
    /// Its length in bytes; less than a page counts as one.
    pub bytes: u32,
}

/// Part of the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First byte in the destination.
    pub offset: u64,
    /// How many.
    pub bytes: u32,
}

/// A read: bytes that lie together at the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRead {
    /// First byte in the region.
    pub from: u64,
    /// Where they go, in order.
    pub parts: Vec<Part>,
}

/// The fewest reads within `limits` that put the pages of `runs` behind one another, in the order given.
pub fn plan(runs: &[PageRun], limits: ReadLimits) -> Vec<PlannedRead> {
    // Whole pages, so that no page is torn between two reads.
    let most = (u64::from(limits.bytes) / PAGE).max(1) * PAGE;
    let mut offset = 0;
    let mut placed: Vec<(u64, u64, u64)> = Vec::with_capacity(runs.len());
    for run in runs {
        let bytes = u64::from(run.pages) * PAGE;
        placed.push((u64::from(run.first) * PAGE, offset, bytes));
        offset += bytes;
    }
    placed.sort_unstable();
    let mut reads: Vec<PlannedRead> = Vec::new();
    let mut length = 0; // of the last read
    for (mut from, mut offset, mut bytes) in placed {
        while bytes > 0 {
            let joins = |r: &PlannedRead| {
                let goes_on = r.parts.last().is_some_and(|p| p.offset + u64::from(p.bytes) == offset);
                r.from + length == from && length < most && (goes_on || r.parts.len() < limits.parts)
            };
            if !reads.last().is_some_and(joins) {
                reads.push(PlannedRead { from, parts: Vec::new() });
                length = 0;
            }
            let take = bytes.min(most - length);
            if let Some(read) = reads.last_mut() {
                match read.parts.last_mut().filter(|p| p.offset + u64::from(p.bytes) == offset) {
                    Some(part) => part.bytes += take as u32,
                    None => read.parts.push(Part { offset, bytes: take as u32 }),
                }
            }
            (from, offset, bytes, length) = (from + take, offset + take, bytes - take, length + take);
        }
    }
    reads
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn runs(list: &[(u32, u32)]) -> Vec<PageRun> {
        list.iter().map(|(first, pages)| PageRun { first: *first, pages: *pages }).collect()
    }

    /// `(first page, [(destination page, pages)])`.
    fn planned(list: &[(u32, u32)], parts: usize, pages: u32) -> Vec<(u64, Vec<(u64, u32)>)> {
        let limits = ReadLimits { parts, bytes: pages * PAGE_BYTES as u32 };
        let part = |p: &Part| (p.offset / PAGE, p.bytes / PAGE_BYTES as u32);
        plan(&runs(list), limits).iter().map(|r| (r.from / PAGE, r.parts.iter().map(part).collect())).collect()
    }

    #[test]
    fn neighbours_become_one_read() {
        assert_eq!(planned(&[(4, 2), (6, 3)], 30, 256), [(4, vec![(0, 5)])]);
        // Given backwards: one read, two parts.
        assert_eq!(planned(&[(6, 3), (4, 2)], 30, 256), [(4, vec![(3, 2), (0, 3)])]);
        assert_eq!(planned(&[(1, 1), (3, 1)], 30, 256), [(1, vec![(0, 1)]), (3, vec![(1, 1)])]);
        assert_eq!(planned(&[(1, 1), (1, 1)], 30, 256).len(), 2, "the same page twice");
        assert_eq!(planned(&[], 30, 256), []);
    }

    #[test]
    fn limits_split_reads() {
        assert_eq!(planned(&[(0, 5)], 30, 2), [(0, vec![(0, 2)]), (2, vec![(2, 2)]), (4, vec![(4, 1)])]);
        assert_eq!(planned(&[(2, 1), (1, 1), (0, 1)], 2, 256), [(0, vec![(2, 1), (1, 1)]), (2, vec![(0, 1)])]);
    }

    proptest! {
        #[test]
        fn every_byte_goes_where_it_belongs(
            list in prop::collection::vec((0_u32..60, 1_u32..9), 0..30), parts in 1_usize..5, pages in 1_u32..12,
        ) {
            let limits = ReadLimits { parts, bytes: pages * PAGE_BYTES as u32 + 100 };
            let wanted: Vec<u64> = list.iter().flat_map(|(f, n)| u64::from(*f)..u64::from(f + n)).collect();
            let mut got = vec![None; wanted.len()];
            for read in plan(&runs(&list), limits) {
                prop_assert!(!read.parts.is_empty() && read.parts.len() <= parts);
                let mut page = read.from / PAGE;
                for part in &read.parts {
                    prop_assert!(part.offset % PAGE == 0 && part.bytes > 0);
                    for i in 0..u64::from(part.bytes) / PAGE {
                        prop_assert_eq!(got[(part.offset / PAGE + i) as usize].replace(page), None);
                        page += 1;
                    }
                }
                prop_assert!(page - read.from / PAGE <= u64::from(pages));
            }
            prop_assert_eq!(got, wanted.into_iter().map(Some).collect::<Vec<_>>());
        }
    }
}
