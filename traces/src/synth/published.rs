//! What is published about the Azure Functions trace of 2019 (Shahrad et al., "Serverless in the Wild", ATC
//! 2020, and our counts of its day 1), as the generator follows it and [`crate::stats`] sets it beside a trace.

use crate::trace::Trigger;

/// A distribution by some of its quantiles: (probability, value), both rising, values positive; straight
/// lines in the logarithm between them. Two points of one value are a step of that value.
#[derive(Clone, Copy, Debug)]
pub struct Quantiles(pub &'static [(f64, f64)]);

impl Quantiles {
    /// The value at a probability.
    pub fn at(self, q: f64) -> f64 {
        let after = self.0.partition_point(|point| point.0 <= q);
        match (after.checked_sub(1).map(|i| self.0[i]), self.0.get(after)) {
            (Some((_, v0)), Some(&(_, v1))) if v0 == v1 => v0,
            (Some((p0, v0)), _) if q == p0 => v0,
            (Some((p0, v0)), Some(&(p1, v1))) => {
                let t = (q - p0) / (p1 - p0);
                (v0.ln() + t * (v1.ln() - v0.ln())).exp()
            }
            (Some((_, value)), None) => value,
            (None, first) => first.map_or(0.0, |point| point.1),
        }
    }
}

/// Share of functions and of invocations by trigger, in per cent as counted. The functions add up to 105.1,
/// some having two triggers: the generator divides by the sum.
pub const TRIGGERS: [(Trigger, f64, f64); 7] = [
    (Trigger::Http, 43.0, 22.5),
    (Trigger::Timer, 28.5, 1.8),
    (Trigger::Queue, 15.0, 42.0),
    (Trigger::Orchestration, 8.0, 1.4),
    (Trigger::Event, 2.6, 31.0),
    (Trigger::Storage, 2.3, 0.8),
    (Trigger::Others, 5.7, 0.1),
];

/// Functions by invocations a day, below the busiest hundredth. Published: <= 1 33 %, <= 10 54, <= 24 61,
/// <= 288 83 with a step there (every five minutes), <= 1440 93 with a step there (every minute), <= 10^4
/// 96.5, <= 86,400 99. The heights of the steps, 5 % each, are ours.
pub const DAILY: Quantiles = Quantiles(&[
    (0.0, 1.0),
    (0.33, 1.0),
    (0.54, 10.0),
    (0.61, 24.0),
    (0.78, 288.0),
    (0.83, 288.0),
    (0.88, 1440.0),
    (0.93, 1440.0),
    (0.965, 1e4),
    (0.99, 86_400.0),
]);
/// The points of [`DAILY`] as published: invocations a day, share of functions with at most that many.
pub const DAILY_SHARES: [(f64, f64); 7] =
    [(1.0, 0.33), (10.0, 0.54), (24.0, 0.61), (288.0, 0.83), (1440.0, 0.93), (1e4, 0.965), (86_400.0, 0.99)];
/// Share of all invocations by the busiest share of functions: the busiest of 46,412, the busiest
/// thousandth, the busiest hundredth.
pub const TOP: [(f64, f64); 3] = [(1.0 / 46_412.0, 0.135), (0.001, 0.70), (0.01, 0.93)];

/// Functions of an app: share of apps with at most that many.
pub const APP_SIZES: [(u32, f64); 4] = [(1, 0.54), (2, 0.71), (3, 0.80), (10, 0.95)];
/// Functions an app on average: 46,412 in 17,577.
pub const MEAN_APP_SIZE: f64 = 46_412.0 / 17_577.0;

/// Average duration of a function, in seconds. Published: 10 % 0.07, 25 % 0.22, 50 % 0.95, 75 % 4, 90 % 20,
/// 99 % 150. Below: 2.6 % of a sample's averages are recorded as zero. Above: the platform's limits.
pub const RUN_S: Quantiles = Quantiles(&[
    (0.0, 0.000_1),
    (0.03, 0.000_6),
    (0.10, 0.07),
    (0.25, 0.22),
    (0.50, 0.95),
    (0.75, 4.0),
    (0.90, 20.0),
    (0.99, 150.0),
    (1.0, 600.0),
]);
/// Memory of an app, in MB. Published: 25 % 120, 50 % 143, 75 % 188, 90 % 210, 95 % 242, 99 % 408; the rest
/// from the published fit (Burr XII, c 11.652, k 0.221, lambda 107.083).
pub const MEMORY_MB: Quantiles = Quantiles(&[
    (0.0, 60.0),
    (0.01, 82.0),
    (0.10, 103.0),
    (0.25, 120.0),
    (0.50, 143.0),
    (0.75, 188.0),
    (0.90, 210.0),
    (0.95, 242.0),
    (0.99, 408.0),
    (1.0, 1500.0),
]);

/// Coefficient of variation of the times between an app's invocations: share of apps at most that.
pub const VARIATION: [(f64, f64); 3] = [(0.05, 0.20), (1.0, 0.59), (10.0, 0.95)];

/// Volume of each hour of the day over the mean hour. Published: from 0.82 to 1.25; the shape between, one
/// rise in the working day and a low night, is ours.
pub const HOURS: [f64; 24] = [
    0.88, 0.85, 0.83, 0.82, 0.83, 0.86, 0.90, 0.95, 1.01, 1.07, 1.12, 1.16, 1.20, 1.24, 1.25, 1.21, 1.15, 1.08, 1.02,
    0.96, 0.92, 0.90, 0.90, 0.89,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_go_through_their_points() {
        assert!((DAILY.at(0.54) - 10.0).abs() < 1e-9);
        assert!((DAILY.at(0.80) - 288.0).abs() < 1e-9);
        assert!((RUN_S.at(0.375) - (0.22f64 * 0.95).sqrt()).abs() < 1e-9);
        assert_eq!((DAILY.at(-1.0), DAILY.at(2.0)), (1.0, 86_400.0));
    }

    #[test]
    fn the_hours_average_to_one() {
        let mean = HOURS.iter().sum::<f64>() / 24.0;
        assert!((mean - 1.0).abs() < 0.005, "{mean}");
    }
}
