//! When they are invoked: counts by minute.

use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Gamma};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::plan::{Planned, Style};
use super::published::HOURS;
use crate::options::MINUTES_PER_DAY;
use crate::trace::mix;

/// Draws counts by minute, function after function.
pub(crate) struct Patterns {
    seed: u64,
    /// Volume up to the end of each minute, from 0 to 1: the shape of the day.
    volume: Vec<f64>,
    /// The minutes in which bursty apps are busy, by app.
    busy: Vec<Vec<u32>>,
    /// Scratch.
    spread: Vec<f64>,
}

impl Patterns {
    pub fn new(minutes: u32, functions: &[Planned], styles: &[Style], seed: u64) -> Self {
        let mut sums = vec![0u64; styles.len()];
        for function in functions {
            sums[function.app] += function.invocations;
        }
        let busy = styles
            .iter()
            .zip(sums)
            .zip(0u64..)
            .map(|((style, sum), app)| match style {
                Style::Smooth => Vec::new(),
                Style::Bursty(variation) => {
                    let mut rng = Xoshiro256PlusPlus::seed_from_u64(mix(mix(seed, 4), app));
                    bursts(minutes, sum as f64, *variation, &mut rng)
                }
            })
            .collect();
        let volume = rising((0..minutes).map(|minute| {
            let of_day = f64::from(minute % MINUTES_PER_DAY) / 60.0;
            let (hour, part) = (of_day as usize, of_day.fract());
            // From the middle of one hour to the middle of the next.
            let (a, b, t) = if part < 0.5 {
                (HOURS[(hour + 23) % 24], HOURS[hour], part + 0.5)
            } else {
                (HOURS[hour], HOURS[(hour + 1) % 24], part - 0.5)
            };
            a + t * (b - a)
        }));
        Self { seed: mix(seed, 5), volume, busy, spread: Vec::new() }
    }

    /// Adds the function's invocations to `counts`, one slot a minute.
    pub fn draw(&mut self, number: usize, function: &Planned, style: Style, counts: &mut [u32]) {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(mix(self.seed, number as u64));
        let (n, minutes) = (function.invocations, counts.len());
        if let Some(period) = function.period {
            let period = (period as usize).min(minutes);
            let phase = rng.random_range(0..period);
            let times = (minutes / period).max(1);
            for turn in 0..times {
                counts[phase + turn * period] += (n / times as u64) as u32;
            }
            return;
        }
        match style {
            Style::Smooth if n < minutes as u64 => self.renewals(n, counts, &mut rng),
            Style::Smooth => self.steady(n, counts, &mut rng),
            Style::Bursty(_) => {
                let busy = &self.busy[function.app];
                if n < 4 * busy.len() as u64 {
                    for _ in 0..n {
                        counts[busy[rng.random_range(0..busy.len())] as usize] += 1;
                    }
                } else {
                    let parts = busy.len() as u64;
                    for (&minute, i) in busy.iter().zip(0..) {
                        counts[minute as usize] += (n * (i + 1) / parts - n * i / parts) as u32;
                    }
                }
            }
        }
    }

    /// Few: gaps from a gamma law, drawn to the shape of the day where there are enough to show it.
    fn renewals(&self, n: u64, counts: &mut [u32], rng: &mut Xoshiro256PlusPlus) {
        let variation: f64 = rng.random_range(0.3..0.8);
        let shape = 1.0 / (variation * variation);
        let Ok(gap) = Gamma::new(shape, 1.0 / shape) else {
            return;
        };
        let mut at = 0.0;
        let mut times: Vec<f64> = (0..n)
            .map(|_| {
                at += gap.sample(rng);
                at
            })
            .collect();
        let end = at + gap.sample(rng);
        for time in &mut times {
            *time /= end;
        }
        for time in times {
            let minute = if n >= 24 {
                self.volume.partition_point(|&volume| volume <= time)
            } else {
                (time * counts.len() as f64) as usize
            };
            counts[minute.min(counts.len() - 1)] += 1;
        }
    }

    /// Many: the shape of the day with a noise of its own in each minute.
    fn steady(&mut self, n: u64, counts: &mut [u32], rng: &mut Xoshiro256PlusPlus) {
        let variation: f64 = rng.random_range(0.05..0.5);
        let shape = 1.0 / (variation * variation);
        let Ok(noise) = Gamma::new(shape, 1.0 / shape) else {
            return;
        };
        self.spread.clear();
        let mut before = 0.0;
        let mut sum = 0.0;
        for &volume in &self.volume {
            sum += (volume - before) * noise.sample(rng);
            before = volume;
            self.spread.push(sum);
        }
        let mut given = 0;
        for (count, upto) in counts.iter_mut().zip(&self.spread) {
            let due = ((upto / sum * n as f64).round() as u64).min(n);
            *count += (due - given) as u32;
            given = due;
        }
        if let Some(last) = counts.last_mut() {
            *last += (n - given) as u32;
        }
    }
}

/// Sums from the left, over the whole sum.
fn rising(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sum = 0.0;
    let mut sums: Vec<f64> = values
        .map(|value| {
            sum += value;
            sum
        })
        .collect();
    for value in &mut sums {
        *value /= sum;
    }
    sums
}

/// The minutes in which `n` invocations lie so that the gaps between them have about this coefficient of
/// variation c. Of B short bursts at random times nearly all gaps are small and B are about T / B long,
/// hence c^2 + 1 = 2 n / B; when that asks for more bursts than a minute's grain can show, the bursts last,
/// and the pauses, a share s of the time, do it: c^2 = 2 n s^2 / B.
fn bursts(minutes: u32, n: f64, variation: f64, rng: &mut Xoshiro256PlusPlus) -> Vec<u32> {
    let square = variation * variation;
    let most = f64::from(minutes / 8).max(2.0);
    let number = (2.0 * n / (square + 1.0)).clamp(2.0, most);
    let pauses = (square * number / (2.0 * n)).sqrt();
    let length =
        if number < most { 1 } else { (f64::from(minutes) * (1.0 - pauses).max(0.0) / number).round().max(1.0) as u32 };
    let mut busy = Vec::new();
    for _ in 0..number as u32 {
        let start = rng.random_range(0..minutes.saturating_sub(length).max(1));
        busy.extend(start..(start + length).min(minutes));
    }
    busy.sort_unstable();
    busy.dedup();
    busy
}
