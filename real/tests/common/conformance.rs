//! The body: what holds for every transport.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use medes_engine::units::PAGE_BYTES;
use medes_real::transport::{PageRun, Region, Transport, TransportError};

use super::Content;

/// A reader with an owner behind it, in whatever process or machine.
pub trait Bed: Sync {
    /// Publishes pages at the owner.
    fn publish(&self, content: Content) -> Region;
    /// Withdraws a region at the owner.
    fn withdraw(&self, region: &Region);
    /// The reader's transport.
    fn reader(&self) -> &dyn Transport;
}

/// Reads runs into a buffer of the transport, one page into it, and shows what came.
pub fn read(
    from: &dyn Transport,
    region: &Region,
    runs: &[PageRun],
    limit: Duration,
) -> Result<Vec<u8>, TransportError> {
    let pages = runs.iter().map(|r| r.pages as usize).sum::<usize>().min(1 << 12);
    let mut buffer = from.buffer((1 + pages) * PAGE_BYTES).expect("a buffer");
    buffer[..PAGE_BYTES].fill(0xa5);
    from.read(region, runs, &mut buffer[PAGE_BYTES..], Instant::now() + limit)?;
    assert!(buffer[..PAGE_BYTES].iter().all(|b| *b == 0xa5), "what is before the destination stays");
    Ok(buffer[PAGE_BYTES..].to_vec())
}

/// The region as a reader with another key would name it.
fn with_wrong_key(region: &Region) -> Region {
    Region { key: region.key ^ 0x5a_5a00, ..*region }
}

const LIMIT: Duration = Duration::from_secs(20);

/// A case of the body.
pub type Case = fn(&dyn Bed);

/// Every case, by name.
pub const CASES: &[(&str, Case)] = &[
    ("every_run_arrives_whole_and_in_order", every_run_arrives_whole_and_in_order),
    ("scattered_pages_arrive_where_they_belong", scattered_pages_arrive_where_they_belong),
    ("any_memory_can_be_read_into", any_memory_can_be_read_into),
    ("pages_that_do_not_exist_are_refused", pages_that_do_not_exist_are_refused),
    ("a_withdrawn_region_is_refused_and_others_stay", a_withdrawn_region_is_refused_and_others_stay),
    (
        "a_wrong_key_is_refused_and_the_right_one_works_after_it",
        a_wrong_key_is_refused_and_the_right_one_works_after_it,
    ),
    ("a_deadline_in_the_past_is_too_late", a_deadline_in_the_past_is_too_late),
    ("many_readers_share_an_owner", many_readers_share_an_owner),
    (
        "a_region_withdrawn_in_reads_gives_right_pages_or_an_error",
        a_region_withdrawn_in_reads_gives_right_pages_or_an_error,
    ),
    ("a_refused_reader_does_not_fail_the_others", a_refused_reader_does_not_fail_the_others),
];

fn run(first: u32, pages: u32) -> PageRun {
    PageRun { first, pages }
}

/// Reads runs and compares every page.
fn read_and_compare(bed: &dyn Bed, region: &Region, content: Content, runs: &[PageRun]) -> Result<(), TransportError> {
    let bytes = read(bed.reader(), region, runs, LIMIT)?;
    let numbers: Vec<u32> = runs.iter().flat_map(|r| r.first..r.first + r.pages).collect();
    assert_eq!(bytes.len(), numbers.len() * PAGE_BYTES);
    assert_eq!(content.wrong_page(numbers.iter().copied(), &bytes), None, "of {runs:?}");
    Ok(())
}

fn every_run_arrives_whole_and_in_order(bed: &dyn Bed) {
    let content = Content { seed: 1, pages: 700 };
    let region = bed.publish(content);
    let all: [&[PageRun]; 7] = [
        &[],
        &[run(0, 1)],
        &[run(699, 1)],
        &[run(0, 700)], // longer than one read may be
        &[run(5, 3), run(8, 2), run(1, 4)],
        &[run(9, 1), run(9, 1), run(8, 3)], // some twice
        &[run(300, 257), run(0, 1), run(557, 143)],
    ];
    for runs in all {
        read_and_compare(bed, &region, content, runs).expect("read");
    }
    bed.withdraw(&region);
}

fn scattered_pages_arrive_where_they_belong(bed: &dyn Bed) {
    let content = Content { seed: 2, pages: 512 };
    let region = bed.publish(content);
    // Neighbours at the owner that go to all ends of the buffer, more of them than one read can scatter.
    let shuffled: Vec<PageRun> = (0..512).map(|i| run(i * 167 % 512, 1)).collect();
    read_and_compare(bed, &region, content, &shuffled).expect("read");
    let every_other: Vec<PageRun> = (0..256).map(|i| run(i * 2, 1)).collect();
    read_and_compare(bed, &region, content, &every_other).expect("read");
    let backwards: Vec<PageRun> = (0..64).rev().map(|i| run(i * 8, 8)).collect();
    read_and_compare(bed, &region, content, &backwards).expect("read");
    bed.withdraw(&region);
}

fn any_memory_can_be_read_into(bed: &dyn Bed) {
    let content = Content { seed: 9, pages: 20 };
    let region = bed.publish(content);
    let mut into = vec![0xa5; 13 * PAGE_BYTES + 7];
    bed.reader().read(&region, &[run(2, 9), run(0, 4)], &mut into, Instant::now() + LIMIT).expect("read");
    assert_eq!(content.wrong_page((2..11).chain(0..4), &into), None);
    assert_eq!(into[13 * PAGE_BYTES..], [0xa5; 7], "what is behind the pages stays");
    let error = bed
        .reader()
        .read(&region, &[run(0, 3)], &mut into[..2 * PAGE_BYTES], Instant::now() + LIMIT)
        .expect_err("no room");
    assert!(matches!(error, TransportError::NoRoom { .. }), "{error}");
    bed.withdraw(&region);
}

fn pages_that_do_not_exist_are_refused(bed: &dyn Bed) {
    let content = Content { seed: 3, pages: 10 };
    let region = bed.publish(content);
    for runs in [&[run(10, 1)][..], &[run(0, 11)], &[run(0, 1), run(9, 2)], &[run(u32::MAX, 2)]] {
        let error = read(bed.reader(), &region, runs, LIMIT).expect_err("out of range");
        assert!(matches!(error, TransportError::OutOfRange { .. }), "{error}");
    }
    read_and_compare(bed, &region, content, &[run(9, 1)]).expect("the last page is there");
    bed.withdraw(&region);
}

fn refused(result: Result<Vec<u8>, TransportError>) {
    let error = result.map(|b| b.len()).expect_err("refused");
    assert!(matches!(error, TransportError::Refused { .. }), "{error}");
}

fn a_withdrawn_region_is_refused_and_others_stay(bed: &dyn Bed) {
    let (gone, stays) = (Content { seed: 4, pages: 40 }, Content { seed: 5, pages: 40 });
    let (region, other) = (bed.publish(gone), bed.publish(stays));
    read_and_compare(bed, &region, gone, &[run(3, 30)]).expect("read");
    bed.withdraw(&region);
    refused(read(bed.reader(), &region, &[run(3, 30)], LIMIT));
    read_and_compare(bed, &other, stays, &[run(0, 40)]).expect("the other region");
    // The memory is used again, and perhaps the key: an old descriptor never reads what is there now.
    let next = Content { seed: 6, pages: 40 };
    let new = bed.publish(next);
    refused(read(bed.reader(), &region, &[run(0, 1)], LIMIT));
    read_and_compare(bed, &new, next, &[run(0, 40)]).expect("the new region");
    bed.withdraw(&other);
    bed.withdraw(&new);
}

fn a_wrong_key_is_refused_and_the_right_one_works_after_it(bed: &dyn Bed) {
    let content = Content { seed: 7, pages: 8 };
    let region = bed.publish(content);
    for _ in 0..3 {
        refused(read(bed.reader(), &with_wrong_key(&region), &[run(0, 8)], LIMIT));
        read_and_compare(bed, &region, content, &[run(0, 8)]).expect("the right key");
    }
    bed.withdraw(&region);
}

fn a_deadline_in_the_past_is_too_late(bed: &dyn Bed) {
    let content = Content { seed: 8, pages: 600 };
    let region = bed.publish(content);
    let error = read(bed.reader(), &region, &[run(0, 600)], Duration::ZERO).map(|b| b.len()).expect_err("no time");
    assert!(matches!(error, TransportError::Timeout { .. }), "{error}");
    read_and_compare(bed, &region, content, &[run(0, 600)]).expect("with time");
    bed.withdraw(&region);
}

fn many_readers_share_an_owner(bed: &dyn Bed) {
    let contents: Vec<Content> = (0..3).map(|i| Content { seed: 10 + i, pages: 128 }).collect();
    let regions: Vec<Region> = contents.iter().map(|c| bed.publish(*c)).collect();
    std::thread::scope(|scope| {
        for reader in 0..6_u32 {
            let (contents, regions) = (&contents, &regions);
            scope.spawn(move || {
                for round in 0..6_u32 {
                    let which = ((reader + round) % 3) as usize;
                    let runs: Vec<PageRun> =
                        (0..40).map(|i| run((i * 37 + reader * 5 + round) % 126, 1 + i % 3)).collect();
                    read_and_compare(bed, &regions[which], contents[which], &runs).expect("read");
                }
            });
        }
    });
    regions.iter().for_each(|r| bed.withdraw(r));
}

fn a_region_withdrawn_in_reads_gives_right_pages_or_an_error(bed: &dyn Bed) {
    for round in 0..3 {
        let content = Content { seed: 20 + round, pages: 256 };
        let region = bed.publish(content);
        let whole = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            match read_and_compare(bed, &region, content, &[run(0, 256)]) {
                                Ok(()) => whole.fetch_add(1, Ordering::SeqCst),
                                Err(e) => return e,
                            };
                        }
                    })
                })
                .collect();
            while whole.load(Ordering::SeqCst) < 2 {
                std::thread::yield_now();
            }
            bed.withdraw(&region);
            for reader in readers {
                let error = reader.join().expect("a reader");
                assert!(matches!(error, TransportError::Refused { .. }), "{error}");
            }
        });
    }
}

fn a_refused_reader_does_not_fail_the_others(bed: &dyn Bed) {
    let content = Content { seed: 30, pages: 64 };
    let region = bed.publish(content);
    let wrong = with_wrong_key(&region);
    let done = AtomicBool::new(false);
    let refusals = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                refused(read(bed.reader(), &wrong, &[run(0, 2)], LIMIT));
                refusals.fetch_add(1, Ordering::SeqCst);
            }
        });
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = BTreeSet::new();
                    // Until three refusals fell into these reads, whatever the machine's pace.
                    while seen.len() < 4 {
                        seen.insert(refusals.load(Ordering::SeqCst));
                        read_and_compare(bed, &region, content, &[run(0, 64)])?;
                    }
                    Ok::<(), TransportError>(())
                })
            })
            .collect();
        let results: Vec<_> = readers.into_iter().map(|r| r.join()).collect();
        done.store(true, Ordering::SeqCst);
        for result in results {
            result.expect("a reader").expect("reads beside a refused one");
        }
    });
    bed.withdraw(&region);
}
