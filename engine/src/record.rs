//! What a run leaves behind: one vocabulary of rows for both worlds.
//!
//! A world hands the engine's [`RequestRecord`]s on, samples the cluster into [`TimelineSample`]s and
//! sums both up, per function and per run. Figures and reports are drawn from these rows alone, so a
//! simulated and a real run are plotted by the same code.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{FunctionId, NodeId, RequestId};
use crate::units::{Bytes, Duration, Instant};

/// How the sandbox that answered a request was brought to run. An open set: a start from a snapshot of
/// another sandbox of the same function is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StartKind {
    /// Created for the request.
    Cold,
    /// Was idle with its whole memory resident, or became so while the request waited.
    Warm,
    /// Its memory was rebuilt from a reduced form (patches against base pages, or compressed).
    Dedup,
}

impl StartKind {
    /// The name in tables and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::Dedup => "dedup",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The function ran to its end.
    Answered,
    /// No memory was found before its deadline.
    Dropped,
    /// Its sandbox failed or its node was lost and it could not be started again.
    Failed,
}

impl Outcome {
    /// The name in tables and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}

/// One request, written once, when it ends. End-to-end latency is `wait + start + run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// Order of arrival.
    pub request: RequestId,
    /// The function asked for.
    pub function: FunctionId,
    /// Where it ran; `None` when it never did.
    pub node: Option<NodeId>,
    /// When it arrived.
    pub arrived: Instant,
    /// How it ended.
    pub outcome: Outcome,
    /// How its sandbox was started; `None` when it never was.
    pub kind: Option<StartKind>,
    /// From arrival until a sandbox was chosen: waiting for memory.
    pub wait: Duration,
    /// From the choice until the function began to run.
    pub start: Duration,
    /// The function's own run.
    pub run: Duration,
}

impl RequestRecord {
    /// From arrival to the end.
    pub fn end_to_end(&self) -> Duration {
        self.wait + self.start + self.run
    }
}

/// Where the time of a start went. In the real world what is read and computed is summed over the threads that did it; simulated parts add up to the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartParts {
    /// Between controller and agent: deciding, sending, answering.
    pub control: Duration,
    /// Reading base pages.
    pub read: Duration,
    /// Computing the original pages.
    pub patch: Duration,
    /// Creating, restoring, resuming or waking the sandbox.
    pub resume: Duration,
}

impl StartParts {
    /// What of a start of `alone` each part is when it takes `whole`: reads wait for others and stay, and so does what of `control` is no core time
    /// (`control_cores` is its core time over its time); the rest is in proportion.
    pub fn stretch(&mut self, alone: Duration, whole: Duration, control_cores: f64) {
        let times = |part: Duration, by: f64| Duration::from_micros((part.as_micros() as f64 * by).round() as u64);
        let busy = times(self.control, control_cores.min(1.0));
        let waits = self.control.saturating_sub(busy);
        let kept = waits + self.read;
        let by = whole.saturating_sub(kept).as_micros() as f64 / alone.saturating_sub(kept).as_micros().max(1) as f64;
        (self.control, self.patch) = (waits + times(busy, by), times(self.patch, by));
        self.resume = whole.saturating_sub(self.control + self.read + self.patch);
    }
}

/// The starts of one kind of one function over a run, broken down: the row of `starts.csv`. Times are means, ms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartSummary {
    /// Name of the function.
    pub function: String,
    /// Kind of start, by its name.
    pub kind: String,
    /// How many there were.
    pub count: u64,
    /// As [`StartParts::control`].
    pub control_ms: f64,
    /// As [`StartParts::read`].
    pub read_ms: f64,
    /// As [`StartParts::patch`].
    pub patch_ms: f64,
    /// As [`StartParts::resume`].
    pub resume_ms: f64,
    /// From the choice of a sandbox until the function ran.
    pub start_ms: f64,
    /// The function's own run.
    pub run_ms: f64,
}

/// How fast a host was at an instant of a real run: the row of `host.csv`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostSample {
    /// Since the beginning of the trace, s.
    pub at_s: f64,
    /// The node.
    pub node: u32,
    /// What a fixed piece of work took of a core, µs.
    pub probe_us: f64,
}

/// The base or dedup operations of one function over a run, broken down: the row of `operations.csv`. Times are means, ms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationSummary {
    /// Name of the function.
    pub function: String,
    /// `base`, `dedup`, or `dedup-again` (back to the first image).
    pub operation: String,
    /// How many there were.
    pub count: u64,
    /// The operation as a whole.
    pub took_ms: f64,
    /// Of that, the checkpoint.
    pub checkpoint_ms: f64,
    /// Fingerprints.
    pub fingerprint_ms: f64,
    /// Asking the controller for base pages, or entering the base's.
    pub lookup_ms: f64,
    /// Reading base pages.
    pub read_ms: f64,
    /// Making patches.
    pub encode_ms: f64,
    /// Bringing the process to where it is held.
    pub hold_ms: f64,
    /// Memory of the dump, or of what a reduction keeps, MB.
    pub stored_mb: f64,
    /// Base pages of the same function on the same node, a sandbox.
    pub same_local_pages: f64,
    /// Base pages of the same function on other nodes.
    pub same_remote_pages: f64,
    /// Base pages of other functions on the same node.
    pub other_local_pages: f64,
    /// Base pages of other functions on other nodes.
    pub other_remote_pages: f64,
}

/// The state of the cluster over one sampling interval, summed over its nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineSample {
    /// End of the interval.
    pub at: Instant,
    /// Memory in use, averaged over the interval by time.
    pub mean_used: Bytes,
    /// Largest memory in use within the interval.
    pub max_used: Bytes,
    /// Sandboxes running a request or starting for one, at the end of the interval.
    pub busy: u32,
    /// Warm and idle sandboxes, at the end (bases are counted apart).
    pub warm: u32,
    /// Base sandboxes, idle or not, at the end.
    pub base: u32,
    /// Sandboxes in the dedup state, at the end.
    pub dedup: u32,
    /// Requests waiting for memory, at the end.
    pub queued: u32,
    /// Requests that arrived in the interval.
    pub arrivals: u64,
    /// Cold starts begun in the interval.
    pub cold: u64,
    /// Warm starts begun in the interval.
    pub warm_starts: u64,
    /// Dedup starts begun in the interval.
    pub dedup_starts: u64,
    /// Sandboxes evicted in the interval.
    pub evictions: u64,
}

/// JSON has no NaN and writes null for it: read back it is NaN again, not an error.
fn number_or_nan<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

/// One function over a whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionSummary {
    /// Name of the function.
    pub function: String,
    /// Requests that arrived.
    pub requests: u64,
    /// Answered by a cold start.
    pub cold: u64,
    /// Answered by a warm start.
    pub warm: u64,
    /// Answered by a dedup start.
    pub dedup: u64,
    /// Requests that waited for memory, however they ended.
    pub queued: u64,
    /// Requests dropped or failed.
    pub dropped: u64,
    /// Mean of the answered requests' end-to-end latency, ms.
    #[serde(deserialize_with = "number_or_nan")]
    pub mean_ms: f64,
    /// Percentiles of the answered requests' end-to-end latency, ms; NaN with no answer.
    #[serde(deserialize_with = "number_or_nan")]
    pub p50_ms: f64,
    /// 99th percentile.
    #[serde(deserialize_with = "number_or_nan")]
    pub p99_ms: f64,
    /// 99.9th percentile.
    #[serde(deserialize_with = "number_or_nan")]
    pub p999_ms: f64,
}

/// One cell of an experiment with one seed: the row of `summary.csv`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the policy.
    pub policy: String,
    /// Memory cap of a node, MB.
    pub memcap_mb: f64,
    /// Number of nodes.
    pub nodes: u32,
    /// Seed of arrivals, durations and modelled times.
    pub seed: u64,
    /// Requests that arrived.
    pub requests: u64,
    /// Answered by a cold start.
    pub cold: u64,
    /// Answered by a warm start.
    pub warm: u64,
    /// Answered by a dedup start.
    pub dedup: u64,
    /// Requests that waited for memory, however they ended.
    pub queued: u64,
    /// Requests that found no memory before their deadline.
    pub dropped: u64,
    /// Requests whose sandbox or node failed.
    pub failed: u64,
    /// Sandboxes removed or reduced to make room.
    pub evictions: u64,
    /// Percentiles of the answered requests' end-to-end latency, ms; NaN with no answer.
    #[serde(deserialize_with = "number_or_nan")]
    pub p50_ms: f64,
    /// 99th percentile.
    #[serde(deserialize_with = "number_or_nan")]
    pub p99_ms: f64,
    /// 99.9th percentile.
    #[serde(deserialize_with = "number_or_nan")]
    pub p999_ms: f64,
    /// Mean end-to-end latency, ms.
    #[serde(deserialize_with = "number_or_nan")]
    pub mean_ms: f64,
    /// Percentiles of the start (wait and start, without the run), ms.
    #[serde(deserialize_with = "number_or_nan")]
    pub start_p50_ms: f64,
    /// 99th percentile of the start.
    #[serde(deserialize_with = "number_or_nan")]
    pub start_p99_ms: f64,
    /// 99.9th percentile of the start.
    #[serde(deserialize_with = "number_or_nan")]
    pub start_p999_ms: f64,
    /// Mean start of the requests answered by a dedup start (without waiting), ms; NaN with none.
    #[serde(deserialize_with = "number_or_nan")]
    pub dedup_start_ms: f64,
    /// Memory of the cluster, mean over time, MB.
    #[serde(deserialize_with = "number_or_nan")]
    pub mean_memory_mb: f64,
    /// Memory of the cluster, largest at any instant, MB.
    #[serde(deserialize_with = "number_or_nan")]
    pub max_memory_mb: f64,
    /// Sandboxes created ahead of a request.
    pub prewarmed: u64,
    /// Dedup (or compression) operations finished.
    pub dedup_ops: u64,
    /// Base sandboxes demarcated.
    pub bases: u64,
    /// Sandboxes removed because the policy said so.
    pub purged: u64,
    /// Swept parameters under their own names, as written in the experiment.
    #[serde(skip)]
    pub parameters: BTreeMap<String, String>,
}
