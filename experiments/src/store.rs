//! The result folder: rows written cell by cell, found again by the next call of the same command.
//!
//! `cells/KEY.json` holds what one cell with one seed gave, `cells/KEY.parquet` its requests. A cell's key is the hash of all that
//! determines its rows (parameters, seed, trace, profile set, version), so a finished cell is found whatever the grid
//! around it, and a changed input never passes for the old one. Files appear under their name only once they are whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use medes_engine::record::{
    FunctionSummary, HostSample, OperationSummary, RequestRecord, StartParts, StartSummary, Summary, TimelineSample,
};
use medes_plots::CellData;
use serde::{Deserialize, Serialize};

use crate::table::{Column, TableReader, TableWriter, Text, concatenate};

/// Requests in one row group.
const CHUNK: usize = 1 << 17;

/// What one cell with one seed gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CellResult {
    /// Every parameter that the experiment writes, with its value.
    pub parameters: BTreeMap<String, String>,
    /// The swept ones among them that have no column of their own.
    pub swept: BTreeMap<String, String>,
    /// Its row.
    pub summary: Summary,
    /// A row a function.
    pub functions: Vec<FunctionSummary>,
    /// The cluster over time.
    pub timeline: Vec<TimelineSample>,
    /// Wall time it took, seconds: for information, no part of any result.
    pub seconds: f64,
    /// Starts broken down: of a simulation only where rows of requests are written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub starts: Vec<StartSummary>,
    /// Base and dedup operations broken down, measured in the real world.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<OperationSummary>,
    /// How fast the hosts were, measured in the real world.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<HostSample>,
    /// What was remarkable in the real run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl CellResult {
    /// For figures and report.
    pub fn data(&self) -> CellData {
        let mut summary = Summary { parameters: self.swept.clone(), ..self.summary.clone() };
        // A variant is drawn as a policy of its own name.
        if let Some(variant) = summary.parameters.remove("variant") {
            summary.policy = variant;
        }
        CellData {
            summary,
            functions: self.functions.clone(),
            timeline: self.timeline.clone(),
            starts: self.starts.clone(),
        }
    }
}

/// A request as read back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// Its number, by arrival.
    pub request: u64,
    /// Place of its function among those asked about.
    pub function: usize,
    /// End to end, ms; NaN where it was not answered.
    pub latency_ms: f64,
}

/// A result folder.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens or makes the folder, and clears what broken-off runs left half-written.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        let cells = root.join("cells");
        std::fs::create_dir_all(&cells)
            .with_context(|| format!("cannot make the result folder {}", cells.display()))?;
        for entry in std::fs::read_dir(&cells)?.flatten() {
            if abandoned(&entry) {
                std::fs::remove_file(entry.path()).ok();
            }
        }
        Ok(Self { root: root.to_owned() })
    }

    /// Keys of the cells whose files are there.
    pub fn keys(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.root.join("cells")).into_iter().flatten().flatten();
        entries.filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".json")?.to_owned())).collect()
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, key: &str, extension: &str) -> PathBuf {
        self.root.join("cells").join(format!("{key}.{extension}"))
    }

    /// A finished cell; one that cannot be read is run again.
    pub fn find(&self, key: &str) -> Option<CellResult> {
        let text = std::fs::read_to_string(self.path(key, "json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Removes a cell that is there and cannot be read.
    pub fn discard(&self, key: &str) {
        if self.find(key).is_none() {
            std::fs::remove_file(self.path(key, "json")).ok();
        }
    }

    /// Where a cell's requests go while it runs.
    pub fn requests(&self, key: &str, labels: Labels, names: &[String]) -> anyhow::Result<RequestWriter> {
        let path = self.path(key, "parquet");
        RequestWriter::new(part(&path), path, labels, names)
    }

    /// Writes a finished cell.
    pub fn put(&self, key: &str, result: &CellResult) -> anyhow::Result<()> {
        // NaN (a percentile of nothing) is null in JSON and comes back as NaN.
        let text = serde_json::to_string(result)?;
        write_whole(&self.path(key, "json"), text.as_bytes())
    }

    /// `summary.csv`: a row a cell and seed.
    pub fn summary(&self, cells: &[CellResult]) -> anyhow::Result<()> {
        let mut out = csv::Writer::from_writer(Vec::new());
        let swept: Vec<String> = cells.first().map(|c| c.swept.keys().cloned().collect()).unwrap_or_default();
        for (i, cell) in cells.iter().enumerate() {
            let row = summary_row(&cell.summary)?;
            if i == 0 {
                out.write_record(row.keys().chain(&swept))?;
            }
            let values =
                row.values().map(cell_text).chain(swept.iter().map(|k| cell.swept.get(k).cloned().unwrap_or_default()));
            out.write_record(values)?;
        }
        write_whole(&self.root.join("summary.csv"), &out.into_inner()?)
    }

    /// `functions.csv`: a row a cell, seed and function.
    pub fn functions(&self, cells: &[CellResult]) -> anyhow::Result<()> {
        self.rows("functions.csv", cells, |c| &c.functions)
    }

    /// `starts.csv`, and `operations.csv` of a real run: a row a cell, seed, function and kind; `host.csv` of a real run: a row a cell, seed, node and
    /// half second.
    pub fn breakdowns(&self, cells: &[CellResult]) -> anyhow::Result<()> {
        if cells.iter().any(|c| !c.starts.is_empty()) {
            self.rows("starts.csv", cells, |c| &c.starts)?;
        }
        if cells.iter().any(|c| !c.operations.is_empty()) {
            self.rows("operations.csv", cells, |c| &c.operations)?;
        }
        if cells.iter().any(|c| !c.host.is_empty()) {
            self.rows("host.csv", cells, |c| &c.host)?;
        }
        Ok(())
    }

    /// A table of rows of each cell, with what tells the cells apart before them.
    fn rows<T: Serialize>(
        &self,
        file: &str,
        cells: &[CellResult],
        pick: fn(&CellResult) -> &Vec<T>,
    ) -> anyhow::Result<()> {
        let mut out = csv::Writer::from_writer(Vec::new());
        let swept: Vec<String> = cells.first().map(|c| c.swept.keys().cloned().collect()).unwrap_or_default();
        let mut head: Vec<String> = ["policy", "memcap_mb", "nodes", "seed"].map(str::to_owned).to_vec();
        head.extend(swept.iter().cloned());
        for (i, (cell, row)) in cells.iter().flat_map(|c| pick(c).iter().map(move |r| (c, r))).enumerate() {
            let serde_json::Value::Object(row) = serde_json::to_value(row)? else { continue };
            if i == 0 {
                head.extend(row.keys().cloned());
                out.write_record(&head)?;
            }
            let s = &cell.summary;
            let own = [s.policy.clone(), s.memcap_mb.to_string(), s.nodes.to_string(), s.seed.to_string()];
            let swept = swept.iter().map(|k| cell.swept.get(k).cloned().unwrap_or_default());
            out.write_record(own.into_iter().chain(swept).chain(row.values().map(cell_text)))?;
        }
        write_whole(&self.root.join(file), &out.into_inner()?)
    }

    /// `timeline.parquet`: a row a cell, seed and interval.
    pub fn timeline(&self, cells: &[CellResult]) -> anyhow::Result<()> {
        let rows: Vec<(&CellResult, &TimelineSample)> =
            cells.iter().flat_map(|c| c.timeline.iter().map(move |t| (c, t))).collect();
        let mut columns = label_columns(&rows.iter().map(|(c, _)| labels_of(c)).collect::<Vec<_>>());
        let float = |name, pick: fn(&TimelineSample) -> f64| Column::floats(name, rows.iter().map(|(_, t)| pick(t)));
        let whole = |name, pick: fn(&TimelineSample) -> u64| Column::wholes(name, rows.iter().map(|(_, t)| pick(t)));
        columns.extend([
            float("time_s", |t| t.at.as_secs_f64()),
            float("mean_memory_mb", |t| t.mean_used.as_mb()),
            float("max_memory_mb", |t| t.max_used.as_mb()),
            whole("busy", |t| u64::from(t.busy)),
            whole("warm", |t| u64::from(t.warm)),
            whole("base", |t| u64::from(t.base)),
            whole("dedup", |t| u64::from(t.dedup)),
            whole("queued", |t| u64::from(t.queued)),
            whole("arrivals", |t| t.arrivals),
            whole("cold_starts", |t| t.cold),
            whole("warm_starts", |t| t.warm_starts),
            whole("dedup_starts", |t| t.dedup_starts),
            whole("evictions", |t| t.evictions),
        ]);
        let path = self.root.join("timeline.parquet");
        let part = part(&path);
        let mut out = TableWriter::new(&part, &columns)?;
        out.write(&columns)?;
        out.finish()?;
        std::fs::rename(part, path)?;
        Ok(())
    }

    /// The requests of a finished cell that were written, by number, with the place of their function among `names`.
    pub fn latencies(&self, key: &str, names: &[String]) -> anyhow::Result<Vec<Latency>> {
        let table = TableReader::open(&self.path(key, "parquet"))?;
        let place: BTreeMap<&str, usize> = names.iter().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
        let (numbers, functions) = (table.wholes("request")?, table.texts("function")?);
        let (outcomes, latencies) = (table.texts("outcome")?, table.floats("latency_ms")?);
        let mut rows: Vec<Latency> = numbers
            .iter()
            .zip(&functions)
            .zip(outcomes.iter().zip(&latencies))
            .map(|((number, function), (outcome, latency))| Latency {
                request: number.unwrap_or(0),
                function: function.as_deref().and_then(|f| place.get(f)).copied().unwrap_or(usize::MAX),
                latency_ms: if outcome.as_deref() == Some("answered") { latency.unwrap_or(f64::NAN) } else { f64::NAN },
            })
            .collect();
        rows.sort_unstable_by_key(|r| r.request);
        Ok(rows)
    }

    /// `requests.parquet`: the cells' requests, one after the other.
    pub fn gather_requests(&self, keys: &[String]) -> anyhow::Result<()> {
        let path = self.root.join("requests.parquet");
        let part = part(&path);
        if concatenate(keys.iter().map(|key| self.path(key, "parquet")), &part)? {
            std::fs::rename(part, path)?;
        } else {
            std::fs::remove_file(path).ok();
        }
        Ok(())
    }
}

/// Where a file is written until it is whole: a name of this process's own, for a folder may be shared with others, on other machines too.
fn part(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.{}.part", host(), std::process::id()));
    part.into()
}

/// The name of this machine, without dots.
fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        let name = nix::unistd::gethostname().map(|n| n.to_string_lossy().replace('.', "-")).unwrap_or_default();
        if name.is_empty() { "host".to_owned() } else { name }
    })
}

/// Whether a file is the beginning of one whose writer is gone: a process of this machine that has ended, or one elsewhere
/// that has not written for an hour.
fn abandoned(entry: &std::fs::DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy().into_owned();
    let Some(name) = name.strip_suffix(".part") else { return false };
    let mut parts = name.rsplit('.');
    match (parts.next().map(str::parse::<i32>), parts.next()) {
        (Some(Ok(process)), Some(machine)) if machine == host() => {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), None) == Err(nix::errno::Errno::ESRCH)
        }
        (Some(Ok(_)), Some(_)) => {
            let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
            age.is_some_and(|age| age > Duration::from_secs(3600))
        }
        _ => true,
    }
}

/// Writes a file so that it is either not there or whole.
pub fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let part = part(path);
    std::fs::write(&part, bytes)
        .and_then(|()| std::fs::rename(&part, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The columns that scripts count on, first and in this order; what else helps follows.
const PROMISED: [&str; 16] = [
    "policy",
    "memcap_mb",
    "nodes",
    "seed",
    "requests",
    "cold",
    "warm",
    "dedup",
    "queued",
    "dropped",
    "evictions",
    "p50_ms",
    "p99_ms",
    "p999_ms",
    "mean_memory_mb",
    "max_memory_mb",
];

/// A summary as an ordered row.
pub fn summary_row(summary: &Summary) -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
    let serde_json::Value::Object(mut rest) = serde_json::to_value(summary)? else { return Ok(serde_json::Map::new()) };
    let mut row = serde_json::Map::new();
    for name in PROMISED {
        row.extend(rest.shift_remove_entry(name));
    }
    row.extend(rest);
    Ok(row)
}

fn cell_text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(s) => s.clone(),
        serde_json::Value::Null => "NaN".to_owned(),
        other => other.to_string(),
    }
}

/// What tells a cell's rows from others' in a table of all.
#[derive(Clone, Debug)]
pub struct Labels {
    policy: String,
    memcap_mb: f64,
    nodes: u32,
    seed: u64,
    swept: BTreeMap<String, String>,
}

impl Labels {
    /// Of a cell that is to be run.
    pub fn new(config: &medes_engine::config::Config, seed: u64, swept: BTreeMap<String, String>) -> Self {
        Self { policy: config.policy.to_owned(), memcap_mb: config.memcap.as_mb(), nodes: config.nodes, seed, swept }
    }
}

fn labels_of(cell: &CellResult) -> Labels {
    let s = &cell.summary;
    Labels { policy: s.policy.clone(), memcap_mb: s.memcap_mb, nodes: s.nodes, seed: s.seed, swept: cell.swept.clone() }
}

fn label_columns(labels: &[Labels]) -> Vec<Column> {
    let mut columns = vec![
        Column::texts("policy", labels.iter().map(|l| Text::from(l.policy.as_str()))),
        Column::floats("memcap_mb", labels.iter().map(|l| l.memcap_mb)),
        Column::wholes("nodes", labels.iter().map(|l| u64::from(l.nodes))),
        Column::wholes("seed", labels.iter().map(|l| l.seed)),
    ];
    let names: Vec<&String> = labels.first().map(|l| l.swept.keys().collect()).unwrap_or_default();
    for name in names {
        let value = |l: &Labels| Text::from(l.swept.get(name).map_or("", String::as_str));
        columns.push(Column::texts(name, labels.iter().map(value)));
    }
    columns
}

/// Writes the requests of one cell as they end.
pub struct RequestWriter {
    part: PathBuf,
    path: PathBuf,
    labels: Labels,
    names: Vec<Text>,
    rows: Vec<(RequestRecord, StartParts)>,
    out: Option<TableWriter>,
    failed: Option<anyhow::Error>,
}

impl RequestWriter {
    fn new(part: PathBuf, path: PathBuf, labels: Labels, names: &[String]) -> anyhow::Result<Self> {
        let names = names.iter().map(|n| Text::from(n.as_str())).collect();
        Ok(Self { part, path, labels, names, rows: Vec::with_capacity(CHUNK), out: None, failed: None })
    }

    /// Adds a request, with the parts of its start.
    pub fn add(&mut self, record: &RequestRecord, parts: &StartParts) {
        self.rows.push((*record, *parts));
        if self.rows.len() >= CHUNK
            && let Err(e) = self.flush()
        {
            self.failed.get_or_insert(e);
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let rows = &self.rows;
        let mut columns = label_columns(&vec![self.labels.clone(); rows.len()]);
        let records = || rows.iter().map(|(record, _)| record);
        let float = |name, pick: fn(&RequestRecord) -> f64| Column::floats(name, records().map(pick));
        // A request that never was started has no parts.
        let part = |name, pick: fn(&StartParts) -> f64| {
            Column::floats(name, rows.iter().map(|(record, parts)| record.kind.map(|_| pick(parts))))
        };
        columns.extend([
            Column::wholes("request", records().map(|r| r.request.0)),
            Column::texts("function", records().map(|r| self.names.get(r.function.index()).cloned())),
            Column::wholes("node", records().map(|r| r.node.map(|n| u64::from(n.0)))),
            float("arrived_s", |r| r.arrived.as_secs_f64()),
            Column::texts("outcome", records().map(|r| Text::from(r.outcome.name()))),
            Column::texts("start_kind", records().map(|r| r.kind.map(|k| Text::from(k.name())))),
            float("wait_ms", |r| r.wait.as_millis_f64()),
            float("start_ms", |r| r.start.as_millis_f64()),
            float("run_ms", |r| r.run.as_millis_f64()),
            float("latency_ms", |r| r.end_to_end().as_millis_f64()),
            part("control_ms", |p| p.control.as_millis_f64()),
            part("base_read_ms", |p| p.read.as_millis_f64()),
            part("patch_ms", |p| p.patch.as_millis_f64()),
            part("resume_ms", |p| p.resume.as_millis_f64()),
        ]);
        let out = match &mut self.out {
            Some(out) => out,
            None => self.out.insert(TableWriter::new(&self.part, &columns)?),
        };
        out.write(&columns)?;
        self.rows.clear();
        Ok(())
    }

    /// Finishes the file.
    ///
    /// # Errors
    /// Whatever went wrong in writing, then or now.
    pub fn finish(mut self) -> anyhow::Result<()> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        self.flush()?;
        if let Some(out) = self.out.take() {
            out.finish()?;
        }
        std::fs::rename(&self.part, &self.path).with_context(|| format!("cannot write {}", self.path.display()))
    }
}
