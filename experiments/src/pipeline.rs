//! Arrivals drawn by a thread of their own, ahead of the simulation that takes them.
//!
//! They are a function of the trace and the seed alone, so who draws them when changes no row.

use std::sync::mpsc::{channel, sync_channel};

use medes_sim::Arrival;

/// Batches that wait at the most, and arrivals a batch: what is under way fits the cache that cores share.
const WAITING: usize = 4;
const BATCH: usize = 8192;

/// Runs `consume` on the batches of `next_batch`, which another thread asks for ahead.
pub fn ahead<R>(
    mut next_batch: impl FnMut(&mut Vec<Arrival>) -> bool + Send,
    consume: impl FnOnce(&mut dyn FnMut(&mut Vec<Arrival>) -> bool) -> R,
) -> R {
    let (full, batches) = sync_channel::<Vec<Arrival>>(WAITING);
    let (back, empty) = channel::<Vec<Arrival>>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut more = true;
            while more {
                let mut batch = empty.try_recv().unwrap_or_default();
                batch.clear();
                while more && batch.len() < BATCH {
                    more = next_batch(&mut batch);
                }
                if full.send(batch).is_err() {
                    return; // The simulation ended early.
                }
            }
        });
        let mut next = move |out: &mut Vec<Arrival>| {
            let Ok(mut batch) = batches.recv() else { return false };
            if out.is_empty() {
                std::mem::swap(out, &mut batch);
            } else {
                out.append(&mut batch);
            }
            // The other thread may be done, and then nobody needs it.
            let _ = back.send(batch);
            true
        };
        let result = consume(&mut next);
        drop(next); // So that the other thread, if it still draws, sees that nobody waits for it.
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use medes_engine::id::FunctionId;
    use medes_engine::units::{Duration, Instant};

    fn source(batches: u64, each: u64) -> impl FnMut(&mut Vec<Arrival>) -> bool + Send {
        let mut next = 0;
        move |out| {
            if next == batches * each {
                return false;
            }
            out.extend((next..next + each).map(|i| Arrival {
                at: Instant::from_micros(i),
                function: FunctionId(0),
                run: Duration::ZERO,
            }));
            next += each;
            true
        }
    }

    #[test]
    fn batches_come_whole_and_in_order() {
        for (batches, each) in [(0, 1), (1, 1), (7, 3), (100, 1000)] {
            let taken = ahead(source(batches, each), |next| {
                let mut out = Vec::new();
                while next(&mut out) {}
                out
            });
            let times: Vec<u64> = taken.iter().map(|a| a.at.as_micros()).collect();
            assert_eq!(times, (0..batches * each).collect::<Vec<_>>());
        }
    }

    #[test]
    fn one_that_stops_early_does_not_wait_for_the_rest() {
        let first = ahead(source(u64::MAX >> 20, 1000), |next| {
            let mut out = Vec::new();
            next(&mut out);
            out.len()
        });
        assert!(first >= BATCH);
    }
}
