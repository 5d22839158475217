//! `medes dedup analyze`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use medes_engine::dedup::image::{Image, MappingKind};
use medes_engine::dedup::layout::Layout;
use medes_engine::dedup::scan::{ChunkIndex, SIZES, Tally, redundancy, redundancy_by_kind, sampled};
use medes_engine::dedup::{as_pages_mut, zero};
use medes_plots::figure::{Axis, Figure, Point, Scale, Series, Shape};
use serde::Serialize;

use super::table::{Table, mb, percent};
use super::{DumpArg, Output, by_function, open};

/// Arguments of `analyze`.
#[derive(Debug, Args)]
pub struct AnalyzeArgs {
    /// Dumps: [NAME=]PATH
    #[arg(required = true)]
    dumps: Vec<DumpArg>,
    /// Take pointers out before comparing: what redundancy would be without address-space randomisation
    #[arg(long)]
    relocate: bool,
    /// Write the figures (heat map, redundancy by chunk size) into this folder as SVG, PNG and CSV
    #[arg(long, value_name = "FOLDER")]
    figures: Option<PathBuf>,
}

/// One function.
#[derive(Serialize)]
struct Row {
    function: String,
    instances: usize,
    bytes: u64,
    zero_pages: f64,
    /// By chunk size: second instance against the first; absent with one instance.
    within: BTreeMap<usize, Tally>,
    by_kind: BTreeMap<&'static str, Tally>,
}

/// Redundancy of a function (row) in another (column).
#[derive(Serialize)]
struct Cell {
    function: String,
    base: String,
    tally: Tally,
    redundant: f64,
}

#[derive(Serialize)]
struct Analysis {
    pointers_taken_out: bool,
    functions: Vec<Row>,
    /// 64-byte chunks every 128 bytes, matches extended by up to 64 bytes.
    matrix: Vec<Cell>,
}

/// The image with its pointers in canonical form.
fn canonical(image: &Image) -> Image {
    let layout = Layout::of(image);
    let mut pages: Vec<_> = image.iter().copied().collect();
    for (n, page) in pages.iter_mut().enumerate() {
        let mut map = layout.canonical(n as u64);
        for word in page.as_chunks_mut::<8>().0 {
            *word = map(u64::from_le_bytes(*word)).to_le_bytes();
        }
    }
    Image::from_pages(image.name(), as_pages_mut(pages.as_flattened_mut()))
}

pub(super) fn run(args: &AnalyzeArgs, out: &Output) -> anyhow::Result<()> {
    let mut functions = Vec::new();
    for (name, images) in by_function(open(&args.dumps)?) {
        let places: Vec<_> = images.iter().map(Image::places).collect();
        let images: Vec<_> = if args.relocate { images.iter().map(canonical).collect() } else { images };
        functions.push((name, images, places));
    }
    let mut rows = Vec::new();
    for (name, images, places) in &functions {
        out.say(format!("{name}: {} of {} MB", images.len(), mb(images[0].bytes())));
        let zero = images[0].iter().filter(|p| zero::is_zero(p)).count();
        let mut row = Row {
            function: name.clone(),
            instances: images.len(),
            bytes: images[0].bytes(),
            zero_pages: zero as f64 / images[0].pages() as f64,
            within: BTreeMap::new(),
            by_kind: BTreeMap::new(),
        };
        if let (Some(second), Some(places)) = (images.get(1), places.get(1)) {
            for size in SIZES {
                let index = ChunkIndex::new(&images[0], size);
                row.within.insert(size, redundancy(&index, second));
                if size == SIZES[0] {
                    let kinds = redundancy_by_kind(&index, second, places);
                    row.by_kind = kinds.into_iter().map(|(k, t)| (k.name(), t)).collect();
                }
            }
        }
        rows.push(row);
    }
    let mut matrix = Vec::new();
    for (base, images, _) in &functions {
        let index = ChunkIndex::new(&images[0], SIZES[0]);
        for (name, others, _) in &functions {
            // A function against itself is its second instance, where there is one.
            let other = if name == base { others.get(1) } else { others.first() };
            let Some(other) = other else { continue };
            let tally = sampled(&index, other);
            let (function, base) = (name.clone(), base.clone());
            matrix.push(Cell { function, base, redundant: tally.redundant(), tally });
        }
    }
    let analysis = Analysis { pointers_taken_out: args.relocate, functions: rows, matrix };
    if let Some(folder) = &args.figures {
        for figure in [by_size(&analysis), heat(&analysis)].into_iter().flatten() {
            let drawn = medes_plots::draw(&figure, folder)?;
            out.say(format!("wrote {}", drawn.svg_path.display()));
        }
    }
    out.result(&text(&analysis), &analysis)
}

fn text(a: &Analysis) -> String {
    let mut out = String::new();
    let mut sizes = Table::new(
        ["function", "MB", "zero"]
            .into_iter()
            .map(String::from)
            .chain(SIZES[..5].iter().map(|s| format!("{s} B")))
            .chain(["page".into()]),
    );
    for r in &a.functions {
        let within = SIZES.iter().map(|s| r.within.get(s).map_or("-".into(), |t| percent(t.redundant())));
        sizes.row([r.function.clone(), mb(r.bytes), percent(r.zero_pages)].into_iter().chain(within));
    }
    out += "Bytes that another instance of the function has, in % by chunk size (zeros among them; `zero`: pages of zeros):\n";
    out += &sizes.text();
    if a.functions.iter().any(|r| !r.by_kind.is_empty()) {
        out += "\nBy what is mapped there: share of the dump / of that, bytes in 64-byte chunks the other instance has, %:\n";
        let kinds: Vec<_> = MappingKind::ALL.iter().map(|k| k.name()).collect();
        let used: Vec<_> =
            kinds.into_iter().filter(|k| a.functions.iter().any(|r| r.by_kind.contains_key(k))).collect();
        let mut table = Table::new(["function"].into_iter().chain(used.iter().copied()));
        for r in &a.functions {
            let cells = used.iter().map(|k| {
                let whole: u64 = r.by_kind.values().map(|t| t.bytes).sum();
                r.by_kind.get(k).map_or("-".into(), |t| {
                    format!("{:.0}/{:.0}", 100.0 * t.bytes as f64 / (whole as f64).max(1.0), 100.0 * t.redundant())
                })
            });
            table.row([r.function.clone()].into_iter().chain(cells));
        }
        out += &table.text();
    }
    let names: Vec<_> = a.functions.iter().map(|r| r.function.as_str()).collect();
    if names.len() > 1 {
        out +=
            "\nBytes of each function (row) that another (column) has, %; 64-byte chunks every 128 bytes, extended:\n";
        // Column heads short enough for ten to fit.
        let short = |n: &str| n.chars().take(5).collect::<String>();
        let mut table = Table::new(["".to_string()].into_iter().chain(names.iter().map(|n| short(n))));
        for row in &names {
            let cells = names.iter().map(|base| {
                let cell = a.matrix.iter().find(|c| c.function == *row && c.base == *base);
                cell.map_or("-".into(), |c| format!("{:.0}", 100.0 * c.redundant))
            });
            table.row([row.to_string()].into_iter().chain(cells));
        }
        out += &table.text();
    }
    out
}

fn by_size(a: &Analysis) -> Option<Figure> {
    let series: Vec<_> = a
        .functions
        .iter()
        .filter(|r| !r.within.is_empty())
        .enumerate()
        .map(|(i, r)| {
            let points = r.within.iter().map(|(s, t)| Point::bare(*s as f64, 100.0 * t.redundant())).collect();
            // By number: names of functions might get looks that are alike.
            Series { label: r.function.clone(), look: format!("#{i}"), shape: Shape::Line(points) }
        })
        .collect();
    if series.is_empty() {
        return None;
    }
    let values = SIZES.iter().map(|s| *s as f64).collect();
    Some(Figure {
        name: "redundancy-by-chunk-size".into(),
        title: "Redundancy within a function against chunk size".into(),
        caption: "Bytes of the second instance of each function in chunks that the first has at any 16-byte offset; \
                  chunks of zeros count."
            .into(),
        x: Axis::new("chunk size", "B", Scale::At { values, log: true }),
        y: Axis::from_zero("redundant", "% of bytes"),
        series,
    })
}

fn heat(a: &Analysis) -> Option<Figure> {
    let names: Vec<_> = a.functions.iter().map(|r| r.function.clone()).collect();
    if names.len() < 2 {
        return None;
    }
    let at = |n: &String| names.iter().position(|m| m == n);
    let cells = a.matrix.iter().filter_map(|c| Some((at(&c.base)?, at(&c.function)?, 100.0 * c.redundant))).collect();
    Some(Figure {
        name: "redundancy-heat-map".into(),
        title: "Redundancy between every two functions".into(),
        caption: "Bytes of the function (row) found in the other one (column): chunks of 64 bytes every 128 bytes, each match \
                  extended by up to 64 bytes; relative to all bytes."
            .into(),
        x: Axis::names("found in (base)", names.clone()),
        y: Axis::names("function", names),
        series: vec![Series::new("redundant", Shape::Heat { cells, label: "redundant, % of bytes".into() })],
    })
}
