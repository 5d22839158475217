//! The figures of real memory: redundancy, the parts of a dedup start, the table of dedup figures.

use medes_engine::units::PAGE_BYTES;
use medes_plots::figure::{Axis, Figure, Piece, Point, Scale, Series, Shape};
use medes_plots::paper::TextTable;
use medes_plots::plan::starts;

use super::sandboxes::{Sandbox, Sandboxes};

/// Both modes that there are dumps of: words for titles, end of the file name, functions.
fn modes(set: &Sandboxes) -> Vec<(&'static str, &'static str, &[Sandbox])> {
    let all: [(_, _, &[Sandbox]); 2] =
        [("address randomisation off", "", &set.fixed), ("address randomisation on", "_random_addresses", &set.random)];
    all.into_iter().filter(|m| !m.2.is_empty()).collect()
}

fn names(functions: &[Sandbox]) -> Vec<String> {
    functions.iter().map(|f| f.name.clone()).collect()
}

/// Redundancy within a function by chunk size.
pub fn chunk_size(set: &Sandboxes) -> Vec<Figure> {
    let of = |(words, suffix, functions): (&str, &str, &[Sandbox])| {
        let sizes: Vec<f64> = [64.0, 128.0, 256.0, 512.0, 1024.0].to_vec();
        let line = |(i, f): (usize, &Sandbox)| {
            let points = sizes.iter().filter_map(|s| Some(Point::bare(*s, 100.0 * f.within.get(&s.to_string())?)));
            Series { label: f.name.clone(), look: format!("#{i}"), shape: Shape::Line(points.collect()) }
        };
        Figure {
            name: format!("redundancy_by_chunk_size{suffix}"),
            title: format!("Redundancy within a function, {words}"),
            caption: "Bytes of a function's second sandbox in chunks that its first has at any 16-byte offset; chunks of zeros \
                      count."
                .into(),
            x: Axis::new("chunk", "B", Scale::At { values: sizes.clone(), log: true }),
            y: Axis::from_zero("redundant", "% of bytes"),
            series: functions.iter().enumerate().map(line).collect(),
        }
    };
    modes(set).into_iter().map(of).collect()
}

/// Redundancy between every two functions.
pub fn between(set: &Sandboxes) -> Vec<Figure> {
    let of = |(words, suffix, functions): (&str, &str, &[Sandbox])| {
        let names = names(functions);
        let mut cells = Vec::new();
        for (row, f) in functions.iter().enumerate() {
            for (column, base) in names.iter().enumerate() {
                cells.push((column, row, 100.0 * f.found_in.get(base).copied().unwrap_or(f64::NAN)));
            }
        }
        // Whole per cent: digits beyond would not be readable in ten columns.
        let cells = cells.into_iter().map(|(x, y, v): (usize, usize, f64)| (x, y, v.round())).collect();
        Figure {
            name: format!("redundancy_between_functions{suffix}"),
            title: format!("Redundancy between functions, {words}"),
            caption: "Bytes of the function (row) found in the other one's first sandbox (column; in its own row the function's \
                      second sandbox): chunks of 64 bytes every 128 bytes, each match extended by up to 64 bytes; relative to all \
                      bytes."
                .into(),
            x: Axis::names("found in", names.clone()),
            y: Axis::names("of", names),
            series: vec![Series::new("redundant", Shape::Heat { cells, label: "redundant, % of bytes".into() })],
        }
    };
    modes(set).into_iter().map(of).collect()
}

/// A dedup start in its parts, beside the cold start.
pub fn dedup_start(set: &Sandboxes) -> Vec<Figure> {
    let row = |f: &Sandbox| {
        let [read, compute, restore] = f.dedup_start()?;
        let cold = f.starts.as_ref().map(|s| s.cold_ms);
        Some(starts::Row { function: f.name.clone(), parts: [0.0, read, compute, restore], cold })
    };
    let rows: Vec<starts::Row> = set.fixed.iter().filter_map(row).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let measured = set.fixed.iter().filter_map(|f| f.starts.as_ref()).all(|s| s.dedup.is_some());
    let how = if measured {
        "Base pages read over TCP from another node of the same machine; reading and computing go on in several threads and share the time that both \
         took; restoration lets a process go on that was restored up to where its memory is filled."
    } else {
        "Base pages read from memory of the same machine; pages rebuilt from xdelta3 patches and verified, one thread; then a whole restore by CRIU (as \
         with nopause = 1)."
    };
    vec![starts::figure(
        "dedup_start",
        "A dedup start in its parts, and the cold start".into(),
        format!(
            "{how} Cold start: a plain Python process and its imports, no container. Medians; address randomisation off."
        ),
        &rows,
    )]
}

/// Where the pages of a dedup sandbox come from.
pub fn page_origins(set: &Sandboxes) -> Vec<Figure> {
    let of = |(words, suffix, functions): (&str, &str, &[Sandbox])| {
        let mut pieces: [Vec<Piece>; 4] = Default::default();
        for (i, f) in functions.iter().enumerate() {
            let d = &f.dedup;
            let mut at = 0.0;
            for (pieces, share) in pieces.iter_mut().zip([d.zero, d.own, d.other, d.whole]) {
                pieces.push(Piece { x: i as f64, from: 100.0 * at, to: (100.0 * (at + share)).min(100.0) });
                at += share;
            }
        }
        let words_of = ["zeros", "base page of the same function", "of another function", "no base page: kept whole"];
        let looks = ["#8", "#0", "#4", "#7"];
        let series = pieces.into_iter().zip(words_of.into_iter().zip(looks)).map(|(pieces, (label, look))| Series {
            label: label.into(),
            look: look.into(),
            shape: Shape::Stack(pieces),
        });
        Figure {
            name: format!("page_origins{suffix}"),
            title: format!("Where the pages of a dedup sandbox come from, {words}"),
            caption: "Second sandbox of each function against the first ones of all ten; fingerprints of 5 chunks, base page by \
                      the reference's score, xdelta3."
                .into(),
            x: Axis::from_zero("pages", "%"),
            y: Axis::names("function", names(functions)),
            series: series.collect(),
        }
    };
    modes(set).into_iter().map(of).collect()
}

/// The table of dedup figures, one for each mode.
pub fn dedup_table(set: &Sandboxes, remote: Option<f64>) -> Vec<TextTable> {
    let of = |(words, _, functions): (&str, &str, &[Sandbox])| {
        let head = [
            "function",
            "dump MB",
            "warm start ms",
            "dedup start ms",
            "cold start ms",
            "dedup operation ms",
            "base operation ms",
            "mean patch B",
            "saved MB",
            "saved %",
            "own base pages %",
            "other base pages %",
            "zero pages %",
        ];
        let row = |f: &Sandbox| {
            let d = &f.dedup;
            let one = |v: f64| if v.is_finite() { format!("{v:.1}") } else { "–".to_owned() };
            let start = |pick: fn(&super::sandboxes::Starts) -> f64| f.starts.as_ref().map_or(f64::NAN, pick);
            vec![
                f.name.clone(),
                one(f.dump_mb),
                one(start(|s| s.warm_run_ms)),
                one(f.dedup_start().map_or(f64::NAN, |parts| parts.iter().sum())),
                one(start(|s| s.cold_ms)),
                one(d.encode_ms + start(|s| s.dump_ms)),
                one(d.base_ms + start(|s| s.base_op_ms)),
                one(d.patch_bytes),
                one(f.dump_mb * d.saved),
                one(100.0 * d.saved),
                one(100.0 * d.own),
                one(100.0 * d.other),
                one(100.0 * d.zero),
            ]
        };
        let untimed = match functions.iter().all(|f| f.starts.is_none()) {
            true => {
                " Start times were not measured here, so of operations only the part without the checkpoint is known: no value."
            }
            false => "",
        };
        let remote = remote.map_or(String::new(), |share| {
            format!(" All base pages here lie on the same machine; in the simulated cluster of this experiment {share:.0} % of the base pages read are another node's.")
        });
        TextTable {
            caption: format!(
                "{words}. Warm start: a warm sandbox's whole answer. Dedup start: base pages read, pages rebuilt, sandbox restored. Dedup \
                 operation: checkpoint, fingerprints, lookup, patches. Base operation: checkpoint while it goes on, fingerprints, \
                 index. Patches of pages of {PAGE_BYTES} B; medians of times.{untimed}{remote}"
            ),
            head: head.map(str::to_owned).to_vec(),
            rows: functions.iter().map(row).collect(),
        }
    };
    modes(set).into_iter().map(of).collect()
}

/// A table as CSV.
pub fn csv(table: &TextTable) -> anyhow::Result<Vec<u8>> {
    let mut out = csv::Writer::from_writer(Vec::new());
    out.write_record(&table.head)?;
    for row in &table.rows {
        out.write_record(row)?;
    }
    Ok(out.into_inner()?)
}
