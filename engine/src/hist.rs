//! Streaming histograms of times with a stated error.
//!
//! Buckets are linear up to `2^BITS` µs and then `2^BITS` to an octave, so that a percentile, given as the
//! middle of its bucket, is off by at most `2^-(BITS + 1)` of its value: 0.05 % with 10 bits, 0.4 % with 7.
//! Memory grows with the spread of the values and not with their number.

use crate::ahead;
use crate::units::Duration;

/// Buckets are made so many at a time: those of a cache line.
const STEP: usize = 16;

/// A histogram of times in µs. One cache line, beside the buckets.
#[derive(Clone, Debug, Default)]
#[repr(C, align(64))]
pub struct Histogram<const BITS: u32> {
    /// Count of bucket `first + i` at `i`, modulo 2^32.
    counts: Box<[u32]>,
    rounds: Option<Box<Rounds>>,
    first: u32,
    /// Upper 32 of the 96 bits of the sum.
    sum_high: u32,
    sum: u64,
    total: u64,
    min: u64,
    max: u64,
}

/// Buckets whose count went round, once for each time.
#[derive(Clone, Debug, Default)]
struct Rounds {
    of: Vec<usize>,
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
        self.count_in(us);
        self.total += 1;
        let (sum, over) = self.sum.overflowing_add(us);
        self.sum = sum;
        self.sum_high += u32::from(over);
        self.min = self.min.min(us);
        self.max = self.max.max(us);
    }

    /// Counts a value in its bucket and nowhere else; [`Self::sum_up`] is to follow when all are in.
    #[inline]
    pub fn add_unsummed(&mut self, value: Duration) {
        self.count_in(value.as_micros());
    }

    /// Takes number, sum, smallest and largest from histograms of the same values.
    pub fn sum_up<'a, const OTHER: u32>(&mut self, parts: impl Iterator<Item = &'a Histogram<OTHER>>) {
        (self.total, self.sum, self.sum_high, self.min, self.max) = (0, 0, 0, u64::MAX, 0);
        for part in parts.filter(|part| part.total > 0) {
            self.total += part.total;
            let (sum, over) = self.sum.overflowing_add(part.sum);
            self.sum = sum;
            self.sum_high += part.sum_high + u32::from(over);
            self.min = self.min.min(part.min);
            self.max = self.max.max(part.max);
        }
    }

    #[inline]
    fn count_in(&mut self, us: u64) {
        let bucket = Self::bucket(us);
        // Below the first bucket this wraps and is beyond the last one.
        match self.counts.get_mut(bucket.wrapping_sub(self.first as usize)) {
            Some(count) => {
                *count = count.wrapping_add(1);
                if *count == 0 {
                    self.goes_round(bucket);
                }
            }
            None => self.add_beyond(bucket, us),
        }
    }

    /// Hint: `value` will be added soon.
    #[inline]
    pub fn ask_for(&self, value: Duration) {
        ahead::fetch(&self.counts, Self::bucket(value.as_micros()).wrapping_sub(self.first as usize));
    }

    #[cold]
    fn goes_round(&mut self, bucket: usize) {
        self.rounds.get_or_insert_default().of.push(bucket);
    }

    /// Makes buckets up or down to the one of a value, and counts it.
    #[cold]
    fn add_beyond(&mut self, bucket: usize, us: u64) {
        let mut counts = std::mem::take(&mut self.counts).into_vec();
        if counts.is_empty() {
            self.first = bucket as u32;
            (self.min, self.max) = (us, us);
        }
        let first = self.first as usize;
        if bucket < first {
            let more = (first - bucket).next_multiple_of(STEP).min(first);
            counts.splice(0..0, std::iter::repeat_n(0, more));
            self.first -= more as u32;
        }
        let at = bucket - self.first as usize;
        if at >= counts.len() {
            counts.resize((at + 1).next_multiple_of(STEP), 0);
        }
        counts[at] += 1;
        self.counts = counts.into();
    }

    /// Count of the bucket `first + i`.
    fn count(&self, i: usize) -> u64 {
        let rounds = self.rounds.iter().flat_map(|r| &r.of).filter(|r| **r == self.first as usize + i).count();
        u64::from(self.counts[i]) + ((rounds as u64) << 32)
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
        let sum = (u128::from(self.sum_high) << 64) + u128::from(self.sum);
        sum as f64 / self.total as f64 / 1e3
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
        for i in 0..self.counts.len() {
            seen += self.count(i);
            if seen >= rank {
                let (low, width) = Self::range(self.first as usize + i);
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

    #[test]
    fn counts_and_sums_beyond_their_words_are_kept() {
        let mut h = Histogram::<7>::default();
        h.add(Duration::from_micros(100));
        h.add(Duration::from_micros(1 << 62));
        h.counts[0] = u32::MAX;
        (h.total, h.sum) = (u64::from(u32::MAX) + 1, u64::MAX);
        h.add(Duration::from_micros(100));
        assert_eq!(h.count(0), 1 << 32);
        assert_eq!(h.percentile_ms(0.5), 0.1);
        assert_eq!(h.mean_ms(), ((1u128 << 64) + 99) as f64 / ((1u64 << 32) + 1) as f64 / 1e3);
        assert_eq!(size_of::<Histogram<7>>(), 64);
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
