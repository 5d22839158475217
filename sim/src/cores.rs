//! Cores that all work under way shares.
//!
//! Work first waits (for a disk, a peer, a timer), which slows nobody and is slowed by nobody, and then is at work on cores. All that is at work on a
//! node's cores gets the same share of what it asks for: everything while there are cores enough, `cores / asked for` of it beyond. So work under way
//! slows down when more begins and speeds up when some ends (egalitarian processor sharing: Kleinrock, Queueing Systems II, 4.4).
//!
//! Each node has a clock that runs with that share. Work that takes `w` alone ends when the clock has gone on by `w`, whatever comes and goes
//! meanwhile; so what ends next is the least of a sorted map, and taking work up, ending it or dropping it is O(log n).
//! Where the host's speed over time is given ([`HostSpeed`]), the clock runs with share x speed.
//! Left out: how a kernel's scheduler deals its turns, moving between cores.

use std::collections::BTreeMap;
use std::ops::Add;

use medes_engine::config::Config;
use medes_engine::id::{NodeId, SandboxId};
use medes_engine::record::HostSample;
use medes_engine::units::{Duration, Instant};

use crate::queue::{Kind, Queue};

/// Work as it is where nothing slows it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    /// Waiting.
    wait: Duration,
    /// At work.
    busy: Duration,
    /// Cores x time, µs.
    core_us: f64,
}

impl Work {
    /// Waits and nothing else.
    pub fn waits(wait: Duration) -> Self {
        Self { wait, ..Self::default() }
    }

    /// Takes `time`, and `share` of it in core time: below one it waits as well, above it is at work on several cores.
    pub fn of(time: Duration, share: f64) -> Self {
        if share == 0.0 {
            return Self::waits(time);
        }
        let core_us = time.as_micros() as f64 * share;
        let busy = if share < 1.0 { Duration::from_micros(core_us.round() as u64) } else { time };
        Self { wait: time.saturating_sub(busy), busy, core_us }
    }

    /// How long it takes where nothing slows it.
    pub fn alone(&self) -> Duration {
        self.wait + self.busy
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { wait: self.wait + other.wait, busy: self.busy + other.busy, core_us: self.core_us + other.core_us }
    }
}

/// What of a sandbox is under way.
#[derive(Clone, Copy, Debug)]
struct Doing {
    sandbox: SandboxId,
    pool: u32,
    /// What happens when it is done, and when it began.
    kind: Kind,
    began: Instant,
    work: Work,
    /// Where it is among what is at work; `None` while it waits.
    place: Option<Place>,
}

/// Reading of the clock at the end, bits of a number that is not negative; then the order of beginning.
type Place = (u64, u64);

/// In place of a slot: work that is no sandbox's any more, at whose end nothing happens. It keeps one core busy.
const NOBODY: u32 = u32::MAX;

/// Cores that are shared.
#[derive(Debug)]
struct Pool {
    cores: f64,
    /// Cores asked for by all that is at work.
    asked: f64,
    /// The clock, µs, as of a time.
    clock: f64,
    at: Instant,
    at_work: BTreeMap<Place, u32>,
    /// When it is looked at next.
    looked_at: Instant,
    speed: Speed,
}

/// How fast cores are, over time: 1 is what the profile was measured with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostSpeed {
    /// From when on, which node, how fast; in order of time. Before the first it is as fast as that says.
    changes: Vec<(Instant, NodeId, f64)>,
}

impl HostSpeed {
    /// From samples of what a fixed piece of work took, in any order; `reference` is what it took when the profile was measured, µs.
    pub fn new(samples: &[HostSample], reference: f64) -> Self {
        let usable = samples.iter().filter(|s| s.probe_us > 0.0 && s.at_s >= 0.0);
        let mut changes: Vec<(Instant, NodeId, f64)> = usable
            .map(|s| (Instant::ZERO + Duration::from_secs_f64(s.at_s), NodeId(s.node), reference / s.probe_us))
            .collect();
        changes.sort_by_key(|c| c.0);
        Self { changes }
    }

    /// Of a pool that the nodes share for which `shares` holds: the mean of theirs.
    fn of(&self, shares: impl Fn(NodeId) -> bool) -> Speed {
        let mut each: BTreeMap<NodeId, f64> = BTreeMap::new();
        let own = self.changes.iter().filter(|c| shares(c.1));
        let changes = own.map(|(at, node, speed)| {
            each.insert(*node, *speed);
            (*at, each.values().sum::<f64>() / each.len() as f64)
        });
        let changes: Vec<(Instant, f64)> = changes.collect();
        let now = changes.first().map_or(1.0, |c| c.1);
        Speed { changes, next: 0, now }
    }
}

/// The speed of one pool.
#[derive(Debug)]
struct Speed {
    changes: Vec<(Instant, f64)>,
    /// The first change that is still to come.
    next: usize,
    now: f64,
}

/// A clock is right to within this, µs.
const SLACK: f64 = 1e-3;

impl Pool {
    /// How fast its clock runs.
    fn rate(&self) -> f64 {
        if self.asked > self.cores { self.cores / self.asked } else { 1.0 }
    }

    fn advance(&mut self, now: Instant) {
        if self.at_work.is_empty() {
            // Small numbers stay exact.
            (self.clock, self.asked) = (0.0, 0.0);
        }
        let rate = if self.at_work.is_empty() { 0.0 } else { self.rate() };
        while let Some(&(at, speed)) = self.speed.changes.get(self.speed.next).filter(|c| c.0 <= now) {
            self.clock += at.since(self.at).as_micros() as f64 * rate * self.speed.now;
            self.at = self.at.max(at);
            self.speed.now = speed;
            self.speed.next += 1;
        }
        self.clock += now.since(self.at).as_micros() as f64 * rate * self.speed.now;
        self.at = now;
    }

    /// When the clock has gone on by `rest` µs if nothing comes and goes, less what a clock may be wrong by.
    fn reaches(&self, rest: f64) -> Instant {
        // Time at full speed.
        let mut left = rest / self.rate();
        let (mut at, mut speed) = (self.at, self.speed.now);
        for &(change, next) in &self.speed.changes[self.speed.next..] {
            let span = change.since(at).as_micros() as f64 * speed;
            if span >= left {
                break;
            }
            left -= span;
            (at, speed) = (change, next);
        }
        at + Duration::from_micros((left / speed - SLACK).max(0.0).ceil() as u64)
    }

    /// What ends next and how much its clock has to go on until then, µs.
    fn next(&self) -> Option<(f64, u32)> {
        let (&(end, _), &slot) = self.at_work.first_key_value()?;
        Some(((f64::from_bits(end) - self.clock).max(0.0), slot))
    }
}

/// The cores of all nodes, where they are limited.
#[derive(Debug)]
pub(crate) struct Cores {
    pools: Vec<Pool>,
    /// By slot of the sandbox: at most one thing each.
    doing: Vec<Option<Doing>>,
    begun: u64,
}

impl Cores {
    /// `None` where the parameters say that cores are never a bottleneck. `host`: how fast they are over time.
    pub fn new(config: &Config, host: Option<&HostSpeed>) -> Option<Self> {
        if config.cores == 0 {
            return None;
        }
        let (pools, of_each) = if config.shared_cores {
            (1, config.cores.saturating_mul(config.nodes))
        } else {
            (config.nodes, config.cores)
        };
        let steady = HostSpeed::default();
        let host = host.unwrap_or(&steady);
        let pool = |pool: u32| Pool {
            cores: f64::from(of_each),
            asked: 0.0,
            clock: 0.0,
            at: Instant::ZERO,
            at_work: BTreeMap::new(),
            looked_at: Instant::FAR,
            speed: host.of(|node| node.0 % pools == pool),
        };
        Some(Self { pools: (0..pools).map(pool).collect(), doing: Vec::new(), begun: 0 })
    }

    /// Takes up the only work of a sandbox; `kind` happens when it is done ([`Self::done`]).
    pub fn begin(&mut self, now: Instant, queue: &mut Queue, sandbox: SandboxId, node: NodeId, kind: Kind, work: Work) {
        let (slot, pool) = (sandbox.slot as usize, node.index() % self.pools.len());
        if slot >= self.doing.len() {
            self.doing.resize(slot + 1, None);
        }
        self.stop(now, queue, sandbox.slot);
        self.doing[slot] = Some(Doing { sandbox, pool: pool as u32, kind, began: now, work, place: None });
        if work.wait > Duration::ZERO {
            queue.push(now + work.wait, sandbox, Kind::Waited);
        } else {
            self.waited(now, queue, sandbox.slot);
        }
    }

    /// Takes up work that is left of a sandbox when it is gone.
    pub fn burden(&mut self, now: Instant, queue: &mut Queue, node: NodeId, core_time: Duration) {
        let index = node.index() % self.pools.len();
        let pool = &mut self.pools[index];
        pool.advance(now);
        pool.at_work.insert(((pool.clock + core_time.as_micros() as f64).to_bits(), self.begun), NOBODY);
        self.begun += 1;
        pool.asked += 1.0;
        look(queue, pool, index as u32);
    }

    /// What was waited for is there.
    pub fn waited(&mut self, now: Instant, queue: &mut Queue, slot: u32) {
        let Some(doing) = self.doing.get_mut(slot as usize).and_then(Option::as_mut).filter(|d| d.place.is_none())
        else {
            return;
        };
        let (index, pool) = (doing.pool, &mut self.pools[doing.pool as usize]);
        pool.advance(now);
        let place = ((pool.clock + doing.work.busy.as_micros() as f64).to_bits(), self.begun);
        self.begun += 1;
        doing.place = Some(place);
        pool.at_work.insert(place, slot);
        pool.asked += asks(&doing.work);
        look(queue, pool, index);
    }

    /// Drops what a sandbox is doing.
    pub fn stop(&mut self, now: Instant, queue: &mut Queue, slot: u32) {
        let Some(doing) = self.doing.get_mut(slot as usize).and_then(Option::take) else { return };
        let Some(place) = doing.place else { return };
        let pool = &mut self.pools[doing.pool as usize];
        pool.advance(now);
        pool.at_work.remove(&place);
        pool.asked -= asks(&doing.work);
        look(queue, pool, doing.pool);
    }

    /// Takes what is done by now on some cores: the sandbox, what happens to it, and when it began.
    pub fn done(&mut self, now: Instant, queue: &mut Queue, pool: u32) -> Option<(SandboxId, Kind, Instant)> {
        let shared = &mut self.pools[pool as usize];
        shared.advance(now);
        if shared.looked_at <= now {
            shared.looked_at = Instant::FAR;
        }
        let slot = loop {
            // What would be looked at again at this instant is done: on cores faster than the profile's, a clock that is nearly there gets there in no time.
            let ends = shared.next().filter(|(rest, _)| *rest <= SLACK || shared.reaches(*rest) <= now);
            match ends {
                None => {
                    look(queue, shared, pool);
                    return None;
                }
                Some((_, NOBODY)) => {
                    shared.at_work.pop_first();
                    shared.asked -= 1.0;
                }
                Some((_, slot)) => break slot,
            }
        };
        let doing = self.doing[slot as usize]?;
        self.stop(now, queue, slot);
        Some((doing.sandbox, doing.kind, doing.began))
    }
}

/// Cores that work asks for while it is at work.
fn asks(work: &Work) -> f64 {
    if work.busy > Duration::ZERO { work.core_us / work.busy.as_micros() as f64 } else { 0.0 }
}

/// Sees to it that cores are looked at when the next work there is done. What comes up too early is looked at in vain.
fn look(queue: &mut Queue, pool: &mut Pool, index: u32) {
    let Some((rest, _)) = pool.next() else { return };
    let at = pool.reaches(rest);
    if at < pool.looked_at {
        pool.looked_at = at;
        queue.push(at, SandboxId { generation: 0, slot: index }, Kind::Cores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cores(text: &[(&str, &str)]) -> Cores {
        let mut config = Config::default();
        text.iter().for_each(|(k, v)| config.set(k, v).unwrap());
        Cores::new(&config, None).unwrap()
    }

    /// One node with one core of a host whose speed changes.
    fn on_host(samples: &[(f64, u32, f64)], settings: &[(&str, &str)]) -> Cores {
        let sample = |&(at_s, node, probe_us): &(f64, u32, f64)| HostSample { at_s, node, probe_us };
        let host = HostSpeed::new(&samples.iter().map(sample).collect::<Vec<_>>(), 100.0);
        let mut config = Config::default();
        settings.iter().for_each(|(k, v)| config.set(k, v).unwrap());
        Cores::new(&config, Some(&host)).unwrap()
    }

    /// Jobs `(begin, node, work)`; when each ends, µs.
    fn ends(mut cores: Cores, jobs: &[(u64, u32, Work)]) -> Vec<u64> {
        let (mut queue, mut ends, mut next) = (Queue::default(), vec![0; jobs.len()], 0);
        loop {
            let arrival = jobs.get(next).map_or(Instant::FAR, |j| Instant::from_micros(j.0));
            if arrival < queue.next_at() {
                let sandbox = SandboxId { generation: 0, slot: next as u32 };
                cores.begin(arrival, &mut queue, sandbox, NodeId(jobs[next].1), Kind::Finished, jobs[next].2);
                next += 1;
                continue;
            }
            let Some(event) = queue.pop() else { return ends };
            match event.kind {
                Kind::Waited => cores.waited(event.at, &mut queue, event.sandbox.slot),
                _ => {
                    while let Some((sandbox, kind, began)) = cores.done(event.at, &mut queue, event.sandbox.slot) {
                        assert_eq!((kind, began.as_micros()), (Kind::Finished, jobs[sandbox.slot as usize].0));
                        ends[sandbox.slot as usize] = event.at.as_micros();
                    }
                }
            }
        }
    }

    fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    fn busy(n: u64) -> Work {
        Work::of(us(n), 1.0)
    }

    #[test]
    fn two_that_meet_slow_each_other_only_while_they_are_both_at_work() {
        let one = || cores(&[("nodes", "1"), ("cores", "1")]);
        // The first runs alone for 400, has half for 600 x 2, ends at 1600; the second has had 600 of 1000 then.
        assert_eq!(ends(one(), &[(0, 0, busy(1000)), (400, 0, busy(1000))]), [1600, 2000]);
        // A short one passes a long one.
        assert_eq!(ends(one(), &[(0, 0, busy(1000)), (100, 0, busy(50))]), [1050, 200]);
        // On cores enough nobody notices.
        let two = cores(&[("nodes", "1"), ("cores", "2")]);
        assert_eq!(ends(two, &[(0, 0, busy(1000)), (400, 0, busy(1000))]), [1000, 1400]);
    }

    #[test]
    fn nodes_have_their_own_cores_or_share_those_of_one_machine() {
        let jobs = [(0, 0, busy(900)), (0, 1, busy(900)), (0, 0, busy(900))];
        assert_eq!(ends(cores(&[("nodes", "2"), ("cores", "1")]), &jobs), [1800, 900, 1800]);
        assert_eq!(ends(cores(&[("nodes", "2"), ("cores", "1"), ("shared_cores", "1")]), &jobs), [1350; 3]);
    }

    #[test]
    fn waiting_takes_no_cores_and_several_cores_are_asked_for() {
        let one = || cores(&[("nodes", "1"), ("cores", "1")]);
        // Half of it is waiting: the first's work meets nothing until 700.
        let half = Work::of(us(1000), 0.5);
        assert_eq!((half.alone(), ends(one(), &[(0, 0, half), (200, 0, half)])), (us(1000), vec![1300, 1500]));
        // Two threads at work on two cores, with a third job beside: 3 cores asked for, 2 there.
        let two = cores(&[("nodes", "1"), ("cores", "2")]);
        assert_eq!(ends(two, &[(0, 0, Work::of(us(1000), 2.0)), (0, 0, busy(1000))]), [1500, 1500]);
        let sum = Work::waits(us(70)) + busy(30) + Work::of(us(30), 3.0);
        assert_eq!((sum.alone(), asks(&sum)), (us(130), 2.0));
    }

    #[test]
    fn without_core_time_work_is_waiting() {
        let work = Work::of(us(100), 0.0);
        assert_eq!((work.wait, work.busy, work.core_us), (us(100), Duration::ZERO, 0.0));
        // It neither slows what is at work nor is slowed.
        let one = cores(&[("nodes", "1"), ("cores", "1")]);
        assert_eq!(ends(one, &[(0, 0, busy(1000)), (100, 0, work)]), [1000, 200]);
    }

    #[test]
    fn work_takes_as_long_as_the_host_is_slow() {
        let one = [("nodes", "1"), ("cores", "1")];
        // Half as fast from 400 us on, twice as fast from 1000 on: 400 + 300 are done by then, 300 take 150.
        let host = [(0.0, 0, 100.0), (0.000_4, 0, 200.0), (0.001, 0, 50.0)];
        assert_eq!(ends(on_host(&host, &one), &[(0, 0, busy(1000))]), [1150]);
        // Before anybody looked it was as fast as at the first look.
        assert_eq!(ends(on_host(&host[1..], &one), &[(0, 0, busy(1000))]), [1250]);
        // What begins later, and waiting, which no core speeds up.
        assert_eq!(ends(on_host(&host, &one), &[(2000, 0, busy(1000)), (4000, 0, Work::waits(us(100)))]), [2500, 4100]);
        // Two that share: 200 each by 400, 150 each by 1000, 650 each at twice the speed.
        assert_eq!(ends(on_host(&host, &one), &[(0, 0, busy(1000)), (0, 0, busy(1000))]), [1650; 2]);
        // Each node has its own host; on one machine it is the mean of what its nodes saw: 0.75 from 400 on.
        let host = [(0.0, 0, 100.0), (0.0, 1, 100.0), (0.000_4, 1, 200.0)];
        let jobs = [(0, 0, busy(1000)), (0, 1, busy(1000))];
        assert_eq!(ends(on_host(&host, &[("nodes", "2"), ("cores", "1")]), &jobs), [1000, 1600]);
        let shared = [("nodes", "2"), ("cores", "1"), ("shared_cores", "1")];
        assert_eq!(ends(on_host(&host, &shared), &jobs), [1200; 2]);
        // On fast cores 0.0015 µs of work is left after one µs: less time than a clock is wrong by, and no reason to look again for ever.
        let fast = [(0.0, 0, 100.0 / 1.9985)];
        assert_eq!(ends(on_host(&fast, &one), &[(0, 0, busy(2))]), [1]);
    }

    #[test]
    fn what_is_dropped_gives_its_share_to_the_rest() {
        let (mut one, mut queue) = (cores(&[("nodes", "1"), ("cores", "1")]), Queue::default());
        let id = |slot| SandboxId { generation: 0, slot };
        for slot in 0..2 {
            one.begin(Instant::ZERO, &mut queue, id(slot), NodeId(0), Kind::Started, busy(1000));
        }
        // At 500 each has had 250.
        one.stop(Instant::from_micros(500), &mut queue, 1);
        let mut done = Vec::new();
        while let Some(event) = queue.pop() {
            while let Some((sandbox, ..)) = one.done(event.at, &mut queue, 0) {
                done.push((sandbox.slot, event.at.as_micros()));
            }
        }
        assert_eq!(done, [(0, 1250)]);
    }

    #[test]
    fn what_a_sandbox_leaves_behind_keeps_a_core_busy() {
        let (mut one, mut queue) = (cores(&[("nodes", "1"), ("cores", "1")]), Queue::default());
        let id = |slot| SandboxId { generation: 0, slot };
        one.burden(Instant::ZERO, &mut queue, NodeId(0), us(300));
        one.begin(Instant::ZERO, &mut queue, id(0), NodeId(0), Kind::Started, busy(1000));
        let mut done = Vec::new();
        let mut later = Some(Instant::from_micros(900));
        loop {
            if let Some(at) = later.take_if(|at| *at < queue.next_at()) {
                one.burden(at, &mut queue, NodeId(0), us(50));
            }
            let Some(event) = queue.pop() else { break };
            while let Some((sandbox, ..)) = one.done(event.at, &mut queue, 0) {
                done.push((sandbox.slot, event.at.as_micros()));
            }
        }
        // Half of the core until 600, all until 900, half until 1000, all of it from there on: 300 + 300 + 50 + 350.
        assert_eq!(done, [(0, 1350)]);
    }

    #[test]
    fn sojourn_in_m_g_1_is_insensitive_to_the_distribution() {
        // M/G/1 with processor sharing: mean sojourn is the mean work / (1 - load), whatever the distribution. Work is 1 ms or 37 ms, 4 ms on average:
        // in a queue (first in, first out) it would be about 3.7 times as long.
        let mut state = 12345u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        let (mean, load) = (4000.0, 0.6);
        let mut at = 0.0;
        let jobs: Vec<_> = (0..200_000)
            .map(|_| {
                at -= uniform().ln() * mean / load;
                (at as u64, 0, busy(if uniform() < 1.0 / 12.0 { 37_000 } else { 1000 }))
            })
            .collect();
        let ends = ends(cores(&[("nodes", "1"), ("cores", "1")]), &jobs);
        let sojourn = ends.iter().zip(&jobs).map(|(end, job)| (end - job.0) as f64).sum::<f64>() / jobs.len() as f64;
        assert!((sojourn / (mean / (1.0 - load)) - 1.0).abs() < 0.05, "{sojourn} µs");
    }

    proptest! {
        #[test]
        fn cores_are_never_idle_while_work_is_left_and_give_no_more_than_they_have(
            jobs in prop::collection::vec((0u64..3000, 1u64..2000), 1..40),
            count in 1u32..5,
            speed in 0.2f64..6.0,
        ) {
            let mut at = 0;
            let jobs: Vec<_> = jobs.iter().map(|(gap, work)| { at += gap; (at, 0, busy(*work)) }).collect();
            let host = on_host(&[(0.0, 0, 100.0 / speed)], &[("nodes", "1"), ("cores", &count.to_string())]);
            let ends = ends(host, &jobs);
            // Small steps of a µs, the definition.
            let mut rest: Vec<f64> = jobs.iter().map(|j| j.2.busy.as_micros() as f64).collect();
            let (mut now, mut expected) = (0u64, vec![0u64; jobs.len()]);
            while expected.contains(&0) {
                let there: Vec<usize> = (0..jobs.len()).filter(|i| jobs[*i].0 <= now && rest[*i] > 1e-6).collect();
                let share = (f64::from(count) / there.len().max(1) as f64).min(1.0) * speed;
                now += 1;
                for i in there {
                    rest[i] -= share;
                    if rest[i] <= 1e-6 {
                        expected[i] = now;
                    }
                }
            }
            // A step may hand a µs to one that needed part of it: each end before delays the rest by less than one.
            for (i, (got, want)) in ends.iter().zip(&expected).enumerate() {
                prop_assert!(got.abs_diff(*want) <= jobs.len() as u64, "job {i}: {got} and {want}");
            }
        }
    }
}
