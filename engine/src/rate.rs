//! Arrival rates of functions over a window of whole minutes.

/// Arrivals of one function by minute over the window.
#[derive(Clone, Debug)]
pub(crate) struct RateWindow {
    /// The newest minute, its count, and the sum of the others: an arrival touches nothing else.
    minute: u64,
    newest: u32,
    /// Largest count in the window.
    peak: u32,
    older: u64,
    /// The minutes before the newest: a ring by minute number.
    counts: Box<[u32]>,
}

impl RateWindow {
    pub fn new(minutes: u32) -> Self {
        Self { minute: 0, newest: 0, peak: 0, older: 0, counts: vec![0; minutes as usize].into() }
    }

    /// Forgets minutes that left the window.
    #[inline]
    pub fn roll(&mut self, minute: u64) {
        if minute > self.minute {
            self.forget(minute);
        }
    }

    fn forget(&mut self, minute: u64) {
        let length = self.counts.len() as u64;
        self.older += u64::from(self.newest);
        self.counts[(self.minute % length) as usize] = std::mem::take(&mut self.newest);
        for back in 0..(minute - self.minute).min(length) {
            let at = ((minute - back) % length) as usize;
            self.older -= u64::from(std::mem::take(&mut self.counts[at]));
        }
        self.minute = minute;
        self.peak = self.counts.iter().copied().max().unwrap_or(0);
    }

    /// Counts an arrival; gives the new peak if it is one.
    #[inline]
    pub fn count(&mut self, minute: u64) -> Option<f64> {
        self.roll(minute);
        self.newest = self.newest.saturating_add(1);
        if self.newest <= self.peak {
            return None;
        }
        self.peak = self.newest;
        Some(self.peak_per_s())
    }

    /// Largest per-minute count in the window over 60: requests per second.
    pub fn peak_per_s(&self) -> f64 {
        f64::from(self.peak) / 60.0
    }

    /// Mean over the window: requests per second.
    pub fn mean_per_s(&self) -> f64 {
        (self.older + u64::from(self.newest)) as f64 / (60.0 * self.counts.len() as f64)
    }

    /// Whether nothing arrived in the window.
    pub fn is_empty(&self) -> bool {
        self.older == 0 && self.newest == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_and_mean_over_a_window_of_three_minutes() {
        let mut w = RateWindow::new(3);
        for minute in [0, 0, 0, 1, 2, 2] {
            w.count(minute);
        }
        assert_eq!((w.peak_per_s(), w.mean_per_s()), (3.0 / 60.0, 6.0 / 180.0));
        w.count(3); // minute 0 leaves
        assert_eq!((w.peak_per_s(), w.mean_per_s()), (2.0 / 60.0, 4.0 / 180.0));
        w.roll(1000);
        assert!(w.is_empty());
        assert_eq!(w.peak_per_s(), 0.0);
    }
}
