//! The standard jobs, and how one is measured.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use medes_engine::config::Config;
use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::fingerprint::Fingerprinter;
use medes_engine::dedup::image::Image;
use medes_engine::dedup::index::{Index, PageRef};
use medes_engine::dedup::pack::{BaseSet, Choose, Coding, Options, pack};
use medes_engine::dedup::unpack::{LocalBases, unpack};
use medes_engine::dedup::{Page, ZERO_PAGE};
use medes_engine::profile::Latency;
use medes_engine::units::Duration;
use medes_sim::{Setup, simulate};
use medes_traces::{Trace, TraceKind, TraceOptions, TraceSpec, open, write};
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};

use crate::experiment::Functions;
use crate::workload::Workload;

/// What a job does.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The generated day, or the first minutes of the full one, with these parameters.
    Simulate(&'static Generated, &'static [(&'static str, &'static str)]),
    /// Reading the files of the full day, in the Azure 2019 form.
    Read,
    /// Packing made-up pages against base pages.
    Pack,
    /// Unpacking them.
    Unpack,
    /// Filling an index of fingerprints.
    Insert,
    /// Looking fingerprints up in it.
    Lookup,
}

/// A generated trace.
#[derive(Debug)]
struct Generated {
    functions: u32,
    minutes: u32,
    invocations: u64,
}

/// The day of 400 functions.
const DAY: Generated = Generated { functions: 400, minutes: 1440, invocations: 1_500_400 };
/// As many functions and requests a minute as the full Azure day has, for 14 minutes.
const FULL: Generated = Generated { functions: 46_412, minutes: 14, invocations: 8_845_000 };

/// A standard job.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Its name.
    pub name: &'static str,
    kind: Kind,
}

/// Memory that nothing reaches, MB.
const ENOUGH: (&str, &str) = ("memcap", "100000000");

/// All of them, in the order of the table.
pub const JOBS: &[Job] = &[
    job("fixed, enough memory", Kind::Simulate(&DAY, &[("policy", "fixed"), ("nodes", "1"), ENOUGH])),
    job("medes, enough memory", Kind::Simulate(&DAY, &[("policy", "medes"), ("nodes", "1"), ENOUGH])),
    job("fixed, 32 GB", Kind::Simulate(&DAY, &[("policy", "fixed"), ("nodes", "1"), ("memcap", "32000")])),
    job("medes, 32 GB", Kind::Simulate(&DAY, &[("policy", "medes"), ("nodes", "1"), ("memcap", "32000")])),
    job("fixed, 20 nodes", Kind::Simulate(&DAY, &[("policy", "fixed"), ("nodes", "20"), ENOUGH])),
    job("medes, 20 nodes", Kind::Simulate(&DAY, &[("policy", "medes"), ("nodes", "20"), ENOUGH])),
    job("fixed, 100 nodes", Kind::Simulate(&DAY, &[("policy", "fixed"), ("nodes", "100"), ENOUGH])),
    job("medes, 100 nodes", Kind::Simulate(&DAY, &[("policy", "medes"), ("nodes", "100"), ENOUGH])),
    job("fixed, 1,000 nodes", Kind::Simulate(&DAY, &[("policy", "fixed"), ("nodes", "1000"), ENOUGH])),
    job("medes, 1,000 nodes", Kind::Simulate(&DAY, &[("policy", "medes"), ("nodes", "1000"), ENOUGH])),
    job("fixed, 46,412 functions", Kind::Simulate(&FULL, &[("policy", "fixed"), ("nodes", "1"), ENOUGH])),
    job("medes, 46,412 functions", Kind::Simulate(&FULL, &[("policy", "medes"), ("nodes", "1"), ENOUGH])),
    job("read the full day", Kind::Read),
    job("pack", Kind::Pack),
    job("unpack", Kind::Unpack),
    job("index insert", Kind::Insert),
    job("index lookup", Kind::Lookup),
];

/// How the cost of one request grows: a name, a job, and the small one that it is compared with.
pub const GROWTH: &[(&str, &str, &str)] = &[
    ("fixed, 1 to 1,000 nodes", "fixed, 1,000 nodes", "fixed, enough memory"),
    ("medes, 1 to 1,000 nodes", "medes, 1,000 nodes", "medes, enough memory"),
    ("fixed, 400 to 46,412 functions", "fixed, 46,412 functions", "fixed, enough memory"),
    ("medes, 400 to 46,412 functions", "medes, 46,412 functions", "medes, enough memory"),
];

const fn job(name: &'static str, kind: Kind) -> Job {
    Job { name, kind }
}

impl Job {
    /// The part of the program that it measures.
    pub fn part(&self) -> &'static str {
        match self.kind {
            Kind::Simulate(..) => "simulation",
            Kind::Read => "traces",
            Kind::Pack | Kind::Unpack | Kind::Insert | Kind::Lookup => "deduplication",
        }
    }

    /// What is counted.
    pub fn unit(&self) -> &'static str {
        match self.kind {
            Kind::Simulate(..) => "invocations",
            Kind::Read | Kind::Pack | Kind::Unpack => "bytes",
            Kind::Insert | Kind::Lookup => "entries",
        }
    }
}

/// What one run of a job took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Work done, in the job's unit.
    pub work: f64,
    /// Processor time of all threads, user and system, seconds.
    pub cpu_s: f64,
    /// By the clock, seconds.
    pub wall_s: f64,
    /// Peak memory of the process, MB.
    pub peak_mb: f64,
}

/// Runs a job once; making its input is not measured.
pub fn measure(job: &Job, quick: bool) -> anyhow::Result<Measured> {
    match job.kind {
        Kind::Simulate(trace, parameters) => simulation(trace, parameters, quick),
        Kind::Read => reading(quick),
        Kind::Pack | Kind::Unpack => packing(matches!(job.kind, Kind::Unpack), quick),
        Kind::Insert | Kind::Lookup => indexing(matches!(job.kind, Kind::Lookup), quick),
    }
}

/// Measures `work`, which gives how much it did.
fn measured(work: impl FnOnce() -> anyhow::Result<f64>) -> anyhow::Result<Measured> {
    // Forget the peak of making the input; where the kernel does not, the peak is of both.
    std::fs::write("/proc/self/clear_refs", "5").ok();
    let (clock, before) = (Instant::now(), cpu()?);
    let work = work()?;
    let (cpu_s, wall_s) = (cpu()? - before, clock.elapsed().as_secs_f64());
    // Less than the clock of the kernel tells apart would be a division by zero.
    Ok(Measured { work, cpu_s: cpu_s.max(1e-6), wall_s, peak_mb: peak_mb()? })
}

fn cpu() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("cannot ask the kernel for processor time")?;
    let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

fn peak_mb() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = match line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()) {
        Some(kib) => kib,
        None => getrusage(UsageWho::RUSAGE_SELF).context("cannot ask the kernel for peak memory")?.max_rss() as f64,
    };
    Ok(kib * 1024.0 / 1e6)
}

fn day(functions: u32, minutes: u32, invocations: u64) -> anyhow::Result<Trace> {
    let options = TraceOptions { functions, minutes, invocations: Some(invocations), ..TraceOptions::default() };
    Ok(open(&"azure-like".parse()?, &options)?)
}

fn simulation(of: &Generated, parameters: &[(&str, &str)], quick: bool) -> anyhow::Result<Measured> {
    // Enough functions are left for memory to be asked for ahead where it is in the whole job.
    let small = Generated { functions: of.functions.min(2_500), minutes: of.minutes.min(60), invocations: 20_000 };
    let of = if quick { &small } else { of };
    let (mut profiles, _) = crate::profiles::load("reference")?;
    for f in &mut profiles.function {
        for time in [&mut f.cold, &mut f.warm, &mut f.checkpoint, &mut f.restore, &mut f.resume] {
            *time = Latency::constant(time.median_ms);
        }
    }
    let workload = Workload::new(day(of.functions, of.minutes, of.invocations)?, Functions::Own, &profiles);
    let mut config = Config::default();
    for (name, value) in parameters {
        config.set(name, value)?;
    }
    let setup = Setup {
        config,
        profiles: Arc::new(profiles),
        functions: workload.functions.clone(),
        faults: Vec::new(),
        seed: 1,
        length: workload.trace.length,
        interval: Duration::from_secs(180),
        check: false,
        host: None,
    };
    measured(|| Ok(simulate(&setup, workload.arrivals(setup.seed), |_| {})?.summary.requests as f64))
}

fn reading(quick: bool) -> anyhow::Result<Measured> {
    let folder = tempfile::tempdir().context("cannot make a folder for the trace that is to be read")?;
    let (functions, invocations) = if quick { (200, 3_920_000) } else { (46_412, 909_783_379) };
    let files = write::azure2019(&day(functions, 1440, invocations)?, folder.path())?;
    let bytes: u64 = files.iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
    let spec = TraceSpec { kind: TraceKind::Azure2019, path: folder.path().to_owned() };
    measured(|| {
        black_box(open(&spec, &TraceOptions::default())?);
        Ok(bytes as f64)
    })
}

/// Pages of a base and of an image: of ten, four are equal to the base's, five have some edits, one is new.
fn pages(count: u64) -> (Vec<Page>, Vec<Page>) {
    let noise = |seed: u64| -> Page {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        std::array::from_fn(|i| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if i % 8 < 3 { 0 } else { (x >> 58) as u8 }
        })
    };
    let base: Vec<Page> = (0..count).map(noise).collect();
    let image = base.iter().zip(0u64..).map(|(page, n)| match n % 10 {
        0..4 => *page,
        4..9 => {
            let mut page = *page;
            for i in 0..(n % 97) as usize {
                page[i * 41] ^= 0x11;
            }
            page
        }
        _ => noise(n + count),
    });
    let image = image.collect();
    (base, image)
}

fn packing(back: bool, quick: bool) -> anyhow::Result<Measured> {
    let (base, image) = pages(if quick { 500 } else { 20_000 });
    let (base, image) = (Image::from_pages("base", &base), Image::from_pages("image", &image));
    let mut set = BaseSet::new(Fingerprinter::default(), true);
    set.add(base.clone(), 1)?;
    let coding = Coding::Auto { budget_ns: Some(2_000) };
    let options = Options { choose: Choose::Nearest, coding, threads: 1, ..Options::default() };
    let pack_it = || pack(&image, &set, &options);
    if !back {
        return measured(|| {
            black_box(pack_it()?);
            Ok(image.bytes() as f64)
        });
    }
    let packed = pack_it()?;
    let file = DedupFile::open("bench", &packed.file)?;
    let images = [&base];
    let mut out: Vec<Page> = vec![ZERO_PAGE; image.pages() as usize];
    measured(|| {
        unpack(&file, &LocalBases::new(&images), 1, &mut out)?;
        black_box(&out);
        Ok(image.bytes() as f64)
    })
}

fn indexing(look: bool, quick: bool) -> anyhow::Result<Measured> {
    let count: u64 = if quick { 20_000 } else { 4_000_000 };
    let hash = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i >> 7).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mut index = Index::with_capacity(count as usize);
    let base = index.add_base().map_err(|_| anyhow::anyhow!("an empty index takes no base"))?;
    let entries: Vec<_> = (0..count).map(|i| (hash(i), PageRef { base, page: (i / 5) as u32 })).collect();
    if !look {
        return measured(|| {
            entries.chunks(4096).for_each(|part| index.insert(part));
            Ok(index.len() as f64)
        });
    }
    entries.chunks(4096).for_each(|part| index.insert(part));
    let hashes: Vec<u64> = (0..count).map(|i| hash(i * 2_654_435_761 % count)).collect();
    measured(|| {
        let mut hits = 0u64;
        hashes.chunks(4096).for_each(|part| index.lookup(part, |_, p| hits += u64::from(p.page & 1)));
        black_box(hits);
        Ok(hashes.len() as f64)
    })
}
