//! A temporary folder with an experiment in it, and the tool run there.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use tempfile::TempDir;

/// Two policies, two memory caps, two seeds: eight cells of two thousand requests.
pub const TINY: &str = r#"
title = "Tiny"
question = "Does it run?"
seeds = [1, 2]
[trace]
source = "azure-like"
functions = 20
minutes = 20
invocations = 2000
[parameters]
policy = ["fixed", "medes"]
memcap = [600, 300]
nodes = 2
"#;

/// The columns every script may count on, first and in this order.
pub const PROMISED: [&str; 16] = [
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

/// A folder to run in.
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// With `tiny.toml` in it.
    pub fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        place.file("tiny.toml", TINY);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    /// The tool, to be run in this folder; `line` is split at spaces.
    pub fn medes(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_medes"));
        command.args(line.split_whitespace()).current_dir(self.dir.path());
        command
    }

    /// Runs it; it has to end with `status`, without a panic and without a sign meant for terminals.
    pub fn ends(&self, status: i32, line: &str) -> Said {
        let said = Said::of(self.medes(line).output().unwrap());
        assert_eq!(said.status, Some(status), "medes {line}\nstdout: {}\nstderr: {}", said.out, said.err);
        assert!(!said.err.contains("panicked"), "medes {line}\n{}", said.err);
        assert!(!said.out.contains('\x1b') && !said.err.contains('\x1b'), "medes {line}: colours without a terminal");
        said
    }

    /// Runs it; it has to end well.
    pub fn works(&self, line: &str) -> Said {
        self.ends(0, line)
    }

    /// Runs it and reads standard output as JSON.
    pub fn json(&self, line: &str) -> serde_json::Value {
        let said = self.works(line);
        serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("medes {line}: {e}\n{}", said.out))
    }

    /// Whether three files that must be the same for the same seed are the same in two result folders.
    pub fn same_rows(&self, a: &str, b: &str) {
        for file in ["summary.csv", "functions.csv", "requests.parquet", "timeline.parquet"] {
            let same = self.read(&format!("{a}/{file}")) == self.read(&format!("{b}/{file}"));
            assert!(same, "{file} of {a} and {b} differ");
        }
    }

    /// Finished cells in a result folder.
    pub fn cells(&self, out: &str) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.path(out).join("cells")) else { return Vec::new() };
        let paths = entries.flatten().map(|e| e.path());
        let mut cells: Vec<PathBuf> = paths.filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
        cells.sort();
        cells
    }

    /// `summary.csv` of a result folder.
    pub fn summary(&self, out: &str) -> Rows {
        Rows::read(&self.path(out).join("summary.csv"))
    }
}

/// What a run said.
#[derive(Debug)]
pub struct Said {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn of(output: Output) -> Self {
        Self {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A table with a head.
pub struct Rows {
    pub head: Vec<String>,
    pub rows: Vec<BTreeMap<String, String>>,
}

impl Rows {
    pub fn read(path: &Path) -> Self {
        let mut file = csv::Reader::from_path(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let head: Vec<String> = file.headers().unwrap().iter().map(str::to_owned).collect();
        let rows = file.records().map(|r| head.iter().cloned().zip(r.unwrap().iter().map(str::to_owned)).collect());
        Self { rows: rows.collect(), head }
    }

    /// A column as numbers.
    pub fn numbers(&self, column: &str) -> Vec<f64> {
        self.rows.iter().map(|r| r[column].parse().unwrap_or_else(|_| panic!("{column}: {}", r[column]))).collect()
    }

    /// The different values of a column, in order of appearance.
    pub fn values(&self, column: &str) -> Vec<&str> {
        let mut seen = Vec::new();
        for row in &self.rows {
            if !seen.contains(&row[column].as_str()) {
                seen.push(row[column].as_str());
            }
        }
        seen
    }
}

/// A folder of real traces kept beside a working copy, not in it.
pub fn real_data() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    if folder.is_dir() {
        return Some(folder);
    }
    skip(&format!("no folder of real traces at {}", folder.display()));
    None
}

/// Says that something is not tested here, where `cargo test` does not swallow it.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}
