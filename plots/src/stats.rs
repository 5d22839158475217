//! Means over seeds, and how sure they are.
//!
//! A cell is run with a handful of seeds; a figure shows the mean and Student's 95 % interval of it.
//! Two policies are compared pairwise: with the same seed both saw the same arrivals, so the difference
//! is taken seed by seed and the interval is that of the differences, which is far narrower than what
//! the two intervals side by side suggest.

/// A mean over seeds with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Number of finite values.
    pub n: usize,
    /// Their mean; NaN without values.
    pub mean: f64,
    /// Half the width of Student's 95 % confidence interval of the mean; `None` for fewer than two values.
    pub half: Option<f64>,
}

impl Estimate {
    /// The mean of the finite ones of `values`; NaN and infinite values are left out and not counted.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        let n = values.len();
        let half = (n >= 2).then(|| t_quantile_975(n - 1) * sample_sd(&values) / (n as f64).sqrt());
        Self { n, mean: mean(&values), half }
    }

    /// Lower end of the interval; the mean itself where there is no interval.
    pub fn low(&self) -> f64 {
        self.mean - self.half.unwrap_or(0.0)
    }

    /// Upper end of the interval; the mean itself where there is no interval.
    pub fn high(&self) -> f64 {
        self.mean + self.half.unwrap_or(0.0)
    }

    /// Whether the interval lies wholly on one side of zero: -1 below, 1 above, 0 neither. Without an
    /// interval nothing is known, which is 0.
    pub fn sign(&self) -> i8 {
        match self.half {
            Some(_) if self.high() < 0.0 => -1,
            Some(_) if self.low() > 0.0 => 1,
            _ => 0,
        }
    }
}

/// The arithmetic mean; NaN of nothing.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { f64::NAN } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The sample standard deviation (n - 1 below the line); NaN for fewer than two values.
pub fn sample_sd(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return f64::NAN;
    }
    let m = mean(values);
    (values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

/// Differences `a - b` over the seeds that both have, as an estimate; other seeds are left out.
pub fn paired_difference(a: &[(u64, f64)], b: &[(u64, f64)]) -> Estimate {
    Estimate::of(pairs(a, b).map(|(a, b)| a - b))
}

/// Relative differences `a / b - 1` over the seeds that both have; -0.31 is "31 % fewer". A seed whose
/// `b` is zero has no relative difference and is left out.
pub fn paired_ratio(a: &[(u64, f64)], b: &[(u64, f64)]) -> Estimate {
    Estimate::of(pairs(a, b).map(|(a, b)| a / b - 1.0))
}

fn pairs<'a>(a: &'a [(u64, f64)], b: &'a [(u64, f64)]) -> impl Iterator<Item = (f64, f64)> + 'a {
    a.iter().filter_map(|(seed, a)| b.iter().find(|(other, _)| other == seed).map(|(_, b)| (*a, *b)))
}

/// The quantile 0.975 of Student's t with `df` degrees of freedom, to 0.001; infinite for none.
pub fn t_quantile_975(df: usize) -> f64 {
    // To 30 from the usual table; beyond it the Cornish-Fisher expansion errs by less than 1e-5.
    const TABLE: [f64; 30] = [
        12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
        2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518,
        2.0484, 2.0452, 2.0423,
    ];
    match df {
        0 => f64::INFINITY,
        1..=30 => TABLE[df - 1],
        _ => {
            let (z, n) = (1.959_964_f64, df as f64);
            let (z3, z5) = (z.powi(3), z.powi(5));
            z + (z3 + z) / (4.0 * n) + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * n * n)
        }
    }
}

/// Weighted quantiles of `(value, weight)`: the smallest value at which at least the part `q` of the
/// weight is reached, for each `q`. Values that are not finite and weights not above zero are left out;
/// NaN without any left.
pub fn weighted_quantiles(samples: &[(f64, f64)], qs: &[f64]) -> Vec<f64> {
    let sorted = sorted_by_value(samples);
    let total: f64 = sorted.iter().map(|s| s.1).sum();
    qs.iter()
        .map(|q| {
            let mut sum = 0.0;
            let reached = sorted.iter().find(|(_, weight)| {
                sum += weight;
                sum >= q * total * (1.0 - 1e-12)
            });
            reached.or(sorted.last()).map_or(f64::NAN, |s| s.0)
        })
        .collect()
}

/// The mean of `(value, weight)` by weight; NaN without any weight.
pub fn weighted_mean(samples: &[(f64, f64)]) -> f64 {
    let sorted = sorted_by_value(samples);
    let total: f64 = sorted.iter().map(|s| s.1).sum();
    if total > 0.0 { sorted.iter().map(|s| s.0 * s.1).sum::<f64>() / total } else { f64::NAN }
}

fn sorted_by_value(samples: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut sorted: Vec<_> = samples.iter().copied().filter(|(v, w)| v.is_finite() && *w > 0.0).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64, by: f64) {
        assert!((a - b).abs() <= by, "{a} is not within {by} of {b}");
    }

    #[test]
    fn the_interval_of_five_values_is_students() {
        // By hand: mean 3, sd sqrt(2.5), half width 2.7764 sqrt(2.5 / 5).
        let e = Estimate::of([1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!((e.n, e.mean), (5, 3.0));
        close(e.half.unwrap(), 1.9632, 1e-4);
        assert_eq!(e.sign(), 1);
    }

    #[test]
    fn one_value_has_no_interval_and_none_no_mean() {
        let one = Estimate::of([7.0, f64::NAN]);
        assert_eq!((one.n, one.mean, one.half, one.low(), one.sign()), (1, 7.0, None, 7.0, 0));
        let none = Estimate::of([]);
        assert!(none.n == 0 && none.mean.is_nan() && none.half.is_none());
        assert!(sample_sd(&[1.0]).is_nan());
    }

    #[test]
    fn t_quantiles_are_those_of_the_tables() {
        for (df, known) in
            [(1, 12.7062), (4, 2.7764), (30, 2.0423), (31, 2.0395), (40, 2.0211), (60, 2.0003), (120, 1.9799)]
        {
            close(t_quantile_975(df), known, 1e-4);
        }
        close(t_quantile_975(1_000_000), 1.95997, 1e-5);
        assert_eq!(t_quantile_975(0), f64::INFINITY);
    }

    #[test]
    fn pairs_are_made_by_seed_and_not_by_place() {
        let a = [(1, 80.0), (2, 60.0), (9, 1.0)];
        let b = [(2, 100.0), (1, 100.0), (3, 5.0)];
        let d = paired_difference(&a, &b);
        assert_eq!((d.n, d.mean), (2, -30.0));
        let r = paired_ratio(&a, &b);
        close(r.mean, -0.3, 1e-12);
        close(r.half.unwrap(), 12.7062 * 0.1, 1e-4);
        assert_eq!(paired_ratio(&[(1, 3.0)], &[(1, 0.0)]).n, 0);
    }

    #[test]
    fn quantiles_count_weight_and_not_values() {
        let samples = [(10.0, 1.0), (20.0, 8.0), (30.0, 1.0), (f64::NAN, 5.0), (40.0, 0.0)];
        assert_eq!(weighted_quantiles(&samples, &[0.0, 0.1, 0.5, 0.9, 1.0]), [10.0, 10.0, 20.0, 20.0, 30.0]);
        assert_eq!(weighted_mean(&samples), 20.0);
        assert!(weighted_quantiles(&[], &[0.5])[0].is_nan() && weighted_mean(&[]).is_nan());
    }
}
