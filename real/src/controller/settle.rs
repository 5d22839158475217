//! A run begins when the machine has come to rest: what the run before it left to be done, by agents and by the kernel, and what starting
//! the agents took would be part of its first starts.

use std::fs;
use std::time::{Duration, Instant};

/// The machine is watched for so long at a time.
const SLICE: Duration = Duration::from_millis(250);
/// At rest, so much of its processors' time is used at most.
const REST: f64 = 0.1;

/// Time that all processors were at work, and in all, since boot: ticks. The first line of `/proc/stat`.
fn times(stat: &str) -> Option<(u64, u64)> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    // User, nice, system, idle, waiting for a disk, interrupts of two kinds, taken by the host; what follows is counted in the first two.
    let numbers: Vec<u64> = numbers.take(8).map_while(|n| n.parse().ok()).collect();
    let all: u64 = numbers.iter().sum();
    let idle = numbers.get(3)? + numbers.get(4)?;
    Some((all - idle, all))
}

/// Which part of the processors' time went to work between two looks.
fn share(before: (u64, u64), after: (u64, u64)) -> f64 {
    let all = after.1.saturating_sub(before.1);
    if all == 0 { 0.0 } else { after.0.saturating_sub(before.0) as f64 / all as f64 }
}

fn look() -> Option<(u64, u64)> {
    times(&fs::read_to_string("/proc/stat").unwrap_or_default())
}

/// Waits until the machine is at rest, `limit` at most; the part of its processors' time that was at work in the end, if it never was.
/// `goes_on` ends it by returning false.
pub(super) async fn rest(limit: Duration, mut goes_on: impl FnMut() -> bool) -> Option<f64> {
    let until = Instant::now() + limit;
    let mut at_work = None;
    while Instant::now() < until && goes_on() {
        let before = look()?;
        tokio::time::sleep(SLICE).await;
        let share = share(before, look()?);
        if share <= REST {
            return None;
        }
        at_work = Some(share);
    }
    at_work
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_at_work_is_all_but_idle_and_waiting() {
        let before = times("cpu  100 5 50 800 40 3 2 0 7 7\ncpu0 1 2 3\n");
        assert_eq!(before, Some((160, 1000)));
        assert_eq!(share((160, 1000), (190, 1100)), 0.3);
        assert_eq!(share((160, 1000), (160, 1000)), 0.0);
        assert_eq!((times(""), times("cpu  1 2 3")), (None, None));
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_the_limit_or_after_being_told_to_stop() {
        let began = Instant::now();
        assert_eq!(rest(Duration::ZERO, || true).await, None);
        assert_eq!(rest(Duration::from_secs(60), || false).await, None);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
