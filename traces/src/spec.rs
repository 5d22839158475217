//! `KIND:PATH`: how a trace is named on the command line and in experiment files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::options::TraceOptions;
use crate::trace::Trace;
use crate::{TraceError, azure2019, azure2021, events, synth};

/// A format that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceKind {
    /// The files of the Azure Functions trace of 2019: a folder of days, or one day's invocations file.
    Azure2019,
    /// The file of the Azure Functions trace of 2021.
    Azure2021,
    /// A folder of the invitro form: `invocations.csv`, `durations.csv`, `memory.csv`.
    Invitro,
    /// A request file of the reference: `<timestamp ms> <application> <environment>` a line.
    Requests,
    /// Comma-separated `time,function[,duration,memory]`, in s, ms and MB.
    Csv,
    /// Generated; no path.
    AzureLike,
}

impl TraceKind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Azure2019, Self::Azure2021, Self::Invitro, Self::Requests, Self::Csv, Self::AzureLike];

    /// Its name before the colon.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Azure2019 => "azure2019",
            Self::Azure2021 => "azure2021",
            Self::Invitro => "invitro",
            Self::Requests => "requests",
            Self::Csv => "csv",
            Self::AzureLike => "azure-like",
        }
    }
}

/// Which trace: a kind, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSpec {
    /// The format.
    pub kind: TraceKind,
    /// File or folder; empty for [`TraceKind::AzureLike`].
    pub path: PathBuf,
}

impl FromStr for TraceSpec {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        let bad = |problem: String| {
            let kinds: Vec<&str> = TraceKind::ALL[..5].iter().map(|kind| kind.name()).collect();
            TraceError::Spec {
                spec: text.to_owned(),
                problem,
                mend: format!("write `azure-like`, or KIND:PATH with {}", kinds.join(", ")),
            }
        };
        let (name, path) = text.split_once(':').unwrap_or((text, ""));
        let kind = TraceKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| bad(format!("no kind of trace is called `{name}`")))?;
        match (kind, path.is_empty()) {
            (TraceKind::AzureLike, false) => Err(bad("it is generated and has no path".to_owned())),
            (TraceKind::AzureLike, true) | (_, false) => Ok(Self { kind, path: PathBuf::from(path) }),
            (_, true) => Err(bad("the path is missing".to_owned())),
        }
    }
}

impl fmt::Display for TraceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TraceKind::AzureLike => f.write_str(self.kind.name()),
            kind => write!(f, "{}:{}", kind.name(), self.path.display()),
        }
    }
}

/// Reads or generates the trace.
///
/// # Errors
/// If a file cannot be read, is not in the form it should have, or the options do not fit the trace; the
/// message names file, line and column.
pub fn open(spec: &TraceSpec, options: &TraceOptions) -> Result<Trace, TraceError> {
    options.check()?;
    let source = spec.to_string();
    let path: &Path = &spec.path;
    if options.days.is_some() && spec.kind != TraceKind::Azure2019 {
        return Err(TraceError::option(
            "days",
            format!("{} has no files by day", spec.kind.name()),
            "leave it out, and choose minutes with `window`",
        ));
    }
    let trace = match spec.kind {
        TraceKind::Azure2019 => azure2019::open(source, path, options),
        TraceKind::Azure2021 => azure2021::open(source, path, options),
        TraceKind::Invitro => azure2019::open_invitro(source, path, options),
        TraceKind::Requests => events::open_requests(source, path, options),
        TraceKind::Csv => events::open_csv(source, path, options),
        TraceKind::AzureLike => synth::generate(source, options),
    };
    trace.map(|trace| Trace { arrivals_seed: options.arrivals_seed, ..trace })
}
