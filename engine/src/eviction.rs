//! Which idle sandbox of a full node goes first: named strategies and the heap that serves them.
//!
//! A strategy gives each evictable sandbox a key; the smallest goes first, of equal ones the one that
//! entered the heap first. Keys of `lru`, `greedy-dual`, `freq` and `size` never fall while a sandbox
//! keeps its form, so the heap may hold old, smaller keys: an entry that comes up is checked, and put
//! back under its present key if that has risen. A warm start therefore costs the heap nothing, and an
//! eviction O(log n) amortised. Keys of `warm-rate` can fall; they are taken anew each minute.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::id::SandboxId;
use crate::units::{Bytes, Duration, Instant};

/// What a strategy may look at.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// End of the last request.
    pub idle_since: Instant,
    /// Requests served by this sandbox.
    pub uses: u32,
    /// Greedy-dual key, taken at the last use: node clock + its uses x cold start / memory.
    pub priority: f64,
    /// What its eviction frees.
    pub frees: Bytes,
    /// Warm sandboxes of its function for each request per second.
    pub warm_per_rate: f64,
}

/// An eviction strategy.
#[derive(Debug)]
pub struct Strategy {
    /// Its name.
    pub name: &'static str,
    /// One sentence with its source.
    pub about: &'static str,
    /// Key: smallest first.
    pub key: fn(&Candidate) -> f64,
    /// Whether a key may fall with time.
    pub(crate) falls: bool,
    /// Whether sandboxes that are in their state for less than `evict_after` come last.
    pub(crate) spares_fresh: bool,
    /// Whether it looks at `priority`, which is computed only then.
    pub(crate) weighs: bool,
}

/// All strategies.
pub static REGISTRY: &[Strategy] = &[
    Strategy {
        name: "lru",
        about: "The sandbox whose last request ended first.",
        key: |c| c.idle_since.as_micros() as f64,
        falls: false,
        spares_fresh: false,
        weighs: false,
    },
    Strategy {
        name: "greedy-dual",
        about: "The smallest clock + uses x cold start time / memory; the clock rises to each victim's key (Fuerst and Sharma, ASPLOS 2021).",
        key: |c| c.priority,
        falls: false,
        spares_fresh: false,
        weighs: true,
    },
    Strategy {
        name: "freq",
        about: "The sandbox that served the fewest requests.",
        key: |c| f64::from(c.uses),
        falls: false,
        spares_fresh: false,
        weighs: false,
    },
    Strategy {
        name: "size",
        about: "The sandbox that frees the most memory.",
        key: |c| -(c.frees.get() as f64),
        falls: false,
        spares_fresh: false,
        weighs: false,
    },
    Strategy {
        name: "warm-rate",
        about: "A sandbox of the function with the most warm sandboxes for its arrival rate, the longest idle first (the reference's, on the chosen node).",
        key: |c| -c.warm_per_rate,
        falls: true,
        spares_fresh: true,
        weighs: false,
    },
];

/// Names of the strategies.
pub fn names() -> Vec<&'static str> {
    REGISTRY.iter().map(|s| s.name).collect()
}

/// The strategy called `name`.
pub fn strategy(name: &str) -> Option<&'static Strategy> {
    REGISTRY.iter().find(|s| s.name == name)
}

/// A key with a total order; ties are broken by idle time, then by entry number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Key(pub f64, pub Instant);

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

/// An entry of a node's heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub key: Key,
    pub number: u32,
    pub sandbox: SandboxId,
}

/// The evictable sandboxes of one node by key, with entries that may be out of date.
#[derive(Debug, Default)]
pub(crate) struct VictimHeap {
    heap: BinaryHeap<Reverse<Entry>>,
    /// Minute at which falling keys were last taken.
    pub minute: u64,
}

impl VictimHeap {
    pub fn push(&mut self, entry: Entry) {
        self.heap.push(Reverse(entry));
    }

    pub fn pop(&mut self) -> Option<Entry> {
        self.heap.pop().map(|Reverse(e)| e)
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Takes all entries out, in no order.
    pub fn take(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.heap).into_iter().map(|Reverse(e)| e).collect()
    }

    /// Puts entries in.
    pub fn fill(&mut self, entries: Vec<Entry>) {
        self.heap = entries.into_iter().map(Reverse).collect();
    }
}

/// Arrival rate that a function without arrivals in the window is taken to have, so that ratios stay finite.
pub(crate) fn warm_per_rate(warm: u32, rate_per_s: f64, window: Duration) -> f64 {
    let least = 1.0 / window.as_secs_f64().max(1.0);
    f64::from(warm) / rate_per_s.max(least)
}
