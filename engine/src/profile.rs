//! Function profiles: what a function's sandboxes cost, and how their memory deduplicates.
//!
//! A profile set is a data file (`config/*.toml`) headed by where its numbers come from. The simulated
//! world draws its times and the sizes of dedup sandboxes from it; `medes dedup model` writes one from
//! CRIU dumps.
//!
//! # The memory model
//! The pages of a sandbox fall into classes, each a share of its memory:
//! *zero*; *runtime* (equal in every function of the same runtime); *library* (equal in every function
//! with the same libraries); *stable* (equal in every sandbox of the function); *edited* (equal up to
//! scattered edits, in groups by how much is edited); *unique* (like nothing else).
//!
//! What a fingerprint of `k` chunks of 64 B finds: a page equal to a base page is always found. An
//! edited page with `s` edits of together `b` bytes, placed at random, keeps a given chunk with
//! probability `p = exp(-s (64 + b/s) / 4096)`; value sampling picks the same chunks in both pages where
//! both have them, so the page is found with probability `1 - (1 - p)^k`. Its patch weighs
//! `header + s * site + b * byte` bytes by the codec's figures; a patch over `patchthreshold` is not used. Real edits are
//! not random and real walks begin at a page's head: a group measured on dumps brings its own shares found by
//! number of chunks ([`EditedPages::found`]), and they are used instead.
//! A base of the function must exist for stable and edited pages, one with the runtime or the libraries
//! for those. With `n` bases of the function the nearest one is closer: edits shrink by `n^-base_gain`.
//!
//! Left out: runs of edits (they are placed independently), hot chunks that bound the index's chains,
//! wrong matches, and drift of a sandbox's memory with the number of its runs.

mod check;
mod edits;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::check::ProfileError;
pub use self::edits::{EditedPages, Found};
pub use crate::latency::Latency;
use crate::latency::{is_one, one};
use crate::units::{Bytes, PAGE_BYTES};

/// Bytes of one fingerprint chunk (REFERENCE, fingerprint).
pub const CHUNK_BYTES: f64 = 64.0;
/// Bytes kept for each page of a dedup image beside its patch: codec, length, base page, checksum.
pub const PAGE_ENTRY_BYTES: f64 = 16.0;

/// Shares of a sandbox's pages by class; they sum to 1 with the shares of the edited groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageShares {
    /// Pages full of zeros.
    pub zero: f64,
    /// Equal in all functions of the runtime.
    pub runtime: f64,
    /// Equal in all functions that load the same library.
    pub library: f64,
    /// Equal in all sandboxes of the function.
    pub stable: f64,
    /// Like nothing else.
    pub unique: f64,
}

/// Memory of a warm sandbox by who shares it, MB.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resident {
    /// Its own.
    pub private_mb: f64,
    /// Of files that it maps, by library: all sandboxes of one machine share them that map the same.
    pub files: BTreeMap<String, f64>,
}

/// A function: its demands, its modelled times and its memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionProfile {
    /// Name, as in REFERENCE's table.
    pub name: String,
    /// Keep-alive of the fixed policy, seconds.
    pub keep_alive_s: f64,
    /// Own run time, ms: the mean.
    pub exec_ms: f64,
    /// The percentiles 0, 1, 25, 50, 75, 99 and 100 of its runs, ms, where they are known; without them all take `exec_ms`.
    pub exec_percentiles_ms: Option<[f64; 7]>,
    /// Memory of a warm sandbox, MB.
    pub memory_mb: f64,
    /// Where of its memory is known what sandboxes share: what it takes really changes with what else is there.
    pub resident: Option<Resident>,
    /// What a sandbox has of that while it is created, on average over that time.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub starting: f64,
    /// Fraction of memory that deduplication saves, as the operator believes it (the policy's equations
    /// use it; what is really saved follows from the pages).
    pub advantage: f64,
    /// Creating a sandbox until the function can run.
    pub cold: Latency,
    /// Waking a warm sandbox.
    pub warm: Latency,
    /// Taking a checkpoint.
    pub checkpoint: Latency,
    /// Restoring a process up to the point where its memory is filled; paid at the dedup start only
    /// without a pre-restored process (`nopause`).
    pub restore: Latency,
    /// Resuming a pre-restored process.
    pub resume: Latency,
    /// A dedup start whose pages are pushed behind the process takes so many times one whose pages are all pushed first; without it, as long.
    pub behind: Option<f64>,
    /// Ending a sandbox: what is started, restored or checkpointed on its node meanwhile waits for it. Zero: nobody notices.
    #[serde(default = "Latency::none", skip_serializing_if = "Latency::is_none")]
    pub purge: Latency,
    /// What controller and agent add to a start of this function, where that is known; else [`Costs::control`].
    pub control: Option<Latency>,
    /// Size of a checkpoint relative to the sandbox's memory.
    pub dump_ratio: f64,
    /// Memory of a pre-restored, paused process without its pages, MB.
    pub paused_mb: f64,
    /// Runtime whose pages it shares.
    pub runtime: String,
    /// Libraries whose pages it shares.
    #[serde(default)]
    pub libraries: Vec<String>,
    /// Classes of pages.
    pub pages: PageShares,
    /// Groups of edited pages.
    #[serde(default)]
    pub edits: Vec<EditedPages>,
    /// Size of the memory compressed page by page, relative to the memory, by codec.
    #[serde(default)]
    pub compressed: BTreeMap<String, f64>,
    /// The same of pages that no base page of the function is found for, relative to those pages; where it is absent, they count as the mean page.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unmatched: BTreeMap<String, f64>,
    /// Exponent of the gain from several bases of the function (0: none).
    #[serde(default)]
    pub base_gain: f64,
}

/// How a codec stores a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CodecKind {
    /// A patch against a base page; pages without one are kept whole.
    Patch,
    /// The page alone, compressed; no base pages.
    Alone,
    /// For each page the smaller of both.
    Auto,
}

/// Sizes and times of a codec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Codec {
    /// What it does with a page.
    pub kind: CodecKind,
    /// Bytes of a patch beside its edits.
    #[serde(default)]
    pub header_bytes: f64,
    /// Bytes for each edit.
    #[serde(default)]
    pub site_bytes: f64,
    /// Bytes for each differing byte.
    #[serde(default)]
    pub byte_factor: f64,
    /// Which of the functions' `compressed` ratios holds for pages it compresses alone.
    #[serde(default)]
    pub alone: Option<String>,
    /// Time to encode a page, µs.
    pub encode_us: f64,
    /// Time to decode a page, µs.
    pub decode_us: f64,
}

/// Costs that are the same for all functions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// Fingerprinting a page without any chunk kept, µs.
    pub fingerprint_page_us: f64,
    /// For each chunk kept, µs.
    pub fingerprint_chunk_us: f64,
    /// Looking a page's chunks up and choosing its base page, µs a chunk.
    pub lookup_chunk_us: f64,
    /// Copying a page into place, µs.
    pub copy_page_us: f64,
    /// Latency of one read from another node, µs.
    pub network_latency_us: f64,
    /// Bandwidth of a node's link, Gbit/s.
    pub network_gbps: f64,
    /// Work of posting one read, µs; adjacent pages are one read.
    pub read_post_us: f64,
    /// Pages in an average read.
    pub run_pages: f64,
    /// Bandwidth of reading base pages of the same node, Gbit/s.
    pub local_gbps: f64,
    /// Memory of an agent itself, MB a node.
    #[serde(default)]
    pub agent_mb: f64,
    /// How fast the host was on which times were measured: what a fixed piece of work took of a core, µs; 0 where that is not known.
    #[serde(default)]
    pub probe_us: f64,
    /// What controller and agent add to every start: deciding, sending, answering. Zero where the functions' own figures contain it. A function's
    /// own `control` comes before it.
    #[serde(default = "nothing")]
    pub control: Latency,
}

const fn nothing() -> Latency {
    Latency::constant(0.0)
}

/// A profile set: the content of a file in `config/`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileSet {
    /// Short name, the file's stem.
    pub name: String,
    /// Where the numbers come from.
    pub origin: String,
    /// Common costs.
    pub costs: Costs,
    /// Codecs by name.
    pub codec: BTreeMap<String, Codec>,
    /// Functions.
    pub function: Vec<FunctionProfile>,
}

/// What one deduplication is done with.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Memory of the sandbox.
    pub memory: Bytes,
    /// Chunks in a page's fingerprint.
    pub chunksperpage: u32,
    /// Largest patch that is used, bytes.
    pub patchthreshold: u32,
    /// The codec.
    pub codec: &'a Codec,
    /// Bases of the same function that may be used.
    pub own_bases: u32,
    /// Whether some base has the function's runtime.
    pub runtime_base: bool,
    /// Share of the function's library pages that some base has.
    pub library_share: f64,
}

/// What becomes of a sandbox's pages: expected numbers, so not whole.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Layout {
    /// Pages of the sandbox.
    pub pages: f64,
    /// Pages of zeros: nothing kept.
    pub zero: f64,
    /// Equal to a page of a base of the same function: only the reference kept.
    pub same_function: f64,
    /// Equal to a page of a base of whichever function: only the reference kept.
    pub any_function: f64,
    /// Patched against a page of a base of the same function.
    pub patched: f64,
    /// Compressed alone.
    pub compressed: f64,
    /// Kept whole.
    pub whole: f64,
    /// Bytes of all patches.
    pub patch_bytes: f64,
    /// Everything kept: patches, compressed and whole pages, page entries.
    pub stored: f64,
}

impl Layout {
    /// Memory of the dedup image.
    pub fn stored_bytes(&self) -> Bytes {
        Bytes::new(self.stored.round().max(0.0) as u64)
    }

    /// Pages that a restore must read from bases of the same function.
    pub fn own_reads(&self) -> f64 {
        self.same_function + self.patched
    }
}

impl FunctionProfile {
    /// Expected outcome of deduplicating one sandbox of this function.
    pub fn layout(&self, q: &Query<'_>) -> Layout {
        let page = PAGE_BYTES as f64;
        let pages = (q.memory.get() as f64 / page).max(1.0);
        let mut out = Layout { pages, zero: pages * self.pages.zero, ..Layout::default() };
        // Compressed size of a page that is not zero; `compressed` is over all pages.
        let alone = q.codec.alone.as_ref().and_then(|c| self.compressed.get(c)).map(|ratio| {
            let occupied = (1.0 - self.pages.zero).max(1e-9);
            (page * ratio / occupied).min(page)
        });
        let keep = |out: &mut Layout, n: f64, alone: Option<f64>| match alone {
            Some(bytes) => {
                out.compressed += n;
                out.stored += n * bytes;
            }
            None => {
                out.whole += n;
                out.stored += n * page;
            }
        };
        if q.codec.kind == CodecKind::Alone {
            let occupied = pages - out.zero;
            keep(&mut out, occupied, alone);
        } else {
            let own = q.own_bases > 0;
            let shared = [
                (self.pages.runtime, if own || q.runtime_base { 1.0 } else { 0.0 }),
                (self.pages.library, if own { 1.0 } else { q.library_share.clamp(0.0, 1.0) }),
            ];
            for (share, found) in shared {
                out.any_function += pages * share * found;
                keep(&mut out, pages * share * (1.0 - found), alone);
            }
            if own {
                out.same_function += pages * self.pages.stable;
            } else {
                keep(&mut out, pages * self.pages.stable, alone);
            }
            // With a base of the function, what is left over compresses otherwise than the mean page.
            let ratio = q.codec.alone.as_ref().filter(|_| own).and_then(|c| self.unmatched.get(c));
            let left = ratio.filter(|_| alone.is_some()).map(|r| (page * r).min(page)).or(alone);
            let closer = f64::from(q.own_bases.max(1)).powf(-self.base_gain);
            for e in &self.edits {
                let (sites, bytes) = (e.sites * closer, e.bytes * closer);
                let patch = q.codec.header_bytes + sites * q.codec.site_bytes + bytes * q.codec.byte_factor;
                let usable = own
                    && patch <= f64::from(q.patchthreshold)
                    && patch < page
                    && alone.is_none_or(|bytes| patch < bytes);
                // Pages whose base page is found and no gain compress like the mean page; only the others are left over.
                let found = if usable || own && left != alone { e.found(q.chunksperpage, closer) } else { 0.0 };
                let n = pages * e.share;
                if usable {
                    out.patched += n * found;
                    out.patch_bytes += n * found * patch;
                } else {
                    keep(&mut out, n * found, alone);
                }
                keep(&mut out, n * (1.0 - found), left);
            }
            keep(&mut out, pages * self.pages.unique, left);
        }
        out.stored += out.patch_bytes + (pages - out.zero) * PAGE_ENTRY_BYTES;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function() -> FunctionProfile {
        FunctionProfile {
            name: "f".into(),
            keep_alive_s: 600.0,
            exec_ms: 100.0,
            exec_percentiles_ms: None,
            memory_mb: 40.96,
            resident: None,
            starting: 1.0,
            advantage: 0.5,
            cold: Latency::constant(500.0),
            warm: Latency::constant(1.0),
            checkpoint: Latency::constant(20.0),
            restore: Latency::constant(10.0),
            resume: Latency::constant(1.0),
            behind: None,
            purge: Latency::none(),
            control: None,
            dump_ratio: 1.0,
            paused_mb: 1.0,
            runtime: "python".into(),
            libraries: vec!["numpy".into()],
            pages: PageShares { zero: 0.1, runtime: 0.2, library: 0.1, stable: 0.1, unique: 0.1 },
            edits: vec![EditedPages { share: 0.4, sites: 8.0, bytes: 64.0, found: Vec::new() }],
            compressed: BTreeMap::from([("zstd".into(), 0.3)]),
            unmatched: BTreeMap::new(),
            base_gain: 0.0,
        }
    }

    fn patch_codec() -> Codec {
        Codec {
            kind: CodecKind::Patch,
            header_bytes: 20.0,
            site_bytes: 5.0,
            byte_factor: 1.0,
            alone: None,
            encode_us: 10.0,
            decode_us: 3.0,
        }
    }

    fn query(codec: &Codec, k: u32, bases: u32) -> Query<'_> {
        Query {
            memory: Bytes::from_mb(40.96),
            chunksperpage: k,
            patchthreshold: 4096,
            codec,
            own_bases: bases,
            runtime_base: false,
            library_share: 0.0,
        }
    }

    #[test]
    fn one_chunk_finds_an_edited_page_as_often_as_the_chunk_is_intact() {
        let codec = patch_codec();
        let l = function().layout(&query(&codec, 1, 1));
        // 10,000 pages; s = 8, b = 64: p = exp(-(8 * 64 + 64) / 4096) = exp(-0.140625).
        let p = (-0.140_625f64).exp();
        assert!((l.patched - 4_000.0 * p).abs() < 1e-6);
        // Patch: 20 + 8 * 5 + 64 = 124 B.
        assert!((l.patch_bytes - l.patched * 124.0).abs() < 1e-6);
        assert!((l.whole - (1_000.0 + 4_000.0 * (1.0 - p))).abs() < 1e-6);
        let pages = l.zero + l.same_function + l.any_function + l.patched + l.compressed + l.whole;
        assert!((pages - 10_000.0).abs() < 1e-6);
    }

    #[test]
    fn more_chunks_never_store_more_and_bases_and_threshold_matter() {
        let (f, codec) = (function(), patch_codec());
        let stored: Vec<f64> = [1, 2, 5, 20, 64].iter().map(|k| f.layout(&query(&codec, *k, 1)).stored).collect();
        assert!(stored[..4].windows(2).all(|w| w[0] > w[1]) && stored[4] <= stored[3], "{stored:?}");
        let without = f.layout(&query(&codec, 5, 0));
        assert!((without.zero + without.whole - 10_000.0).abs() < 1e-6);
        let strict = f.layout(&Query { patchthreshold: 123, ..query(&codec, 5, 1) });
        assert_eq!(strict.patched, 0.0);
        let mut gaining = f.clone();
        gaining.base_gain = 0.2;
        assert!(gaining.layout(&query(&codec, 5, 4)).stored < gaining.layout(&query(&codec, 5, 1)).stored);
    }

    #[test]
    fn measured_shares_found_are_taken_as_they_are_and_between() {
        let (mut f, codec) = (function(), patch_codec());
        f.edits[0].found = vec![Found { chunks: 2, share: 0.2 }, Found { chunks: 8, share: 0.6 }];
        let found = |k| f.layout(&query(&codec, k, 1)).patched / 4_000.0;
        for (k, share) in [(1, 0.2), (2, 0.2), (4, 0.4), (8, 0.6), (64, 0.6)] {
            assert!((found(k) - share).abs() < 1e-9, "{k}: {}", found(k));
        }
    }

    #[test]
    fn compression_alone_needs_no_base() {
        let codec = Codec { kind: CodecKind::Alone, alone: Some("zstd".into()), ..patch_codec() };
        let l = function().layout(&query(&codec, 5, 0));
        assert!((l.stored - (0.3 * 40.96e6 + 9_000.0 * PAGE_ENTRY_BYTES)).abs() < 1.0, "{l:?}");
    }

    #[test]
    fn auto_is_never_worse_than_patch_or_alone() {
        let auto = Codec { kind: CodecKind::Auto, alone: Some("zstd".into()), ..patch_codec() };
        let alone = Codec { kind: CodecKind::Alone, ..auto.clone() };
        let patch = patch_codec();
        for bases in [0, 1, 3] {
            let best = function().layout(&query(&auto, 5, bases)).stored;
            assert!(best <= function().layout(&query(&alone, 5, bases)).stored + 1e-6);
            assert!(best <= function().layout(&query(&patch, 5, bases)).stored + 1e-6);
        }
    }

    #[test]
    fn pages_without_a_base_page_compress_as_measured() {
        let auto = Codec { kind: CodecKind::Auto, alone: Some("zstd".into()), ..patch_codec() };
        let (mean, mut f) = (function(), function());
        f.unmatched = BTreeMap::from([("zstd".into(), 0.9)]);
        let (of_mean, of_own) = (mean.layout(&query(&auto, 5, 1)), f.layout(&query(&auto, 5, 1)));
        // 0.3 of all memory is 1/3 of what is not zero.
        let more = of_own.compressed * 4096.0 * (0.9 - 1.0 / 3.0);
        assert!((of_own.stored - of_mean.stored - more).abs() < 1.0);
        // Pages that are found but whose patch is larger than they are when compressed are not left over.
        f.edits[0].bytes = 3_000.0;
        f.edits[0].found = vec![Found { chunks: 5, share: 0.75 }];
        let l = f.layout(&query(&auto, 5, 1));
        let (found, left) = (4_000.0 * 0.75, 4_000.0 * 0.25 + 1_000.0);
        let stored = 4096.0 * (found / 3.0 + left * 0.9) + 9_000.0 * PAGE_ENTRY_BYTES;
        assert!(l.patched == 0.0 && (l.stored - stored).abs() < 1.0, "{l:?} {stored}");
        // Without a base of the function all pages are left over, and the mean holds.
        assert_eq!(mean.layout(&query(&auto, 5, 0)), f.layout(&query(&auto, 5, 0)));
    }

    #[test]
    fn a_wrong_sum_or_range_is_named() {
        let mut set = ProfileSet {
            name: "t".into(),
            origin: "test".into(),
            costs: Costs {
                fingerprint_page_us: 0.1,
                fingerprint_chunk_us: 0.1,
                lookup_chunk_us: 0.1,
                copy_page_us: 0.1,
                network_latency_us: 5.0,
                network_gbps: 10.0,
                read_post_us: 0.1,
                run_pages: 4.0,
                local_gbps: 80.0,
                agent_mb: 0.0,
                probe_us: 0.0,
                control: Latency::constant(0.0),
            },
            codec: BTreeMap::from([("xdelta3".into(), patch_codec())]),
            function: vec![function()],
        };
        assert_eq!(set.check(), Ok(()));
        set.function[0].pages.zero = 0.3;
        assert!(matches!(set.check(), Err(ProfileError::Shares { .. })));
        set.function[0].pages.zero = -0.1;
        assert!(set.check().unwrap_err().to_string().contains("pages.zero"));
    }
}
