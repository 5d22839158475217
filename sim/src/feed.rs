//! Arrivals as the main loop takes them.

use medes_engine::event::Arrival;
use medes_engine::id::RequestId;
use medes_engine::units::Instant;

use crate::setup::SimError;

/// The arrivals, batch after batch.
pub(crate) struct Feed<B> {
    next_batch: B,
    batch: Vec<Arrival>,
    /// Next of the batch.
    at: usize,
    more: bool,
    /// Arrivals taken, and the time of the last.
    taken: u64,
    last: Instant,
}

impl<B: FnMut(&mut Vec<Arrival>) -> bool> Feed<B> {
    pub fn new(next_batch: B) -> Self {
        Self { next_batch, batch: Vec::new(), at: 0, more: true, taken: 0, last: Instant::ZERO }
    }

    /// When the next one is; `FAR` at the end.
    #[inline]
    pub fn next_at(&mut self) -> Instant {
        match self.batch.get(self.at) {
            Some(a) => a.at,
            None => self.refill(),
        }
    }

    #[cold]
    fn refill(&mut self) -> Instant {
        self.batch.clear();
        self.at = 0;
        while self.more && self.batch.is_empty() {
            self.more = (self.next_batch)(&mut self.batch);
        }
        self.batch.first().map_or(Instant::FAR, |a| a.at)
    }

    /// What is there of the batch, from the next one on.
    #[inline]
    pub fn rest(&self) -> &[Arrival] {
        &self.batch[self.at..]
    }

    /// When the last one taken was.
    pub fn last(&self) -> Instant {
        self.last
    }

    /// Takes the one that `next_at` looked at.
    #[inline]
    pub fn take(&mut self, functions: usize) -> Result<(RequestId, Arrival), SimError> {
        let (number, a) = (self.taken, self.batch[self.at]);
        let known = a.function.index() < functions;
        if a.at < self.last || !known {
            let what = if known { "earlier than the one before" } else { "no such function" };
            return Err(SimError::Arrival { number, at: a.at, function: a.function, what });
        }
        self.at += 1;
        self.taken += 1;
        self.last = a.at;
        Ok((RequestId(number), a))
    }
}
