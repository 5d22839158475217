//! Whole simulations whose outcome can be worked out by hand.

use std::sync::Arc;

use medes_engine::config::Config;
use medes_engine::id::FunctionId;
use medes_engine::profile::{Latency, ProfileSet};
use medes_engine::record::{RequestRecord, StartKind, StartParts};
use medes_engine::units::{Bytes, Duration, Instant};
use medes_sim::{Arrival, Outcome, Setup, SimFunction, simulate_in_parts};

fn profiles() -> ProfileSet {
    let text = include_str!("../../config/reference.toml");
    let mut set: ProfileSet = toml::from_str(text).unwrap();
    set.check().unwrap();
    for f in &mut set.function {
        f.cold = Latency::constant(1000.0);
        f.warm = Latency::constant(10.0);
        f.checkpoint = Latency::constant(20.0);
        f.restore = Latency::constant(30.0);
        f.resume = Latency::constant(5.0);
    }
    set
}

fn setup(settings: &[(&str, &str)], memory_mb: &[f64]) -> Setup {
    let mut config = Config::default();
    for (k, v) in [("policy", "fixed"), ("nodes", "1"), ("memcap", "1000")].iter().chain(settings) {
        config.set(k, v).unwrap();
    }
    let functions = memory_mb
        .iter()
        .enumerate()
        .map(|(i, mb)| SimFunction {
            name: format!("f{i}"),
            owner: 0,
            profile: 0,
            memory: Bytes::from_mb(*mb),
            run: Duration::from_millis(500),
        })
        .collect();
    Setup {
        config,
        profiles: Arc::new(profiles()),
        functions: Arc::new(functions),
        faults: Vec::new(),
        seed: 1,
        length: Duration::from_secs(1000),
        interval: Duration::from_secs(10),
        check: true,
        host: None,
    }
}

/// Arrivals `(seconds, function, run ms)`.
fn run(setup: &Setup, arrivals: &[(f64, u32, u64)]) -> (Outcome, Vec<RequestRecord>) {
    let (outcome, rows) = run_in_parts(setup, arrivals);
    (outcome, rows.into_iter().map(|(record, _)| record).collect())
}

fn run_in_parts(setup: &Setup, arrivals: &[(f64, u32, u64)]) -> (Outcome, Vec<(RequestRecord, StartParts)>) {
    let mut given = false;
    let mut records = Vec::new();
    let batch = |out: &mut Vec<Arrival>| {
        if std::mem::replace(&mut given, true) {
            return false;
        }
        out.extend(arrivals.iter().map(|(at, f, run)| Arrival {
            at: Instant::from_secs_f64(*at),
            function: FunctionId(*f),
            run: Duration::from_millis(*run),
        }));
        true
    };
    let outcome = simulate_in_parts(setup, batch, |r, parts| records.push((*r, *parts))).unwrap();
    (outcome, records)
}

#[test]
fn a_start_divides_into_its_parts() {
    let settings = [("policy", "heuristic"), ("gamma", "1000"), ("idletime", "10"), ("memcap", "2000")];
    let mut s = setup(&settings, &[100.0]);
    let profiles = Arc::make_mut(&mut s.profiles);
    profiles.costs.control = Latency::constant(2.0);
    // As above: two cold, one of them reduced against the other, then a warm and a dedup start.
    let (_, rows) = run_in_parts(&s, &[(0.0, 0, 500), (0.0, 0, 500), (100.0, 0, 500), (100.0, 0, 500)]);
    let of = |kind| *rows.iter().find(|(r, _)| r.kind == Some(kind)).unwrap();
    let ms = Duration::from_millis;
    let none = StartParts { control: ms(2), ..StartParts::default() };
    let (cold, warm, (dedup, parts)) = (of(StartKind::Cold), of(StartKind::Warm), of(StartKind::Dedup));
    assert_eq!((cold.0.start, cold.1), (ms(1002), StartParts { resume: ms(1000), ..none }));
    assert_eq!((warm.0.start, warm.1), (ms(12), StartParts { resume: ms(10), ..none }));
    assert_eq!((parts.control, parts.resume), (ms(2), ms(5)), "nothing but pages is left");
    assert!(parts.read > Duration::ZERO && parts.patch > Duration::ZERO, "{parts:?}");
    assert_eq!(parts.control + parts.read + parts.patch + parts.resume, dedup.start);
}

#[test]
fn what_controller_and_agent_add_is_the_functions_own_and_waits_if_it_takes_no_cores() {
    let two_at_once = [(0.0, 0, 500), (0.0, 0, 500)];
    let starts = |control: Option<Latency>| -> Vec<(f64, f64)> {
        let mut s = setup(&[("cores", "1")], &[100.0]);
        let profiles = Arc::make_mut(&mut s.profiles);
        profiles.costs.control = Latency::constant(100.0);
        profiles.function.iter_mut().for_each(|f| f.control = control);
        let (_, rows) = run_in_parts(&s, &two_at_once);
        let ms = |d: Duration| d.as_millis_f64();
        rows.iter().for_each(|(r, p)| assert_eq!(p.control + p.read + p.patch + p.resume, r.start));
        rows.iter().map(|(r, parts)| (ms(r.start), ms(parts.control))).collect()
    };
    // A cold start takes 1000 ms of a core, and two share one. Controller and agent as all functions have them: at work, so twice as long.
    assert_eq!(starts(None), [(2200.0, 200.0); 2]);
    assert_eq!(starts(Some(Latency::constant(50.0))), [(2100.0, 100.0); 2]);
    // Without a core nothing slows them.
    assert_eq!(starts(Some(Latency { cores: 0.0, ..Latency::constant(50.0) })), [(2050.0, 50.0); 2]);
    assert_eq!(starts(Some(Latency { cores: 0.5, ..Latency::constant(50.0) })), [(2075.0, 75.0); 2]);
}

#[test]
fn nodes_of_one_machine_share_its_cores() {
    // Three cold starts at once on two nodes of a core each: 1 s and 0.5 s each, where nothing slows them.
    let at_once = [(0.0, 0, 500), (0.0, 0, 500), (0.0, 0, 500)];
    let ends = |settings: &[(&str, &str)]| -> Vec<f64> {
        let (_, records) = run(&setup(settings, &[100.0]), &at_once);
        let mut ends: Vec<f64> = records.iter().map(|r| r.end_to_end().as_millis_f64()).collect();
        ends.sort_by(f64::total_cmp);
        ends
    };
    let own = [("nodes", "2"), ("cores", "1")];
    assert_eq!(ends(&own), [1500.0, 3000.0, 3000.0], "two on one node have half its core each, one all of the other's");
    assert_eq!(ends(&[own[0], own[1], ("shared_cores", "1")]), [2250.0; 3], "three on two cores");
}

#[test]
fn work_under_way_slows_down_when_more_begins() {
    let s = setup(&[("cores", "1")], &[100.0]);
    // 1.5 s of work each. The first is alone until 0.8, and has half of the core for the rest: it ends at 2.2. By then the second has done 0.7
    // and is alone, until 3.0. The parts of a start are stretched like the whole.
    let (_, rows) = run_in_parts(&s, &[(0.0, 0, 500), (0.8, 0, 500)]);
    let ms = |d: Duration| d.as_millis_f64();
    let ends: Vec<f64> = rows.iter().map(|(r, _)| ms(r.end_to_end())).collect();
    assert_eq!(ends, [2200.0, 2200.0]);
    // Starts: 0.8 alone and 0.2 at half; the second 0.7 by 2.2, and 0.3 alone.
    let starts: Vec<f64> = rows.iter().map(|(r, _)| ms(r.start)).collect();
    assert_eq!(starts, [1200.0, 1700.0]);
    rows.iter().for_each(|(r, parts)| assert_eq!(parts.control + parts.read + parts.patch + parts.resume, r.start));
}

#[test]
fn what_is_started_waits_for_sandboxes_that_end_for_it() {
    // Two functions of which one fits: the second evicts the first (at 5 s, warm since 1.5), whose end takes 40 ms. A third start elsewhere waits for nobody.
    let starts = |settings: &[(&str, &str)]| -> Vec<f64> {
        let mut s = setup(settings, &[600.0, 600.0]);
        Arc::make_mut(&mut s.profiles).function[0].purge = Latency { cores: 0.5, ..Latency::constant(40.0) };
        let (o, rows) = run_in_parts(&s, &[(0.0, 0, 500), (5.0, 1, 500)]);
        assert_eq!(o.summary.evictions, u64::from(settings.iter().all(|(key, _)| *key != "nodes")));
        rows.iter()
            .map(|(r, parts)| (r.start.as_millis_f64(), parts.resume.as_millis_f64()))
            .map(|(start, rest)| {
                assert_eq!(start, rest, "a cold start's wait is its own");
                start
            })
            .collect()
    };
    assert_eq!(starts(&[]), [1000.0, 1040.0]);
    // The end is at work for 20 ms of them, while the start waits.
    assert_eq!(starts(&[("cores", "1")]), [1000.0, 1040.0]);
    assert_eq!(starts(&[("nodes", "2")]), [1000.0, 1000.0]);
}

#[test]
fn a_sandbox_that_is_created_has_part_of_its_memory() {
    let mut s = setup(&[], &[100.0]);
    Arc::make_mut(&mut s.profiles).function[0].starting = 0.25;
    // 25 MB while it is created (1 s), 100 MB until its keep-alive of 600 s ends.
    let (o, _) = run(&s, &[(0.0, 0, 500)]);
    assert!((o.summary.mean_memory_mb - (25.0 + 100.0 * 600.5) / 1000.0).abs() < 1e-6, "{}", o.summary.mean_memory_mb);
}

#[test]
fn files_that_sandboxes_map_are_in_memory_once() {
    let mut s =
        setup(&[("nodes", "2"), ("shared_cores", "1"), ("cores", "4"), ("keepalive", "100000")], &[100.0, 100.0]);
    let f = &mut Arc::make_mut(&mut s.profiles).function[0];
    f.memory_mb = 100.0;
    f.resident =
        Some(medes_engine::profile::Resident { private_mb: 60.0, files: [("runtime".to_owned(), 48.0)].into() });
    // Charged 100 MB each while it is created; then 60 of its own, and 48 that all share, on whatever node of the one machine.
    let (o, _) = run(&s, &[(0.0, 0, 500), (200.0, 1, 500), (200.0, 0, 500), (200.0, 1, 500)]);
    let at = |t: f64| o.timeline[(t / 10.0) as usize].mean_used.as_mb();
    assert_eq!((at(105.0), at(305.0)), (108.0, 3.0 * 60.0 + 48.0));
    // On machines of their own each has the files.
    s.config.set("shared_cores", "0").unwrap();
    let (o, _) = run(&s, &[(0.0, 0, 500), (200.0, 1, 500), (200.0, 0, 500), (200.0, 1, 500)]);
    assert_eq!(o.timeline[30].mean_used.as_mb(), 3.0 * 60.0 + 2.0 * 48.0);
}

#[test]
fn what_a_node_measures_beyond_its_account_is_kept_free() {
    let mut s = setup(&[("memcap", "210")], &[100.0]);
    let f = &mut Arc::make_mut(&mut s.profiles).function[0];
    f.memory_mb = 100.0;
    f.resident =
        Some(medes_engine::profile::Resident { private_mb: 80.0, files: [("runtime".to_owned(), 48.0)].into() });
    // 128 MB with one sandbox: a second of 100 finds no room once that is measured, and waits for the first.
    let (o, _) = run(&s, &[(0.0, 0, 5000), (4.0, 0, 500)]);
    assert_eq!((o.summary.cold, o.summary.queued), (1, 1));
    s.config.set("memcap", "230").unwrap();
    assert_eq!(run(&s, &[(0.0, 0, 5000), (4.0, 0, 500)]).0.summary.cold, 2);
}

#[test]
fn one_function_cold_then_warm_then_cold_after_keep_alive() {
    let s = setup(&[], &[100.0]);
    // Cold at 0 (1 s + 0.5 s run: ends 1.5), warm at 100 (10 ms + 0.5 s: ends 100.51), cold at 701.
    let (o, records) = run(&s, &[(0.0, 0, 500), (100.0, 0, 500), (701.0, 0, 500)]);
    assert_eq!((o.summary.cold, o.summary.warm), (2, 1));
    let total: Vec<f64> = records.iter().map(|r| r.end_to_end().as_millis_f64()).collect();
    assert_eq!(total, [1500.0, 510.0, 1500.0]);
    // Memory: 100 MB from 0 to 700.51 s and from 701 to 1000 s of 1000 s.
    assert!(
        (o.summary.mean_memory_mb - 100.0 * (700.51 + 299.0) / 1000.0).abs() < 1e-6,
        "{}",
        o.summary.mean_memory_mb
    );
    assert_eq!(o.summary.max_memory_mb, 100.0);
    assert_eq!(o.timeline.len(), 100);
}

#[test]
fn a_sandbox_is_kept_through_the_last_instant_of_its_keep_alive() {
    let s = setup(&[("keepalive", "60")], &[100.0]);
    let (o, _) = run(&s, &[(0.0, 0, 500), (61.5, 0, 500)]);
    assert_eq!(o.summary.cold, 1);
    let (o, _) = run(&s, &[(0.0, 0, 500), (61.500_001, 0, 500)]);
    assert_eq!(o.summary.cold, 2);
}

#[test]
fn requests_wait_for_memory_and_a_warm_start_after_waiting_is_warm() {
    let s = setup(&[("memcap", "150")], &[100.0]);
    let (o, records) = run(&s, &[(0.0, 0, 500), (0.1, 0, 500)]);
    assert_eq!((o.summary.cold, o.summary.warm, o.summary.queued), (1, 1, 1));
    assert_eq!(records[1].wait, Duration::from_millis(1400));
    assert_eq!(records[1].end_to_end(), Duration::from_millis(1400 + 510));
}

#[test]
fn cyclic_requests_defeat_lru_and_not_the_oracle() {
    // Three functions of 100 MB in turn, room for two: LRU misses all, Belady half of the rest.
    let arrivals: Vec<(f64, u32, u64)> = (0..30).map(|i| (i as f64 * 10.0, i % 3, 10_000)).collect();
    let s = setup(&[("policy", "lru"), ("memcap", "250"), ("nopause", "1")], &[100.0; 3]);
    // A cold start takes longer than the gap between arrivals, so give each run less time.
    let short: Vec<_> = arrivals.iter().map(|(at, f, _)| (*at, *f, 8_000)).collect();
    let (o, _) = run(&s, &short);
    assert_eq!((o.summary.cold, o.summary.dropped), (30, 0));
    let s = setup(&[("policy", "no-keep-alive"), ("memcap", "250")], &[100.0; 3]);
    assert_eq!(run(&s, &short).0.summary.cold, 30);
}

#[test]
fn dedup_starts_take_less_than_cold_ones_and_save_memory() {
    let settings = [("policy", "heuristic"), ("gamma", "1000"), ("idletime", "10"), ("memcap", "2000")];
    let s = setup(&settings, &[100.0]);
    // Two at once, then nothing for 100 s (one becomes a base, one dedup), then two at once again.
    let (o, records) = run(&s, &[(0.0, 0, 500), (0.0, 0, 500), (100.0, 0, 500), (100.0, 0, 500)]);
    assert_eq!((o.summary.cold, o.summary.warm, o.summary.dedup), (2, 1, 1));
    assert_eq!((o.summary.bases, o.summary.dedup_ops), (1, 2));
    let dedup = records.iter().find(|r| r.kind == Some(medes_engine::record::StartKind::Dedup)).unwrap();
    assert!(dedup.start > Duration::from_millis(5) && dedup.start < Duration::from_millis(500), "{}", dedup.start);
    // Advantage 0.9 and 2 MB for the paused process: base 200 MB, dedup about 12 MB.
    let at = |t: f64| o.timeline[(t / 10.0) as usize].mean_used.as_mb();
    assert!((at(55.0) - 212.0).abs() < 3.0, "{}", at(55.0));
}

#[test]
fn dedup_starts_wait_for_what_is_not_pushed_behind() {
    let settings = [("policy", "heuristic"), ("gamma", "1000"), ("idletime", "10"), ("memcap", "2000")];
    // Two at once each time: the base serves one, the reduced sandbox the other.
    let arrivals: Vec<_> = [0.0, 100.0, 200.0, 300.0].into_iter().flat_map(|at| [(at, 0, 500); 2]).collect();
    let starts = |behind, more: &[(&str, &str)]| -> Vec<f64> {
        let mut s = setup(&[&settings[..], more].concat(), &[100.0]);
        let profiles = Arc::make_mut(&mut s.profiles);
        (profiles.costs.network_latency_us, profiles.costs.read_post_us) = (0.0, 0.0);
        profiles.function.iter_mut().for_each(|f| f.behind = behind);
        let (_, rows) = run(&s, &arrivals);
        let dedup = rows.iter().filter(|r| r.kind == Some(StartKind::Dedup));
        dedup.map(|r| r.start.as_millis_f64()).collect()
    };
    let near = |got: Vec<f64>, want: f64| {
        assert!(got.iter().all(|g| (g - want).abs() < 0.01) && got.len() == 3, "{got:?} {want:?}");
    };
    let first = starts(None, &[])[0];
    near(starts(None, &[]), first);
    near(starts(Some(0.25), &[]), 0.25 * first);
    // Without a held process nothing comes behind one.
    let nopause = [("nopause", "1")];
    near(starts(Some(0.25), &nopause), starts(None, &nopause)[0]);
}

#[test]
fn what_comes_behind_a_process_keeps_a_core_busy() {
    let settings = [("policy", "heuristic"), ("gamma", "1000"), ("idletime", "10"), ("memcap", "2000"), ("cores", "1")];
    let mut s = setup(&settings, &[100.0; 2]);
    let profiles = Arc::make_mut(&mut s.profiles);
    for f in &mut profiles.function {
        (f.resume, f.behind) = (Latency::constant(1000.0), Some(0.5));
    }
    let took = |at: f64| {
        let before = [(0.0, 0, 1), (0.0, 0, 1), (0.0, 1, 1), (100.0, 0, 1), (100.0, 0, 1)];
        let (_, rows) = run(&s, &[&before[..], &[(at, 1, 100)]].concat());
        let last = rows.iter().find(|r| r.arrived == Instant::from_secs_f64(at)).unwrap();
        assert_eq!(last.kind, Some(StartKind::Warm));
        last.end_to_end()
    };
    // The dedup start ends half a second after it began, and for another half second its pages come; 110 ms of work meet them, or nothing.
    assert_eq!((took(100.7), took(103.0)), (Duration::from_millis(220), Duration::from_millis(110)));
}

#[test]
fn parameters_of_deduplication_have_their_effect_on_memory_and_time() {
    let outcome = |settings: &[(&str, &str)]| {
        let mut all = vec![("policy", "heuristic"), ("gamma", "1000"), ("idletime", "10"), ("memcap", "100000")];
        all.extend(settings);
        let mut s = setup(&all, &[100.0]);
        Arc::get_mut(&mut s.functions).unwrap()[0].profile = 7; // FeatureGen: densely edited pages
        for f in Arc::get_mut(&mut s.profiles).unwrap().function.iter_mut() {
            f.base_gain = 0.2;
        }
        let burst: Vec<_> = (0..40).map(|_| (0.0, 0, 500)).chain([(200.0, 0, 500)]).collect();
        run(&s, &burst).0.summary
    };
    let base = outcome(&[]);
    assert!(outcome(&[("chunksperpage", "1")]).mean_memory_mb > base.mean_memory_mb);
    assert!(outcome(&[("chunksperpage", "40")]).mean_memory_mb < base.mean_memory_mb);
    assert!(outcome(&[("patchthreshold", "100")]).mean_memory_mb > base.mean_memory_mb);
    assert!(outcome(&[("codec", "auto")]).mean_memory_mb < base.mean_memory_mb);
    assert!(outcome(&[("nopause", "1")]).mean_memory_mb < base.mean_memory_mb);
    let few = outcome(&[("dedupperbase", "5")]);
    assert!(few.bases > base.bases && few.mean_memory_mb > base.mean_memory_mb);
}

#[test]
fn a_lost_node_fails_nobody_while_another_is_there() {
    let mut s = setup(&[("nodes", "2"), ("memcap", "1000")], &[100.0]);
    s.faults = vec![medes_sim::fault::Fault { node: 0, at_s: 0.5, for_s: Some(10.0) }];
    let (o, records) = run(&s, &[(0.0, 0, 500), (20.0, 0, 500)]);
    assert_eq!((o.summary.requests, o.summary.dropped, o.summary.failed), (2, 0, 0));
    // Started over on the other node at 0.5 s: 0.5 s waited, then 1.5 s.
    assert_eq!(records[0].end_to_end(), Duration::from_millis(2000));
    assert_eq!(records[0].node, Some(medes_engine::id::NodeId(1)));
}

#[test]
fn the_oracle_is_a_bound_on_sandbox_creations() {
    let arrivals: Vec<(f64, u32, u64)> = (0..60).map(|i| (i as f64 * 10.0, (i * 7 % 5) % 3, 8_000)).collect();
    for memcap in ["110", "210", "310", "1000"] {
        let s = setup(&[("policy", "oracle"), ("memcap", memcap)], &[100.0; 3]);
        let mut given = false;
        let bound = medes_sim::oracle::bound(&s, |out| {
            if std::mem::replace(&mut given, true) {
                return false;
            }
            out.extend(arrivals.iter().map(|(at, f, run)| Arrival {
                at: Instant::from_secs_f64(*at),
                function: FunctionId(*f),
                run: Duration::from_millis(*run),
            }));
            true
        })
        .unwrap();
        assert_eq!(bound.summary.requests, 60);
        for policy in medes_engine::policy::names().into_iter().filter(|p| *p != "oracle") {
            let s = setup(&[("policy", policy), ("memcap", memcap)], &[100.0; 3]);
            let o = run(&s, &arrivals).0.summary;
            let created = o.cold + o.prewarmed + o.queued + o.dropped;
            assert!(bound.summary.cold <= created, "{policy} at {memcap}: {} > {created}", bound.summary.cold);
        }
    }
}
