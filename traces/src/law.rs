//! Durations drawn from recorded percentiles.
//!
//! A row of the Azure files gives an average, a minimum, a maximum and the percentiles 0, 1, 25, 50, 75, 99
//! and 100. The percentiles are of 30-second averages weighted by their counts, so they are narrower than
//! the executions themselves, and straight lines between them have the wrong mean: the last hundredth alone,
//! drawn evenly between the 99th percentile and the maximum, can weigh more than all the rest.
//!
//! A [`RunLaw`] is a quantile function that rises from `Minimum` to `Maximum` through the five inner
//! percentiles and whose mean is `Average` exactly (analytically; draws then differ by chance alone). Each of
//! its six segments, from (p, a) to (q, b), is two straight pieces that meet where a share 1 - θ of the
//! segment's width has been used and a share θ of its height: its mean is a + θ (b - a) for any θ from 0 to 1,
//! θ = 1/2 being the straight line. The θ are found in three steps, each taken only when the one before
//! cannot reach the average:
//!
//! 1. the last segment, the least known, takes whatever θ it needs, the others stay straight;
//! 2. the last segment goes to its end (θ = 0 or 1) and the others share one θ;
//! 3. the percentiles contradict the average: all of them move, in proportion, towards `Minimum` or
//!    `Maximum`, until the mean is right. Reported as [`Oddity::AverageAgainstPercentiles`].
//!
//! Left out: that successive executions resemble each other, and that the first after a cold start is slower.

use medes_engine::units::Duration;
use serde::Serialize;

use crate::report::{Oddity, ReadReport};

/// Probabilities at which the segments begin.
const STARTS: [f64; 6] = [0.0, 0.01, 0.25, 0.50, 0.75, 0.99];
/// Their widths.
const WIDTHS: [f64; 6] = [0.01, 0.24, 0.25, 0.25, 0.24, 0.01];
/// Segment of each hundredth.
const SEGMENT_OF: [u8; 100] = {
    let mut table = [0; 100];
    let mut percent = 0;
    while percent < 100 {
        table[percent] = match percent {
            0 => 0,
            1..25 => 1,
            25..50 => 2,
            50..75 => 3,
            75..99 => 4,
            _ => 5,
        };
        percent += 1;
    }
    table
};

/// A row of `function_durations_percentiles`, in milliseconds as recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RunRow {
    /// `Average`, ms.
    pub average: f64,
    /// `Count`, executions.
    pub count: u64,
    /// `Minimum`, ms.
    pub minimum: f64,
    /// `Maximum`, ms.
    pub maximum: f64,
    /// `percentile_Average_` 0, 1, 25, 50, 75, 99, 100, in ms.
    pub percentiles: [f64; 7],
}

impl RunRow {
    /// The row of these executions, or of `count` like them; sorts them. Percentiles are nearest ranks.
    pub(crate) fn of_runs(runs: &mut [Duration], count: u64) -> Self {
        runs.sort_unstable();
        let n = runs.len().max(1);
        let at = |share: f64| {
            let rank = ((share * n as f64).ceil() as usize).clamp(1, n);
            runs.get(rank - 1).map_or(0.0, |run| run.as_millis_f64())
        };
        Self {
            average: runs.iter().map(|run| run.as_millis_f64()).sum::<f64>() / n as f64,
            count,
            minimum: at(0.0),
            maximum: at(1.0),
            percentiles: [0.0, 0.01, 0.25, 0.50, 0.75, 0.99, 1.0].map(at),
        }
    }
}

/// One of the six segments: microseconds as a function of the probability.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Segment {
    /// Probability at which the second piece begins.
    split: f64,
    /// The straight pieces: which of them a draw takes is a matter of chance, so it is an index and not a branch.
    pieces: [Piece; 2],
}

/// A straight line from a point of a segment on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Piece {
    /// Probability at which it begins.
    start: f64,
    /// Value there.
    value: f64,
    slope: f64,
}

/// How long a function's executions take, as a distribution; see the module's text.
#[derive(Clone, Debug, PartialEq)]
pub struct RunLaw {
    segments: [Segment; 6],
    /// Analytic mean, microseconds.
    mean: f64,
}

impl RunLaw {
    /// Always the same.
    pub fn constant(run: Duration) -> Self {
        Self::through([run.as_micros() as f64; 7], [0.5; 6])
    }

    /// The law of one recorded row. Zeros stand for `zero_run_ms`; odd rows are mended and counted in
    /// `report`, `place` saying where.
    pub fn of_row(row: &RunRow, zero_run_ms: f64, report: &mut ReadReport, place: &dyn Fn() -> String) -> Self {
        let (knots, average) = mend(row, zero_run_ms, report, place);
        let (law, reached) = Self::with_mean(knots.map(|ms| ms * 1e3), average.map(|ms| ms * 1e3));
        // An average recorded as zero is only known to be small: it contradicts nothing.
        if !reached && row.average != 0.0 {
            report.add(Oddity::AverageAgainstPercentiles, place);
        }
        law
    }

    /// Through `knots` (rising, microseconds), with the given mean where there is one. False if the knots had
    /// to move.
    fn with_mean(knots: [f64; 7], mean: Option<f64>) -> (Self, bool) {
        let Some(mean) = mean else {
            return (Self::through(knots, [0.5; 6]), true);
        };
        let (lowest, highest) = (knots[0], knots[6]);
        let inner =
            |theta: f64| -> f64 { (0..5).map(|i| WIDTHS[i] * (knots[i] + theta * (knots[i + 1] - knots[i]))).sum() };
        let tail = |theta: f64| WIDTHS[5] * (knots[5] + theta * (knots[6] - knots[5]));

        let straight = inner(0.5);
        let theta = ratio(mean - straight - tail(0.0), tail(1.0) - tail(0.0));
        if (0.0..=1.0).contains(&theta) {
            return (Self::through(knots, [0.5, 0.5, 0.5, 0.5, 0.5, theta]), true);
        }
        let end = if theta < 0.0 { 0.0 } else { 1.0 };
        let shared = ratio(mean - inner(0.0) - tail(end), inner(1.0) - inner(0.0));
        if (0.0..=1.0).contains(&shared) {
            let mut thetas = [shared; 6];
            thetas[5] = end;
            return (Self::through(knots, thetas), true);
        }
        let thetas = [0.5, 0.5, 0.5, 0.5, 0.5, end];
        let mut moved = knots;
        if end == 0.0 {
            let share = ratio(mean - lowest, straight + tail(0.0) - lowest).clamp(0.0, 1.0);
            for knot in &mut moved[1..6] {
                *knot = lowest + share * (*knot - lowest);
            }
        } else {
            let share = ratio(highest - mean, highest - straight - tail(1.0)).clamp(0.0, 1.0);
            for knot in &mut moved[..6] {
                *knot = highest - share * (highest - *knot);
            }
        }
        (Self::through(moved, thetas), false)
    }

    fn through(knots: [f64; 7], thetas: [f64; 6]) -> Self {
        let mut mean = 0.0;
        let segments = std::array::from_fn(|i| {
            let (low, rise, theta) = (knots[i], knots[i + 1] - knots[i], thetas[i]);
            mean += WIDTHS[i] * (low + theta * rise);
            let split = STARTS[i] + WIDTHS[i] * (1.0 - theta);
            let first = Piece { start: STARTS[i], value: low, slope: ratio(theta * rise, WIDTHS[i] * (1.0 - theta)) };
            let second = Piece {
                start: split,
                value: low + theta * rise,
                slope: ratio((1.0 - theta) * rise, WIDTHS[i] * theta),
            };
            Segment { split, pieces: [first, second] }
        });
        Self { segments, mean }
    }

    /// The mean of all draws.
    pub fn mean(&self) -> Duration {
        Duration::from_micros(self.mean.round() as u64)
    }

    /// The duration at the probability `bits` / 2^32: rising in `bits`, and with uniform bits a draw.
    #[inline]
    pub fn at(&self, bits: u32) -> Duration {
        let percent = ((u64::from(bits) * 100) >> 32) as usize;
        let segment = &self.segments[usize::from(SEGMENT_OF[percent])];
        let u = (f64::from(bits) + 0.5) * (1.0 / 4_294_967_296.0);
        let piece = &segment.pieces[usize::from(u >= segment.split)];
        let micros = piece.value + piece.slope * (u - piece.start);
        // A float that is too large saturates in the conversion, which to a signed number is the shorter one.
        Duration::from_micros(((micros + 0.5) as i64).max(0) as u64)
    }
}

/// `a / b`, and 0 for a `b` of zero; for differences that vanish together.
fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { if a == 0.0 { 0.0 } else { a.signum() * f64::MAX } } else { a / b }
}

/// The seven knots of a row, rising and positive, and its average if it has a usable one; all in ms.
fn mend(
    row: &RunRow,
    zero_run_ms: f64,
    report: &mut ReadReport,
    place: &dyn Fn() -> String,
) -> ([f64; 7], Option<f64>) {
    if row.count == 0 {
        report.add(Oddity::CountZero, place);
    }
    let (mut minimum, mut maximum, mut percentiles) = (row.minimum, row.maximum, row.percentiles);
    if percentiles.iter().chain([&minimum, &maximum]).any(|value| *value < 0.0) {
        report.add(Oddity::NegativeDuration, place);
        minimum = minimum.max(0.0);
        maximum = maximum.max(0.0);
        percentiles = percentiles.map(|value| value.max(0.0));
    }
    if minimum > maximum {
        report.add(Oddity::MinimumAboveMaximum, place);
        std::mem::swap(&mut minimum, &mut maximum);
    }
    if !percentiles.is_sorted() {
        report.add(Oddity::UnorderedPercentiles, place);
        percentiles.sort_by(f64::total_cmp);
    }
    if percentiles[0] < minimum || percentiles[6] > maximum {
        report.add(Oddity::PercentileOutside, place);
    }
    let mut average = Some(row.average);
    if row.average < 0.0 {
        report.add(Oddity::NegativeAverage, place);
        average = None;
    } else if row.average < minimum || row.average > maximum {
        report.add(Oddity::AverageOutside, place);
    }
    if row.average == 0.0 {
        report.add(Oddity::ZeroAverage, place);
    }
    if minimum == 0.0 {
        report.add(Oddity::ZeroMinimum, place);
    }
    let positive = |value: f64| if value == 0.0 { zero_run_ms } else { value };
    // The smallest recorded value may be under what a zero stands for: order is kept.
    let least = positive(minimum);
    let most = positive(maximum).max(least);
    let mut knots = percentiles.map(|value| positive(value).clamp(least, most));
    knots[0] = least;
    knots[6] = most;
    // A zero stands for more than a tiny recorded value would: the order is made good again.
    for i in 1..7 {
        knots[i] = knots[i].max(knots[i - 1]);
    }
    (knots, average.map(|value| positive(value).clamp(least, most)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn law(row: &RunRow) -> (RunLaw, ReadReport) {
        let mut report = ReadReport::default();
        let law = RunLaw::of_row(row, 0.5, &mut report, &|| "row".into());
        (law, report)
    }

    /// The mean of the draws at 2^20 evenly spaced probabilities, in ms.
    fn mean_of_draws(law: &RunLaw) -> f64 {
        let n = 1u64 << 20;
        let sum: u64 = (0..n).map(|i| law.at(((i << 12) + (1 << 11)) as u32).as_micros()).sum();
        sum as f64 / n as f64 / 1e3
    }

    #[test]
    fn a_straight_row_is_the_straight_line() {
        // From 0 to 100 ms through its own percentiles: mean 50, quantile u is 100 u.
        let row = RunRow {
            average: 51.0,
            count: 10,
            minimum: 1.0,
            maximum: 101.0,
            percentiles: [1.0, 2.0, 26.0, 51.0, 76.0, 100.0, 101.0],
        };
        let (law, report) = law(&row);
        assert!(report.oddities.is_empty(), "{report}");
        assert_eq!(law.mean(), Duration::from_millis(51));
        for (bits, ms) in [(0u32, 1.0), (1 << 31, 51.0), (3 << 30, 76.0), (u32::MAX, 101.0)] {
            assert!((law.at(bits).as_millis_f64() - ms).abs() < 0.01, "{bits}");
        }
    }

    #[test]
    fn the_tail_gives_the_mean() {
        // First row of the real sample: straight lines would have a mean of about 36 ms.
        let row = RunRow {
            average: 3.0,
            count: 137_430,
            minimum: 0.0,
            maximum: 6664.0,
            percentiles: [0.0, 0.0, 1.0, 1.0, 3.0, 27.0, 492.0],
        };
        let (law, report) = law(&row);
        assert_eq!(law.mean(), Duration::from_millis(3));
        assert!((mean_of_draws(&law) - 3.0).abs() < 0.06);
        assert_eq!(report.count(Oddity::ZeroMinimum), 1);
        assert_eq!(law.at(u32::MAX / 2 + 1), Duration::from_millis(1));
        assert_eq!(law.at(0).as_micros(), 500);
    }

    #[test]
    fn percentiles_that_contradict_the_average_move() {
        let row = RunRow {
            average: 2.0,
            count: 5,
            minimum: 1.0,
            maximum: 100.0,
            percentiles: [1.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0],
        };
        let (low, report) = law(&row);
        assert_eq!(report.count(Oddity::AverageAgainstPercentiles), 1);
        assert_eq!(low.mean(), Duration::from_millis(2));
        assert!((mean_of_draws(&low) - 2.0).abs() < 0.01);
        let high = RunRow { average: 99.0, percentiles: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], ..row };
        let (high, report) = law(&high);
        assert_eq!(report.count(Oddity::AverageAgainstPercentiles), 1);
        assert!((mean_of_draws(&high) - 99.0).abs() < 0.5);
    }

    #[test]
    fn each_odd_row_has_its_rule() {
        let row = RunRow {
            average: 0.0,
            count: 0,
            minimum: -1_027_768.0,
            maximum: 0.0,
            percentiles: [-3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        };
        let (zero, report) = law(&row);
        assert_eq!(zero.mean().as_micros(), 500);
        assert_eq!(zero.at(12345).as_micros(), 500);
        for oddity in [Oddity::CountZero, Oddity::NegativeDuration, Oddity::ZeroAverage] {
            assert_eq!(report.count(oddity), 1, "{oddity:?}");
        }
        let row = RunRow {
            average: -5.0,
            count: 1,
            minimum: 30.0,
            maximum: 10.0,
            percentiles: [10.0, 25.0, 20.0, 20.0, 20.0, 30.0, 40.0],
        };
        let (law, report) = law(&row);
        for oddity in [
            Oddity::NegativeAverage,
            Oddity::MinimumAboveMaximum,
            Oddity::UnorderedPercentiles,
            Oddity::PercentileOutside,
        ] {
            assert_eq!(report.count(oddity), 1, "{oddity:?}");
        }
        assert!(law.mean() > Duration::from_millis(10) && law.mean() < Duration::from_millis(30));
    }

    proptest! {
        #[test]
        fn the_mean_is_the_average_and_the_law_rises(
            mut values in proptest::collection::vec(0u32..1_000_000, 9),
            log_scale in 0u32..4,
            share in 0.001f64..0.999,
        ) {
            for value in &mut values { *value /= 10u32.pow(log_scale); }
            values.sort_unstable();
            let v: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
            prop_assume!(v[0] < v[8]);
            let average = v[0] + share * (v[8] - v[0]);
            prop_assume!(average >= 1.0);
            let row = RunRow {
                average,
                count: 1,
                minimum: v[0],
                maximum: v[8],
                percentiles: [v[1], v[2], v[3], v[4], v[5], v[6], v[7]],
            };
            let (law, _) = law(&row);
            let mean = law.mean().as_millis_f64();
            prop_assert!((mean / average - 1.0).abs() < 0.001, "{mean} for {average}");
            let drawn = mean_of_draws(&law);
            prop_assert!((drawn / average - 1.0).abs() < 0.01, "draws {drawn} for {average}");
            let mut before = Duration::ZERO;
            for bits in (0..=u32::MAX).step_by(1 << 22) {
                let now = law.at(bits);
                prop_assert!(now >= before, "falls at {bits}");
                before = now;
            }
            prop_assert!(law.at(0) >= Duration::from_millis_f64(v[0].min(0.5)));
            prop_assert!(law.at(u32::MAX) <= Duration::from_millis_f64(v[8]));
        }

        #[test]
        fn no_row_panics(
            average in -1e7f64..1e9, minimum in -1e7f64..1e9, maximum in -1e7f64..1e9,
            p in proptest::array::uniform7(-1e6f64..1e9), count in 0u64..10,
        ) {
            let (law, _) = law(&RunRow { average, count, minimum, maximum, percentiles: p });
            prop_assert!(law.at(u32::MAX) >= law.at(0));
        }
    }
}
