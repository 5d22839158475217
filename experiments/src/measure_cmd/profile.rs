//! From samples to a profile set.
//!
//! Classes of pages, patch sizes and times of codecs come from the checkpoints of two sandboxes, as with `medes dedup model`. Times of whole steps
//! are those measured. Where the simulator computes a part of a step from pages (reading and patching in a dedup start),
//! the step's own figure (`resume`) is what remains of the measured whole. A warm sandbox is larger than its checkpoint by
//! the pages of files, which CRIU leaves out: they are zero pages here, as nothing is kept of them either.

use std::collections::BTreeMap;
use std::path::Path;

use medes_engine::config::Config;
use medes_engine::dedup::image::Image;
use medes_engine::id::SandboxId;
use medes_engine::profile::{FunctionProfile, Latency, Layout, ProfileSet, Query, Resident};
use medes_engine::units::Bytes;
use medes_real::measure::{Effort, Samples};

use super::control::Control;
use super::starts::Starts;
use super::{Measured, Spread};
use crate::dedup_cmd::model;

/// Where and when.
pub struct Facts {
    pub host: String,
    pub kernel: String,
    pub criu: String,
    pub date: String,
    rounds: u16,
}

impl Facts {
    pub fn new(criu: String, rounds: u16) -> Self {
        let (host, kernel) = machine();
        let now: chrono::DateTime<chrono::Utc> = std::time::SystemTime::now().into();
        Self { host, kernel, criu, date: now.format("%Y-%m-%d").to_string(), rounds }
    }
}

/// Processors and kernel of this machine.
pub fn machine() -> (String, String) {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> =
        cpu.lines().filter_map(|l| Some(l.strip_prefix("model name")?.split_once(':')?.1)).collect();
    let host = format!("{} x {}", models.len(), models.first().map_or("unknown processor", |m| m.trim()));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
    (host, format!("Linux {kernel}"))
}

impl Facts {
    /// In a line.
    pub fn text(&self) -> String {
        format!(
            "medes measure of version {} on {}, {}, CRIU {}, {}, {} rounds a function, one thing at a time, address randomisation off",
            crate::VERSION,
            self.host,
            self.kernel,
            self.criu,
            self.date,
            self.rounds
        )
    }
}

fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn latency(samples: &[f64]) -> Latency {
    let s = Spread::of(samples);
    Latency { p99_ms: round(s.p99), ..Latency::constant(round(s.median)) }
}

/// What controller and agent add. It is not brought to the host's usual speed and takes no cores: it is threads and processes that wake one another. In 5,800
/// warm starts of a real run it took 0.71 to 0.75 ms whether the host's probe took 210 µs or 320, and no longer while a sandbox was being created (0.58 to 0.67).
fn hand_over(samples: &[f64]) -> Latency {
    Latency { cores: 0.0, ..latency(samples) }
}

/// Those of a profile's runs, as nearest ranks; `None` for too few to speak of a distribution.
fn percentiles(runs: &[f64]) -> Option<[f64; 7]> {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((share * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1];
    (sorted.len() >= 4).then(|| [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0].map(|share| round(at(share))))
}

/// The profile set, and the rows of the report.
pub fn assemble(
    to: &Path,
    samples: &[(String, SandboxId, Samples)],
    times: &ProfileSet,
    control: &Control,
    facts: &Facts,
    progress: impl FnMut(&str),
) -> anyhow::Result<(ProfileSet, Vec<Measured>)> {
    let name = to.file_stem().map_or("here".to_owned(), |s| s.to_string_lossy().into_owned());
    let images = |s: &Samples| s.base.iter().chain(&s.image).cloned().collect::<Vec<Image>>();
    let functions: Vec<(String, Vec<Image>)> = samples.iter().map(|(n, _, s)| (n.clone(), images(s))).collect();
    let mut set = model::of_images(&name, &functions, times, progress)?;
    let threads = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
    network(&mut set, samples, threads);
    set.costs.agent_mb = round(control.agent_mb);
    let host = Host::of(samples, control.probe_us());
    set.costs.probe_us = round(host.usual);
    let added = control.added();
    set.costs.control = hand_over(&added);
    let overhead = Spread::of(&added).median;
    let mut rows = Vec::new();
    for ((name, _, s), f) in samples.iter().zip(0..) {
        let mut profile = set.function[f].clone();
        // In a run, where others have run meanwhile; of a function that was not in it (the user's own) as it is asked again and again.
        let known = control.warm.get(name).filter(|w| !w.wake.is_empty());
        let (wake, run) = known
            .map_or_else(|| (s.wake.clone(), s.run.clone()), |w| (host.level(&w.wake, &[]), host.level(&w.run, &[])));
        profile.exec_ms = round(run.iter().sum::<f64>() / (run.len() as f64).max(1.0));
        profile.exec_percentiles_ms = percentiles(&run);
        memory(&mut profile, s);
        profile.starting = round(s.starting);
        profile.resident = Some(Resident {
            private_mb: round(s.parts.private.as_mb()),
            files: s.parts.files.iter().map(|(library, size)| (library.clone(), round(size.as_mb()))).collect(),
        });
        let cores = |effort: &Effort| round(effort.cores());
        profile.cold = Latency { cores: cores(&s.cold_effort), ..latency(&host.level(&s.cold, &s.cold_host)) };
        profile.warm = latency(&wake);
        profile.control = known.map(|w| hand_over(&w.control));
        profile.checkpoint =
            Latency { cores: cores(&s.reduce_effort), ..latency(&host.level(&s.checkpoint, &s.hold_host)) };
        profile.restore = Latency { cores: cores(&s.reduce_effort), ..latency(&host.level(&s.hold, &s.hold_host)) };
        let modelled = modelled_ms(&set, &profile);
        let rest: Vec<f64> = host.level(&s.restore, &s.restore_host).iter().map(|t| (t - modelled).max(0.01)).collect();
        profile.resume = latency(&rest);
        let starts = Starts::of(s);
        profile.behind = Some(round(starts.behind_of_first()));
        profile.purge = Latency { cores: cores(&s.purge_effort), ..latency(&host.level(&s.purge, &s.restore_host)) };
        set.function[f] = profile;
        rows.push(row(name, s));
    }
    set.origin = format!(
        "{}; base pages read over TCP from another node of the same machine; controller and agent add {overhead:.2} ms (median). {}",
        facts.text(),
        set.origin
    );
    set.check()?;
    Ok((set, rows))
}

/// The host, which is now faster and now slower: times are those of its usual speed.
struct Host {
    /// Median of what a probe took, µs.
    usual: f64,
    /// The same in the short runs with a controller.
    controlled: f64,
}

impl Host {
    fn of(samples: &[(String, SandboxId, Samples)], controlled: f64) -> Self {
        let each = samples.iter().flat_map(|(_, _, s)| s.cold_host.iter().chain(&s.hold_host).chain(&s.restore_host));
        Self { usual: Spread::of(&each.copied().collect::<Vec<_>>()).median, controlled }
    }

    /// What `times` would have been at the usual speed. `probes`: what a probe took around each of them; none: they are of the runs with a controller.
    fn level(&self, times: &[f64], probes: &[f64]) -> Vec<f64> {
        let all = std::iter::repeat(&self.controlled);
        let probes: Vec<&f64> =
            if probes.is_empty() { all.take(times.len()).collect() } else { probes.iter().collect() };
        let speed = |probe: &f64| if *probe > 0.0 && self.usual > 0.0 { self.usual / probe } else { 1.0 };
        times.iter().zip(probes).map(|(time, probe)| time * speed(probe)).collect()
    }
}

/// Memory of a warm sandbox, and the classes of pages as shares of it.
fn memory(profile: &mut FunctionProfile, s: &Samples) {
    let dump = s.image.as_ref().map_or(0.0, |i| i.bytes() as f64);
    let whole = s.memory.get() as f64;
    profile.memory_mb = round(s.memory.as_mb().max(0.1));
    profile.paused_mb = round(s.held.as_mb());
    if whole <= 0.0 || dump <= 0.0 {
        return;
    }
    profile.dump_ratio = round(dump / whole);
    let part = (dump / whole).min(1.0);
    let p = &mut profile.pages;
    for share in [&mut p.zero, &mut p.runtime, &mut p.library, &mut p.stable, &mut p.unique] {
        *share *= part;
    }
    p.zero += 1.0 - part;
    profile.edits.iter_mut().for_each(|e| e.share *= part);
    profile.compressed.values_mut().for_each(|c| *c *= part);
    let layout_of = |codec| layout(profile, codec);
    profile.advantage = round(1.0 - (layout_of(None).stored / whole).clamp(0.0, 1.0));
}

/// The layout with one base of the function, with a codec or, without one, with patches of xdelta3's usual size.
fn layout(profile: &FunctionProfile, codec: Option<&medes_engine::profile::Codec>) -> Layout {
    let usual = medes_engine::profile::Codec {
        kind: medes_engine::profile::CodecKind::Patch,
        header_bytes: 40.0,
        site_bytes: 4.0,
        byte_factor: 2.1,
        alone: None,
        encode_us: 0.0,
        decode_us: 0.0,
    };
    let config = Config::default();
    profile.layout(&Query {
        memory: Bytes::from_mb(profile.memory_mb),
        chunksperpage: config.chunksperpage,
        patchthreshold: config.patchthreshold,
        codec: codec.unwrap_or(&usual),
        own_bases: 1,
        runtime_base: true,
        library_share: 1.0,
    })
}

/// What the simulator computes of a dedup start from its pages, ms.
fn modelled_ms(set: &ProfileSet, profile: &FunctionProfile) -> f64 {
    let Some(codec) = set.codec.get(&Config::default().codec) else { return 0.0 };
    let l = layout(profile, Some(codec));
    let c = &set.costs;
    let read = l.own_reads() + l.any_function;
    let network = read * 32.768 / c.network_gbps + read / c.run_pages * c.read_post_us + c.network_latency_us;
    let patch = (l.patched + l.compressed) * codec.decode_us + (l.pages - l.zero) * c.copy_page_us;
    (network + patch) / 1e3
}

/// A line through pages read and the time that this took, over all restores: reads of one restore go on in several threads.
fn network(set: &mut ProfileSet, samples: &[(String, SandboxId, Samples)], threads: f64) {
    let points: Vec<(f64, f64)> = samples
        .iter()
        .flat_map(|(_, _, s)| s.pages_read.iter().zip(&s.base_read).map(|(p, ms)| (*p, ms * 1e3 / threads)))
        .filter(|(p, us)| *p > 0.0 && *us > 0.0)
        .collect();
    let n = points.len() as f64;
    if n == 0.0 {
        return;
    }
    let (mx, my) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let sxx: f64 = points.iter().map(|p| (p.0 - mx).powi(2)).sum();
    let sxy: f64 = points.iter().map(|p| (p.0 - mx) * (p.1 - my)).sum();
    let through_zero = my / mx;
    let slope = if sxx > 0.0 { sxy / sxx } else { through_zero };
    let (slope, latency) =
        if slope > 0.0 && my - slope * mx >= 0.0 { (slope, my - slope * mx) } else { (through_zero, 0.0) };
    set.costs.network_gbps = round(32.768 / slope);
    set.costs.network_latency_us = round(latency);
    set.costs.read_post_us = 0.0;
}

fn row(name: &str, s: &Samples) -> Measured {
    let times = [
        ("cold start", &s.cold),
        ("warm start", &s.wake),
        ("run", &s.run),
        ("checkpoint", &s.checkpoint),
        ("fingerprint", &s.fingerprint),
        ("lookup", &s.lookup),
        ("base read (packing)", &s.pack_read),
        ("encode", &s.encode),
        ("hold", &s.hold),
        ("dedup start", &s.behind_start),
        ("dedup start, all pushed first", &s.restore),
        ("base read (all pushed first, threads added)", &s.base_read),
        ("patch (all pushed first, threads added)", &s.patch),
        ("purge", &s.purge),
    ];
    let times_ms: BTreeMap<&'static str, Spread> = times.into_iter().map(|(k, v)| (k, Spread::of(v))).collect();
    Measured {
        function: name.to_owned(),
        memory_mb: round(s.memory.as_mb()),
        stored_mb: round(s.stored.as_mb()),
        held_mb: round(s.held.as_mb()),
        starts: Starts::of(s),
        times_ms,
    }
}

/// The file: what was seen as comments, then the set.
pub fn text(set: &ProfileSet, rows: &[Measured]) -> anyhow::Result<String> {
    let mut out = "# Function profiles measured on real sandboxes by `medes measure`. Where the numbers come from: see `origin`.\n\
        # What was seen, ms: median [least, largest].\n"
        .to_owned();
    for r in rows {
        let seen: Vec<String> =
            r.times_ms.iter().map(|(k, s)| format!("{k} {:.2} [{:.2}, {:.2}]", s.median, s.min, s.max)).collect();
        out.push_str(&format!("# {}: {}\n", r.function, seen.join("; ")));
    }
    out.push_str(&toml::to_string(set)?);
    Ok(out)
}
