//! Experiment files: raw as written, checked as run.
//!
//! An experiment is a TOML file. Its `[parameters]` may each be a value or a list of values; the lists make a grid, and
//! every cell of the grid is run with every seed. `--set` on the command line replaces values and lists.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use medes_engine::config::{Config, PARAMETERS, nearest, parameter};
use medes_sim::fault::Fault;
use medes_traces::mapping::Rule;
use medes_traces::{TraceOptions, TraceSpec};
use serde::Deserialize;

use crate::real::table::Table;

/// Shipped experiments by name; `medes run NAME` takes them from here, `medes run FILE` from disk.
pub const SHIPPED: &[(&str, &str)] = &[
    ("quickstart", include_str!("../quickstart.toml")),
    ("memcap", include_str!("../memcap.toml")),
    ("fullday", include_str!("../fullday.toml")),
    ("bench", include_str!("../bench.toml")),
    ("real", include_str!("../real.toml")),
    ("fidelity", include_str!("../fidelity.toml")),
    ("controller", include_str!("../controller.toml")),
];

/// An experiment file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    /// What figure the file is of and what the paper says of it: read by `medes figures`, see [`crate::figures::spec`].
    #[serde(default, rename = "figure")]
    _figure: serde::de::IgnoredAny,
    #[serde(default, rename = "statement")]
    _statement: serde::de::IgnoredAny,
    title: String,
    question: String,
    expectation: Option<String>,
    #[serde(default)]
    seeds: Option<toml::Value>,
    profile: Option<String>,
    functions: Option<String>,
    request_rows: Option<toml::Value>,
    trace: toml::Table,
    vary: Option<String>,
    #[serde(default)]
    variant: Vec<BTreeMap<String, toml::Value>>,
    #[serde(default)]
    parameters: BTreeMap<String, toml::Value>,
    #[serde(default)]
    fault: Vec<Fault>,
    #[serde(default)]
    real: toml::Table,
}

/// How requests are written one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestRows {
    /// None.
    None,
    /// Each request whose number is a multiple of this.
    OneIn(u64),
}

impl std::fmt::Display for RequestRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::OneIn(1) => f.write_str("all"),
            Self::OneIn(n) => write!(f, "1/{n}"),
        }
    }
}

/// Whose run times and memory the functions have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Functions {
    /// The trace's own; page classes and start times of the profile that the function's hash picks.
    Own,
    /// The profile's functions, driven by the merged arrivals (as the paper did).
    Mapped(Rule),
}

/// How lists of values are combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vary {
    /// Every combination.
    #[default]
    Grid,
    /// Each list by itself, the other lists at their first value; policies and variants with each.
    One,
}

/// A policy under a name of its own, with parameters of its own: `compress, zstd`.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// What it is called in tables and figures.
    pub name: String,
    /// Its parameters; they go before those of the grid.
    pub values: Vec<(&'static str, String)>,
}

/// An experiment, checked.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// Short name: the file's stem.
    pub name: String,
    /// Title.
    pub title: String,
    /// What it asks.
    pub question: String,
    /// What is expected.
    pub expectation: Option<String>,
    /// Seeds; each cell is run with each.
    pub seeds: Vec<u64>,
    /// Profile set.
    pub profile: String,
    /// Whose times and memory.
    pub functions: Functions,
    /// How many requests are written one by one.
    pub request_rows: RequestRows,
    /// The trace.
    pub trace: TraceSpec,
    /// Choices for reading it.
    pub options: TraceOptions,
    /// Parameters with the values they take, in the order of the file; absent ones have their defaults.
    pub parameters: Vec<(&'static str, Vec<String>)>,
    /// How their lists are combined.
    pub vary: Vary,
    /// Policies under names of their own; none where the grid has the policies.
    pub variants: Vec<Variant>,
    /// Faults of every cell.
    pub faults: Vec<Fault>,
    /// What only the real world needs.
    pub real: Table,
}

/// What the command line changes.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `key=value[,value...]` as given.
    pub set: Vec<String>,
    /// Replaces the trace.
    pub trace: Option<TraceSpec>,
    /// Replaces the list of seeds.
    pub seeds: Vec<u64>,
    /// Values of the reference's files, below `set` and above the experiment file.
    pub reference: Vec<(String, String)>,
}

/// One point of the grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Its parameters.
    pub config: Config,
    /// Every parameter that is written somewhere, with its value.
    pub values: Vec<(&'static str, String)>,
    /// Name of its variant.
    pub variant: Option<String>,
}

impl Experiment {
    /// Reads an experiment by the name of a shipped one or the path of a file.
    pub fn load(name: &str, overrides: &Overrides) -> anyhow::Result<Self> {
        let path = Path::new(name);
        let (stem, text) = if path.is_file() {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the experiment `{name}`"))?;
            (path.file_stem().map_or(name.to_owned(), |s| s.to_string_lossy().into_owned()), text)
        } else if let Some((n, text)) = SHIPPED.iter().find(|(n, _)| *n == name) {
            ((*n).to_owned(), (*text).to_owned())
        } else {
            let shipped: Vec<&str> = SHIPPED.iter().map(|(n, _)| *n).collect();
            bail!(
                "no file `{name}`, and no shipped experiment of that name ({}); see `medes list`",
                shipped.join(", ")
            );
        };
        Self::parse(&stem, &text, overrides).with_context(|| format!("experiment `{name}`"))
    }

    /// Reads an experiment called `name` from its text.
    pub fn parse(name: &str, content: &str, overrides: &Overrides) -> anyhow::Result<Self> {
        let mut raw: Raw = toml::from_str(content)?;
        for (key, value) in &overrides.reference {
            raw.parameters.insert(key.clone(), toml::Value::String(value.clone()));
        }
        for setting in &overrides.set {
            let Some((key, value)) = setting.split_once('=') else {
                bail!("--set `{setting}`: write key=value, or key=value,value,... for a grid");
            };
            let list =
                || toml::Value::Array(value.split(',').map(|v| toml::Value::String(v.trim().to_owned())).collect());
            match key.trim() {
                "seeds" | "seed" => raw.seeds = Some(list()),
                "profile" => raw.profile = Some(value.to_owned()),
                "functions" => raw.functions = Some(value.to_owned()),
                "request_rows" => raw.request_rows = Some(toml::Value::String(value.to_owned())),
                key if key.starts_with("real.") => {
                    raw.real.insert(key["real.".len()..].to_owned(), literal(value));
                }
                key => match key.strip_prefix("trace.") {
                    Some(key) => {
                        raw.trace.insert(key.to_owned(), literal(value));
                    }
                    None => {
                        raw.parameters.insert(key.to_owned(), list());
                    }
                },
            }
        }
        let source = raw.trace.remove("source");
        let trace = match (&overrides.trace, source) {
            (Some(spec), _) => spec.clone(),
            (None, Some(toml::Value::String(text))) => text.parse()?,
            (None, _) => bail!("[trace] needs `source`, such as \"azure-like\" or \"azure2019:FOLDER\""),
        };
        let options: TraceOptions = toml::Value::Table(raw.trace).try_into().context("[trace]")?;
        let mut parameters: Vec<(&'static str, Vec<String>)> = Vec::new();
        for p in PARAMETERS {
            if let Some(value) = raw.parameters.remove(p.name) {
                let values = texts(&value).with_context(|| format!("parameter `{}`", p.name))?;
                for v in &values {
                    p.parse(v)?;
                }
                parameters.push((p.name, dedup(values)));
            }
        }
        if let Some(unknown) = raw.parameters.keys().next() {
            let near = nearest(unknown).map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default();
            bail!("unknown parameter `{unknown}`{near}; `medes explain` lists them all");
        }
        let vary = match raw.vary.as_deref() {
            None | Some("grid") => Vary::Grid,
            Some("one") => Vary::One,
            Some(other) => {
                bail!("`vary` is \"{other}\"; it is \"grid\" for every combination, or \"one\" for each list by itself")
            }
        };
        let variants = raw.variant.into_iter().map(variant).collect::<anyhow::Result<Vec<_>>>()?;
        if !overrides.seeds.is_empty() {
            raw.seeds = None;
        }
        let seeds = match raw.seeds {
            Some(value) => texts(&value)
                .context("`seeds`")?
                .iter()
                .map(|t| t.parse::<u64>().with_context(|| format!("seed `{t}` is not a whole number from 0")))
                .collect::<anyhow::Result<Vec<u64>>>()?,
            None if overrides.seeds.is_empty() => vec![1],
            None => overrides.seeds.clone(),
        };
        if seeds.is_empty() {
            bail!("`seeds` is empty: give at least one");
        }
        let mut seen = seeds.clone();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() < seeds.len() {
            bail!("`seeds` names a seed twice: a run repeated with its own seed gives the same rows");
        }
        let functions = match raw.functions.as_deref().unwrap_or("own") {
            "own" => Functions::Own,
            "rank" => Functions::Mapped(Rule::Rank),
            "hash" => Functions::Mapped(Rule::Hash),
            "duration" => Functions::Mapped(Rule::Duration),
            other => bail!(
                "`functions` is \"{other}\"; it is \"own\", or \"rank\", \"hash\" or \"duration\" to map onto the profile's functions"
            ),
        };
        let request_rows = match raw.request_rows.as_ref().map(text).transpose()?.as_deref() {
            None | Some("all") => RequestRows::OneIn(1),
            Some("none") => RequestRows::None,
            Some(other) => match other.strip_prefix("1/").and_then(|n| n.parse().ok()).filter(|n| *n > 0) {
                Some(n) => RequestRows::OneIn(n),
                None => bail!("`request_rows` is \"{other}\"; it is \"all\", \"none\" or \"1/N\""),
            },
        };
        let experiment = Self {
            name: name.to_owned(),
            title: raw.title,
            question: raw.question,
            expectation: raw.expectation,
            seeds,
            profile: raw.profile.unwrap_or_else(|| "reference".to_owned()),
            functions,
            request_rows,
            trace,
            options,
            parameters,
            vary,
            variants,
            faults: raw.fault,
            real: Table::parse(raw.real)?,
        };
        for cell in experiment.cells()? {
            if let Some(f) = experiment.faults.iter().find(|f| f.node >= cell.config.nodes || f.at_s < 0.0) {
                bail!(
                    "[[fault]] of node {} at {} s: nodes are 0 to {}, times from 0",
                    f.node,
                    f.at_s,
                    cell.config.nodes - 1
                );
            }
        }
        Ok(experiment)
    }

    /// The points of the grid; the first parameter of the file varies slowest.
    pub fn cells(&self) -> anyhow::Result<Vec<Cell>> {
        let mut points: Vec<Vec<(&'static str, String)>> = vec![Vec::new()];
        for (name, values) in &self.parameters {
            let wanted = if self.vary == Vary::Grid || *name == "policy" { values.len() } else { 1 };
            points = points
                .into_iter()
                .flat_map(|p| values[..wanted].iter().map(move |v| [p.clone(), vec![(*name, v.clone())]].concat()))
                .collect();
        }
        if self.vary == Vary::One {
            let base = points.clone();
            for (name, values) in self.parameters.iter().filter(|p| p.0 != "policy") {
                for value in &values[1..] {
                    points.extend(base.iter().map(|p| with(p, &[(*name, value.clone())])));
                }
            }
        }
        let cell = |values: Vec<(&'static str, String)>, variant: Option<String>| {
            let mut config = Config::default();
            for (name, value) in &values {
                config.set(name, value)?;
            }
            config.check()?;
            Ok(Cell { config, values, variant })
        };
        if self.variants.is_empty() {
            return points.into_iter().map(|point| cell(point, None)).collect();
        }
        let mut cells = Vec::new();
        for point in &points {
            for variant in &self.variants {
                cells.push(cell(with(point, &variant.values), Some(variant.name.clone()))?);
            }
        }
        Ok(cells)
    }

    /// Parameters that take several values, but for those with a column of their own in every summary.
    pub fn swept(&self) -> Vec<&'static str> {
        let own = ["policy", "memcap", "pool", "nodes"];
        self.parameters.iter().filter(|(n, v)| v.len() > 1 && !own.contains(n)).map(|(n, _)| *n).collect()
    }

    /// Notes on parameters that are written and have no effect.
    pub fn idle_parameters(&self) -> Vec<String> {
        let without = |n: &&(&str, Vec<String>)| parameter(n.0).is_some_and(|p| p.about.starts_with("Without effect"));
        self.parameters.iter().filter(without).map(|(n, _)| format!("`{n}` is accepted and without effect")).collect()
    }
}

/// `point` with the given values in place of its own.
fn with(point: &[(&'static str, String)], values: &[(&'static str, String)]) -> Vec<(&'static str, String)> {
    let kept = point.iter().filter(|(name, _)| values.iter().all(|(n, _)| n != name));
    kept.chain(values).cloned().collect()
}

fn variant(mut raw: BTreeMap<String, toml::Value>) -> anyhow::Result<Variant> {
    let Some(toml::Value::String(name)) = raw.remove("name") else {
        bail!("a [[variant]] needs `name`, and parameters with a value each");
    };
    let value = |(key, value): (String, toml::Value)| {
        let p =
            parameter(&key).with_context(|| format!("variant `{name}`: no parameter `{key}`; see `medes explain`"))?;
        let value = text(&value).with_context(|| format!("variant `{name}`, `{key}`"))?;
        p.parse(&value)?;
        Ok((p.name, value))
    };
    let values = raw.into_iter().map(value).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(Variant { name, values })
}

fn literal(text: &str) -> toml::Value {
    toml::from_str::<toml::Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

fn text(value: &toml::Value) -> anyhow::Result<String> {
    Ok(match value {
        toml::Value::String(s) => s.clone(),
        toml::Value::Integer(i) => i.to_string(),
        toml::Value::Float(f) => f.to_string(),
        toml::Value::Boolean(b) => u8::from(*b).to_string(),
        other => bail!("`{other}` is neither a number nor a text"),
    })
}

fn texts(value: &toml::Value) -> anyhow::Result<Vec<String>> {
    let values = match value {
        toml::Value::Array(list) => list.iter().map(text).collect::<anyhow::Result<Vec<_>>>()?,
        one => vec![text(one)?],
    };
    if values.is_empty() {
        bail!("the list is empty");
    }
    Ok(values)
}

fn dedup(values: Vec<String>) -> Vec<String> {
    let mut seen = Vec::new();
    for v in values {
        if !seen.contains(&v) {
            seen.push(v);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "title = 't'\nquestion = 'q'\nseeds = [1, 2]\n[trace]\nsource = 'azure-like'\nfunctions = 20\n\
        [parameters]\npolicy = ['fixed', 'medes']\nmemcap = [100, 200, 300]\nchunksperpage = 5\n";

    fn parse(set: &[&str]) -> anyhow::Result<Experiment> {
        let set = set.iter().map(|s| (*s).to_owned()).collect();
        Experiment::parse("t", FILE, &Overrides { set, ..Overrides::default() })
    }

    #[test]
    fn lists_make_a_grid_and_set_replaces_them() {
        let e = parse(&[]).unwrap();
        assert_eq!(e.cells().unwrap().len(), 6);
        assert_eq!(e.options.functions, 20);
        let e = parse(&["policy=lru", "chunksperpage=1,5,40", "seeds=7", "trace.functions=9"]).unwrap();
        assert_eq!((e.cells().unwrap().len(), e.seeds.clone(), e.options.functions), (9, vec![7], 9));
        assert_eq!(e.swept(), ["chunksperpage"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_the_mend() {
        let said = |set: &[&str]| format!("{:#}", parse(set).unwrap_err());
        assert!(said(&["memcp=5"]).contains("did you mean `memcap`"));
        assert!(said(&["memcap"]).contains("key=value"));
        assert!(said(&["memcap=5,x"]).contains("`x` is not a number"));
        assert!(said(&["policy=medes,"]).contains("one of"));
        assert!(said(&["seeds=1,1"]).contains("twice"));
        assert!(said(&["seeds=-1"]).contains("whole number"));
        assert!(said(&["functions=most"]).contains("own"));
        assert!(said(&["request_rows=some"]).contains("1/N"));
        assert!(said(&["trace.funktions=5"]).contains("funktions"));
        let text = FILE.replace("question", "qestion");
        assert!(format!("{:#}", Experiment::parse("t", &text, &Overrides::default()).unwrap_err()).contains("qestion"));
    }

    #[test]
    fn lists_vary_one_at_a_time_and_variants_have_values_of_their_own() {
        let read = |file: &str| Experiment::parse("t", file, &Overrides::default());
        let file = format!("vary = 'one'\n{FILE}").replace("chunksperpage = 5", "chunksperpage = [5, 1, 9]");
        let cells = read(&file).unwrap().cells().unwrap();
        // Two policies with the first values, two more memory caps, two more cardinalities.
        assert_eq!(cells.len(), 2 * (1 + 2 + 2));
        let of = |c: &Cell| (c.config.memcap.as_mb(), c.config.chunksperpage);
        assert!(cells.iter().all(|c| of(c).0 == 100.0 || of(c).1 == 5));
        assert_eq!(of(&cells[0]), (100.0, 5));

        let file = format!("{FILE}[[variant]]\nname = 'compress, zstd'\npolicy = 'compress'\ncodec = 'zstd'\n");
        let file = file.replace("policy = ['fixed', 'medes']\n", "");
        let cells = read(&file).unwrap().cells().unwrap();
        assert_eq!((cells.len(), cells[0].config.policy, cells[0].config.codec.as_str()), (3, "compress", "zstd"));
        assert_eq!(cells[0].variant.as_deref(), Some("compress, zstd"));
        let said = |file: String| format!("{:#}", read(&file).unwrap_err());
        assert!(said(file.replace("codec = 'zstd'", "codek = 'zstd'")).contains("codek"));
        assert!(said(file.replace("name = 'compress, zstd'\n", "")).contains("needs `name`"));
        assert!(said(format!("vary = 'all'\n{FILE}")).contains("each list by itself"));
    }

    #[test]
    fn every_shipped_experiment_parses() {
        for (name, _) in SHIPPED {
            let e = Experiment::load(name, &Overrides::default()).unwrap();
            assert!(!e.cells().unwrap().is_empty() && !e.question.is_empty(), "{name}");
        }
    }
}
