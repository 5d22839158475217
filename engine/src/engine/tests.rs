//! The engine worked by hand, action by action, and under random worlds with outside checks.

use super::*;
use crate::event::{Method, PurgeReason};
use crate::record::{Outcome, StartKind};
use proptest::prelude::*;
use std::collections::BTreeSet;

mod lost;
mod unpin;

fn spec(memory_mb: f64) -> FunctionSpec {
    FunctionSpec {
        name: format!("f{memory_mb}"),
        owner: 0,
        memory: Bytes::from_mb(memory_mb),
        keep_alive: Duration::from_secs(600),
        run: Duration::from_millis(500),
        cold_start: Duration::from_millis(1000),
        warm_start: Duration::from_millis(10),
        advantage: 0.5,
        dump: Bytes::from_mb(memory_mb),
        paused: Bytes::from_mb(1.0),
    }
}

fn config(settings: &[(&str, &str)]) -> Config {
    let mut c = Config::default();
    for (k, v) in [("nodes", "1"), ("memcap", "300"), ("policy", "fixed")].iter().chain(settings) {
        c.set(k, v).unwrap();
    }
    c
}

/// An engine with a clock that the test turns.
struct Hand {
    engine: Engine,
    now: Instant,
    next: u64,
}

impl Hand {
    fn new(settings: &[(&str, &str)], memory_mb: &[f64]) -> Self {
        let functions = memory_mb.iter().map(|m| spec(*m)).collect();
        Self { engine: Engine::new(&config(settings), functions).unwrap(), now: Instant::ZERO, next: 0 }
    }

    fn at(&mut self, secs: f64) -> &mut Self {
        self.now = Instant::from_secs_f64(secs);
        while self.engine.poll_deadline() <= self.now {
            let due = self.engine.poll_deadline();
            self.engine.handle_deadline(due);
        }
        self
    }

    fn tell(&mut self, input: Input) -> Vec<Action> {
        self.engine.handle(self.now, input);
        self.actions()
    }

    fn actions(&mut self) -> Vec<Action> {
        self.engine.audit().unwrap();
        std::iter::from_fn(|| self.engine.poll_action()).collect()
    }

    fn arrive(&mut self, function: u32) -> Vec<Action> {
        let request = RequestId(self.next);
        self.next += 1;
        self.tell(Input::Arrived { request, function: FunctionId(function) })
    }

    /// A request of `function` that starts cold and ends at once.
    fn warm_up(&mut self, function: u32) -> SandboxId {
        let actions = self.arrive(function);
        let Some(Action::Spawn { sandbox, .. }) = actions.last().copied() else { panic!("{actions:?}") };
        self.run_out(sandbox);
        sandbox
    }

    /// Two sandboxes of function 0, started for two requests at once; idle since 1 and 2 s.
    fn two_idle(&mut self) -> [SandboxId; 2] {
        let ids = [(); 2].map(|()| match self.arrive(0)[..] {
            [Action::Spawn { sandbox, .. }] => sandbox,
            ref a => panic!("{a:?}"),
        });
        self.at(1.0).run_out(ids[0]);
        self.at(2.0).run_out(ids[1]);
        ids
    }

    fn run_out(&mut self, sandbox: SandboxId) -> Vec<Action> {
        let mut actions = self.tell(Input::Started { sandbox });
        actions.extend(self.tell(Input::Finished { sandbox, start: Duration::ZERO }));
        actions
    }

    fn records(&mut self) -> Vec<RequestRecord> {
        std::iter::from_fn(|| self.engine.poll_record()).collect()
    }
}

fn purged(actions: &[Action]) -> Vec<(SandboxId, PurgeReason)> {
    let purge = |a: &Action| match a {
        Action::Purge { sandbox, reason, .. } => Some((*sandbox, *reason)),
        _ => None,
    };
    actions.iter().filter_map(purge).collect()
}

#[test]
fn keep_alive_is_renewed_on_use_and_holds_to_its_last_instant() {
    let mut h = Hand::new(&[], &[100.0]);
    let s = h.warm_up(0);
    h.at(600.0); // the deadline itself comes after arrivals of the same instant
    let mut h2 = Hand::new(&[], &[100.0]);
    let t = h2.warm_up(0);
    h2.now = Instant::from_secs_f64(600.0);
    assert!(matches!(h2.arrive(0)[..], [Action::Run { sandbox, .. }] if sandbox == t));
    h2.tell(Input::Finished { sandbox: t, start: Duration::ZERO });
    h2.at(1199.9);
    assert_eq!(h2.actions(), []);
    h2.at(1200.0);
    assert_eq!(purged(&h2.actions()), [(t, PurgeReason::Policy)]);
    assert_eq!(purged(&h.actions()), [(s, PurgeReason::Policy)]);
    assert_eq!(h.engine.used(NodeId(0)), Bytes::ZERO);
}

#[test]
fn the_sandbox_used_last_serves_next() {
    let mut h = Hand::new(&[], &[100.0]);
    let spawn = |a: &[Action]| match a {
        [Action::Spawn { sandbox, .. }] => *sandbox,
        _ => panic!("{a:?}"),
    };
    let a = spawn(&h.arrive(0));
    let b = spawn(&h.arrive(0)); // concurrent: the first is busy
    h.at(1.0).run_out(b);
    h.at(2.0).run_out(a);
    assert!(matches!(h.arrive(0)[..], [Action::Run { sandbox, .. }] if sandbox == a));
    assert!(matches!(h.arrive(0)[..], [Action::Run { sandbox, .. }] if sandbox == b));
}

#[test]
fn a_full_node_evicts_the_least_recently_used_first() {
    let mut h = Hand::new(&[], &[100.0, 100.0, 100.0, 150.0]);
    let a = h.warm_up(0);
    let b = h.at(1.0).warm_up(1);
    h.at(2.0).warm_up(2);
    h.at(3.0);
    assert!(matches!(h.arrive(0)[..], [Action::Run { .. }]));
    h.tell(Input::Finished { sandbox: a, start: Duration::ZERO }); // a is now the youngest
    let actions = h.at(4.0).arrive(3);
    // 150 MB need two of 100 MB: b (idle since 1 s), then the third (2 s).
    assert_eq!(purged(&actions).len(), 2);
    assert_eq!(purged(&actions)[0], (b, PurgeReason::Evicted));
    assert!(matches!(actions[2], Action::Spawn { .. }));
    assert_eq!(h.engine.used(NodeId(0)), Bytes::from_mb(250.0));
    assert_eq!(h.engine.counters().evictions, 2);
}

#[test]
fn with_nothing_to_evict_a_request_waits_and_a_warm_start_after_that_is_not_cold() {
    let mut h = Hand::new(&[], &[200.0]);
    let first = h.arrive(0);
    let [Action::Spawn { sandbox, .. }] = first[..] else { panic!() };
    assert_eq!(h.at(1.0).arrive(0), []);
    h.at(5.0);
    let actions = h.run_out(sandbox);
    assert!(matches!(actions[..], [Action::Run { sandbox: s, request: RequestId(1), .. }] if s == sandbox));
    h.at(6.0).tell(Input::Finished { sandbox, start: Duration::from_millis(10) });
    let records = h.records();
    assert_eq!(records[1].kind, Some(StartKind::Warm));
    assert_eq!(records[1].wait, Duration::from_secs(4));
    assert_eq!(records[1].end_to_end(), Duration::from_secs(5));
    let c = h.engine.counters();
    assert_eq!((c.cold, c.warm, c.queued, c.dropped), (1, 1, 1, 0));
}

#[test]
fn a_waiting_request_is_dropped_at_its_deadline() {
    let mut h = Hand::new(&[("queue_deadline", "10")], &[200.0, 400.0]);
    h.arrive(0);
    h.at(1.0).arrive(0);
    h.at(2.0).arrive(1); // larger than any node: can never start
    assert_eq!(h.engine.poll_deadline(), Instant::from_secs_f64(11.0));
    h.at(12.0);
    assert_eq!(h.actions(), []);
    let records = h.records();
    let seen: Vec<_> = records.iter().map(|r| (r.request.0, r.outcome, r.wait.as_secs_f64())).collect();
    assert_eq!(seen, [(1, Outcome::Dropped, 10.0), (2, Outcome::Dropped, 10.0)]);
    assert_eq!(h.engine.counters().dropped, 2);
}

#[test]
fn memory_goes_to_the_request_that_waits_longest() {
    let mut h = Hand::new(&[], &[200.0, 150.0, 50.0]);
    let [Action::Spawn { sandbox, .. }] = h.arrive(0)[..] else { panic!() };
    assert_eq!(h.arrive(1), []); // needs 150 of the 100 free
    assert_eq!(h.arrive(2), []); // would fit, but came later
    let actions = h.at(1.0).run_out(sandbox);
    // The first sandbox is idle now and goes; both start, in order.
    assert_eq!(purged(&actions).len(), 1);
    let started: Vec<_> = actions
        .iter()
        .filter_map(|a| if let Action::Spawn { function, .. } = a { Some(function.0) } else { None })
        .collect();
    assert_eq!(started, [1, 2]);
}

/// An engine with the medes policy in which one sandbox is a base and `others` are asked about.
fn medes(settings: &[(&str, &str)]) -> Hand {
    let mut all = vec![("policy", "medes"), ("constraint", "memory"), ("memcap", "2000")];
    all.extend(settings);
    Hand::new(&all, &[100.0])
}

#[test]
fn dedup_life_cycle_with_references_and_memory() {
    let mut h = medes(&[]);
    let spawned: Vec<_> = (0..2).flat_map(|_| h.arrive(0)).collect();
    let ids: Vec<_> =
        spawned.iter().map(|a| if let Action::Spawn { sandbox, .. } = a { *sandbox } else { panic!() }).collect();
    h.at(1.0).run_out(ids[0]);
    h.at(2.0).run_out(ids[1]);
    // The first asked becomes a base: 100 MB and its dump.
    h.at(61.0);
    assert!(matches!(h.actions()[..], [Action::Checkpoint { sandbox, .. }] if sandbox == ids[0]));
    assert_eq!(h.engine.used(NodeId(0)), Bytes::from_mb(300.0));
    h.tell(Input::Checkpointed { sandbox: ids[0], dump: Bytes::from_mb(90.0) });
    assert_eq!(h.engine.used(NodeId(0)), Bytes::from_mb(290.0));
    // The second is deduplicated against it. All peak arrivals left the window of 10 min long ago? No: at
    // 62 s the peak is 2/min, the only function: the whole memory is its share, D_mem < 0: it stays warm.
    h.at(62.0);
    assert_eq!(h.actions(), []);
    // After 10 min the rate is zero, D_mem = C / 0.5 > C: dedup, until keep-alive would purge it at 602 s.
    h.at(602.0);
    assert_eq!(purged(&h.actions()), [(ids[1], PurgeReason::Policy)]);
}

#[test]
fn a_dedup_sandbox_holds_its_bases_and_starts_again() {
    let mut h = Hand::new(&[("policy", "heuristic"), ("gamma", "1000"), ("memcap", "2000")], &[100.0]);
    let ids = h.two_idle();
    h.at(61.0);
    h.tell(Input::Checkpointed { sandbox: ids[0], dump: Bytes::from_mb(100.0) });
    h.at(62.0);
    assert!(
        matches!(h.actions()[..], [.., Action::Reduce { sandbox, method: Method::Patches, again: false, .. }] if sandbox == ids[1])
    );
    h.tell(Input::Reduced { sandbox: ids[1], stored: Bytes::from_mb(30.0), bases: vec![ids[0]] });
    // Base 200, dedup 30 + 1 for its paused process.
    assert_eq!(h.engine.used(NodeId(0)), Bytes::from_mb(231.0));
    assert_eq!(h.engine.references(ids[0]), Some(1));
    // Two requests: the base serves one, the dedup sandbox is restored for the other and keeps its image.
    assert!(matches!(h.arrive(0)[..], [Action::Run { sandbox, .. }] if sandbox == ids[0]));
    assert!(matches!(h.arrive(0)[..], [Action::Restore { sandbox, .. }] if sandbox == ids[1]));
    assert_eq!(h.engine.used(NodeId(0)), Bytes::from_mb(330.0));
    h.tell(Input::Restored { sandbox: ids[1] });
    h.tell(Input::Finished { sandbox: ids[1], start: Duration::from_millis(200) });
    assert_eq!(h.records().last().map(|r| r.kind), Some(Some(StartKind::Dedup)));
    // Deduplicated again: the first image serves.
    h.at(122.0);
    assert!(matches!(h.actions()[..], [Action::Reduce { sandbox, again: true, .. }] if sandbox == ids[1]));
    h.tell(Input::Reduced { sandbox: ids[1], stored: Bytes::from_mb(99.0), bases: vec![] });
    assert_eq!(h.engine.used(NodeId(0)), Bytes::from_mb(231.0));
    assert_eq!(h.engine.references(ids[0]), Some(1));
}

#[test]
fn a_base_without_dependants_gives_its_dump_up_before_it_goes() {
    let mut h = Hand::new(&[("policy", "medes"), ("memcap", "250")], &[100.0, 100.0, 150.0]);
    let base = h.warm_up(0);
    h.at(60.0);
    assert!(matches!(h.actions()[..], [Action::Checkpoint { .. }]));
    h.tell(Input::Checkpointed { sandbox: base, dump: Bytes::from_mb(100.0) });
    // 100 MB more than the 50 free: the dump goes, the sandbox stays and serves warm.
    let actions = h.at(70.0).arrive(1);
    assert!(matches!(actions[..], [Action::GiveUp { sandbox, .. }, Action::Spawn { .. }] if sandbox == base));
    assert_eq!(h.engine.used(NodeId(0)), Bytes::from_mb(200.0));
    assert_eq!((h.engine.counters().evictions, h.engine.counters().bases_given_up), (0, 1));
    assert!(matches!(h.arrive(0)[..], [Action::Run { sandbox, .. }] if sandbox == base));
}

#[test]
fn a_failed_start_is_tried_three_times_then_reported() {
    let mut h = Hand::new(&[], &[100.0]);
    let mut actions = h.arrive(0);
    for _ in 0..3 {
        let Some(Action::Spawn { sandbox, .. }) = actions.iter().find(|a| matches!(a, Action::Spawn { .. })).copied()
        else {
            panic!("{actions:?}")
        };
        actions = h.tell(Input::Failed { sandbox });
    }
    assert_eq!(h.records().iter().map(|r| r.outcome).collect::<Vec<_>>(), [Outcome::Failed]);
    assert_eq!(h.engine.counters().failed, 1);
}

#[test]
fn a_failed_reduction_leaves_the_sandbox_warm_and_blacklisted() {
    let mut h = Hand::new(&[("policy", "compress")], &[100.0]);
    let s = h.warm_up(0);
    h.at(60.0);
    assert!(matches!(h.actions()[..], [Action::Reduce { method: Method::Compression, .. }]));
    h.tell(Input::Failed { sandbox: s });
    assert!(matches!(h.at(61.0).arrive(0)[..], [Action::Run { .. }]));
    h.tell(Input::Finished { sandbox: s, start: Duration::ZERO });
    h.at(130.0);
    assert_eq!(h.actions(), []);
}

#[test]
fn at_most_so_many_dedup_starts_at_once_on_a_node() {
    let mut h = Hand::new(&[("policy", "compress"), ("dedup_starts", "1")], &[100.0]);
    let ids: Vec<_> = (0..2)
        .map(|_| match h.arrive(0)[..] {
            [Action::Spawn { sandbox, .. }] => sandbox,
            ref a => panic!("{a:?}"),
        })
        .collect();
    for id in &ids {
        h.run_out(*id);
    }
    h.at(60.0);
    for id in &ids {
        h.tell(Input::Reduced { sandbox: *id, stored: Bytes::from_mb(30.0), bases: vec![] });
    }
    assert!(matches!(h.arrive(0)[..], [Action::Restore { .. }]));
    assert!(matches!(h.arrive(0)[..], [Action::Spawn { .. }])); // the second starts cold instead
}

#[test]
fn reuseperiod_keeps_a_sandbox_from_use() {
    let mut h = Hand::new(&[("reuseperiod", "500")], &[100.0]);
    let s = h.warm_up(0);
    assert!(matches!(h.at(0.4).arrive(0)[..], [Action::Spawn { .. }]));
    assert!(matches!(h.at(0.5).arrive(0)[..], [Action::Run { sandbox, .. }] if sandbox == s));
}

#[test]
fn adaptive_unloads_and_prewarms() {
    let mut h = Hand::new(&[("policy", "adaptive")], &[100.0]);
    let s = h.warm_up(0);
    let mut t = 0.0;
    for _ in 0..10 {
        t += 1830.0; // every 30.5 min
        h.at(t).arrive(0);
        h.tell(Input::Finished { sandbox: s, start: Duration::ZERO });
    }
    // After the tenth idle time it is unloaded, comes back after 27 min, and stays until 34.1 min.
    assert_eq!(h.engine.used(NodeId(0)), Bytes::ZERO);
    h.at(t + 27.0 * 60.0);
    let actions = h.actions();
    let Some(Action::Spawn { sandbox, request: None, .. }) = actions.last().copied() else { panic!("{actions:?}") };
    h.tell(Input::Started { sandbox });
    assert!(matches!(h.at(t + 1830.0).arrive(0)[..], [Action::Run { .. }]));
    h.tell(Input::Finished { sandbox, start: Duration::ZERO });
    h.at(t + 1830.0 + 27.0 * 60.0);
    let actions = h.actions();
    let Some(Action::Spawn { sandbox, .. }) = actions.last().copied() else { panic!("{actions:?}") };
    h.tell(Input::Started { sandbox });
    h.at(t + 1830.0 + 34.2 * 60.0);
    assert_eq!(purged(&h.actions()), [(sandbox, PurgeReason::Policy)]);
}

#[test]
fn foreign_memory_on_a_node_is_kept_free() {
    let mut h = Hand::new(&[], &[100.0]);
    h.tell(Input::NodeMemory { node: NodeId(0), used: Bytes::from_mb(250.0) });
    assert_eq!(h.arrive(0), []);
    assert!(matches!(h.tell(Input::NodeMemory { node: NodeId(0), used: Bytes::ZERO })[..], [Action::Spawn { .. }]));
}

#[test]
fn a_bound_is_no_policy_to_run_with() {
    let refused = Engine::new(&config(&[("policy", "oracle")]), vec![spec(1.0)]).err();
    assert_eq!(refused, Some(EngineError::Bound("oracle")));
}

/// A world that answers in a random order, fails now and then, and loses nodes.
#[derive(Default)]
struct Chaos {
    due: BTreeSet<(u64, u64, Answer)>,
    sequence: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Started(SandboxId, bool),
    Restored(SandboxId),
    Finished(SandboxId),
    Checkpointed(SandboxId),
    Reduced(SandboxId),
    Failed(SandboxId),
}

fn run_chaos(
    policy: &str,
    eviction: &str,
    seed: u64,
    requests: &[(u64, u32)],
    memcap: u32,
) -> (Vec<RequestRecord>, Counters) {
    let memcap = memcap.to_string();
    let settings = [
        ("policy", policy),
        ("eviction", eviction),
        ("memcap", &memcap),
        ("nodes", "3"),
        ("idletime", "5"),
        ("queue_deadline", "20"),
        ("keepdedup", "60"),
        ("keepalive", "40"),
        ("dedupperbase", "2"),
    ];
    let mut engine = Engine::new(&config(&settings), vec![spec(20.0), spec(50.0), spec(90.0), spec(130.0)]).unwrap();
    let mut state = seed | 1;
    let mut random = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let (mut chaos, mut records, mut now, mut next) = (Chaos::default(), Vec::new(), 0u64, 0);
    let mut bases: Vec<SandboxId> = Vec::new();
    loop {
        let arrival = requests.get(next).map_or(u64::MAX, |r| r.0);
        let answer = chaos.due.first().map_or(u64::MAX, |d| d.0);
        let deadline = engine.poll_deadline().as_micros();
        let at = arrival.min(answer).min(deadline);
        if at == u64::MAX || (arrival == u64::MAX && answer == u64::MAX && engine.population().queued == 0) {
            break;
        }
        now = now.max(at);
        let instant = Instant::from_micros(now);
        if answer == at {
            let (_, _, answer) = chaos.due.pop_first().unwrap();
            let start = Duration::ZERO;
            let input = match answer.clone() {
                Answer::Started(sandbox, _) => Input::Started { sandbox },
                Answer::Restored(sandbox) => Input::Restored { sandbox },
                Answer::Finished(sandbox) => Input::Finished { sandbox, start },
                Answer::Checkpointed(sandbox) => {
                    bases.push(sandbox);
                    Input::Checkpointed { sandbox, dump: Bytes::from_mb(10.0) }
                }
                Answer::Reduced(sandbox) => {
                    let there: Vec<_> = bases.iter().copied().filter(|b| engine.references(*b).is_some()).collect();
                    let used = if there.is_empty() { vec![] } else { vec![there[random(there.len() as u64) as usize]] };
                    Input::Reduced { sandbox, stored: Bytes::from_mb(random(20) as f64), bases: used }
                }
                Answer::Failed(sandbox) => Input::Failed { sandbox },
            };
            engine.handle(instant, input);
            if let Answer::Started(s, true) | Answer::Restored(s) = answer {
                chaos.sequence += 1;
                chaos.due.insert((now + random(9_000_000), chaos.sequence, Answer::Finished(s)));
            }
        } else if arrival == at {
            if random(40) == 0 {
                let [reader, owner, node] = [0; 3].map(|_| NodeId(random(3) as u32));
                engine.handle(instant, Input::BasesLost { reader, owner });
                engine.handle(instant, Input::NodeLost { node });
                engine.handle(instant, Input::NodeBack { node });
            }
            engine.handle(
                instant,
                Input::Arrived { request: RequestId(next as u64), function: FunctionId(requests[next].1) },
            );
            next += 1;
        } else {
            engine.handle_deadline(instant);
        }
        while let Some(action) = engine.poll_action() {
            chaos.sequence += 1;
            let answer = match action {
                Action::Purge { .. } | Action::GiveUp { .. } => continue,
                Action::Spawn { sandbox, .. }
                | Action::Run { sandbox, .. }
                | Action::Restore { sandbox, .. }
                | Action::Reduce { sandbox, .. }
                    if random(25) == 0 =>
                {
                    Answer::Failed(sandbox)
                }
                Action::Spawn { sandbox, request, .. } => Answer::Started(sandbox, request.is_some()),
                Action::Run { sandbox, .. } => Answer::Finished(sandbox),
                Action::Restore { sandbox, .. } => Answer::Restored(sandbox),
                Action::Checkpoint { sandbox, .. } => Answer::Checkpointed(sandbox),
                Action::Reduce { sandbox, .. } => Answer::Reduced(sandbox),
            };
            chaos.due.insert((now + random(3_000_000), chaos.sequence, answer));
        }
        records.extend(std::iter::from_fn(|| engine.poll_record()));
        engine.audit().unwrap_or_else(|e| panic!("{policy} at {instant}: {e}"));
        for node in 0..3 {
            assert!(engine.used(NodeId(node)) <= Bytes::from_mb(f64::from(memcap.parse::<u32>().unwrap()) + 20.0));
        }
    }
    (records, engine.counters())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_request_ends_once_and_the_accounts_hold(
        seed in any::<u64>(),
        gaps in prop::collection::vec((0u64..4_000_000, 0u32..4), 1..150),
        memcap in 130u32..400,
        eviction in prop::sample::select(crate::eviction::names()),
    ) {
        let mut at = 0;
        let requests: Vec<_> = gaps.iter().map(|(gap, f)| { at += gap; (at, *f) }).collect();
        for entry in policy::REGISTRY.iter().filter(|e| matches!(e.kind, Kind::Online(_))) {
            let (records, c) = run_chaos(entry.name, eviction, seed, &requests, memcap);
            let mut ended: Vec<_> = records.iter().map(|r| r.request.0).collect();
            ended.sort_unstable();
            let expected: Vec<_> = (0..requests.len() as u64).collect();
            prop_assert_eq!(ended, expected, "{}", entry.name);
            prop_assert_eq!(c.answered + c.dropped + c.failed, c.arrived);
            let again = run_chaos(entry.name, eviction, seed, &requests, memcap);
            prop_assert_eq!(again, (records, c));
        }
    }
}
