//! How much of the machine work takes: cores, and memory as it grows.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use medes_engine::units::Bytes;

use crate::node::process;

/// Between two looks at a process that grows.
const LOOK: Duration = Duration::from_millis(4);
/// Ticks of the kernel's account a second: the unit in which it tells of it, whatever it counts in.
const TICKS: f64 = 100.0;

/// Time that all processors of this machine have been idle since it started, s, and how many there are. `None` where the kernel does not tell.
fn idle() -> Option<(f64, f64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let processors = text.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu ")).count();
    // user, nice, system, idle, waiting for disks.
    let fields = text.lines().next()?.split_whitespace().skip(4).take(2);
    let ticks: f64 = fields.map(|f| f.parse::<f64>().unwrap_or(0.0)).sum();
    Some((ticks / TICKS, processors as f64))
}

/// Core time over elapsed time of something that is done several times. Counts all that is at work on the machine, be it the agent's, CRIU's or the
/// kernel's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effort {
    core_s: f64,
    elapsed_s: f64,
}

impl Effort {
    /// Does it once more.
    pub fn of<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (before, began) = (idle(), Instant::now());
        let done = work();
        let (after, elapsed) = (idle(), began.elapsed().as_secs_f64());
        if let (Some((from, processors)), Some((to, _))) = (before, after) {
            self.core_s += elapsed * processors - (to - from);
            self.elapsed_s += elapsed;
        }
        done
    }

    /// Cores at work on average; one where nothing is known.
    pub fn cores(&self) -> f64 {
        if self.elapsed_s > 0.0 { (self.core_s / self.elapsed_s).max(0.0) } else { 1.0 }
    }
}

/// Looks at the memory of whatever process this program starts, until it is told to end.
pub(super) struct Growth {
    ended: Arc<AtomicBool>,
    looks: JoinHandle<(f64, u32)>,
}

fn children() -> BTreeSet<i32> {
    process::tree(std::process::id().cast_signed()).into_iter().skip(1).collect()
}

impl Growth {
    pub fn watch() -> Self {
        let (ended, before) = (Arc::new(AtomicBool::new(false)), children());
        let told = ended.clone();
        let looks = thread::spawn(move || {
            let (mut sum, mut count) = (0.0, 0);
            while !told.load(Ordering::Acquire) {
                let born = children().into_iter().filter(|pid| !before.contains(pid));
                sum += born.map(|pid| process::proportional(pid).as_mb()).sum::<f64>();
                count += 1;
                thread::sleep(LOOK);
            }
            (sum, count)
        });
        Self { ended, looks }
    }

    /// The mean of what was seen.
    pub fn end(self) -> Bytes {
        self.ended.store(true, Ordering::Release);
        let (sum, count) = self.looks.join().unwrap_or_default();
        Bytes::from_mb(sum / f64::from(count.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_the_ratio_of_the_sums() {
        let mut effort = Effort::default();
        assert_eq!(effort.cores(), 1.0);
        for (core_s, elapsed_s) in [(0.5, 1.0), (2.5, 1.0)] {
            effort.core_s += core_s;
            effort.elapsed_s += elapsed_s;
        }
        assert_eq!((effort.cores(), Effort::default().of(|| 7)), (1.5, 7));
    }

    #[test]
    fn a_child_is_seen_to_grow() {
        let growth = Growth::watch();
        let mut child = std::process::Command::new("sleep").arg("0.2").spawn().unwrap();
        child.wait().unwrap();
        assert!(growth.end() > Bytes::ZERO);
    }
}
