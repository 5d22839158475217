//! `medes dedup sweep`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use medes_engine::dedup::ZERO_PAGE;
use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::fingerprint::Sampling;
use medes_engine::dedup::image::Image;
use medes_engine::dedup::pack::{Options, pack};
use medes_engine::dedup::unpack::{LocalBases, unpack};
use medes_engine::units::PAGE_BYTES;
use medes_plots::figure::{Axis, Figure, Point, Scale, Series, Shape};
use serde::Serialize;

use super::table::{Table, percent};
use super::{CodecArg, DumpArg, Output, SamplingArg, SearchArgs, open};

/// Arguments of `sweep`.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// Dumps to deduplicate: [NAME=]PATH
    #[arg(required = true)]
    dumps: Vec<DumpArg>,
    /// Base dumps
    #[arg(long, required = true, num_args = 1.., value_name = "DUMP")]
    base: Vec<DumpArg>,
    /// Chunks in a fingerprint (chunksperpage), 1 to 64
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 5, 10, 20, 40, 64])]
    chunks: Vec<u32>,
    /// Fingerprints
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [SamplingArg::ValueSampled])]
    fingerprints: Vec<SamplingArg>,
    /// Codecs [default: auto,xdelta3; with --paper: xdelta3]
    #[arg(long, value_delimiter = ',', value_enum)]
    codecs: Vec<CodecArg>,
    /// Time that auto may spend on a page beyond what it needs to store no more than any other codec, µs; `inf`: all it can
    /// gain from [default: 1]
    #[arg(long, value_parser = super::budget_us)]
    budget_us: Option<f64>,
    /// Write the figures (pages matched, bytes saved, patch sizes, times, against chunks a page) into this folder as SVG, PNG and CSV
    #[arg(long, value_name = "FOLDER")]
    figures: Option<PathBuf>,
    #[command(flatten)]
    search: SearchArgs,
}

#[derive(Serialize)]
struct Row {
    dump: String,
    fingerprint: &'static str,
    chunks: u32,
    codec: String,
    choose: &'static str,
    pages: u64,
    /// Pages with some base page.
    matched: u64,
    identical: u64,
    zero: u64,
    saved: f64,
    saved_bytes: i64,
    mean_patch: f64,
    pack_ms: f64,
    unpack_ms: f64,
    index_ms: f64,
}

pub(super) fn run(args: &SweepArgs, out: &Output) -> anyhow::Result<()> {
    let images = open(&args.dumps)?;
    let bases: Vec<Image> = open(&args.base)?.into_iter().map(|d| d.image).collect();
    let default = if args.search.paper { &[CodecArg::Xdelta3][..] } else { &[CodecArg::Auto, CodecArg::Xdelta3] };
    let codecs = if args.codecs.is_empty() { default } else { &args.codecs };
    let mut rows = Vec::new();
    for sampling in &args.fingerprints {
        for chunks in &args.chunks {
            let sampling: Sampling = (*sampling).into();
            let started = Instant::now();
            let set = args.search.bases(sampling, *chunks, &bases)?;
            let index_ms = started.elapsed().as_secs_f64() * 1e3;
            let of_bases: Vec<&Image> = bases.iter().collect();
            for codec in codecs {
                let options = Options {
                    choose: args.search.choose(),
                    coding: codec.coding(args.budget_us),
                    patch_threshold: args.search.patch_threshold,
                    threads: args.search.threads,
                };
                for dump in &images {
                    let started = Instant::now();
                    let packed = pack(&dump.image, &set, &options)?;
                    let pack_ms = started.elapsed().as_secs_f64() * 1e3;
                    let file = DedupFile::open("the file just packed", &packed.file)?;
                    let mut pages = vec![ZERO_PAGE; packed.report.pages as usize];
                    let started = Instant::now();
                    unpack(&file, &LocalBases::new(&of_bases), options.threads, &mut pages)
                        .with_context(|| format!("{} did not come back", dump.image.name()))?;
                    let unpack_ms = started.elapsed().as_secs_f64() * 1e3;
                    let of = |method: &str| packed.report.methods.get(method).map_or(0, |p| p.pages);
                    rows.push(Row {
                        dump: dump.name.clone(),
                        fingerprint: sampling.name(),
                        chunks: *chunks,
                        codec: options.coding.name(),
                        choose: options.choose.name(),
                        pages: packed.report.pages,
                        matched: packed.report.matched,
                        identical: of("identical"),
                        zero: of("zero"),
                        saved: packed.report.saved(),
                        saved_bytes: packed.report.saved_bytes(),
                        mean_patch: packed.report.mean_patch(),
                        pack_ms,
                        unpack_ms,
                        index_ms,
                    });
                }
            }
        }
    }
    let mut table = Table::new([
        "dump",
        "fingerprint",
        "chunks",
        "codec",
        "matched %",
        "same %",
        "saved %",
        "patch B",
        "pack ms",
        "unpack ms",
    ]);
    for r in &rows {
        let share = |n: u64| percent(n as f64 / r.pages as f64);
        table.row([
            r.dump.clone(),
            r.fingerprint.into(),
            r.chunks.to_string(),
            r.codec.clone(),
            share(r.matched),
            share(r.identical),
            percent(r.saved),
            format!("{:.0}", r.mean_patch),
            format!("{:.1}", r.pack_ms),
            format!("{:.1}", r.unpack_ms),
        ]);
    }
    if let Some(folder) = &args.figures {
        for figure in figures(&rows) {
            let drawn = medes_plots::draw(&figure, folder)?;
            out.say(format!("wrote {}", drawn.svg_path.display()));
        }
    }
    let pointers = if set_relocates(&args.search) { "corrected" } else { "left as they are" };
    let head = format!(
        "Base pages by {}, pointers {pointers}; saved counts patches and page tables.\n",
        args.search.choose().name()
    );
    out.result(&(head + &table.text()), &rows)
}

fn set_relocates(search: &SearchArgs) -> bool {
    !search.no_relocate && !search.paper
}

/// A value of a row, and how figures call it.
type Quantity = (&'static str, &'static str, &'static str, &'static str, fn(&Row) -> f64);

/// What is drawn: stem, title, label and unit of the axis, value.
const FIGURES: [Quantity; 5] = [
    ("pages-matched", "Pages with a base page", "matched", "% of pages", |r| 100.0 * r.matched as f64 / r.pages as f64),
    ("bytes-saved", "Bytes saved", "saved", "% of bytes", |r| 100.0 * r.saved),
    ("patch-size", "Mean size of a patch", "patch", "B", |r| r.mean_patch),
    ("pack-time", "Time to pack", "pack", "ms/MB", |r| r.pack_ms / megabytes(r)),
    ("unpack-time", "Time to unpack", "unpack", "ms/MB", |r| r.unpack_ms / megabytes(r)),
];

fn megabytes(r: &Row) -> f64 {
    (r.pages * PAGE_BYTES as u64) as f64 / 1e6
}

/// Every quantity against chunks a page, a line for each dump, fingerprint and codec. Of what was not varied the legend says nothing.
fn figures(rows: &[Row]) -> Vec<Figure> {
    let Some(first) = rows.first() else { return Vec::new() };
    let varied = |of: fn(&Row) -> &str| rows.iter().any(|r| of(r) != of(first));
    let parts: [fn(&Row) -> &str; 3] = [|r| &r.dump, |r| r.fingerprint, |r| &r.codec];
    let name = |r: &Row| {
        let names: Vec<&str> = parts.iter().filter(|of| varied(**of)).map(|of| of(r)).collect();
        if names.is_empty() { r.codec.clone() } else { names.join(", ") }
    };
    let mut lines: Vec<String> = Vec::new();
    for label in rows.iter().map(name) {
        if !lines.contains(&label) {
            lines.push(label);
        }
    }
    let mut values: Vec<f64> = rows.iter().map(|r| f64::from(r.chunks)).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let figure = |(stem, title, label, unit, value): Quantity| Figure {
        name: format!("sweep-{stem}"),
        title: format!("{title} against chunks a page"),
        caption: format!(
            "Dumps packed against the base dumps given; base pages by {}. One pass each: times are those of this machine and hour.",
            first.choose
        ),
        x: Axis::new("chunks a page", "", Scale::At { values: values.clone(), log: true }),
        y: Axis::from_zero(label, unit),
        series: lines
            .iter()
            .enumerate()
            .map(|(i, line)| {
                let own = rows.iter().filter(|r| name(r) == *line);
                let points = own.map(|r| Point::bare(f64::from(r.chunks), value(r))).collect();
                // By number: any two lines are told apart.
                Series { label: line.clone(), look: format!("#{i}"), shape: Shape::Line(points) }
            })
            .collect(),
    };
    FIGURES.into_iter().map(figure).collect()
}
