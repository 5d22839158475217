//! Draws of modelled times.
//!
//! A draw depends on the seed, on what it is for and on the number of the request or operation, not on
//! what was drawn before: two policies on the same trace meet the same cold start for the same request, which takes noise out of
//! their comparison.

use medes_engine::profile::Latency;
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

/// A time drawn from `latency` for the `number`-th thing of its kind.
pub(crate) fn draw(latency: &Latency, seed: u64, purpose: Purpose, number: u64) -> Duration {
    let sigma = latency.sigma();
    if sigma == 0.0 {
        return Duration::from_millis_f64(latency.median_ms);
    }
    Duration::from_millis_f64(latency.median_ms * (sigma * normal(seed ^ ((purpose as u64 + 1) << 56), number)).exp())
}

/// A standard normal number from two hashed uniform ones (Box and Muller).
fn normal(seed: u64, number: u64) -> f64 {
    let unit = |salt: u64| {
        let bits = mix(mix(seed.wrapping_add(salt)).wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    (-2.0 * unit(1).ln()).sqrt() * (std::f64::consts::TAU * unit(2)).cos()
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
        let latency = Latency { median_ms: 100.0, p99_ms: 300.0 };
        let n = 20_000u64;
        let mut all: Vec<f64> = (0..n).map(|i| draw(&latency, 7, Purpose::Cold, i).as_millis_f64()).collect();
        all.sort_by(f64::total_cmp);
        // Standard error of the median: 1.25 sigma / sqrt(n) = 0.4 %; of the 99th percentile about 1.3 %.
        assert!((all[n as usize / 2] / 100.0 - 1.0).abs() < 0.02);
        assert!((all[n as usize * 99 / 100] / 300.0 - 1.0).abs() < 0.06);
        assert_eq!(draw(&latency, 7, Purpose::Cold, 5), draw(&latency, 7, Purpose::Cold, 5));
        assert_ne!(draw(&latency, 7, Purpose::Cold, 5), draw(&latency, 8, Purpose::Cold, 5));
        assert_ne!(draw(&latency, 7, Purpose::Cold, 5), draw(&latency, 7, Purpose::Warm, 5));
    }

    #[test]
    fn equal_percentiles_make_a_constant() {
        assert_eq!(draw(&Latency::constant(2.5), 1, Purpose::Warm, 9), Duration::from_micros(2500));
    }
}
