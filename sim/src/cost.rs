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
    Control,
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
                Duration::from_millis_f64(median_ms * (sigma * normal(salts, number)).exp())
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

/// A standard normal number from two hashed uniform ones (Box and Muller).
fn normal(salts: [u64; 2], number: u64) -> f64 {
    let [a, b] = salts.map(|salt| {
        let bits = mix(salt.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    });
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
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
        let law = |seed, purpose| Law::new(&Latency { p99_ms: 300.0, ..Latency::constant(100.0) }, seed, purpose);
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
    fn equal_percentiles_make_a_constant() {
        assert_eq!(Law::new(&Latency::constant(2.5), 1, Purpose::Warm).draw(9), Duration::from_micros(2500));
    }
}
