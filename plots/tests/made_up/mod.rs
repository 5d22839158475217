//! Rows made up to look like those of a run: for the tests and the gallery, never for a finding.
#![allow(dead_code)]

use medes_engine::record::{FunctionSummary, TimelineSample};
use medes_engine::units::{Bytes, Instant};
use medes_plots::CellData;

/// Numbers that look random and are the same each time.
pub struct Noise(pub u64);

impl Noise {
    /// A number between -1 and 1.
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / f64::from(1 << 30) - 1.0
    }
}

/// The ten functions of the paper.
pub const FUNCTIONS: [&str; 10] = [
    "Vanilla",
    "LinAlg",
    "ImagePro",
    "VideoPro",
    "MapReduce",
    "HTMLServe",
    "AuthEnc",
    "FeatureGen",
    "RNNModel",
    "ModelTrain",
];

/// How many times the cold starts of `oracle` a policy has.
fn factor(policy: &str) -> f64 {
    match policy {
        "no-keep-alive" => 40.0,
        "oracle" => 1.0,
        "medes" => 1.9,
        "compress" => 2.1,
        "greedy-dual" => 2.3,
        "adaptive" => 2.9,
        "fixed" => 3.1,
        _ => 2.6,
    }
}

/// One cell: `gb` of memory on 20 nodes, over `functions`.
pub fn cell(policy: &str, gb: f64, seed: u64, functions: &[String]) -> CellData {
    let mut noise = Noise(seed * 977 + (gb * 31.0) as u64 + policy.len() as u64);
    let mut made = CellData::default();
    let squeeze = (40.0 / gb).powf(1.2);
    let mut arrivals = Noise(seed);
    for (i, name) in functions.iter().enumerate() {
        let requests = (180_000.0 / (i as f64 + 1.0).powf(1.3) * (1.0 + 0.02 * arrivals.next())) as u64 + 3;
        let cold = (factor(policy) * squeeze * (14.0 + 3.0 * (i % 10) as f64) * (1.0 + 0.1 * noise.next())) as u64;
        let cold = cold.min(requests);
        let dedup = if matches!(policy, "medes" | "compress") { cold.min(requests - cold) } else { 0 };
        let tail = 400.0 + 260.0 * (i % 10) as f64;
        made.functions.push(FunctionSummary {
            function: name.clone(),
            requests,
            cold,
            dedup,
            warm: requests - cold - dedup,
            queued: 0,
            dropped: 0,
            mean_ms: tail / 3.0,
            p50_ms: tail / 4.0,
            p99_ms: tail,
            p999_ms: tail * (1.0 + factor(policy).min(4.0) * 0.6 * (1.0 + 0.1 * noise.next())),
        });
    }
    let used = (gb * 0.93).min(22.0 + factor(policy));
    for minute in 1..=480_u32 {
        let wave = (f64::from(minute) / 70.0).sin() * 0.06 - (-f64::from(minute) / 12.0).exp();
        let gb_now = used * (1.0 + wave + 0.03 * noise.next());
        made.timeline.push(TimelineSample {
            at: Instant::from_secs_f64(f64::from(minute) * 60.0),
            mean_used: Bytes::from_mb(gb_now * 1000.0),
            max_used: Bytes::from_mb(gb_now * 1040.0),
            ..TimelineSample::default()
        });
    }
    let sum = |f: fn(&FunctionSummary) -> u64| made.functions.iter().map(f).sum::<u64>();
    let s = &mut made.summary;
    (s.policy, s.memcap_mb, s.nodes, s.seed) = (policy.into(), gb * 50.0, 20, seed);
    (s.requests, s.cold) = (sum(|f| f.requests), sum(|f| f.cold));
    (s.warm, s.dedup) = (sum(|f| f.warm), sum(|f| f.dedup));
    s.evictions = if gb < 35.0 { (3000.0 * squeeze * (1.0 + 0.1 * noise.next())) as u64 } else { 0 };
    (s.p50_ms, s.p99_ms, s.p999_ms, s.mean_ms) = (180.0, 1900.0, 2800.0 + 300.0 * factor(policy), 390.0);
    s.start_p50_ms = 0.8;
    s.start_p99_ms = 25.0 * factor(policy) * squeeze * (1.0 + 0.05 * noise.next());
    s.start_p999_ms = s.start_p99_ms * 4.0;
    (s.mean_memory_mb, s.max_memory_mb) = (used * 980.0, used * 1100.0);
    if policy == "medes" {
        (s.dedup_ops, s.bases) = (900, 24);
    }
    made
}

/// Policies x pools x seeds over the ten functions.
pub fn cells(policies: &[&str], pools: &[f64], seeds: u64) -> Vec<CellData> {
    let functions = FUNCTIONS.map(String::from);
    let mut all = Vec::new();
    for gb in pools {
        for policy in policies {
            all.extend((1..=seeds).map(|seed| cell(policy, *gb, seed, &functions)));
        }
    }
    all
}

/// Names as in the Azure trace.
pub fn hashes(n: usize) -> Vec<String> {
    let mut noise = Noise(7);
    (0..n).map(|_| (0..4).map(|_| format!("{:016x}", noise.next().to_bits() << 7)).collect()).collect()
}

/// `medes` and `fixed` over two parameters.
pub fn swept() -> Vec<CellData> {
    let mut all = Vec::new();
    for (i, chunks) in ["5", "1", "2", "10", "20", "40"].into_iter().enumerate() {
        for (j, per_base) in ["40", "10", "160"].into_iter().enumerate() {
            for policy in ["fixed", "medes"] {
                for seed in 1..=3 {
                    let mut made = cell(policy, 20.0, seed, &FUNCTIONS.map(String::from));
                    if policy == "medes" {
                        made.summary.cold += (i * i * 17 + j * 90) as u64;
                        made.summary.mean_memory_mb -= (i * 300 + j * 170) as f64;
                    }
                    made.summary.parameters.insert("chunksperpage".into(), chunks.into());
                    made.summary.parameters.insert("dedupperbase".into(), per_base.into());
                    all.push(made);
                }
            }
        }
    }
    all
}
