//! Streaming histograms of times with a stated error.
//!
//! Buckets are linear up to `2^BITS` µs and then `2^BITS` to an octave, so that a percentile, given as the
//! middle of its bucket, is off by at most `2^-(BITS + 1)` of its value: 0.05 % with 10 bits, 0.4 % with 7.
//! Memory grows with the spread of the values and not with their number.

use crate::units::Duration;

/// A histogram of times in µs.
#[derive(Clone, Debug, Default)]
pub struct Histogram<const BITS: u32> {
    /// Count of bucket `first + i` at `i`.
    counts: Vec<u64>,
    first: usize,
    total: u64,
    sum: u128,
    min: u64,
    max: u64,
}

impl<const BITS: u32> Histogram<BITS> {
    #[inline]
    fn bucket(us: u64) -> usize {
        let octave = (us | (1 << BITS)).ilog2() - BITS;
        ((octave as usize) << BITS) + (us >> octave) as usize
    }

    /// Lower bound and width of a bucket, µs.
    fn range(bucket: usize) -> (u64, u64) {
        let magnitude = bucket >> BITS;
        let within = (bucket & ((1 << BITS) - 1)) as u64;
        if magnitude == 0 { (within, 1) } else { (((1 << BITS) + within) << (magnitude - 1), 1 << (magnitude - 1)) }
    }

    /// Adds one value.
    #[inline]
    pub fn add(&mut self, value: Duration) {
        let us = value.as_micros();
        let bucket = Self::bucket(us);
        // Below the first bucket this wraps and is beyond the last one.
        match self.counts.get_mut(bucket.wrapping_sub(self.first)) {
            Some(count) => *count += 1,
            None => self.add_beyond(bucket, us),
        }
        self.total += 1;
        self.sum += u128::from(us);
        self.min = self.min.min(us);
        self.max = self.max.max(us);
    }

    /// Makes buckets up or down to the one of a value, and counts it.
    #[cold]
    fn add_beyond(&mut self, bucket: usize, us: u64) {
        if self.counts.is_empty() {
            self.first = bucket;
            (self.min, self.max) = (us, us);
        }
        if bucket < self.first {
            self.counts.splice(0..0, std::iter::repeat_n(0, self.first - bucket));
            self.first = bucket;
        }
        let at = bucket - self.first;
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        self.counts[at] += 1;
    }

    /// Values added.
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Mean, exact, in ms; NaN without values.
    pub fn mean_ms(&self) -> f64 {
        self.sum as f64 / self.total as f64 / 1e3
    }

    /// The value at rank `ceil(share x n)` of `n`, in ms; NaN without values. The largest and smallest are exact.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        if self.total == 0 {
            return f64::NAN;
        }
        // A share like 0.999 is not exact in binary: without the nudge, 0.999 x 1000 would round up to 1000.
        let rank = ((share * self.total as f64 - 1e-9).ceil() as u64).clamp(1, self.total);
        if rank == self.total {
            return self.max as f64 / 1e3;
        }
        let mut seen = 0;
        for (i, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                let (low, width) = Self::range(self.first + i);
                let middle = low as f64 + (width - 1) as f64 / 2.0;
                return middle.clamp(self.min as f64, self.max as f64) / 1e3;
            }
        }
        self.max as f64 / 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranks_by_hand() {
        let mut h = Histogram::<10>::default();
        (1..=1000).for_each(|ms| h.add(Duration::from_millis(ms)));
        assert!((h.percentile_ms(0.5) - 500.0).abs() < 0.25);
        assert!((h.percentile_ms(0.99) - 990.0).abs() < 0.5);
        assert!((h.percentile_ms(0.999) - 999.0).abs() < 0.5);
        assert_eq!(h.percentile_ms(1.0), 1000.0);
        assert_eq!(h.mean_ms(), 500.5);
        assert!(Histogram::<7>::default().percentile_ms(0.5).is_nan());
    }

    proptest! {
        #[test]
        fn percentiles_are_within_the_stated_error(values in prop::collection::vec(0u64..1u64 << 45, 1..200), share in 0.0f64..1.0) {
            let mut h = Histogram::<7>::default();
            values.iter().for_each(|v| h.add(Duration::from_micros(*v)));
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let rank = ((share * values.len() as f64 - 1e-9).ceil() as usize).clamp(1, values.len());
            let exact = sorted[rank - 1] as f64 / 1e3;
            prop_assert!((h.percentile_ms(share) - exact).abs() <= exact / 256.0 + 1e-9);
        }

        #[test]
        fn a_value_is_in_its_bucket(us in 0u64..1 << 60) {
            let (low, width) = Histogram::<7>::range(Histogram::<7>::bucket(us));
            prop_assert!(low <= us && us < low + width);
        }
    }
}
