//! Random configurations under the outside checker, each run twice.

use std::sync::Arc;

use medes_engine::config::Config;
use medes_engine::id::FunctionId;
use medes_engine::policy::{self, Kind};
use medes_engine::profile::ProfileSet;
use medes_engine::record::{Outcome as Ended, RequestRecord};
use medes_engine::units::{Bytes, Duration, Instant};
use medes_sim::fault::Fault;
use medes_sim::{Arrival, Outcome, Setup, SimFunction, simulate};
use proptest::prelude::*;

fn outcome(setup: &Setup, arrivals: &[Arrival]) -> (Outcome, Vec<RequestRecord>) {
    let (mut at, mut records) = (0, Vec::new());
    let outcome = simulate(
        setup,
        |out| {
            let end = (at + 7).min(arrivals.len());
            out.extend_from_slice(&arrivals[at..end]);
            at = end;
            at < arrivals.len()
        },
        |r| records.push(*r),
    );
    (outcome.unwrap(), records)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn books_balance_and_the_same_seed_gives_the_same_rows(
        gaps in prop::collection::vec((0u64..8_000_000, 0u32..5, 1u64..5_000), 1..160),
        entry in prop::sample::select(policy::REGISTRY.iter().filter(|e| matches!(e.kind, Kind::Online(_))).collect::<Vec<_>>()),
        eviction in prop::sample::select(medes_engine::eviction::names()),
        placement in prop::sample::select(medes_engine::placement::names()),
        codec in prop::sample::select(vec!["xdelta3", "auto", "byte-difference"]),
        scope in prop::sample::select(vec!["function", "owner", "cluster"]),
        numbers in (130u32..600, 1u32..4, 1u32..30, 1u32..5, 0u32..3, 0u32..2, 0u32..800, any::<u64>()),
        faults in prop::collection::vec((0u32..4, 0.0f64..300.0, prop::option::of(1.0f64..60.0)), 0..3),
    ) {
        let (memcap, nodes, idletime, dedupperbase, cores, nopause, reuse, seed) = numbers;
        let mut config = Config::default();
        for (k, v) in [
            ("policy", entry.name.to_string()), ("eviction", eviction.into()), ("placement", placement.into()),
            ("codec", codec.into()), ("dedup_scope", scope.into()), ("memcap", memcap.to_string()),
            ("nodes", nodes.to_string()), ("idletime", idletime.to_string()), ("keepalive", "90".into()), ("keepdedup", "120".into()),
            ("dedupperbase", dedupperbase.to_string()), ("cores", cores.to_string()),
            ("shared_cores", u32::from(seed % 2 == 0).to_string()), ("nopause", nopause.to_string()),
            ("reuseperiod", reuse.to_string()), ("queue_deadline", "20".into()), ("constraint", "memory".into()),
        ] {
            config.set(k, &v).unwrap();
        }
        let profiles: ProfileSet = toml::from_str(include_str!("../../config/measured.toml")).unwrap();
        let functions = (0..5).map(|i| SimFunction {
            name: format!("f{i}"), owner: i % 2, profile: i as usize * 2, memory: Bytes::from_mb(10.0 + 28.0 * f64::from(i)),
            run: Duration::from_millis(500),
        }).collect();
        let mut at = 0;
        let arrivals: Vec<_> = gaps.iter().map(|(gap, f, run)| {
            at += gap;
            Arrival { at: Instant::from_micros(at), function: FunctionId(*f), run: Duration::from_millis(*run) }
        }).collect();
        let setup = Setup {
            config, profiles: Arc::new(profiles), functions: Arc::new(functions),
            faults: faults.iter().map(|(node, at_s, for_s)| Fault { node: *node, at_s: *at_s, for_s: *for_s }).collect(),
            seed, length: Duration::from_micros(at), interval: Duration::from_secs(30), check: true, host: None,
        };
        let (o, records) = outcome(&setup, &arrivals);
        prop_assert_eq!(records.len(), arrivals.len());
        let s = &o.summary;
        prop_assert_eq!(s.cold + s.warm + s.dedup + s.dropped + s.failed, s.requests);
        prop_assert_eq!(o.functions.iter().map(|f| f.requests).sum::<u64>(), s.requests);
        prop_assert!(entry.reduces || s.dedup_ops == 0, "{} reduces", entry.name);
        prop_assert!(s.mean_memory_mb <= s.max_memory_mb + 1e-6 && s.max_memory_mb <= f64::from(memcap * nodes));
        // The checker looks on and changes nothing; a second run gives the same bytes.
        let again = outcome(&Setup { check: false, ..setup }, &arrivals);
        prop_assert_eq!(format!("{again:?}"), format!("{:?}", (o, records)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Two functions and little memory. Bursts leave bases and what is patched against them, kept for ever; then requests come one at a
    /// time: each finds memory, whatever it takes.
    #[test]
    fn nobody_waits_in_vain_for_memory_that_bases_hold(
        policy in prop::sample::select(vec!["medes", "heuristic", "heuristic-openwhisk"]),
        sizes in (60u32..140, 60u32..140),
        numbers in (1u32..3, 0u32..120, 1u32..4, 0u32..2, any::<u64>()),
        bursts in prop::collection::vec((0u32..2, 1usize..4), 2..12),
    ) {
        let (nodes, spare, dedupperbase, nopause, seed) = numbers;
        let mut config = Config::default();
        for (k, v) in [
            ("policy", policy.to_string()), ("memcap", (sizes.0.max(sizes.1) + 140 + spare).to_string()),
            ("nodes", nodes.to_string()), ("idletime", "2".into()), ("keepalive", "100000".into()), ("keepdedup", "100000".into()),
            ("gamma", "1000".into()), ("dedupperbase", dedupperbase.to_string()), ("nopause", nopause.to_string()),
            ("queue_deadline", "20".into()), ("constraint", "memory".into()), ("memory_share", "0.05".into()),
        ] {
            config.set(k, &v).unwrap();
        }
        let profiles: ProfileSet = toml::from_str(include_str!("../../config/measured.toml")).unwrap();
        let function = |i: usize, mb: u32| SimFunction {
            name: format!("f{i}"), owner: 0, profile: i, memory: Bytes::from_mb(f64::from(mb)), run: Duration::from_millis(100),
        };
        let mut arrivals = Vec::new();
        let mut add = |second: usize, f: u32| arrivals.push(Arrival {
            at: Instant::from_secs_f64(second as f64), function: FunctionId(f), run: Duration::from_millis(100),
        });
        for (i, (f, many)) in bursts.iter().enumerate() {
            (0..*many).for_each(|_| add(20 * i, *f));
        }
        let alone: usize = bursts.iter().map(|(_, many)| many).sum();
        for i in 0..8 {
            add(20 * (bursts.len() + i), (i as u32 + seed as u32 % 2) % 2);
        }
        let setup = Setup {
            config, profiles: Arc::new(profiles), functions: Arc::new(vec![function(0, sizes.0), function(1, sizes.1)]), faults: Vec::new(),
            seed, length: Duration::from_secs(20 * (bursts.len() as u64 + 9)), interval: Duration::from_secs(30), check: true, host: None,
        };
        let (_, mut records) = outcome(&setup, &arrivals);
        records.sort_by_key(|r| r.request);
        for r in &records[alone..] {
            prop_assert_eq!(r.outcome, Ended::Answered, "{:?}", r);
            prop_assert!(r.wait <= Duration::from_secs(1), "{:?}", r);
        }
    }
}
