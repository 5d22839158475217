//! What was measured on real sandboxes: redundancy, deduplication, start times. Behind the figures that need real memory.
//!
//! Either measured now on dumps (`medes figures --dumps DIR`), or read from `config/sandboxes.toml`, which is the same,
//! measured once and kept (`--keep FILE`), with its origin in its head.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use medes_engine::dedup::file::{BLOCK, DedupFile};
use medes_engine::dedup::fingerprint::{Fingerprinter, HashKind, Sampling};
use medes_engine::dedup::image::Image;
use medes_engine::dedup::pack::{BaseSet, Choose, Coding, Options, pack};
use medes_engine::dedup::patch::Method;
use medes_engine::dedup::scan::{ChunkIndex, SIZES, redundancy, sampled};
use medes_engine::dedup::turns::Turns;
use medes_engine::dedup::unpack::{LocalBases, UnpackError, unpack_blocks};
use medes_engine::dedup::{Page, ZERO_PAGE};
use serde::{Deserialize, Serialize};

/// The set that is built in.
const SHIPPED: &str = include_str!("../../../config/sandboxes.toml");

/// Times of passes over an image are the least of this many: the others were disturbed.
const PASSES: usize = 5;

/// Everything measured, with address randomisation off and, where there are such dumps, on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sandboxes {
    /// Machine, kernel, CRIU, date.
    pub origin: String,
    /// Where start times come from; empty if none were measured.
    pub starts_origin: String,
    /// Address randomisation off.
    pub fixed: Vec<Sandbox>,
    /// Address randomisation on.
    #[serde(default)]
    pub random: Vec<Sandbox>,
}

/// One function's sandboxes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// Name of the function.
    pub name: String,
    /// Size of its dump, MB.
    pub dump_mb: f64,
    /// Share of the second instance's bytes that the first has, by chunk size in bytes.
    pub within: BTreeMap<String, f64>,
    /// Share of its bytes that each function's first instance has (64-byte chunks every 128 bytes, extended).
    pub found_in: BTreeMap<String, f64>,
    /// Its second instance deduplicated as the paper does, against the first ones of all functions.
    pub dedup: Deduplicated,
    /// Start times, where measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts: Option<Starts>,
}

/// What deduplication as in the paper makes of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deduplicated {
    /// Share of the dump that is saved.
    pub saved: f64,
    /// Mean patch, B.
    pub patch_bytes: f64,
    /// Shares of its pages: zeros; with a base page of the same function; of another; kept whole.
    pub zero: f64,
    /// Base page of the same function.
    pub own: f64,
    /// Base page of another function.
    pub other: f64,
    /// Kept whole.
    pub whole: f64,
    /// Fingerprints, lookup and patches, ms, one thread, without the checkpoint.
    pub encode_ms: f64,
    /// Fingerprints of all its pages as a base, ms, one thread, without the checkpoint.
    pub base_ms: f64,
    /// Reading its base pages from memory of the same machine, ms.
    pub read_ms: f64,
    /// Rebuilding and verifying its pages, ms, one thread.
    pub compute_ms: f64,
}

/// Medians measured by `medes measure --starts`, ms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Starts {
    /// Process started and function loaded.
    pub cold_ms: f64,
    /// A warm sandbox answers.
    pub warm_run_ms: f64,
    /// A checkpoint while the sandbox goes on.
    pub base_op_ms: f64,
    /// A checkpoint that ends it.
    pub dump_ms: f64,
    /// CRIU restores it whole.
    pub restore_ms: f64,
    /// The restored sandbox answers for the first time.
    pub restored_run_ms: f64,
    /// A start from a held process, in the same rounds, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<DedupStart>,
}

/// A dedup start: base pages read over TCP from another node of the machine, pages pushed into a held process that then goes on. Medians, ms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DedupStart {
    /// From the decision until the function can run.
    pub start_ms: f64,
    /// Of that, reading base pages.
    pub read_ms: f64,
    /// Of that, computing the original pages.
    pub compute_ms: f64,
    /// Of that, letting the process go on.
    pub resume_ms: f64,
}

impl Sandbox {
    /// Base page reading, original page computing and sandbox restoration of a dedup start, ms: as measured in one; else of the dump's pages on one
    /// thread, and a whole restore by CRIU. Nothing where no start times were measured.
    pub fn dedup_start(&self) -> Option<[f64; 3]> {
        let starts = self.starts.as_ref()?;
        Some(match &starts.dedup {
            Some(d) => [d.read_ms, d.compute_ms, d.resume_ms],
            None => [self.dedup.read_ms, self.dedup.compute_ms, starts.restore_ms],
        })
    }
}

impl Sandboxes {
    /// The set that is built in.
    pub fn shipped() -> anyhow::Result<Self> {
        toml::from_str(SHIPPED).context("config/sandboxes.toml")
    }

    /// Measures the dumps under `dumps`, as scripts/make-dumps lays them out: `noaslr` and `aslr`, in each a folder a
    /// function with folders `0` and `1`; start times from `starts.csv`, where `medes measure --starts` wrote it.
    ///
    /// # Errors
    /// No dumps there, or dumps that cannot be read, by name.
    pub fn measure(dumps: &Path, say: &dyn Fn(&str)) -> anyhow::Result<Self> {
        let (starts, starts_origin) = starts(&dumps.join("starts.csv"))?;
        let fixed = measure_set(&dumps.join("noaslr"), &starts, say)?;
        let random = if dumps.join("aslr").is_dir() {
            measure_set(&dumps.join("aslr"), &BTreeMap::new(), say)?
        } else {
            Vec::new()
        };
        if fixed.is_empty() && random.is_empty() {
            let d = dumps.display();
            bail!(
                "no function with two dumps (FUNCTION/0 and FUNCTION/1) in {d}/noaslr or {d}/aslr: scripts/make-dumps {d} makes them"
            );
        }
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let newest = std::fs::metadata(dumps.join("noaslr")).and_then(|m| m.modified()).ok();
        let date = newest.map_or("of unknown date".to_owned(), day);
        let origin = format!(
            "dumps of two instances a function by scripts/make-dumps, made {date}; measured by medes {} ({}) on Linux {}",
            env!("CARGO_PKG_VERSION"),
            crate::VERSION,
            kernel.trim()
        );
        Ok(Self { origin, starts_origin, fixed, random })
    }

    /// Takes start times from the set that is built in, where none were measured on these dumps; their origin says so.
    /// Returns whether it did.
    ///
    /// # Errors
    /// The built-in set cannot be read: a test proves that it can.
    pub fn borrow_starts(&mut self) -> anyhow::Result<bool> {
        if self.fixed.iter().any(|f| f.starts.is_some()) {
            return Ok(false);
        }
        let shipped = Self::shipped()?;
        for f in &mut self.fixed {
            f.starts = shipped.fixed.iter().find(|s| s.name == f.name).and_then(|s| s.starts.clone());
        }
        let any = self.fixed.iter().any(|f| f.starts.is_some());
        if any {
            self.starts_origin = format!("config/sandboxes.toml, not of these dumps ({})", shipped.starts_origin);
        }
        Ok(any)
    }

    /// Writes the set so that it can be read in place of the dumps.
    pub fn keep(&self, path: &Path) -> anyhow::Result<()> {
        let text = format!(
            "# Redundancy, deduplication and start times of real sandboxes, behind the figures that need real memory.\n\
             # Memory: {}.\n# Start times: {}.\n\
             # Written by `medes figures --dumps DUMPS --keep FILE`, after scripts/make-dumps DUMPS and medes measure --starts DUMPS/starts.csv.\n{}",
            self.origin,
            if self.starts_origin.is_empty() { "none" } else { &self.starts_origin },
            toml::to_string(self)?
        );
        crate::store::write_whole(path, text.as_bytes())
    }
}

/// The day of a file's time, as 2026-11-24 (civil calendar from days, after Hinnant).
fn day(time: std::time::SystemTime) -> String {
    let seconds = time.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let z = (seconds / 86_400) as i64 + 719_468;
    let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    format!("{}-{month:02}-{day:02}", year_of_era + era * 400 + i64::from(month <= 2))
}

fn starts(path: &Path) -> anyhow::Result<(BTreeMap<String, Starts>, String)> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok((BTreeMap::new(), String::new())) };
    let origin = text.lines().next().unwrap_or_default().trim_start_matches(['#', ' ']).to_owned();
    let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
    let mut out = BTreeMap::new();
    for row in reader.deserialize::<BTreeMap<String, String>>() {
        let row = row.with_context(|| format!("cannot read {}", path.display()))?;
        let number = |column: &str| -> anyhow::Result<f64> {
            let text = row.get(column).with_context(|| format!("{}: no column `{column}`", path.display()))?;
            text.parse().with_context(|| format!("{}: `{text}` in column `{column}` is not a number", path.display()))
        };
        let starts = Starts {
            cold_ms: number("cold_ms")?,
            warm_run_ms: number("warm_run_ms")?,
            base_op_ms: number("base_op_ms")?,
            dump_ms: number("dump_ms")?,
            restore_ms: number("restore_ms")?,
            restored_run_ms: number("restored_run_ms")?,
            dedup: match row.contains_key("dedup_start_ms") {
                true => Some(DedupStart {
                    start_ms: number("dedup_start_ms")?,
                    read_ms: number("dedup_read_ms")?,
                    compute_ms: number("dedup_compute_ms")?,
                    resume_ms: number("dedup_resume_ms")?,
                }),
                false => None,
            },
        };
        out.insert(row.get("function").cloned().unwrap_or_default(), starts);
    }
    Ok((out, origin))
}

/// The functions in the paper's order, then others by name.
fn functions(folder: &Path) -> Vec<String> {
    const PAPER: [&str; 10] = [
        "vanilla",
        "linalg",
        "imagepro",
        "videopro",
        "mapreduce",
        "htmlserve",
        "authenc",
        "featuregen",
        "rnnmodel",
        "modeltrain",
    ];
    let listed = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = listed
        .filter(|f| f.path().join("0").is_dir() && f.path().join("1").is_dir())
        .map(|f| f.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_by_key(|n| (PAPER.iter().position(|p| p == n).unwrap_or(PAPER.len()), n.clone()));
    names
}

fn measure_set(folder: &Path, starts: &BTreeMap<String, Starts>, say: &dyn Fn(&str)) -> anyhow::Result<Vec<Sandbox>> {
    let names = functions(folder);
    let open = |name: &String, instance: &str| {
        let path = folder.join(name).join(instance);
        Image::open(&path).with_context(|| format!("cannot read the dump {}", path.display()))
    };
    let firsts: Vec<Image> = names.iter().map(|n| open(n, "0")).collect::<anyhow::Result<_>>()?;
    let mut bases = BaseSet::new(Fingerprinter::new(Sampling::ValueSampled, 5, HashKind::Sha1)?, false);
    let mut base_ms = Vec::new();
    for image in &firsts {
        let began = std::time::Instant::now();
        bases.add(image.clone(), 1)?;
        base_ms.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let mut out: Vec<Sandbox> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        say(&format!("measuring {}/{name}", folder.display()));
        let second = open(name, "1")?;
        let within = SIZES.iter().map(|size| {
            let index = ChunkIndex::new(&firsts[at], *size);
            (size.to_string(), round(redundancy(&index, &second).redundant()))
        });
        out.push(Sandbox {
            name: name.clone(),
            dump_mb: round(second.bytes() as f64 / 1e6),
            within: within.collect(),
            found_in: BTreeMap::new(),
            dedup: deduplicated(&second, &firsts, &bases, at, base_ms[at])?,
            starts: starts.get(name).cloned(),
        });
    }
    for (at, base) in names.iter().enumerate() {
        let index = ChunkIndex::new(&firsts[at], SIZES[0]);
        for (i, sandbox) in out.iter_mut().enumerate() {
            let share = if i == at { sampled(&index, &open(base, "1")?) } else { sampled(&index, &firsts[i]) };
            sandbox.found_in.insert(base.clone(), round(share.redundant()));
        }
    }
    Ok(out)
}

fn deduplicated(
    image: &Image,
    firsts: &[Image],
    bases: &BaseSet,
    own: usize,
    base_ms: f64,
) -> anyhow::Result<Deduplicated> {
    let options = Options {
        choose: Choose::Reference(Default::default()),
        coding: Coding::One(Method::Xdelta3),
        patch_threshold: 4096,
        threads: 1,
    };
    let began = std::time::Instant::now();
    let packed = pack(image, bases, &options)?;
    let encode_ms = began.elapsed().as_secs_f64() * 1e3;
    let file = DedupFile::open(image.name(), &packed.file)?;
    let given = LocalBases::matching(&file, firsts)?;
    let own_digest = bases.bases()[own].digest;
    let (mut zero, mut of_own, mut of_other, mut whole) = (0u64, 0u64, 0u64, 0u64);
    let mut read: Vec<(usize, u32)> = Vec::new();
    let positions: Vec<usize> = file
        .manifest()
        .bases
        .iter()
        .map(|b| bases.bases().iter().position(|known| known.digest == b.digest).unwrap_or(own))
        .collect();
    for block in 0..file.blocks() {
        let (entries, _) = file.block(block)?;
        for entry in entries.iter().take(BLOCK) {
            if entry.method.needs_base() {
                let position = positions[entry.base.0 as usize];
                let same = bases.bases()[position].digest == own_digest;
                *(if same { &mut of_own } else { &mut of_other }) += 1;
                read.push((position, entry.base.1));
            } else if entry.method == Method::Zero {
                zero += 1;
            } else {
                whole += 1;
            }
        }
    }
    let pages = (image.pages() as f64).max(1.0);
    let share = |n: u64| round(n as f64 / pages);
    read.sort_unstable();
    let mut copies: Vec<Page> = vec![ZERO_PAGE; read.len()];
    let read_ms = least(|| {
        for (copy, (base, page)) in copies.iter_mut().zip(&read) {
            if let Some(content) = bases.bases()[*base].image().and_then(|i| i.page((*page).into())) {
                copy.copy_from_slice(content);
            }
        }
        std::hint::black_box(&copies);
        Ok(())
    })?;
    let rebuild_ms = least(|| {
        unpack_blocks(&file, &given, 1, &Turns::in_order(&file), |_, pages| {
            std::hint::black_box(pages);
            Ok::<(), UnpackError>(())
        })?;
        Ok(())
    })?;
    Ok(Deduplicated {
        saved: round(packed.report.saved()),
        patch_bytes: round(packed.report.mean_patch()),
        zero: share(zero),
        own: share(of_own),
        other: share(of_other),
        whole: share(whole),
        encode_ms: round(encode_ms),
        base_ms: round(base_ms),
        read_ms: round(read_ms),
        // Rebuilding takes base pages where they lie, so the copy is no part of it.
        compute_ms: round(rebuild_ms),
    })
}

/// The least time of some passes, ms.
fn least(mut pass: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..PASSES {
        let began = std::time::Instant::now();
        pass()?;
        least = least.min(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(least)
}

/// To four decimal places.
fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_set_is_whole_and_says_where_it_is_from() {
        let set = Sandboxes::shipped().unwrap();
        assert!(set.origin.contains("scripts/make-dumps") && set.starts_origin.contains("CRIU"), "{}", set.origin);
        for functions in [&set.fixed, &set.random] {
            assert_eq!(functions.len(), 10);
            for f in functions {
                let d = &f.dedup;
                assert!((d.zero + d.own + d.other + d.whole - 1.0).abs() < 1e-3, "{}", f.name);
                assert_eq!((f.within.len(), f.found_in.len()), (SIZES.len(), 10), "{}", f.name);
            }
        }
        assert!(set.fixed.iter().all(|f| f.starts.is_some()));
    }

    #[test]
    fn start_times_are_borrowed_only_where_there_are_none() {
        let mut set = Sandboxes::shipped().unwrap();
        assert!(!set.borrow_starts().unwrap());
        let measured = set.clone();
        set.fixed.iter_mut().for_each(|f| f.starts = None);
        set.fixed[0].name = "mine".into();
        assert!(set.borrow_starts().unwrap() && set.fixed[0].starts.is_none());
        assert_eq!(set.fixed[1].starts, measured.fixed[1].starts);
        assert!(set.starts_origin.contains("not of these dumps"), "{}", set.starts_origin);
    }

    #[test]
    fn days_are_civil() {
        let at = |days: u64| day(std::time::UNIX_EPOCH + std::time::Duration::from_secs(days * 86_400 + 5));
        assert_eq!(
            (at(0).as_str(), at(11_016).as_str(), at(20_781).as_str()),
            ("1970-01-01", "2000-02-29", "2026-11-24")
        );
    }
}
