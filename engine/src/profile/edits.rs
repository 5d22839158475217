//! Pages that differ from their base page in places.

use serde::{Deserialize, Serialize};

use super::CHUNK_BYTES;
use crate::units::PAGE_BYTES;

/// A group of edited pages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditedPages {
    /// Share of the sandbox's pages.
    pub share: f64,
    /// Edits in a page.
    pub sites: f64,
    /// Bytes that differ in a page, all edits together.
    pub bytes: f64,
    /// Which share of these pages a fingerprint finds, measured, by rising number of chunks (between two of them
    /// in proportion to the logarithm, beyond the ends as at the ends). Empty: by the formula for edits at random.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<Found>,
}

/// How often pages are found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// Chunks in the fingerprint.
    pub chunks: u32,
    /// Share of the pages, 0 to 1.
    pub share: f64,
}

impl EditedPages {
    /// Share of these pages that `chunks` chunks find, when edits are `closer` times as many.
    pub(super) fn found(&self, chunks: u32, closer: f64) -> f64 {
        let measured = |at: &Found| at.share;
        let after = self.found.partition_point(|f| f.chunks < chunks);
        match (after.checked_sub(1).and_then(|i| self.found.get(i)), self.found.get(after)) {
            (Some(below), Some(above)) => {
                let log = |n: u32| f64::from(n.max(1)).ln();
                let way = (log(chunks) - log(below.chunks)) / (log(above.chunks) - log(below.chunks)).max(1e-9);
                measured(below) + way * (measured(above) - measured(below))
            }
            (Some(end), None) | (None, Some(end)) => measured(end),
            (None, None) => 1.0 - (1.0 - intact(self.sites * closer, self.bytes * closer)).powf(f64::from(chunks)),
        }
    }
}

/// Probability that a given chunk lies clear of every edit.
fn intact(sites: f64, bytes: f64) -> f64 {
    if sites <= 0.0 {
        return 1.0;
    }
    (-(sites * CHUNK_BYTES + bytes) / PAGE_BYTES as f64).exp()
}
