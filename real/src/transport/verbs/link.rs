//! A connection to one owner of base pages, shared by all who read from it.
//!
//! Reads go to the send queue in batches, as far as the queue has room; only the last read of a batch reports success, which, the
//! connection being ordered, says the same of all before it. Of those who wait, one looks after completions (by events or by polling) and settles
//! everybody's; when its own are done the next one takes over. So there is no thread between a completion and who waits for it, and a
//! reader alone is woken by nobody but the device.
//!
//! Whoever reads returns only when all its reads have completed or the queue pair is gone: until then the device may write to the
//! destination. The first failure breaks the link for all: the device fails what is posted behind it, each reader learns whether it was
//! its own read that failed or somebody else's ([`Failure::Interrupted`], worth another try on a new link).

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::sys::{CallError, CmId, Completion, CompletionQueue, ReadWork, Registration, wait_readable};
use super::{Completions, PlannedRead};

/// Reads posted by one call at most: one of them reports.
const BATCH: usize = 32;
/// The reader of a batch that nobody waits for.
const NOBODY: u64 = u64::MAX;
/// How long the device may take to give back what was posted on a broken link, before the queue pair is destroyed.
const DRAIN: Duration = Duration::from_millis(300);
/// How long one waits for completions before it looks at the link again: somebody else may have given it up.
const LOOK_UP: Duration = Duration::from_millis(50);

/// Why reads did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The owner's device refused this reader's key or range: withdrawn, or never given.
    Refused,
    /// The owner does not answer, or has hung up.
    Lost(String),
    /// Another reader's failure broke the link.
    Interrupted,
    /// Not done by the deadline.
    TooSlow,
    /// This side's fault.
    Local(String),
}

/// Numbers of a link, for the benchmark and for tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads posted.
    pub reads: u64,
    /// Of those, the ones that report success.
    pub signalled: u64,
    /// The most that were posted and not settled.
    pub most_outstanding: usize,
}

pub(super) struct Link {
    id: CmId,
    completed: Arc<CompletionQueue>,
    completions: Completions,
    state: Mutex<State>,
    turn: Condvar,
}

struct State {
    /// Places left in the send queue.
    free: usize,
    /// Number of the next batch.
    next: u64,
    /// Posted, not settled; in order, without gaps.
    batches: VecDeque<Batch>,
    readers: BTreeMap<u64, Reader>,
    next_reader: u64,
    /// Somebody looks after completions.
    attended: bool,
    broken: Option<Broken>,
    /// When something last came back.
    heard: Instant,
    /// When it was last asked whether it is there.
    asked: Option<Instant>,
    counts: Counts,
}

struct Batch {
    reader: u64,
    works: usize,
    posted: Instant,
    /// Keeps what the device writes to.
    _memory: Option<Arc<Registration>>,
}

#[derive(Default)]
struct Reader {
    batches: usize,
    failure: Option<Failure>,
}

struct Broken {
    since: Instant,
    /// What readers learn who had no failure of their own.
    to_others: Failure,
}

/// Reads to be made, with what they share.
pub(super) struct Order<'a> {
    pub reads: &'a [PlannedRead],
    /// What the owner calls the region's first byte.
    pub address: u64,
    pub key: u32,
    /// Where they go.
    pub memory: &'a Arc<Registration>,
    /// Added to the offsets of the plan.
    pub offset: u64,
}

impl Link {
    /// A link over a connection that is established, with a queue of `depth` reads.
    pub fn new(id: CmId, completed: Arc<CompletionQueue>, depth: usize, completions: Completions) -> Self {
        Self { id, completed, completions, state: Mutex::new(State::new(depth)), turn: Condvar::new() }
    }

    /// To be called now and then: notices what came back while nobody waited, and asks a peer that has been silent for `every` whether it is
    /// there. One that has not answered for `limit` is lost; a device that has neither done reads in twice that time nor given them up, as it
    /// has to in once, is not waited for: readers try again on a new link. Gives the reason once the link is broken; never waits.
    pub fn tend(&self, every: Duration, limit: Duration) -> Option<Failure> {
        let mut state = self.lock();
        if !state.attended && !state.batches.is_empty() {
            let mut done = Vec::new();
            match self.completed.poll(&mut done) {
                Ok(()) => self.settle(&mut state, &done),
                Err(e) => self.break_off(&mut state, Failure::Local(e.to_string())),
            }
            self.turn.notify_all();
        }
        let now = Instant::now();
        match state.asked {
            Some(asked) if state.heard < asked && asked.elapsed() >= limit => {
                self.break_off(&mut state, Failure::Lost("it does not answer".into()));
            }
            // Once, in a guest, a read over Soft-RoCE of Linux 6.1 was neither done nor failed in 30 s. Why is not known.
            _ if state.stuck(now).is_some_and(|time| time >= 2 * limit) => {
                self.break_off(&mut state, Failure::Interrupted);
                self.turn.notify_all();
            }
            _ if state.batches.is_empty() && state.broken.is_none() && state.heard.elapsed() >= every => {
                let work = ReadWork { number: state.next * 2 + 1, remote: 0, key: 0, parts: &[], signalled: true };
                // SAFETY: without parts no memory is touched; posting and destroying are both done under the lock of `state`.
                if let Err(e) = unsafe { self.id.post_reads(&[work], None) } {
                    self.break_off(&mut state, Failure::Local(e.to_string()));
                } else {
                    state.asked = Some(Instant::now());
                    state.add(NOBODY, 1, None);
                }
            }
            _ => {}
        }
        state.broken.as_ref().map(|b| b.to_others.clone())
    }

    /// Makes the reads, or says why not. In either case the device is done with the destination.
    pub fn read(&self, order: &Order<'_>, deadline: Instant) -> Result<(), Failure> {
        let mut state = self.lock();
        let me = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(me, Reader::default());
        let mut posted = 0;
        loop {
            while posted < order.reads.len() && state.free > 0 && state.broken.is_none() {
                let reads = &order.reads[posted..][..BATCH.min(state.free).min(order.reads.len() - posted)];
                if let Err(e) = self.post(order, reads, state.next) {
                    // Part of it may have been posted: without the queue pair none of it happens.
                    self.break_off(&mut state, Failure::Local(e.to_string()));
                    self.abandon(&mut state);
                    break;
                }
                posted += reads.len();
                state.add(me, reads.len(), Some(order.memory.clone()));
            }
            let waits_for = state.readers.get(&me).map_or(0, |r| r.batches);
            if waits_for == 0 && (posted == order.reads.len() || state.broken.is_some()) {
                return state.leave(me);
            }
            let now = Instant::now();
            let until = match &state.broken {
                Some(broken) if now >= broken.since + DRAIN => {
                    self.abandon(&mut state);
                    self.turn.notify_all();
                    continue;
                }
                Some(broken) => broken.since + DRAIN,
                None if now >= deadline => {
                    if let Some(r) = state.readers.get_mut(&me) {
                        r.failure = Some(Failure::TooSlow);
                    }
                    self.break_off(&mut state, Failure::Interrupted);
                    continue;
                }
                None => deadline,
            };
            if state.attended {
                state = self.turn.wait_timeout(state, until - now).map_or_else(|e| e.into_inner().0, |(s, _)| s);
                continue;
            }
            state.attended = true;
            drop(state);
            let done = self.collect(until);
            state = self.lock();
            state.attended = false;
            match done {
                Ok(done) => self.settle(&mut state, &done),
                Err(e) => {
                    self.break_off(&mut state, Failure::Local(e.to_string()));
                    self.abandon(&mut state);
                }
            }
            self.turn.notify_all();
        }
    }

    /// Posts one batch; the caller holds the lock of `state` and adds the batch to it.
    fn post(&self, order: &Order<'_>, reads: &[PlannedRead], number: u64) -> Result<(), CallError> {
        let last = reads.len() - 1;
        let mut works: Vec<ReadWork<'_>> = Vec::with_capacity(reads.len());
        for (i, read) in reads.iter().enumerate() {
            works.push(ReadWork {
                number: number * 2 + u64::from(i == last),
                remote: order.address + read.from,
                key: order.key,
                parts: &read.parts,
                signalled: i == last,
            });
        }
        // SAFETY: the batch holds the registration until it is settled, which is after its reads have completed or the queue is
        // destroyed; whoever reads has exclusive use of the destination and returns after that. Posting and destroying are both
        // done under the lock of `state`.
        unsafe { self.id.post_reads(&works, Some((order.memory, order.offset))) }
    }

    /// Waits for completions, by events or by polling; gives none if there are none by `until`.
    fn collect(&self, until: Instant) -> Result<Vec<Completion>, CallError> {
        let until = until.min(Instant::now() + LOOK_UP);
        let mut done = Vec::new();
        let mut spins = 0_u32;
        loop {
            self.completed.poll(&mut done)?;
            if !done.is_empty() || Instant::now() >= until {
                return Ok(done);
            }
            match self.completions {
                Completions::Polled => {
                    spins += 1;
                    // Where threads are more than cores, those that post need one too.
                    if spins.is_multiple_of(64) { std::thread::yield_now() } else { std::hint::spin_loop() }
                }
                Completions::Events => {
                    self.completed.arm()?;
                    self.completed.poll(&mut done)?;
                    if done.is_empty() {
                        wait_readable(&[self.completed.as_fd()], until);
                        self.completed.take_events();
                    }
                }
            }
        }
    }

    fn settle(&self, state: &mut State, done: &[Completion]) {
        for completion in done {
            let (number, last) = (completion.number / 2, completion.number % 2 == 1);
            if completion.status == rdma_sys::ibv_wc_status::IBV_WC_SUCCESS {
                state.heard = Instant::now();
            } else {
                self.fail(state, number, completion.status);
            }
            if last {
                state.settle_up_to(number);
            }
        }
    }

    /// Work of batch `number` failed.
    fn fail(&self, state: &mut State, number: u64, status: u32) {
        use rdma_sys::ibv_wc_status as s;
        let (own, others) = match status {
            s::IBV_WC_WR_FLUSH_ERR => {
                // It fell with the link. If nobody has said why, the other side hung up.
                let lost = Failure::Lost("it closed the connection".into());
                return if state.broken.is_none() {
                    self.break_off(state, lost)
                };
            }
            s::IBV_WC_REM_ACCESS_ERR | s::IBV_WC_REM_INV_REQ_ERR | s::IBV_WC_REM_OP_ERR => {
                (Failure::Refused, Failure::Interrupted)
            }
            s::IBV_WC_RETRY_EXC_ERR | s::IBV_WC_RNR_RETRY_EXC_ERR | s::IBV_WC_RESP_TIMEOUT_ERR => {
                let lost = Failure::Lost("it does not answer".into());
                (lost.clone(), lost)
            }
            other => (Failure::Local(format!("work completed with status {other}")), Failure::Interrupted),
        };
        if let Some(reader) = state.batch(number).map(|b| b.reader).and_then(|r| state.readers.get_mut(&r)) {
            reader.failure.get_or_insert(own);
        }
        self.break_off(state, others);
    }

    /// From now on nothing is posted, and what is posted comes back.
    fn break_off(&self, state: &mut State, to_others: Failure) {
        if state.broken.is_none() {
            state.broken = Some(Broken { since: Instant::now(), to_others });
            self.id.fail_queue();
        }
    }

    /// Gives up on what has not come back: the device cannot write any more when this returns.
    fn abandon(&self, state: &mut State) {
        self.id.destroy_queue();
        if let Some(last) = state.next.checked_sub(1) {
            state.settle_up_to(last);
        }
    }

    /// The connection is at its end.
    pub fn hang_up(&self, why: Failure) {
        self.break_off(&mut self.lock(), why);
        self.turn.notify_all();
        self.id.disconnect();
    }

    /// Why it is of no more use, if so.
    pub fn broken(&self) -> Option<Failure> {
        self.lock().broken.as_ref().map(|b| b.to_others.clone())
    }

    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(depth: usize) -> Self {
        Self {
            free: depth,
            next: 0,
            batches: VecDeque::new(),
            readers: BTreeMap::new(),
            next_reader: 0,
            attended: false,
            broken: None,
            heard: Instant::now(),
            asked: None,
            counts: Counts::default(),
        }
    }

    fn add(&mut self, reader: u64, works: usize, memory: Option<Arc<Registration>>) {
        self.next += 1;
        self.free -= works;
        self.batches.push_back(Batch { reader, works, posted: Instant::now(), _memory: memory });
        if let Some(r) = self.readers.get_mut(&reader) {
            r.batches += 1;
        }
        self.counts.reads += works as u64;
        self.counts.signalled += 1;
        let outstanding = self.batches.iter().map(|b| b.works).sum();
        self.counts.most_outstanding = self.counts.most_outstanding.max(outstanding);
    }

    /// How long what is posted has waited without a sign of the device.
    fn stuck(&self, now: Instant) -> Option<Duration> {
        let oldest = self.batches.front()?;
        Some(now.saturating_duration_since(oldest.posted.max(self.heard)))
    }

    fn batch(&self, number: u64) -> Option<&Batch> {
        let first = self.next - self.batches.len() as u64;
        self.batches.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    fn settle_up_to(&mut self, number: u64) {
        while self.next - (self.batches.len() as u64) <= number {
            let Some(batch) = self.batches.pop_front() else { return };
            self.free += batch.works;
            if let Some(r) = self.readers.get_mut(&batch.reader) {
                r.batches -= 1;
            }
        }
    }

    /// What became of a reader that has nothing under way. On a broken link work that succeeded is not told apart from work that fell
    /// with it: both are done again.
    fn leave(&mut self, reader: u64) -> Result<(), Failure> {
        match (self.readers.remove(&reader).and_then(|r| r.failure), &self.broken) {
            (Some(own), _) => Err(own),
            (None, Some(broken)) => Err(broken.to_others.clone()),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_posted_waits_since_it_was_posted_or_the_last_sign() {
        let mut state = State::new(8);
        let later = |state: &State, ms| state.heard.max(Instant::now()) + Duration::from_millis(ms);
        assert_eq!(state.stuck(later(&state, 5000)), None, "nothing is posted");
        state.add(NOBODY, 2, None);
        state.add(NOBODY, 1, None);
        let posted = state.batches[0].posted;
        let at = |ms| posted + Duration::from_millis(ms);
        assert_eq!(state.stuck(at(700)), Some(Duration::from_millis(700)));
        // Another completion says that the device works.
        state.heard = at(600);
        assert_eq!(state.stuck(at(700)), Some(Duration::from_millis(100)));
        state.settle_up_to(1);
        assert_eq!((state.stuck(at(9000)), state.free), (None, 8));
    }
}
