//! Draws of modelled times.
//!
//! A draw depends on the seed, on what it is for and on the number of the request or operation, not on
//! what was drawn before: two policies on the same trace meet the same cold start for the same request, which takes noise out of
//! their comparison.

use medes_engine::profile::{FunctionProfile, Latency};
use medes_engine::units::Duration;

/// What a draw is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Cold,
    Warm,
    Checkpoint,
    Restore,
    Resume,
}

/// A time drawn from `latency` for the `number`-th thing of its kind; where many are drawn, keep the [`Law`].
pub(crate) fn draw(latency: &Latency, seed: u64, purpose: Purpose, number: u64) -> Duration {
    Law::new(latency, seed, purpose).draw(number)
}

/// A modelled time of one profile, ready to be drawn: what does not depend on the number of the draw is computed once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Law {
    Constant(Duration),
    Lognormal { median_ms: f64, sigma: f64, salts: [u64; 2] },
}

impl Law {
    pub fn new(latency: &Latency, seed: u64, purpose: Purpose) -> Self {
        let sigma = latency.sigma();
        if sigma == 0.0 {
            return Self::Constant(Duration::from_millis_f64(latency.median_ms));
        }
        let seed = seed ^ ((purpose as u64 + 1) << 56);
        let salts = [1, 2].map(|salt| mix(seed.wrapping_add(salt)));
        Self::Lognormal { median_ms: latency.median_ms, sigma, salts }
    }

    /// The time of the `number`-th thing of its kind.
    #[inline]
    pub fn draw(&self, number: u64) -> Duration {
        match *self {
            Self::Constant(time) => time,
            Self::Lognormal { median_ms, sigma, salts } => {
                let uniform = uniform(salts, number);
                quick(median_ms, sigma, uniform).unwrap_or_else(|| exact(median_ms, sigma, uniform))
            }
        }
    }
}

/// The modelled times of one profile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Laws {
    pub cold: Law,
    pub warm: Law,
    pub checkpoint: Law,
    pub restore: Law,
    pub resume: Law,
}

impl Laws {
    pub fn new(profile: &FunctionProfile, seed: u64) -> Self {
        Self {
            cold: Law::new(&profile.cold, seed, Purpose::Cold),
            warm: Law::new(&profile.warm, seed, Purpose::Warm),
            checkpoint: Law::new(&profile.checkpoint, seed, Purpose::Checkpoint),
            restore: Law::new(&profile.restore, seed, Purpose::Restore),
            resume: Law::new(&profile.resume, seed, Purpose::Resume),
        }
    }
}

/// Two hashed numbers between 0 and 1.
#[inline]
fn uniform(salts: [u64; 2], number: u64) -> [f64; 2] {
    salts.map(|salt| {
        let bits = mix(salt.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    })
}

/// The lognormal time of two uniform numbers (Box and Muller), to the nearest µs.
#[cold]
fn exact(median_ms: f64, sigma: f64, [a, b]: [f64; 2]) -> Duration {
    let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
    Duration::from_millis_f64(median_ms * (sigma * normal).exp())
}

/// What [`quick`] may be off by for each µs and each 1 + sigma; ten times what it is.
const SLACK: f64 = 1e-8;

/// As [`exact`] by short series, a third of its time; `None` where these cannot tell which µs is the nearest.
#[inline]
fn quick(median_ms: f64, sigma: f64, [a, b]: [f64; 2]) -> Option<Duration> {
    let us = median_ms * 1e3 * quick_exp(sigma * (-2.0 * quick_ln(a)).sqrt() * quick_cos_of_turns(b));
    let whole = us as u64;
    let beyond = us - whole as f64 - 0.5;
    let sure = beyond.abs() > us * (1.0 + sigma) * SLACK && us < 1e12;
    sure.then(|| Duration::from_micros(whole + u64::from(beyond > 0.0)))
}

/// `c[0] + c[1] x + c[2] x^2 + ...`
#[inline]
fn polynomial<const N: usize>(c: [f64; N], x: f64) -> f64 {
    c.iter().rev().fold(0.0, |sum, c| sum * x + c)
}

/// The logarithm of a normal number: 2 artanh((m - 1) / (m + 1)) for its mantissa m from sqrt(1/2) to sqrt(2).
#[inline]
fn quick_ln(x: f64) -> f64 {
    const FRACTION: u64 = (1 << 52) - 1;
    let bits = x.to_bits() + (1.0f64.to_bits() - std::f64::consts::FRAC_1_SQRT_2.to_bits());
    let exponent = (bits >> 52) as i32 - 1023;
    let m = f64::from_bits((bits & FRACTION) + std::f64::consts::FRAC_1_SQRT_2.to_bits());
    let s = (m - 1.0) / (m + 1.0);
    let series = [2.0, 2.0 / 3.0, 2.0 / 5.0, 2.0 / 7.0, 2.0 / 9.0, 2.0 / 11.0];
    f64::from(exponent) * std::f64::consts::LN_2 + s * polynomial(series, s * s)
}

/// The cosine of `turns` of a whole turn, from 0 to 1: the Taylor series, folded into the first quarter.
#[inline]
fn quick_cos_of_turns(turns: f64) -> f64 {
    let from_half = (turns - 0.5).abs(); // The cosine of half a turn less this much is minus that of this much.
    let in_quarter = if from_half > 0.25 { 0.5 - from_half } else { from_half };
    let sign = if from_half > 0.25 { 1.0 } else { -1.0 };
    let x = in_quarter * std::f64::consts::TAU;
    let series = [
        1.0,
        -1.0 / 2.0,
        1.0 / 24.0,
        -1.0 / 720.0,
        1.0 / 40_320.0,
        -1.0 / 3_628_800.0,
        1.0 / 479_001_600.0,
        -1.0 / 87_178_291_200.0,
        1.0 / 20_922_789_888_000.0,
    ];
    sign * polynomial(series, x * x)
}

/// The exponential of a number from -700 to 700: 2^k times the Taylor series of what is left.
#[inline]
fn quick_exp(x: f64) -> f64 {
    let x = x.clamp(-700.0, 700.0);
    // Adding 1.5 x 2^52 rounds to a whole number and leaves it in the lowest bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let shifted = x * std::f64::consts::LOG2_E + ROUND;
    let rest = x - (shifted - ROUND) * std::f64::consts::LN_2;
    let series = [
        1.0,
        1.0,
        1.0 / 2.0,
        1.0 / 6.0,
        1.0 / 24.0,
        1.0 / 120.0,
        1.0 / 720.0,
        1.0 / 5_040.0,
        1.0 / 40_320.0,
        1.0 / 362_880.0,
    ];
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1.0f64.to_bits()));
    power * polynomial(series, rest)
}

/// The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_median_and_the_99th_percentile() {
        let law = |seed, purpose| Law::new(&Latency { median_ms: 100.0, p99_ms: 300.0 }, seed, purpose);
        let n = 20_000u64;
        let cold = law(7, Purpose::Cold);
        let mut all: Vec<f64> = (0..n).map(|i| cold.draw(i).as_millis_f64()).collect();
        all.sort_by(f64::total_cmp);
        // Standard error of the median: 1.25 sigma / sqrt(n) = 0.4 %; of the 99th percentile about 1.3 %.
        assert!((all[n as usize / 2] / 100.0 - 1.0).abs() < 0.02);
        assert!((all[n as usize * 99 / 100] / 300.0 - 1.0).abs() < 0.06);
        assert_eq!(cold.draw(5), law(7, Purpose::Cold).draw(5));
        assert_ne!(cold.draw(5), law(8, Purpose::Cold).draw(5));
        assert_ne!(cold.draw(5), law(7, Purpose::Warm).draw(5));
    }

    #[test]
    fn a_quick_draw_is_the_exact_one() {
        for (seed, sigma, median_ms) in [(1, 0.05, 1.5), (2, 0.4, 500.0), (3, 1.0, 0.02), (4, 2.4, 40.0)] {
            let salts = [1, 2].map(|salt| mix(salt + seed));
            let (mut unsure, n) = (0, 200_000);
            for number in 0..n {
                let u = uniform(salts, number);
                match quick(median_ms, sigma, u) {
                    Some(time) => assert_eq!(time, exact(median_ms, sigma, u), "{u:?}"),
                    None => unsure += 1,
                }
                let (a, b) = (u[0], u[1]);
                let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
                let series = (-2.0 * quick_ln(a)).sqrt() * quick_cos_of_turns(b);
                assert!((series - normal).abs() < SLACK / 10.0, "{normal}");
                assert!((quick_exp(normal) / normal.exp() - 1.0).abs() < SLACK / 10.0, "{normal}");
            }
            assert!(unsure < n / 20, "{unsure}");
        }
        // The ends of the range of uniform numbers.
        for a in [0.5 / (1u64 << 53) as f64, 1.0 - 0.5 / (1u64 << 53) as f64] {
            for b in [a, 0.25, 0.5, 0.75] {
                if let Some(time) = quick(2.0, 1.0, [a, b]) {
                    assert_eq!(time, exact(2.0, 1.0, [a, b]));
                }
            }
        }
    }

    #[test]
    fn equal_percentiles_make_a_constant() {
        assert_eq!(Law::new(&Latency::constant(2.5), 1, Purpose::Warm).draw(9), Duration::from_micros(2500));
    }
}
