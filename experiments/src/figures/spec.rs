//! What a figure is made from: its experiment file with the tables `[figure]` and `[[statement]]`.

use anyhow::{Context, bail};
use serde::Deserialize;

/// The shipped files, in the order of the report.
pub const SHIPPED: &[(&str, &str)] = &[
    ("01-chunk-size", include_str!("../../paper/01-chunk-size.toml")),
    ("02-between-functions", include_str!("../../paper/02-between-functions.toml")),
    ("03-keep-alive-memory", include_str!("../../paper/03-keep-alive-memory.toml")),
    ("04-improvement", include_str!("../../paper/04-improvement.toml")),
    ("05-cold-starts", include_str!("../../paper/05-cold-starts.toml")),
    ("06-tail-latency", include_str!("../../paper/06-tail-latency.toml")),
    ("07-memory", include_str!("../../paper/07-memory.toml")),
    ("08-pool-size", include_str!("../../paper/08-pool-size.toml")),
    ("09-pressure", include_str!("../../paper/09-pressure.toml")),
    ("10-dedup-start", include_str!("../../paper/10-dedup-start.toml")),
    ("11-dedup-table", include_str!("../../paper/11-dedup-table.toml")),
    ("12-sensitivity", include_str!("../../paper/12-sensitivity.toml")),
    ("13-surface", include_str!("../../paper/13-surface.toml")),
    ("14-frontier", include_str!("../../paper/14-frontier.toml")),
    ("15-frontier-fixed-addresses", include_str!("../../paper/15-frontier-fixed-addresses.toml")),
    ("16-frontier-random-addresses", include_str!("../../paper/16-frontier-random-addresses.toml")),
    ("17-codec-network-nodes", include_str!("../../paper/17-codec-network-nodes.toml")),
];

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Redundancy within a function by chunk size; of dumps.
    ChunkSize,
    /// Redundancy between every two functions; of dumps.
    BetweenFunctions,
    /// Memory of keep-alive over time, as it is and with redundancy removed.
    KeepAliveMemory,
    /// Distribution of the improvement of end-to-end latency, request by request.
    Improvement,
    /// Cold starts of each function.
    ColdPerFunction,
    /// 99.9th percentile latency of each function.
    TailPerFunction,
    /// Both of these.
    PerFunction,
    /// Distribution of the cluster's memory.
    Memory,
    /// Cold starts by size of the pool.
    ColdByPool,
    /// A dedup start's parts beside the cold start; of dumps and measured starts.
    DedupStart,
    /// The table of dedup figures; of dumps and measured starts.
    DedupTable,
    /// Each parameter by itself.
    Parameters,
    /// Two parameters together.
    Surface,
    /// What each policy reaches.
    Frontier,
}

impl Kind {
    /// Whether it is drawn from memory of real sandboxes and not from runs.
    pub fn of_sandboxes(self) -> bool {
        matches!(self, Self::ChunkSize | Self::BetweenFunctions | Self::DedupStart | Self::DedupTable)
    }
}

/// The table `[figure]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FigureTable {
    /// Number in the report.
    pub number: u32,
    /// What is drawn.
    pub kind: Kind,
    /// Inputs it needs, in words.
    pub needs: String,
    /// Seconds it takes on two cores, measured.
    pub takes_s: f64,
    /// Overrides of its form on real sandboxes, as for `--set`: two nodes, minutes a cell. Empty: simulated only.
    #[serde(default)]
    pub real: Vec<String>,
    /// More pools, as parts of the largest memory that fixed keep-alive takes where there is no cap.
    #[serde(default)]
    pub scarcity: Vec<f64>,
    /// Another experiment whose rows stand beside its own in two more pictures.
    #[serde(default)]
    pub beside: Option<Beside>,
    /// What is added to the titles of its pictures, to tell them from those of figures of the same kind.
    #[serde(default)]
    pub words: String,
    /// Overrides of the small version, as for `--set`.
    #[serde(default)]
    pub small: Vec<String>,
    /// What the reader must know of it.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The table `[figure.beside]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    /// Stem of the other experiment's file, which differs in one thing.
    pub file: String,
    /// The policies that this thing matters to: drawn of both; the others, of this experiment alone.
    pub policies: Vec<String>,
    /// What tells the lines apart: added to the policies' names here, and there.
    pub words: [String; 2],
    /// What the two experiments differ in, for the caption.
    pub differ: String,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// By how much `of` differs from `against`, %.
    Change,
    /// How many times `against` is of `of`.
    Factor,
    /// The value of `of` itself.
    Level,
    /// By how much `of` at the default of `parameter` is above its best value, %.
    FromBest,
}

/// A table `[[statement]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// What is stated, with its source.
    pub paper: String,
    /// Name of the value: see [`super::claims`].
    pub value: String,
    /// Policy.
    #[serde(default = "medes")]
    pub of: String,
    /// Other policy.
    #[serde(default)]
    pub against: String,
    /// How they are compared.
    pub how: How,
    /// The parameter of `from-best`.
    #[serde(default)]
    pub parameter: String,
    /// The range stated.
    pub range: [f64; 2],
    /// On which side more is better: -1 below, 1 above, 0 neither.
    #[serde(default)]
    pub good: i8,
    /// What bears on a difference.
    #[serde(default)]
    pub differs: String,
}

fn medes() -> String {
    "medes".into()
}

/// A figure's file.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Stem of the file.
    pub name: String,
    /// Title.
    pub title: String,
    /// What it asks.
    pub question: String,
    /// What is expected.
    pub expectation: Option<String>,
    /// The table `[figure]`.
    pub figure: FigureTable,
    /// The tables `[[statement]]`.
    pub statements: Vec<Statement>,
    /// The whole text, for [`crate::experiment::Experiment`].
    pub text: String,
}

#[derive(Deserialize)]
struct Head {
    title: String,
    question: String,
    expectation: Option<String>,
    figure: FigureTable,
    #[serde(default)]
    statement: Vec<Statement>,
}

impl Spec {
    /// Reads a figure's file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let head: Head = toml::from_str(text).with_context(|| format!("experiments/paper/{name}.toml"))?;
        Ok(Self {
            name: name.to_owned(),
            title: head.title,
            question: head.question,
            expectation: head.expectation,
            figure: head.figure,
            statements: head.statement,
            text: text.to_owned(),
        })
    }

    /// All shipped figures, in order.
    ///
    /// # Errors
    /// A file that cannot be read: a test proves that there is none.
    pub fn all() -> anyhow::Result<Vec<Self>> {
        SHIPPED.iter().map(|(name, text)| Self::parse(name, text)).collect()
    }

    /// The figure of this name.
    ///
    /// # Errors
    /// None has it.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        let file = SHIPPED.iter().find(|(known, _)| *known == name);
        let (name, text) = file.with_context(|| format!("no file experiments/paper/{name}.toml"))?;
        Self::parse(name, text)
    }

    /// Those asked for by number or name, in order; all for none.
    ///
    /// # Errors
    /// A number or name that no figure has.
    pub fn chosen(asked: &[String]) -> anyhow::Result<Vec<Self>> {
        let all = Self::all()?;
        let is = |spec: &Self, asked: &str| {
            spec.figure.number.to_string() == asked || spec.name == asked || spec.stem() == asked
        };
        if let Some(unknown) = asked.iter().find(|a| !all.iter().any(|s| is(s, a))) {
            bail!(
                "no figure `{unknown}`: they have the numbers 1 to {} and names such as {}; `medes figures --list` says what each shows",
                all.len(),
                SHIPPED[4].0
            );
        }
        Ok(all.into_iter().filter(|s| asked.is_empty() || asked.iter().any(|a| is(s, a))).collect())
    }

    /// Stem of its files: `fig05`.
    pub fn stem(&self) -> String {
        format!("fig{:02}", self.figure.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{Experiment, Overrides};

    #[test]
    fn every_figure_has_its_file_and_every_file_is_an_experiment() {
        let all = Spec::all().unwrap();
        assert_eq!(all.iter().map(|s| s.figure.number).collect::<Vec<_>>(), (1..=17).collect::<Vec<_>>());
        for spec in &all {
            assert!(spec.figure.takes_s > 0.0 && !spec.figure.needs.is_empty(), "{}", spec.name);
            assert!(!spec.statements.is_empty() || spec.figure.number > 12, "{} states nothing", spec.name);
            if let Some(beside) = &spec.figure.beside {
                assert_eq!(Spec::named(&beside.file).unwrap().figure.kind, spec.figure.kind);
            }
            if spec.figure.kind.of_sandboxes() {
                continue;
            }
            let parsed = |set: &[String]| {
                let overrides = Overrides { set: set.to_vec(), ..Overrides::default() };
                Experiment::parse(&spec.name, &spec.text, &overrides).unwrap()
            };
            for set in [&[], &spec.figure.small[..]] {
                let e = parsed(set);
                assert!(
                    e.seeds.len() >= 2 && !e.cells().unwrap().is_empty(),
                    "{}: no interval without seeds",
                    spec.name
                );
            }
            if !spec.figure.real.is_empty() {
                let e = parsed(&spec.figure.real);
                let minutes = e.options.minutes as f64 / e.real.time_scale * e.cells().unwrap().len() as f64;
                assert!(minutes * e.seeds.len() as f64 <= 60.0, "{}: {minutes} min of real time", spec.name);
            }
        }
    }

    #[test]
    fn figures_are_chosen_by_number_and_by_name() {
        let names = |asked: &[&str]| {
            Spec::chosen(&asked.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
                .map(|s| s.iter().map(Spec::stem).collect::<Vec<_>>())
        };
        assert_eq!(names(&["8", "05-cold-starts", "fig09"]).unwrap(), ["fig05", "fig08", "fig09"]);
        assert_eq!(names(&[]).unwrap().len(), 17);
        assert!(names(&["99"]).unwrap_err().to_string().contains("--list"));
    }
}
