//! `medes dedup model`: function profiles for the simulator, measured on dumps, and how well they predict.

mod check;
mod fit;
mod measure;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use medes_engine::dedup::image::Image;
use medes_engine::dedup::pack::{BUDGET_NS, Coding};
use medes_engine::dedup::patch::Method;
use medes_engine::profile::{Codec, CodecKind, Costs, FunctionProfile, Latency, ProfileSet};

use super::table::mb;
use super::{DumpArg, Output, SearchArgs, by_function, open};
use measure::Measured;

/// Arguments of `model`.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Dumps: [NAME=]PATH; at least two of each function
    #[arg(required = true)]
    dumps: Vec<DumpArg>,
    /// The profile set to write (TOML); standard output without it
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A profile set to take times and network figures from, function by function by name
    #[arg(long, value_name = "FILE")]
    times: Option<PathBuf>,
    /// Compare the predictions with what packing gives, for every number of chunks
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    search: SearchArgs,
}

/// Codecs that profiles hold: name, method in packing, kind, compression of pages without a patch.
const CODECS: [(&str, Coding, CodecKind, Option<&str>); 6] = [
    ("xdelta3", Coding::One(Method::Xdelta3), CodecKind::Patch, None),
    ("zstd-prefix", Coding::One(Method::ZstdPrefix), CodecKind::Patch, None),
    ("byte-diff", Coding::One(Method::ByteDiff), CodecKind::Patch, None),
    ("auto", Coding::Auto { budget_ns: Some(BUDGET_NS) }, CodecKind::Auto, Some("zstd")),
    ("zstd", Coding::One(Method::Zstd), CodecKind::Alone, Some("zstd")),
    ("lz4", Coding::One(Method::Lz4), CodecKind::Alone, Some("lz4")),
];
pub(super) fn run(args: &ModelArgs, out: &Output) -> anyhow::Result<()> {
    let functions = by_function(open(&args.dumps)?);
    for (name, images) in &functions {
        if images.len() < 2 {
            bail!("function {name}: one dump; a model needs two instances at least (a third to check it)");
        }
    }
    let times = args.times.as_ref().map(|path| read(path)).transpose()?;
    let others: Vec<(String, measure::PageSet)> =
        functions.iter().map(|(n, i)| (n.clone(), measure::page_set(&i[0]))).collect();
    let mut measured = Vec::new();
    for (name, images) in &functions {
        out.say(format!("{name}: measuring {} MB", mb(images[1].bytes())));
        let others: Vec<_> = others.iter().filter(|(n, _)| n != name).map(|(_, set)| set).collect();
        measured.push(measure::measure(&images[0], &images[1], &others, &args.search)?);
    }
    let stem =
        args.output.as_ref().and_then(|p| p.file_stem()).map_or("model".into(), |s| s.to_string_lossy().into_owned());
    let set = assemble(stem, &args.search, &functions, &measured, times.as_ref());
    set.check()?;
    if args.check {
        return check::check(args, &functions, &set, out);
    }
    let head = "# Function profiles measured on CRIU dumps by `medes dedup model`. Where the numbers come from: see `origin`.\n";
    let text = head.to_string() + &toml::to_string(&set)?;
    match &args.output {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
            out.say(format!("wrote {}", path.display()));
        }
        None => out.print(text.trim_end()),
    }
    Ok(())
}

fn read(path: &std::path::Path) -> anyhow::Result<ProfileSet> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let set: ProfileSet = toml::from_str(&text).with_context(|| format!("{} is not a profile set", path.display()))?;
    set.check()?;
    Ok(set)
}

/// The profile set of functions of which two checkpoints each are given; times beyond those of pages are those of `times`.
///
/// # Errors
/// A checkpoint that cannot be packed.
pub(crate) fn of_images(
    name: &str,
    functions: &[(String, Vec<Image>)],
    times: &ProfileSet,
    mut progress: impl FnMut(&str),
) -> anyhow::Result<ProfileSet> {
    let search =
        SearchArgs { paper: false, no_relocate: false, choose: None, hash: None, patch_threshold: 4096, threads: 1 };
    let sets: Vec<(&String, measure::PageSet)> =
        functions.iter().filter_map(|(n, i)| Some((n, measure::page_set(i.first()?)))).collect();
    let mut measured = Vec::new();
    for (function, images) in functions {
        progress(function);
        let [base, image, ..] = images.as_slice() else { bail!("function {function}: two checkpoints are needed") };
        let others: Vec<_> = sets.iter().filter(|(n, _)| *n != function).map(|(_, set)| set).collect();
        measured.push(measure::measure(base, image, &others, &search)?);
    }
    Ok(assemble(name.to_owned(), &search, functions, &measured, Some(times)))
}

fn assemble(
    stem: String,
    search: &SearchArgs,
    functions: &[(String, Vec<Image>)],
    measured: &[Measured],
    times: Option<&ProfileSet>,
) -> ProfileSet {
    let mut codec = BTreeMap::new();
    for (name, _, kind, alone) in CODECS {
        let mut c = Codec {
            kind,
            header_bytes: 0.0,
            site_bytes: 0.0,
            byte_factor: 0.0,
            alone: alone.map(Into::into),
            encode_us: mean(measured, |m| m.encode_us.get(name).copied()),
            decode_us: mean(measured, |m| m.decode_us.get(name).copied()),
        };
        if kind != CodecKind::Alone {
            let samples =
                measured.iter().flat_map(|m| &m.samples).filter_map(|s| Some([s.sites, s.bytes, *s.patch.get(name)?]));
            [c.header_bytes, c.site_bytes, c.byte_factor] = fit::patch_size(samples);
        }
        codec.insert(name.to_string(), c);
    }
    let costs = Costs {
        fingerprint_page_us: mean(measured, |m| Some(m.fingerprint_page_us)),
        fingerprint_chunk_us: mean(measured, |m| Some(m.fingerprint_chunk_us)),
        lookup_chunk_us: mean(measured, |m| Some(m.lookup_chunk_us)),
        copy_page_us: mean(measured, |m| Some(m.copy_page_us)),
        run_pages: mean(measured, |m| Some(m.run_pages)).max(1.0),
        network_latency_us: times.map_or(3.0, |t| t.costs.network_latency_us),
        network_gbps: times.map_or(25.0, |t| t.costs.network_gbps),
        read_post_us: times.map_or(0.5, |t| t.costs.read_post_us),
        local_gbps: times.map_or(60.0, |t| t.costs.local_gbps),
        agent_mb: times.map_or(0.0, |t| t.costs.agent_mb),
        probe_us: times.map_or(0.0, |t| t.costs.probe_us),
        control: times.map_or(Latency::constant(0.0), |t| t.costs.control),
    };
    let mut assumed = Vec::new();
    let mut function = Vec::new();
    for ((name, images), m) in functions.iter().zip(measured) {
        let known = times.and_then(|t| t.function.iter().find(|f| f.name == *name));
        if known.is_none() {
            assumed.push(name.as_str());
        }
        let megabytes = images[1].bytes() as f64 / 1e6;
        let latency = |of: fn(&FunctionProfile) -> Latency, median: f64| {
            known.map_or(Latency { p99_ms: 2.0 * median, ..Latency::constant(median) }, of)
        };
        function.push(FunctionProfile {
            name: name.clone(),
            keep_alive_s: known.map_or(600.0, |f| f.keep_alive_s),
            exec_ms: known.map_or(100.0, |f| f.exec_ms),
            exec_percentiles_ms: known.and_then(|f| f.exec_percentiles_ms),
            memory_mb: round(megabytes, 3),
            resident: known.and_then(|f| f.resident.clone()),
            starting: known.map_or(1.0, |f| f.starting),
            advantage: round(m.advantage, 3),
            cold: latency(|f| f.cold, 500.0),
            warm: latency(|f| f.warm, 1.0),
            checkpoint: latency(|f| f.checkpoint, round(15.0 + 0.7 * megabytes, 1)),
            restore: latency(|f| f.restore, round(10.0 + 0.6 * megabytes, 1)),
            resume: latency(|f| f.resume, 5.0),
            behind: known.and_then(|f| f.behind),
            purge: known.map_or(Latency::none(), |f| f.purge),
            control: known.and_then(|f| f.control),
            dump_ratio: 1.0,
            paused_mb: known.map_or(1.0, |f| f.paused_mb),
            runtime: m.runtime.clone(),
            libraries: m.libraries.clone(),
            pages: m.pages,
            edits: m.edits.clone(),
            compressed: m.compressed.clone(),
            unmatched: m.unmatched.clone(),
            base_gain: 0.0,
        });
    }
    let pointers = if search.no_relocate || search.paper { "left as they are" } else { "corrected" };
    let times = match (times, assumed.as_slice()) {
        (None, _) => "All times but those of fingerprints, lookups and codecs are assumed.".to_string(),
        (Some(t), []) => format!("Other times and the network are those of profile set `{}`.", t.name),
        (Some(t), some) => {
            format!(
                "Other times and the network are those of profile set `{}`; assumed for {}.",
                t.name,
                some.join(", ")
            )
        }
    };
    ProfileSet {
        name: stem,
        origin: format!(
            "CRIU dumps of {} functions, the second instance of each measured against the first: base pages by {}, {} hashes, pointers {pointers}. \
             Shares, edits, shares found and compressed sizes are counted; patch sizes are a least-squares fit over all pages, those of auto with its default budget; codec times \
             are means on the machine that wrote this. {times} One base was measured: base_gain 0 is assumed.",
            functions.len(),
            search.choose().name(),
            search.hash().name(),
        ),
        costs,
        codec,
        function,
    }
}

/// Mean over the functions that have the figure, to three digits after the point.
fn mean(measured: &[Measured], of: impl Fn(&Measured) -> Option<f64>) -> f64 {
    let values: Vec<f64> = measured.iter().filter_map(of).collect();
    round(values.iter().sum::<f64>() / (values.len() as f64).max(1.0), 3)
}

fn round(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}
