//! Whole runs of every policy whose rows are compared with those of a file, `golden.csv`: what makes the simulation
//! faster must not make it another one.
//!
//! The file is written anew with `GOLDEN=write cargo test -p medes-sim --test golden`; a change of it is a change
//! of results and belongs into a commit of its own.

use std::fmt::Write;
use std::sync::Arc;

use medes_engine::config::Config;
use medes_engine::id::FunctionId;
use medes_engine::profile::{Latency, ProfileSet};
use medes_engine::units::{Bytes, Duration, Instant};
use medes_sim::fault::Fault;
use medes_sim::{Arrival, Setup, SimFunction, simulate};

const FUNCTIONS: u32 = 40;
const MINUTES: u64 = 120;

/// FNV-1a over what is written into it.
struct Digest(u64);

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        Ok(())
    }
}

fn digest(what: impl std::fmt::Debug) -> u64 {
    let mut digest = Digest(0xcbf2_9ce4_8422_2325);
    write!(digest, "{what:?}").unwrap();
    digest.0
}

/// Integers from a linear congruential generator (Knuth's MMIX constants): no library may change them.
struct Draws(u64);

impl Draws {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Two hours of functions between one request in 25 minutes and one in three seconds; some even, some in bursts.
fn arrivals() -> Vec<Arrival> {
    let mut draws = Draws(11);
    let mut all = Vec::new();
    for f in 0..u64::from(FUNCTIONS) {
        let gap = 3_000_000 << (f / 4); // mean, µs
        let run = 1_000 + draws.below(40_000) * (1 + f % 7) * 10;
        let mut at = draws.below(gap);
        while at < MINUTES * 60_000_000 {
            let burst = if f % 5 == 4 { draws.below(6) } else { 1 };
            for _ in 0..burst {
                let run = Duration::from_micros(run / 2 + draws.below(run));
                all.push(Arrival { at: Instant::from_micros(at), function: FunctionId(f as u32), run });
            }
            at += if f % 3 == 0 { gap } else { draws.below(2 * gap) };
        }
    }
    all.sort_by_key(|a| (a.at, a.function));
    all
}

fn setup(settings: &str) -> Setup {
    let mut profiles: ProfileSet = toml::from_str(include_str!("../../config/reference.toml")).unwrap();
    profiles.check().unwrap();
    let mut config = Config::default();
    let (mut interval, mut faults) = (Duration::from_secs(60), Vec::new());
    for setting in settings.split_whitespace() {
        match setting.split_once('=').unwrap() {
            ("constant", _) => {
                for f in &mut profiles.function {
                    (f.warm, f.cold) = (Latency::constant(1.5), Latency::constant(500.0));
                }
            }
            ("interval", secs) => interval = Duration::from_secs(secs.parse().unwrap()),
            ("fault", node) => {
                faults.push(Fault { node: node.parse().unwrap(), at_s: 4000.0, for_s: Some(600.0) });
            }
            (key, value) => config.set(key, value).unwrap(),
        }
    }
    let functions = (0..FUNCTIONS).map(|f| SimFunction {
        name: format!("f{f}"),
        owner: f % 6,
        profile: f as usize % profiles.function.len(),
        memory: Bytes::from_mb(f64::from(20 + 37 * f % 240)),
        run: Duration::from_millis(300),
    });
    Setup {
        config,
        functions: Arc::new(functions.collect()),
        profiles: Arc::new(profiles),
        faults,
        seed: 5,
        length: Duration::from_secs(MINUTES * 60),
        interval,
        check: false,
        host: None,
    }
}

fn row(settings: &str, arrivals: &[Arrival]) -> String {
    let (mut batches, mut records) = (arrivals.chunks(777), Digest(1));
    let next_batch = |out: &mut Vec<Arrival>| batches.next().map(|batch| out.extend_from_slice(batch)).is_some();
    let outcome = simulate(&setup(settings), next_batch, |r| write!(records, "{r:?}").unwrap()).unwrap();
    let s = &outcome.summary;
    format!(
        "{settings},{},{},{},{},{},{},{},{},{},{:.3},{:.3},{:.6},{:.6},{:016x},{:016x}",
        s.requests,
        s.cold,
        s.warm,
        s.dedup,
        s.queued,
        s.dropped,
        s.failed,
        s.evictions,
        s.purged,
        s.p50_ms,
        s.p999_ms,
        s.mean_memory_mb,
        s.max_memory_mb,
        records.0,
        digest((&outcome.functions, &outcome.timeline)),
    )
}

const RUNS: &[&str] = &[
    "policy=fixed nodes=1 memcap=100000",
    "policy=fixed nodes=1 memcap=100000 constant=1",
    "policy=fixed nodes=1 memcap=4000",
    "policy=fixed nodes=1 memcap=1500",
    "policy=fixed nodes=1 memcap=3000 constant=1 reuseperiod=500",
    "policy=fixed nodes=20 memcap=500 placement=round-robin",
    "policy=fixed nodes=20 memcap=300 placement=most-free cores=2 fault=3",
    "policy=fixed nodes=7 memcap=400 placement=locality interval=3600 queue_deadline=5",
    "policy=fixed nodes=1 memcap=4000 eviction=freq",
    "policy=fixed nodes=1 memcap=4000 eviction=size",
    "policy=fixed nodes=1 memcap=4000 eviction=warm-rate",
    "policy=adaptive nodes=1 memcap=100000",
    "policy=adaptive nodes=1 memcap=4000 interval=1",
    "policy=adaptive nodes=20 memcap=300",
    "policy=medes nodes=1 memcap=100000",
    "policy=medes nodes=1 memcap=4000 idletime=20",
    "policy=medes nodes=1 memcap=5000 constraint=memory dedupperbase=3 idletime=10",
    "policy=medes nodes=1 memcap=2000 constraint=memory idletime=5",
    "policy=medes nodes=20 memcap=400 constraint=memory dedupperbase=2 dedup_scope=owner fault=2 fault=0 idletime=5",
    "policy=medes nodes=20 memcap=5000 cores=4 idletime=5",
    "policy=medes nodes=3 memcap=1500 eviction=greedy-dual nopause=1 reuseperiod=300 constraint=memory idletime=5",
    "policy=heuristic nodes=4 memcap=1200 idletime=10",
    "policy=heuristic-openwhisk nodes=4 memcap=1200 idletime=10",
    "policy=none-heuristic nodes=4 memcap=1200",
    "policy=greedy-dual nodes=1 memcap=4000",
    "policy=greedy-dual nodes=20 memcap=300",
    "policy=lru nodes=1 memcap=4000",
    "policy=compress nodes=1 memcap=4000",
    "policy=compress nodes=20 memcap=300 fault=1 idletime=5",
    "policy=no-keep-alive nodes=1 memcap=1500",
];

#[test]
fn every_run_gives_the_rows_it_always_gave() {
    let arrivals = arrivals();
    let mut table = String::from(
        "settings,requests,cold,warm,dedup,queued,dropped,failed,evictions,purged,p50_ms,p999_ms,mean_memory_mb,max_memory_mb,records,outcome\n",
    );
    for settings in RUNS {
        writeln!(table, "{}", row(settings, &arrivals)).unwrap();
    }
    if std::env::var("GOLDEN").as_deref() == Ok("write") {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden.csv"), &table).unwrap();
        return;
    }
    for (now, before) in table.lines().zip(include_str!("golden.csv").lines()) {
        assert_eq!(now, before);
    }
    assert_eq!(table.lines().count(), include_str!("golden.csv").lines().count());
}
