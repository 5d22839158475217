//! The stream of arrivals, drawn minute by minute.
//!
//! Every (seed, function, minute) has a random generator of its own, so what one function does never depends
//! on which others are there. One 64-bit number a request gives both its place in the minute (the upper
//! half) and the probability at which its duration is read off the function's law (the lower half).

use medes_engine::ahead;
use medes_engine::id::FunctionId;
use medes_engine::units::{Duration, Instant};
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Poisson};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::Arrival;
use crate::options::{MINUTE_MICROS, Spread};
use crate::trace::{Body, Counts, Trace, mix};

/// Bits of a microsecond in a minute.
const OFFSET_BITS: u32 = 26;
/// So many requests or fewer are sorted by comparisons.
const FEW: usize = 128;
/// A minute with more requests is cut into spans of about as many, each sorted by itself while it is in the cache.
const SPAN: usize = 1024;
/// A minute is cut into no more than 2 to the power of this many spans.
const MOST_SPANS: u32 = 12;
/// Bits of one pass of the radix sort.
const DIGIT: u32 = 9;

/// A request of the present minute.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Drawn {
    /// Its microsecond in the minute.
    offset: u32,
    function: u32,
    run: Duration,
}

/// The arrivals of a trace in the order of time, function and number.
#[derive(Clone, Debug)]
pub struct Arrivals<'a> {
    trace: &'a Trace,
    seed: u64,
    /// Next minute to draw, or next event to hand out.
    next: usize,
    /// The minute's requests, by function.
    drawn: Vec<Drawn>,
    /// The same by span.
    spans: Vec<Drawn>,
    /// Where each span of the minute ends in `spans`, and the next one to hand out.
    ends: Vec<usize>,
    next_span: usize,
    spare: Vec<Drawn>,
}

impl<'a> Arrivals<'a> {
    pub(crate) fn new(trace: &'a Trace, seed: u64) -> Self {
        Self {
            trace,
            seed,
            next: 0,
            drawn: Vec::new(),
            spans: Vec::new(),
            ends: Vec::new(),
            next_span: 0,
            spare: Vec::new(),
        }
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
            Body::Counts(counts) => loop {
                while self.next_span < self.ends.len() {
                    if self.hand_out(out) {
                        return true;
                    }
                }
                if self.next == counts.minutes.len() {
                    return false;
                }
                self.next += 1;
                self.draw(counts, self.next - 1);
            },
        }
    }

    /// Draws the requests of a minute and puts those of each span together.
    fn draw(&mut self, counts: &Counts, minute: usize) {
        let expected: usize = counts.minute(minute).iter().map(|cell| cell.count as usize).sum();
        let span_bits = (expected / SPAN).checked_ilog2().unwrap_or(0).min(MOST_SPANS);
        let span_of = |offset: u32| (offset >> (OFFSET_BITS - span_bits)) as usize;
        for all in [&mut self.drawn, &mut self.spans] {
            all.clear();
            if all.capacity() < expected {
                // A minute of a full day is tens of megabytes, written all over.
                all.reserve(expected);
                ahead::in_large_pages(all);
            }
        }
        self.ends.clear();
        self.ends.resize(1 << span_bits, 0);
        self.next_span = 0;
        for cell in counts.minute(minute) {
            let stream = &counts.streams[cell.stream as usize];
            let own = mix(self.seed, stream.key);
            let source_minute = u64::from(counts.minutes[minute]);
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(mix(own, source_minute));
            let law = &counts.laws[counts.law_index(minute, cell.stream)];
            let spread = if stream.even { Spread::Even } else { counts.spread };
            let n = match spread {
                Spread::Uniform | Spread::Even => cell.count,
                Spread::Poisson => poisson(cell.count, &mut rng),
            };
            let mut add = |offset: u64, run: Duration| {
                let offset = offset as u32;
                self.ends[span_of(offset)] += 1;
                self.drawn.push(Drawn { offset, function: stream.function, run });
            };
            if spread == Spread::Even {
                let phase = f64::from((mix(own, u64::MAX) >> 32) as u32) / 4_294_967_296.0;
                let step = MINUTE_MICROS as f64 / f64::from(n);
                for i in 0..n {
                    add(((f64::from(i) + phase) * step) as u64, law.at(rng.next_u32()));
                }
            } else {
                for _ in 0..n {
                    let bits = rng.next_u64();
                    add(((bits >> 32) * MINUTE_MICROS) >> 32, law.at(bits as u32));
                }
            }
        }
        if span_bits == 0 {
            std::mem::swap(&mut self.drawn, &mut self.spans);
            return;
        }
        let mut sum = 0;
        for end in &mut self.ends {
            sum += std::mem::replace(end, sum);
        }
        self.spans.resize(sum, Drawn::default());
        for drawn in &self.drawn {
            let end = &mut self.ends[span_of(drawn.offset)];
            self.spans[*end] = *drawn;
            *end += 1;
        }
    }

    /// Hands out the next span of the minute; false if it is empty.
    fn hand_out(&mut self, out: &mut Vec<Arrival>) -> bool {
        let from = self.next_span.checked_sub(1).map_or(0, |before| self.ends[before]);
        let span = &mut self.spans[from..self.ends[self.next_span]];
        self.next_span += 1;
        let low_bits = OFFSET_BITS - self.ends.len().ilog2();
        let sorted = sort(span, &mut self.spare, low_bits);
        let start = (self.next as u64 - 1) * MINUTE_MICROS;
        out.extend(sorted.iter().map(|drawn| Arrival {
            at: Instant::from_micros(start + u64::from(drawn.offset)),
            function: FunctionId(drawn.function),
            run: drawn.run,
        }));
        !sorted.is_empty()
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

/// Sorts by offset and leaves equal ones in their order, here or in `spare`; offsets differ in the lower `bits` alone.
fn sort<'a>(span: &'a mut [Drawn], spare: &'a mut Vec<Drawn>, bits: u32) -> &'a [Drawn] {
    const BUCKETS: usize = 1 << DIGIT;
    if span.len() <= FEW {
        span.sort_by_key(|drawn| drawn.offset);
        return span;
    }
    spare.resize(span.len(), Drawn::default());
    let (mut from, mut to) = (span, spare.as_mut_slice());
    for pass in 0..bits.div_ceil(DIGIT) {
        let digit = |drawn: &Drawn| (drawn.offset >> (DIGIT * pass)) as usize % BUCKETS;
        let mut places = [0u32; BUCKETS];
        from.iter().for_each(|drawn| places[digit(drawn)] += 1);
        let mut sum = 0;
        for place in &mut places {
            sum += std::mem::replace(place, sum);
        }
        for drawn in from.iter() {
            let place = &mut places[digit(drawn)];
            to[*place as usize] = *drawn;
            *place += 1;
        }
        std::mem::swap(&mut from, &mut to);
    }
    from
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_sort_sorts_and_is_stable(
            offsets in proptest::collection::vec(0..1u32 << 20, 0..3000), alike in 0u32..20, bits in 20u32..=OFFSET_BITS,
        ) {
            let mut span: Vec<Drawn> = offsets
                .iter()
                .zip(0..)
                .map(|(offset, function)| Drawn { offset: offset >> alike, function, run: Duration::ZERO })
                .collect();
            let mut expected = span.clone();
            expected.sort_by_key(|drawn| drawn.offset);
            let mut spare = Vec::new();
            prop_assert_eq!(sort(&mut span, &mut spare, bits), expected);
        }
    }
}
