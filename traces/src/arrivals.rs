//! The stream of arrivals, drawn minute by minute.
//!
//! Every (seed, function, minute) has a random generator of its own, so what one function does never depends
//! on which others are there. One 64-bit number a request gives both its place in the minute (the upper
//! half) and the probability at which its duration is read off the function's law (the lower half).

use medes_engine::id::FunctionId;
use medes_engine::units::{Duration, Instant};
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Poisson};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::options::{MINUTE_MICROS, Spread};
use crate::Arrival;
use crate::trace::{Body, Counts, Trace, mix};

/// Below this many requests a comparison sort beats the radix sort.
const FEW: usize = 1024;
/// Bits of one pass of the radix sort; three passes cover the 26 bits of a microsecond in a minute.
const DIGIT: u32 = 9;

/// The arrivals of a trace in the order of time, function and number.
#[derive(Clone, Debug)]
pub struct Arrivals<'a> {
    trace: &'a Trace,
    seed: u64,
    /// Next minute to draw, or next event to hand out.
    next: usize,
    /// The minute's requests, by function.
    drawn: Vec<(FunctionId, Duration)>,
    /// Their places in the minute (upper half) and in `drawn` (lower half).
    keys: Vec<u64>,
    spare: Vec<u64>,
}

impl<'a> Arrivals<'a> {
    pub(crate) fn new(trace: &'a Trace, seed: u64) -> Self {
        Self { trace, seed, next: 0, drawn: Vec::new(), keys: Vec::new(), spare: Vec::new() }
    }

    /// Appends the next arrivals, at least one and at most one minute's, and says true; at the end of the
    /// trace says false and appends nothing. `out` is not cleared.
    pub fn next_batch(&mut self, out: &mut Vec<Arrival>) -> bool {
        let trace = self.trace;
        match &trace.body {
            Body::Events(events) => {
                let rest = &events[self.next..];
                let Some(first) = rest.first() else {
                    return false;
                };
                let minute = first.at.minute();
                let n = rest.partition_point(|event| event.at.minute() == minute);
                out.extend_from_slice(&rest[..n]);
                self.next += n;
                true
            }
            Body::Counts(counts) => {
                while self.next < counts.minutes.len() {
                    let minute = self.next;
                    self.next += 1;
                    self.draw(counts, minute);
                    if !self.keys.is_empty() {
                        self.hand_out(minute, out);
                        return true;
                    }
                }
                false
            }
        }
    }

    fn draw(&mut self, counts: &Counts, minute: usize) {
        self.drawn.clear();
        self.keys.clear();
        for cell in counts.minute(minute) {
            let stream = &counts.streams[cell.stream as usize];
            let own = mix(self.seed, stream.key);
            let source_minute = u64::from(counts.minutes[minute]);
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(mix(own, source_minute));
            let law = &counts.laws[counts.law_index(minute, cell.stream)];
            let function = FunctionId(stream.function);
            let spread = if stream.even { Spread::Even } else { counts.spread };
            let n = match spread {
                Spread::Uniform | Spread::Even => cell.count,
                Spread::Poisson => poisson(cell.count, &mut rng),
            };
            let from = self.drawn.len() as u64;
            if spread == Spread::Even {
                let phase = f64::from((mix(own, u64::MAX) >> 32) as u32) / 4_294_967_296.0;
                let step = MINUTE_MICROS as f64 / f64::from(n);
                for i in 0..n {
                    let offset = ((f64::from(i) + phase) * step) as u64;
                    self.keys.push((offset << 32) | (from + u64::from(i)));
                    self.drawn.push((function, law.at(rng.next_u32())));
                }
            } else {
                for i in 0..u64::from(n) {
                    let bits = rng.next_u64();
                    let offset = ((bits >> 32) * MINUTE_MICROS) >> 32;
                    self.keys.push((offset << 32) | (from + i));
                    self.drawn.push((function, law.at(bits as u32)));
                }
            }
        }
        if self.keys.len() < FEW {
            self.keys.sort_unstable();
        } else {
            radix_sort(&mut self.keys, &mut self.spare);
        }
    }

    fn hand_out(&self, minute: usize, out: &mut Vec<Arrival>) {
        let start = minute as u64 * MINUTE_MICROS;
        out.extend(self.keys.iter().map(|&key| {
            let (function, run) = self.drawn[(key & 0xffff_ffff) as usize];
            Arrival { at: Instant::from_micros(start + (key >> 32)), function, run }
        }));
    }
}

fn poisson(mean: u32, rng: &mut Xoshiro256PlusPlus) -> u32 {
    match Poisson::new(f64::from(mean)) {
        Ok(law) => {
            let n: f64 = law.sample(rng);
            n as u32
        }
        // A mean of zero has no law and no requests.
        Err(_) => 0,
    }
}

/// Sorts by the upper halves, which are under 2^27, and leaves equal ones in their order: as the lower
/// halves rise to begin with, that is the order of the whole numbers.
fn radix_sort(keys: &mut Vec<u64>, spare: &mut Vec<u64>) {
    const BUCKETS: usize = 1 << DIGIT;
    spare.resize(keys.len(), 0);
    let mut counts = [[0usize; BUCKETS]; 3];
    let digit = |key: u64, pass: usize| (key >> (32 + DIGIT * pass as u32)) as usize % BUCKETS;
    for &key in keys.iter() {
        for (pass, count) in counts.iter_mut().enumerate() {
            count[digit(key, pass)] += 1;
        }
    }
    for (pass, count) in counts.iter_mut().enumerate() {
        let mut sum = 0;
        for slot in count.iter_mut() {
            sum += std::mem::replace(slot, sum);
        }
        for &key in keys.iter() {
            let slot = &mut count[digit(key, pass)];
            spare[*slot] = key;
            *slot += 1;
        }
        std::mem::swap(keys, spare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_radix_sort_sorts(offsets in proptest::collection::vec(0..MINUTE_MICROS, 0..3000)) {
            let mut keys: Vec<u64> =
                offsets.iter().enumerate().map(|(i, o)| (o << 32) | i as u64).collect();
            let mut expected = keys.clone();
            expected.sort_unstable();
            radix_sort(&mut keys, &mut Vec::new());
            prop_assert_eq!(keys, expected);
        }
    }
}
