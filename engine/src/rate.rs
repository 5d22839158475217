//! Arrival rates of functions over a window of whole minutes.

use crate::units::Instant;

/// Arrivals of one function by minute over the window.
#[derive(Clone, Debug)]
pub(crate) struct RateWindow {
    /// A ring by minute number.
    counts: Box<[u32]>,
    /// The newest minute counted.
    minute: u64,
    sum: u64,
}

impl RateWindow {
    pub fn new(minutes: u32) -> Self {
        Self { counts: vec![0; minutes as usize].into(), minute: 0, sum: 0 }
    }

    /// Forgets minutes that left the window.
    pub fn roll(&mut self, minute: u64) {
        let passed = minute.saturating_sub(self.minute).min(self.counts.len() as u64);
        for back in 0..passed {
            let at = ((minute - back) % self.counts.len() as u64) as usize;
            self.sum -= u64::from(self.counts[at]);
            self.counts[at] = 0;
        }
        self.minute = self.minute.max(minute);
    }

    /// Counts an arrival.
    pub fn count(&mut self, now: Instant) {
        self.roll(now.minute());
        let at = (self.minute % self.counts.len() as u64) as usize;
        self.counts[at] = self.counts[at].saturating_add(1);
        self.sum += 1;
    }

    /// Largest per-minute count in the window over 60: requests per second.
    pub fn peak_per_s(&self) -> f64 {
        f64::from(self.counts.iter().copied().max().unwrap_or(0)) / 60.0
    }

    /// The peak after an arrival, given the peak before it.
    pub fn peak_of_newest(&self, before_per_s: f64) -> f64 {
        let at = (self.minute % self.counts.len() as u64) as usize;
        before_per_s.max(f64::from(self.counts[at]) / 60.0)
    }

    /// Mean over the window: requests per second.
    pub fn mean_per_s(&self) -> f64 {
        self.sum as f64 / (60.0 * self.counts.len() as f64)
    }

    /// Whether nothing arrived in the window.
    pub fn is_empty(&self) -> bool {
        self.sum == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_and_mean_over_a_window_of_three_minutes() {
        let mut w = RateWindow::new(3);
        let at = |m: u64| Instant::from_micros(m * 60_000_000 + 5);
        for minute in [0, 0, 0, 1, 2, 2] {
            w.count(at(minute));
        }
        assert_eq!((w.peak_per_s(), w.mean_per_s()), (3.0 / 60.0, 6.0 / 180.0));
        w.count(at(3)); // minute 0 leaves
        assert_eq!((w.peak_per_s(), w.mean_per_s()), (2.0 / 60.0, 4.0 / 180.0));
        w.roll(1000);
        assert!(w.is_empty());
        assert_eq!(w.peak_per_s(), 0.0);
    }
}
