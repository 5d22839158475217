//! What is counted on one function's dumps.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Instant;

use medes_engine::dedup::file::{BLOCK, DedupFile};
use medes_engine::dedup::fingerprint::{Fingerprinter, Sampling};
use medes_engine::dedup::image::{Image, MappingKind};
use medes_engine::dedup::pack::{BUDGET_NS, BaseSet, Coding, Options, pack};
use medes_engine::dedup::patch::bytediff::Differ;
use medes_engine::dedup::patch::{Codecs, Method};
use medes_engine::dedup::{Page, ZERO_PAGE, checksum, zero};
use medes_engine::profile::{EditedPages, Found, PageShares};
use medes_engine::units::PAGE_BYTES;

use super::super::SearchArgs;

/// Numbers of chunks at which shares found are measured.
pub(super) const KS: [u32; 7] = [1, 2, 5, 10, 20, 40, 64];
/// Five of them.
const AT_FIVE: usize = 2;
/// Groups of edited pages, by bytes that differ and two for each run: upper ends.
const GROUPS: [u32; 8] = [16, 48, 128, 256, 512, 1024, 2048, u32::MAX];
/// Page pairs on which codecs are tried.
const TRIED: usize = 3000;

/// Checksums of an image's pages.
pub(super) type PageSet = BTreeSet<u64>;

/// The pages of an image that are not zero.
pub(super) fn page_set(image: &Image) -> PageSet {
    image.iter().filter(|p| !zero::is_zero(p)).map(checksum).collect()
}

/// A page pair.
pub(super) struct Sample {
    pub(super) sites: f64,
    pub(super) bytes: f64,
    /// Patch size by codec.
    pub(super) patch: BTreeMap<&'static str, f64>,
}

/// Everything measured on one function.
pub(super) struct Measured {
    pub(super) pages: PageShares,
    pub(super) edits: Vec<EditedPages>,
    pub(super) compressed: BTreeMap<String, f64>,
    /// Of pages without a base page at five chunks, relative to them.
    pub(super) unmatched: BTreeMap<String, f64>,
    pub(super) advantage: f64,
    pub(super) samples: Vec<Sample>,
    pub(super) encode_us: BTreeMap<&'static str, f64>,
    pub(super) decode_us: BTreeMap<&'static str, f64>,
    pub(super) fingerprint_page_us: f64,
    pub(super) fingerprint_chunk_us: f64,
    pub(super) lookup_chunk_us: f64,
    pub(super) copy_page_us: f64,
    pub(super) run_pages: f64,
    pub(super) runtime: String,
    pub(super) libraries: Vec<String>,
}

/// What one number of chunks made of a page.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Same,
    Edited { sites: u32, bytes: u32, base: u32 },
    None,
}

/// Measures `image` against `base`; `others` are the pages of other functions' bases.
pub(super) fn measure(
    base: &Image,
    image: &Image,
    others: &[&PageSet],
    search: &SearchArgs,
) -> anyhow::Result<Measured> {
    let mut states: Vec<[State; KS.len()]> = vec![[State::None; KS.len()]; image.pages() as usize];
    let (mut advantage, mut run_pages) = (0.0, 1.0);
    let mut pairs: Vec<(u64, Page)> = Vec::new();
    let mut auto = Auto::default();
    for (i, k) in KS.into_iter().enumerate() {
        let set = search.bases(Sampling::ValueSampled, k, std::slice::from_ref(base))?;
        let options = Options {
            choose: search.choose(),
            coding: Coding::One(Method::ByteDiff),
            patch_threshold: PAGE_BYTES as u32,
            threads: search.threads,
        };
        let started = Instant::now();
        let packed = pack(image, &set, &options)?;
        let differences_us = started.elapsed().as_secs_f64() * 1e6;
        let file = DedupFile::open(image.name(), &packed.file)?;
        let mut runs = 0u64;
        for block in 0..file.blocks() {
            let (entries, _) = file.block(block)?;
            let mut last = None;
            for (j, e) in entries.iter().enumerate() {
                let n = (block * BLOCK + j) as u64;
                runs += u64::from(e.method.needs_base() && last != Some(e.base.1.wrapping_sub(1)));
                last = e.method.needs_base().then_some(e.base.1);
                let state = match e.method {
                    Method::Identical => State::Same,
                    Method::ByteDiff => {
                        let (Some(page), Some(of_base)) = (image.page(n), base.page(e.base.1.into())) else { continue };
                        let mut moved = *of_base;
                        if let Some(relocation) = file.relocation(e.base.0, e.base.1) {
                            relocation.apply(&mut moved);
                        }
                        let d = Differ::default().distance(page, &moved);
                        if k == 5 {
                            pairs.push((n, moved));
                        }
                        State::Edited { sites: d.runs, bytes: d.bytes, base: e.base.1 }
                    }
                    _ => State::None,
                };
                states[n as usize][i] = state;
            }
        }
        if k == 5 {
            advantage = packed.report.saved();
            run_pages = packed.report.referring as f64 / (runs as f64).max(1.0);
            auto = Auto::measure(image, &set, &options, differences_us)?;
        }
    }
    let (pages, edits) = classes(image, &states, others);
    let mut out = Measured {
        pages,
        edits,
        compressed: BTreeMap::new(),
        unmatched: BTreeMap::new(),
        advantage,
        samples: Vec::new(),
        encode_us: BTreeMap::new(),
        decode_us: BTreeMap::new(),
        fingerprint_page_us: 0.0,
        fingerprint_chunk_us: 0.0,
        lookup_chunk_us: 0.0,
        copy_page_us: 0.0,
        run_pages,
        runtime: runtime(image),
        libraries: libraries(image),
    };
    let unmatched: Vec<bool> = states.iter().map(|s| s[AT_FIVE] == State::None).collect();
    codecs(image, &pairs, &unmatched, &auto, &mut out);
    times(base, image, search, &mut out)?;
    Ok(out)
}

/// What `auto` does with its default budget: of how many bytes are the pages' patches, by which method, and what it takes beyond byte differences.
#[derive(Default)]
struct Auto {
    pages: Vec<(Method, u32)>,
    more_us: f64,
}

impl Auto {
    fn measure(image: &Image, set: &BaseSet, options: &Options, differences_us: f64) -> anyhow::Result<Self> {
        let options = Options { coding: Coding::Auto { budget_ns: Some(BUDGET_NS) }, ..*options };
        let started = Instant::now();
        let packed = pack(image, set, &options)?;
        let took = started.elapsed().as_secs_f64() * 1e6;
        let file = DedupFile::open(image.name(), &packed.file)?;
        let mut pages = Vec::new();
        for block in 0..file.blocks() {
            pages.extend(file.block(block)?.0.iter().map(|e| (e.method, e.length)));
        }
        let written = pages.iter().filter(|(m, _)| !matches!(m, Method::Zero | Method::Identical)).count();
        Ok(Self { pages, more_us: (took - differences_us).max(0.0) / (written as f64).max(1.0) })
    }
}

/// Sorts the pages into classes.
fn classes(image: &Image, states: &[[State; KS.len()]], others: &[&PageSet]) -> (PageShares, Vec<EditedPages>) {
    let all = image.pages() as f64;
    let mut shares = PageShares::default();
    #[derive(Default, Clone)]
    struct Group {
        pages: f64,
        found: [f64; KS.len()],
        sites: f64,
        bytes: f64,
        pairs: f64,
    }
    let mut groups = vec![Group::default(); GROUPS.len()];
    for (page, states) in image.iter().zip(states) {
        if zero::is_zero(page) {
            shares.zero += 1.0;
            continue;
        }
        if states.iter().all(|s| *s == State::Same) {
            let sum = checksum(page);
            let having = others.iter().filter(|set| set.contains(&sum)).count();
            if having > 0 && having == others.len() {
                shares.runtime += 1.0;
            } else if having > 0 {
                shares.library += 1.0;
            } else {
                shares.stable += 1.0;
            }
            continue;
        }
        // Where it is found and the same, the patch has no edits.
        let edits: Vec<(u32, u32)> = states
            .iter()
            .filter_map(|s| match s {
                State::Same => Some((0, 0)),
                State::Edited { sites, bytes, .. } => Some((*sites, *bytes)),
                State::None => None,
            })
            .collect();
        if edits.is_empty() {
            shares.unique += 1.0;
            continue;
        }
        let size = edits.iter().map(|(s, b)| 2 * s + b).sum::<u32>() / edits.len() as u32;
        let group = &mut groups[GROUPS.iter().position(|end| size <= *end).unwrap_or(GROUPS.len() - 1)];
        group.pages += 1.0;
        for (found, state) in group.found.iter_mut().zip(states) {
            *found += f64::from(u8::from(*state != State::None));
        }
        for (s, b) in edits {
            group.sites += f64::from(s);
            group.bytes += f64::from(b);
            group.pairs += 1.0;
        }
    }
    let round = |v: f64| (v * 1e6).round() / 1e6;
    let edits: Vec<EditedPages> = groups
        .iter()
        .filter(|g| g.pages > 0.0)
        .map(|g| EditedPages {
            share: round(g.pages / all),
            sites: super::round(g.sites / g.pairs, 2),
            bytes: super::round(g.bytes / g.pairs, 2),
            found: KS
                .iter()
                .zip(g.found)
                .map(|(k, n)| Found { chunks: *k, share: super::round(n / g.pages, 4) })
                .collect(),
        })
        .collect();
    for share in [&mut shares.zero, &mut shares.runtime, &mut shares.library, &mut shares.stable, &mut shares.unique] {
        *share = round(*share / all);
    }
    (shares, edits)
}

/// Sizes and times of the codecs, on page pairs spread evenly over the image.
fn codecs(image: &Image, pairs: &[(u64, Page)], unmatched: &[bool], auto: &Auto, out: &mut Measured) {
    let mut codecs = Codecs::default();
    let mut buffer = Vec::new();
    let step = (pairs.len() / TRIED).max(1);
    let mut spent: BTreeMap<&'static str, (f64, f64, f64)> = BTreeMap::new();
    for (n, base) in pairs.iter().step_by(step) {
        let Some(page) = image.page(*n) else { continue };
        let d = Differ::default().distance(page, base);
        let mut sample = Sample { sites: d.runs.into(), bytes: d.bytes.into(), patch: BTreeMap::new() };
        let Some((chosen, length)) = auto.pages.get(*n as usize).copied() else { continue };
        let (mut difference, mut decode) = (0.0, 0.0);
        for method in Method::CODING {
            buffer.clear();
            let started = Instant::now();
            let done = codecs.encode(method, page, Some(base), PAGE_BYTES, &mut buffer);
            let encoded = started.elapsed().as_secs_f64() * 1e6;
            let size = if done { buffer.len() } else { PAGE_BYTES };
            let started = Instant::now();
            let mut back = ZERO_PAGE;
            if done {
                let _ = black_box(codecs.decode(method, &buffer, Some(base), &mut back));
            }
            let decoded = started.elapsed().as_secs_f64() * 1e6;
            let sum = spent.entry(method.name()).or_default();
            *sum = (sum.0 + 1.0, sum.1 + encoded, sum.2 + decoded);
            sample.patch.insert(method.name(), size as f64);
            if method == Method::ByteDiff {
                difference = encoded;
            }
            if method == chosen {
                decode = decoded;
            }
        }
        sample.patch.insert("auto", length.into());
        let sum = spent.entry("auto").or_default();
        *sum = (sum.0 + 1.0, sum.1 + difference + auto.more_us, sum.2 + decode);
        out.samples.push(sample);
    }
    for (name, (n, encode, decode)) in spent {
        out.encode_us.insert(name, encode / n);
        out.decode_us.insert(name, decode / n);
    }
    for method in [Method::Zstd, Method::Lz4] {
        let (mut all, mut left, mut pages) = (0, 0, 0);
        for (page, unmatched) in image.iter().zip(unmatched).filter(|(p, _)| !zero::is_zero(p)) {
            buffer.clear();
            let done = codecs.encode(method, page, None, PAGE_BYTES, &mut buffer);
            let bytes = if done { buffer.len() } else { PAGE_BYTES };
            all += bytes;
            if *unmatched {
                left += bytes;
                pages += 1;
            }
        }
        out.compressed.insert(method.name().into(), super::round(all as f64 / image.bytes() as f64, 4));
        if pages > 0 {
            let ratio = left as f64 / f64::from(pages) / PAGE_BYTES as f64;
            out.unmatched.insert(method.name().into(), super::round(ratio, 4));
        }
    }
}

/// Times of fingerprints, lookups and copies.
fn times(base: &Image, image: &Image, search: &SearchArgs, out: &mut Measured) -> anyhow::Result<()> {
    let pages = image.pages() as f64;
    let fingerprint = |chunks: u32| -> anyhow::Result<(f64, Vec<u64>)> {
        let fingerprinter = Fingerprinter::new(Sampling::ValueSampled, chunks, search.hash())?;
        let mut hashes = Vec::new();
        let started = Instant::now();
        for page in image.iter() {
            fingerprinter.page(page, &mut hashes);
        }
        Ok((started.elapsed().as_secs_f64() * 1e6 / pages, hashes))
    };
    let (few, hashes) = fingerprint(5)?;
    let (many, _) = fingerprint(40)?;
    out.fingerprint_chunk_us = ((many - few) / 35.0).max(0.0);
    out.fingerprint_page_us = (few - 5.0 * out.fingerprint_chunk_us).max(0.0);
    let set = search.bases(Sampling::ValueSampled, 5, std::slice::from_ref(base))?;
    let started = Instant::now();
    let mut hits = 0u64;
    set.index().lookup(&hashes, |_, _| hits += 1);
    black_box(hits);
    out.lookup_chunk_us = started.elapsed().as_secs_f64() * 1e6 / hashes.len() as f64;
    let mut to = ZERO_PAGE;
    let started = Instant::now();
    for page in image.iter() {
        to = *page;
        black_box(&to);
    }
    black_box(to);
    out.copy_page_us = started.elapsed().as_secs_f64() * 1e6 / pages;
    Ok(())
}

/// Name of the program that the first process runs.
fn runtime(image: &Image) -> String {
    let exe = image.mappings().iter().find(|m| m.kind == MappingKind::File && !m.path.is_empty());
    let name = exe.and_then(|m| m.path.rsplit('/').next()).unwrap_or_default();
    if name.is_empty() { "unknown".into() } else { name.into() }
}

/// Python packages of which libraries are mapped.
fn libraries(image: &Image) -> Vec<String> {
    let package = |path: &str| {
        let (_, rest) = path.split_once("site-packages/")?;
        let name = rest.split('/').next()?.trim_end_matches(".libs").trim_start_matches('_');
        Some(name.split('.').next()?.to_string()).filter(|n| !n.is_empty())
    };
    let found: BTreeSet<String> = image.mappings().iter().filter_map(|m| package(&m.path)).collect();
    found.into_iter().collect()
}
