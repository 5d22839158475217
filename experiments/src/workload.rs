//! From trace and profile to what the simulator runs: functions and arrivals.

use std::collections::BTreeMap;
use std::sync::Arc;

use medes_engine::profile::ProfileSet;
use medes_engine::units::{Bytes, Duration, PAGE_BYTES};
use medes_sim::{Arrival, SimFunction};
use medes_traces::mapping::{Rule, Target, assign, merge};
use medes_traces::{Arrivals, Trace};

use crate::experiment::Functions;

/// A trace with its functions, parsed once and shared by all cells.
#[derive(Debug)]
pub struct Workload {
    /// The requests.
    pub trace: Trace,
    /// Functions by number.
    pub functions: Arc<Vec<SimFunction>>,
}

impl Workload {
    /// Gives each function of `trace` a profile, its own or the profile's times and memory, and a short name.
    pub fn new(trace: Trace, how: Functions, profiles: &ProfileSet) -> Self {
        let targets: Vec<Target> = profiles
            .function
            .iter()
            .map(|f| Target {
                name: f.name.clone(),
                run: Duration::from_millis_f64(f.exec_ms),
                percentiles_ms: f.exec_percentiles_ms,
                memory: Bytes::from_mb(f.memory_mb),
            })
            .collect();
        let (trace, profile_of) = match how {
            Functions::Own => {
                let profile_of = assign(&trace, &targets, Rule::Hash);
                (trace, profile_of)
            }
            Functions::Mapped(rule) => {
                let assignment = assign(&trace, &targets, rule);
                (merge(trace, &assignment, &targets), (0..targets.len()).collect())
            }
        };
        let mut owners: BTreeMap<&str, u32> = BTreeMap::new();
        let mut names: BTreeMap<String, u32> = BTreeMap::new();
        let applications = applications(&trace);
        let functions = trace
            .functions
            .iter()
            .zip(profile_of)
            .map(|(f, profile)| {
                let next = owners.len() as u32;
                let owner = *owners.entry(f.owner.as_str()).or_insert(next);
                let memory = f.memory.unwrap_or(targets[profile].memory);
                SimFunction {
                    name: match applications.get(f.app.as_str()) {
                        Some(1) => short_name(&f.app, &mut names),
                        Some(_) => short_name(&f.label(), &mut names),
                        None => short_name(&f.name, &mut names),
                    },
                    owner,
                    profile,
                    // A sandbox without a page would divide by zero in every equation.
                    memory: memory.max(Bytes::new(PAGE_BYTES as u64)),
                    run: f.mean_run.unwrap_or(targets[profile].run),
                }
            })
            .collect();
        Self { functions: Arc::new(functions), trace }
    }

    /// A stream of arrivals for the simulator: appends the next batch, false at the end.
    pub fn arrivals(&self, seed: u64) -> impl FnMut(&mut Vec<Arrival>) -> bool + '_ {
        let mut stream: Arrivals<'_> = self.trace.arrivals(seed);
        move |out| stream.next_batch(out)
    }
}

/// How many functions each application of a request file has: by application they are called there, and where one has several
/// environments by both. Empty for other traces.
fn applications(trace: &Trace) -> BTreeMap<&str, u32> {
    let mut out = BTreeMap::new();
    for f in trace.functions.iter().filter(|f| trace.source.starts_with("requests:") && !f.app.is_empty()) {
        *out.entry(f.app.as_str()).or_default() += 1;
    }
    out
}

/// Hashed names are cut to eight characters; equal ones are numbered.
fn short_name(name: &str, seen: &mut BTreeMap<String, u32>) -> String {
    let hashed = name.len() >= 32 && name.chars().all(|c| c.is_ascii_hexdigit());
    let short: String = if hashed { name.chars().take(8).collect() } else { name.to_owned() };
    let count = seen.entry(short.clone()).or_default();
    *count += 1;
    if *count > 1 { format!("{short}#{count}") } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medes_traces::{TraceOptions, open};

    #[test]
    fn own_functions_keep_their_memory_and_mapped_ones_take_the_profile_s() {
        let (set, _) = crate::profiles::load("reference").unwrap();
        let options = TraceOptions { functions: 40, minutes: 10, ..TraceOptions::default() };
        let trace = open(&"azure-like".parse().unwrap(), &options).unwrap();
        let requests = trace.requests();
        let own = Workload::new(trace.clone(), Functions::Own, &set);
        assert_eq!(own.functions.len(), 40);
        assert!(own.functions.iter().zip(&own.trace.functions).all(|(s, t)| Some(s.memory) == t.memory));
        let mapped = Workload::new(trace, Functions::Mapped(Rule::Rank), &set);
        assert_eq!((mapped.functions.len(), mapped.trace.requests()), (10, requests));
        assert_eq!(mapped.functions[8].memory, Bytes::from_mb(90.0));
    }

    #[test]
    fn functions_of_request_files_are_called_by_their_application() {
        let (set, _) = crate::profiles::load("reference").unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0 vanilla python\n1 linalg python\n2 linalg pypy\n-1 0 0\n").unwrap();
        let trace = open(&format!("requests:{}", file.path().display()).parse().unwrap(), &TraceOptions::default());
        let own = Workload::new(trace.unwrap(), Functions::Own, &set);
        let names: Vec<&str> = own.functions.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["vanilla", "linalg/python", "linalg/pypy"]);
    }

    #[test]
    fn names_are_short_and_unique() {
        let mut seen = BTreeMap::new();
        let hex = "ab12cd34".repeat(8);
        assert_eq!(short_name(&hex, &mut seen), "ab12cd34");
        assert_eq!(short_name(&hex, &mut seen), "ab12cd34#2");
        assert_eq!(short_name("resize", &mut seen), "resize");
    }
}
