//! After a run: the table for the terminal, the files under the result folder, the report.

use std::path::{Path, PathBuf};

use medes_plots::{CellData, ReportInput, draw_all, table::Table, write_report};

use crate::experiment::{Experiment, Functions};
use crate::output::{Output, figures, thousands};
use crate::run::Finished;
use crate::store::{Store, summary_row, write_whole};
use crate::workload::Workload;

/// Writes everything that is made from the rows, and prints the result.
pub fn publish(
    experiment: &Experiment,
    workload: &Workload,
    finished: &Finished,
    store: &Store,
    mut notes: Vec<String>,
    out: &Output,
) -> anyhow::Result<()> {
    let cells: Vec<CellData> = finished.cells.iter().map(crate::store::CellResult::data).collect();
    store.summary(&finished.cells)?;
    store.functions(&finished.cells)?;
    store.breakdowns(&finished.cells)?;
    store.timeline(&finished.cells)?;
    store.gather_requests(&finished.keys)?;
    let root = store.root();
    let figures_dir = root.join("figures");
    // Figures of an earlier grid under the same folder would pass for this one's.
    std::fs::remove_dir_all(&figures_dir).ok();
    let figures = draw_all(&cells, &figures_dir)?;
    notes.extend(experiment.idle_parameters());
    notes.extend(finished.cells.iter().flat_map(|c| c.notes.iter().map(move |n| format!("{}: {n}", c.summary.policy))));
    notes.extend(observations(experiment, workload, finished));
    let how = how(experiment, workload, finished);
    let report = root.join("report.html");
    write_report(
        &ReportInput {
            title: &experiment.title,
            question: &experiment.question,
            expectation: experiment.expectation.as_deref(),
            how: how.clone(),
            notes: notes.clone(),
            cells: &cells,
            figures: &figures,
        },
        &report,
    )?;
    write_whole(&root.join("README.md"), readme(experiment, &how, &notes).as_bytes())?;
    print(experiment, &cells, finished, root, &report, &notes, out)
}

fn print(
    experiment: &Experiment,
    cells: &[CellData],
    finished: &Finished,
    root: &Path,
    report: &Path,
    notes: &[String],
    out: &Output,
) -> anyhow::Result<()> {
    if out.json {
        let mut rows = Vec::new();
        for cell in &finished.cells {
            let mut row = summary_row(&cell.summary)?;
            row.extend(cell.swept.iter().map(|(k, v)| (k.clone(), serde_json::Value::String(v.clone()))));
            rows.push(serde_json::Value::Object(row));
        }
        let value = serde_json::json!({
            "experiment": experiment.name,
            "out": root,
            "report": report,
            "cells_found": finished.found,
            "rows": rows,
        });
        out.print(serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    out.print(format!("{}\n{}\n", experiment.title, experiment.question));
    out.print(terminal_table(cells));
    for finding in medes_plots::findings::findings(cells).iter().take(1) {
        for sentence in &finding.sentences {
            out.print(format!("- {sentence}"));
        }
    }
    for note in notes {
        out.say(format!("note: {note}"));
    }
    out.print(format!("results: {}\nreport:  {}", root.display(), report.display()));
    Ok(())
}

/// The table for a terminal: means over seeds, cold starts with their 95 % interval.
fn terminal_table(cells: &[CellData]) -> String {
    let table = Table::new(cells);
    let fixed =
        ["cold starts", "cold", "dedup", "waited", "dropped", "evicted", "p50 ms", "p99 ms", "p99.9 ms", "memory GB"];
    let mut head: Vec<String> = ["pool", "policy"].map(str::to_owned).to_vec();
    head.extend(table.parameters.iter().cloned());
    head.extend(fixed.map(str::to_owned));
    let plain = |x: f64, digits: usize| if x.is_finite() { format!("{x:.digits$}") } else { "-".to_owned() };
    let rows: Vec<Vec<String>> = table
        .rows
        .iter()
        .map(|r| {
            let mut row = vec![r.pool.label.replace('\u{202f}', " "), r.policy.clone()];
            row.extend(r.setting.iter().cloned());
            let interval = match r.cold.half {
                Some(_) => format!(" [{:.0}, {:.0}]", r.cold.low().max(0.0), r.cold.high()),
                None => String::new(),
            };
            row.push(format!("{}{interval}", plain(r.cold.mean, 0)));
            row.push(format!("{} %", plain(r.cold_part.mean * 100.0, 2)));
            for e in [&r.dedup, &r.queued, &r.dropped, &r.evictions, &r.p50_ms, &r.p99_ms, &r.p999_ms] {
                row.push(plain(e.mean, 0));
            }
            row.push(plain(r.mean_memory_gb.mean, 2));
            row
        })
        .collect();
    figures(&head, &rows, &["p99.9 ms", "waited", "p50 ms", "evicted", "dropped", "memory GB", "dedup"])
}

fn how(experiment: &Experiment, workload: &Workload, finished: &Finished) -> Vec<(String, String)> {
    let mut how: Vec<(String, String)> = Vec::new();
    let mut say = |k: &str, v: String| how.push((k.to_owned(), v));
    say("command", command());
    say("seeds", experiment.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "));
    let trace = &workload.trace;
    say(
        "trace",
        format!(
            "{}: {} functions, {} requests (expected number where counts are drawn), {:.1} min; options {}",
            experiment.trace,
            thousands(trace.functions.len() as u64),
            thousands(trace.requests()),
            trace.length.as_secs_f64() / 60.0,
            serde_json::to_string(&experiment.options).unwrap_or_default()
        ),
    );
    let functions = match experiment.functions {
        Functions::Own => {
            "their own run times and memory; start times and classes of pages of the profile that their hash picks"
                .to_owned()
        }
        Functions::Mapped(rule) => {
            format!("mapped onto the profile's functions by {rule:?}, as in the paper").to_lowercase()
        }
    };
    say("functions", functions);
    say("profile set", experiment.profile.clone());
    for (name, values) in &experiment.parameters {
        say(name, values.join(", "));
    }
    say("rows of requests", experiment.request_rows.to_string());
    say("backend", if finished.real { "real: sandboxes on machines, memory measured" } else { "simulated" }.to_owned());
    if finished.real {
        let (table, (host, kernel)) = (&experiment.real, crate::measure_cmd::machine());
        say("time scale", format!("arrivals come {} times as fast", table.time_scale));
        say(
            "sandboxes",
            format!("{:?}, with {:?} for base pages of other nodes", table.sandbox, table.transport).to_lowercase(),
        );
        say("machine of the controller", format!("{host}, {kernel}"));
    }
    say("version", format!("medes {} ({})", env!("CARGO_PKG_VERSION"), crate::VERSION));
    let seconds: f64 = finished.cells.iter().map(|c| c.seconds).sum();
    say(if finished.real { "time" } else { "computing time" }, format!("{seconds:.1} s over all cells"));
    how
}

/// The command that was given, as it could be given again.
pub fn command() -> String {
    let quote =
        |a: String| if a.contains([' ', '*', '\'', '"', '$']) { format!("'{}'", a.replace('\'', "'\\''")) } else { a };
    let mut args: Vec<String> = std::env::args().map(quote).collect();
    if let Some(first) = args.first_mut() {
        *first = "medes".to_owned();
    }
    args.join(" ")
}

/// What the reader of the figures must know.
fn observations(experiment: &Experiment, workload: &Workload, finished: &Finished) -> Vec<String> {
    let mut notes = Vec::new();
    let smallest = finished.cells.iter().map(|c| c.summary.memcap_mb).fold(f64::INFINITY, f64::min);
    let large = workload.functions.iter().filter(|f| f.memory.as_mb() > smallest).count();
    if large > 0 {
        notes.push(format!("{large} functions need more memory than the smallest memcap of {smallest} MB: there, their requests are dropped"));
    }
    if matches!(experiment.functions, Functions::Own) {
        notes.push("functions keep the trace's memory and run times; how their pages deduplicate is that of the profile's ten functions".to_owned());
    }
    let trace = workload.trace.report.to_string();
    notes.push(trace.strip_prefix("note: ").unwrap_or(&trace).to_owned());
    notes
}

fn readme(experiment: &Experiment, how: &[(String, String)], notes: &[String]) -> String {
    let mut text = format!("# {}\n\n{}\n\n## How it was run\n\n", experiment.title, experiment.question);
    for (name, value) in how {
        text.push_str(&format!("- {name}: `{value}`\n"));
    }
    text.push_str(
        "\n## Files\n\n\
         - `summary.csv`: a row a cell of the grid and seed. Memory in MB (10^6 B) over the cluster; latencies in ms, end to end \
         (wait + start + run) unless named `start_`; percentiles of all answered requests, within 0.05 %.\n\
         - `functions.csv`: a row a cell, seed and function; percentiles within 0.4 %.\n\
         - `requests.parquet`: requests one by one (see `rows of requests` above).\n\
         - `starts.csv`: starts by function and kind, broken down (means, ms), where rows of requests are written; of a real run also \
         `operations.csv`, its base and dedup operations.\n\
         - `timeline.parquet`: the cluster over time.\n\
         - `figures/`: each as SVG and PNG, its numbers as CSV beside it.\n\
         - `report.html`: all of it to read.\n\
         - `cells/`: what each cell gave; the same command continues or repeats from here.\n\n\
         Rows of policy `oracle` are a computed bound, not a simulated run: it has no requests or timeline.\n",
    );
    if !notes.is_empty() {
        text.push_str("\n## Notes\n\n");
        for note in notes {
            if note.contains('\n') {
                text.push_str(&format!("\n```text\n{note}\n```\n"));
            } else {
                text.push_str(&format!("- {note}\n"));
            }
        }
    }
    text
}

/// Where results go without `--out`: the same command finds them again.
pub fn default_folder(experiment: &Experiment, identity: &str) -> PathBuf {
    let key = xxhash_rust::xxh3::xxh3_64(identity.as_bytes());
    PathBuf::from("results").join(&experiment.name).join(format!("{:08x}", key >> 32))
}
