//! Draws of modelled times.
//!
//! A draw depends on the seed, on what it is for and on the number of the request or operation, not on
//! what was drawn before: two policies on the same trace meet the same cold start for the same request, which takes noise out of
//! their comparison.

use std::convert::Infallible;

use medes_engine::profile::{Costs, FunctionProfile, Latency};
use medes_engine::units::Duration;
use rand::TryRng;
use rand_distr::{Distribution, StandardNormal};

/// What a draw is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Cold,
    Warm,
    Checkpoint,
    Restore,
    Resume,
    Control,
    Purge,
}

/// A time drawn from `latency` for the `number`-th thing of its kind; where many are drawn, keep the [`Law`].
pub(crate) fn draw(latency: &Latency, seed: u64, purpose: Purpose, number: u64) -> Duration {
    Law::new(latency, seed, purpose).draw(number)
}

/// A modelled time of one profile, ready to be drawn: what does not depend on the number of the draw is computed once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Law {
    Constant(Duration),
    Lognormal { median_ms: f64, sigma: f64, salt: u64 },
}

impl Law {
    pub fn new(latency: &Latency, seed: u64, purpose: Purpose) -> Self {
        let sigma = latency.sigma();
        if sigma == 0.0 {
            return Self::Constant(Duration::from_millis_f64(latency.median_ms));
        }
        let salt = mix((seed ^ ((purpose as u64 + 1) << 56)).wrapping_add(1));
        Self::Lognormal { median_ms: latency.median_ms, sigma, salt }
    }

    /// The time of the `number`-th thing of its kind.
    #[inline]
    pub fn draw(&self, number: u64) -> Duration {
        match *self {
            Self::Constant(time) => time,
            Self::Lognormal { median_ms, sigma, salt } => {
                let normal: f64 = StandardNormal.sample(&mut Numbered(salt.wrapping_add(number.wrapping_mul(GAMMA))));
                Duration::from_millis_f64(median_ms * (sigma * normal).exp())
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
    pub purge: Law,
    /// What controller and agent add to a start, and what of that time is core time.
    pub control: Law,
    pub control_cores: f64,
}

impl Laws {
    pub fn new(profile: &FunctionProfile, costs: &Costs, seed: u64) -> Self {
        let control = profile.control.as_ref().unwrap_or(&costs.control);
        Self {
            control: Law::new(control, seed, Purpose::Control),
            control_cores: control.cores,
            cold: Law::new(&profile.cold, seed, Purpose::Cold),
            warm: Law::new(&profile.warm, seed, Purpose::Warm),
            checkpoint: Law::new(&profile.checkpoint, seed, Purpose::Checkpoint),
            restore: Law::new(&profile.restore, seed, Purpose::Restore),
            resume: Law::new(&profile.resume, seed, Purpose::Resume),
            purge: Law::new(&profile.purge, seed, Purpose::Purge),
        }
    }
}

/// From one draw to the next, and from one random number of a draw to the next. Both odd and without anything in common, so that what one draw goes on
/// with is not what another one begins with: the step of splitmix64, and a multiplier of Steele and Vigna (Computationally easy, spectrally good
/// multipliers, 2022), which serves as a step as well.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
const WITHIN: u64 = 0xd134_2543_de82_ef95;

/// The random numbers of one draw. The method of ziggurats needs one in 98 of 100 draws, more for the rest.
struct Numbered(u64);

impl TryRng for Numbered {
    type Error = Infallible;

    #[inline]
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let bits = mix(self.0);
        self.0 = self.0.wrapping_add(WITHIN);
        Ok(bits)
    }

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|bits| (bits >> 32) as u32)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.try_next_u64()?.to_le_bytes()[..part.len()]);
        }
        Ok(())
    }
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
        // Below the median as above it (a lognormal number's inverse is one too), and beyond: the tail that the method of ziggurats draws apart.
        assert!((all[n as usize / 100] / (100.0 / 3.0) - 1.0).abs() < 0.06);
        let beyond = 100.0 * 3f64.powf(3.090_232 / 2.326_348);
        assert!((all.iter().filter(|t| **t > beyond).count() as f64 - n as f64 / 1000.0).abs() < 15.0, "3 deviations");
        assert_eq!(cold.draw(5), law(7, Purpose::Cold).draw(5));
        assert_ne!(cold.draw(5), law(8, Purpose::Cold).draw(5));
        assert_ne!(cold.draw(5), law(7, Purpose::Warm).draw(5));
    }

    #[test]
    fn draws_of_neighbours_have_nothing_to_do_with_each_other() {
        let law = Law::new(&Latency { p99_ms: 300.0, ..Latency::constant(100.0) }, 7, Purpose::Cold);
        let n = 20_000u64;
        let logs: Vec<f64> = (0..n).map(|i| (law.draw(i).as_millis_f64() / 100.0).ln()).collect();
        let variance = logs.iter().map(|l| l * l).sum::<f64>() / n as f64;
        for apart in [1, 2, 3, 64] {
            let products = logs.iter().zip(&logs[apart..]).map(|(a, b)| a * b).sum::<f64>() / n as f64;
            // Standard error 1 / sqrt(n) = 0.7 %.
            assert!((products / variance).abs() < 0.03, "{apart} apart: {}", products / variance);
        }
    }

    #[test]
    fn equal_percentiles_make_a_constant() {
        assert_eq!(Law::new(&Latency::constant(2.5), 1, Purpose::Warm).draw(9), Duration::from_micros(2500));
    }
}
