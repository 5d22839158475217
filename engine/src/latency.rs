//! Modelled times.

use serde::{Deserialize, Serialize};

/// A distribution of times: lognormal with the given median and 99th percentile, in milliseconds; equal
/// ones make a constant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Half of the draws are below, ms.
    pub median_ms: f64,
    /// 99 of 100 draws are below, ms.
    pub p99_ms: f64,
    /// Core time over elapsed time where nothing else is at work: below one it waits as well, above it keeps several cores at work. Where cores are limited,
    /// waiting is not slowed by what is at work beside it.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub cores: f64,
}

pub(crate) const fn one() -> f64 {
    1.0
}

pub(crate) fn is_one(value: &f64) -> bool {
    *value == 1.0
}

impl Latency {
    /// Always `ms` milliseconds.
    pub const fn constant(ms: f64) -> Self {
        Self { median_ms: ms, p99_ms: ms, cores: 1.0 }
    }

    /// No time at all.
    pub const fn none() -> Self {
        Self::constant(0.0)
    }

    /// Whether it takes no time, ever.
    pub fn is_none(&self) -> bool {
        self.median_ms == 0.0
    }

    /// Standard deviation of the logarithm.
    pub fn sigma(&self) -> f64 {
        if self.p99_ms > self.median_ms && self.median_ms > 0.0 {
            (self.p99_ms / self.median_ms).ln() / 2.326_347_874_040_841
        } else {
            0.0
        }
    }
}
