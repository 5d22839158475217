//! A whole image against a set of bases.
//!
//! Three passes over the pages, the first and the last by several threads:
//!
//! 1. *Search.* Pages of zeros, and pages equal to the page at the same place of a base, are settled. Of the others the
//!    fingerprint is taken and looked up, and the best few base pages are kept.
//! 2. *Learn.* Where the addresses of image and base differ, the shifts of pointers are corrected by what was found
//!    ([`Alignment::learn`]).
//! 3. *Encode.* For each page the candidates, relocated, are compared with it; against the nearest one (or, by
//!    [`Choose`], the one that votes or the reference's score name) it is written by the codec asked for.
//!
//! With [`Coding::Auto`] a page is written by the smallest of the methods tried on it. Every page has its byte difference first. A budget
//! is what may be spent beyond that; in a block it goes to the pages that take most, which are tried with zstd after the base page and
//! alone. It is counted in nominal time ([`Method::cost_ns`]), so that the outcome does not depend on the machine or the number of
//! threads. Without one, all methods are tried that could still be the smallest.
//!
//! Whatever the budget, the file is never larger than by any one method alone: that is proved for each image (`certify`), by trying
//! methods on more pages until it holds. Where what the references to base pages take might still decide, the image is packed by
//! the one method too, and the smaller file kept.

mod base;
mod certify;
mod draft;
mod encode;

pub use base::{
    AddBaseError, BATCH, Base, BaseSet, BaseSource, Candidates, Findings, Fingerprints, digest, fingerprints,
};

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use super::choose::Weights;
use super::file::{self, Attachment, BLOCK, BaseEntry, Manifest, MoveEntry, PagesEntry};
use super::image::{Image, ImageError};
use super::layout::{Alignment, Layout};
use super::patch::Method;
use super::unpack::{FetchError, Run};
use super::zero;
use crate::units::PAGE_BYTES;
use prost::Message;

use draft::BlockOut;
use encode::Encoder;

/// How a base page is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choose {
    /// The reference's score (see [`super::choose::reference`]).
    Reference(Weights),
    /// The most votes.
    Votes,
    /// The nearest, byte for byte, of the three with the most votes and the pages at the same place.
    #[default]
    Nearest,
    /// Of all pages found and those at the same place the one with the smallest patch: the best possible,
    /// for comparison.
    Best,
}

impl Choose {
    /// The name in tables and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reference(_) => "reference",
            Self::Votes => "votes",
            Self::Nearest => "nearest",
            Self::Best => "best",
        }
    }
}

/// How pages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coding {
    /// By this method where it applies and gains, else whole. Pages of zeros and identical pages are always
    /// stored as such.
    One(Method),
    /// By the method that gives the smallest.
    Auto {
        /// Nominal time for a page on average, ns, beyond what is needed to store no more than any one method; `None` for all that may
        /// gain.
        budget_ns: Option<u32>,
    },
}

impl Coding {
    /// The name in tables and on the command line.
    pub fn name(self) -> String {
        match self {
            Self::One(method) => method.name().into(),
            Self::Auto { budget_ns: None } => "auto".into(),
            Self::Auto { budget_ns: Some(ns) } => format!("auto:{}us", f64::from(ns) / 1e3),
        }
    }
}

/// The default budget: where addresses are the same, more saves nothing; where they are not, four times as much saves another hundredth of the
/// bytes stored (docs/performance.md).
pub const BUDGET_NS: u32 = 1_000;

/// How to pack.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// How a base page is chosen.
    pub choose: Choose,
    /// How pages are written.
    pub coding: Coding,
    /// A patch of more bytes is not used (`patchthreshold`).
    pub patch_threshold: u32,
    /// Threads; 0 counts as 1.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            choose: Choose::default(),
            coding: Coding::Auto { budget_ns: Some(BUDGET_NS) },
            patch_threshold: PAGE_BYTES as u32,
            threads: 1,
        }
    }
}

/// Pages and bytes of one method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Pages stored by it.
    pub pages: u64,
    /// Bytes of their patches.
    pub bytes: u64,
}

/// What became of an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Pages of the image.
    pub pages: u64,
    /// Bytes of the image's pages.
    pub image_bytes: u64,
    /// Bytes of the dedup file.
    pub file_bytes: u64,
    /// Of those, patches.
    pub patch_bytes: u64,
    /// Of those, the page tables.
    pub table_bytes: u64,
    /// Pages and bytes by method.
    pub methods: BTreeMap<&'static str, Part>,
    /// Pages for which some base page was found by fingerprint or place.
    pub matched: u64,
    /// Pages that refer to a base page.
    pub referring: u64,
    /// Pages that refer to a base page at the same place.
    pub placed: u64,
    /// Pages stored against each base, in the order of the set.
    pub by_base: Vec<u64>,
    /// Entries in the tables of pointers' shifts, all bases together.
    pub shifts: u64,
    /// Bytes that bases and shifts take in the file's manifest, before it is compressed.
    pub reference_bytes: u64,
    /// Pages for which the budget did not reach all methods.
    pub cut_short: u64,
}

impl Report {
    /// What deduplication saves: the part of the image's bytes that neither patches nor tables take.
    pub fn saved(&self) -> f64 {
        1.0 - (self.patch_bytes + self.table_bytes) as f64 / (self.image_bytes as f64).max(1.0)
    }

    /// Bytes saved, as [`Report::saved`].
    pub fn saved_bytes(&self) -> i64 {
        self.image_bytes.cast_signed() - (self.patch_bytes + self.table_bytes).cast_signed()
    }

    /// Mean size of the patches against base pages that are not identical, bytes; 0 without any.
    pub fn mean_patch(&self) -> f64 {
        let coded = [Method::ByteDiff, Method::ZstdPrefix, Method::Xdelta3];
        let parts = coded.iter().filter_map(|m| self.methods.get(m.name()));
        let (pages, bytes) = parts.fold((0, 0), |(p, b), part| (p + part.pages, b + part.bytes));
        if pages == 0 { 0.0 } else { bytes as f64 / pages as f64 }
    }
}

/// An image in little.
pub struct Packed {
    /// The dedup file.
    pub file: Vec<u8>,
    /// What became of the pages.
    pub report: Report,
}

/// Base pages found for one page.
#[derive(Clone, Copy, Default)]
struct Found {
    best: Candidates,
    /// The first of them is the page at the same place and near; nothing was searched.
    near: bool,
}

/// Why an image could not be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The image's other files cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Base pages cannot be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// Packs an image against bases.
///
/// # Errors
/// If the image's other files or base pages on other nodes cannot be read.
pub fn pack(image: &Image, bases: &BaseSet, options: &Options) -> Result<Packed, PackError> {
    let attachments = attachments(image)?;
    let layout = Layout::of(image);
    let mut alignments: Vec<Alignment> =
        bases.bases().iter().map(|b| Alignment::new(image, &layout, &b.layout, bases.relocates())).collect();
    let blocks = (image.pages() as usize).div_ceil(BLOCK);
    let need_place = matches!(options.choose, Choose::Nearest | Choose::Best);
    let codes_alone = matches!(options.coding, Coding::One(m) if !m.needs_base());

    let mut found = Vec::new();
    let still = alignments.iter().all(Alignment::is_still);
    if !codes_alone && !bases.bases().is_empty() && need_place && !still {
        found = each(
            blocks,
            options.threads,
            || Encoder::new(image, &layout, bases, &alignments, options),
            |encoder, i| encoder.survey(i),
        );
        let mut pairs: Vec<Vec<(u64, u32)>> = vec![Vec::new(); alignments.len()];
        for (i, block) in found.iter().enumerate() {
            for (j, f) in block.iter().enumerate() {
                if let Some(best) = f.best[0]
                    && let Some(list) = bases.position(best.base).and_then(|b| pairs.get_mut(b))
                {
                    list.push(((i * BLOCK + j) as u64, best.page));
                }
            }
        }
        for ((alignment, base), pairs) in alignments.iter_mut().zip(bases.bases()).zip(&pairs) {
            alignment.learn(pairs, image, &layout, &base.layout);
        }
    }
    let alignments = &alignments;
    if let Some(source) = bases.source().filter(|_| !codes_alone) {
        source.fetch(&wanted(image, bases, if need_place { alignments } else { &[] }))?;
    }
    let threads = options.threads.clamp(1, blocks.max(1));
    let mut pool: Vec<Encoder<'_>> =
        (0..threads).map(|_| Encoder::new(image, &layout, bases, alignments, options)).collect();
    let mut out = each_with(&mut pool, blocks, |encoder, i| encoder.block(i, found.get(i).map(Vec::as_slice)));
    let mut open = Vec::new();
    if matches!(options.coding, Coding::Auto { .. }) {
        open = if options.choose == Choose::Best {
            // Another method has other best pages.
            Method::CODING.to_vec()
        } else {
            let referred = |base: u32| out.iter().flat_map(|b| &b.drafts).any(|d| d.base.is_some_and(|b| b.0 == base));
            let (entries, moves) = references(bases, alignments, referred);
            let bytes = reference_bytes(&entries, &moves);
            certify::certify(&mut pool, &mut out, bytes)
        };
    }
    for (i, block) in out.iter_mut().enumerate() {
        block.finish(i, image);
        block.placed = pool.first().map_or(0, |encoder| encoder.placed(i, &block.entries));
    }
    let mut packed = assemble(image, bases, alignments, out, &attachments);
    for method in open {
        let none = BaseSet::new(*bases.fingerprinter(), false);
        let alone = Options { coding: Coding::One(method), ..*options };
        let alone = pack(image, if method.needs_base() { bases } else { &none }, &alone)?;
        if alone.file.len() < packed.file.len() {
            packed = alone;
        }
    }
    Ok(packed)
}

/// The base pages that encoding will look at, where they have to be read: found, or at the same place.
fn wanted(image: &Image, bases: &BaseSet, alignments: &[Alignment]) -> Vec<Run> {
    let mut pages: Vec<(u32, u32)> = Vec::new();
    for n in (0..image.pages()).filter(|n| image.page(*n).is_some_and(|p| !zero::is_zero(p))) {
        let found = bases.found(n).unwrap_or_default().best.into_iter().flatten();
        pages.extend(found.filter_map(|p| Some((bases.position(p.base)? as u32, p.page))));
        let places = (0..).zip(alignments.iter().take(encode::PLACES));
        pages.extend(places.filter_map(|(base, a)| Some((base, a.place(n)?))));
    }
    Run::join(pages)
}

/// Runs `work` for 0..n on some threads, each with a state of its own, and gives the results in order.
pub(super) fn each<S: Send, T: Send>(
    n: usize,
    threads: usize,
    state: impl Fn() -> S,
    work: impl Fn(&mut S, usize) -> T + Sync,
) -> Vec<T> {
    let mut pool: Vec<S> = (0..threads.clamp(1, n.max(1))).map(|_| state()).collect();
    each_with(&mut pool, n, work)
}

/// The same with states that are at hand, one a thread.
fn each_with<S: Send, T: Send>(pool: &mut [S], n: usize, work: impl Fn(&mut S, usize) -> T + Sync) -> Vec<T> {
    if let [state] = pool {
        return (0..n).map(|i| work(state, i)).collect();
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(n));
    std::thread::scope(|scope| {
        for state in pool {
            scope.spawn(|| {
                let mut own = Vec::new();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n {
                        break;
                    }
                    own.push((i, work(state, i)));
                }
                results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).append(&mut own);
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, t)| t).collect()
}

fn assemble(
    image: &Image,
    bases: &BaseSet,
    alignments: &[Alignment],
    out: Vec<BlockOut>,
    attachments: &[Attachment],
) -> Packed {
    let mut report = Report {
        pages: image.pages(),
        image_bytes: image.bytes(),
        by_base: vec![0; alignments.len()],
        ..Report::default()
    };
    let mut blocks = Vec::with_capacity(out.len());
    let mut methods = [Part::default(); Method::ALL.len()];
    for block in out {
        for e in &block.entries {
            let part = &mut methods[e.method as usize];
            part.pages += 1;
            part.bytes += u64::from(e.length);
            if e.method.needs_base() {
                report.referring += 1;
                if let Some(n) = report.by_base.get_mut(e.base.0 as usize) {
                    *n += 1;
                }
            }
        }
        report.matched += block.matched;
        report.placed += block.placed;
        report.cut_short += block.cut_short;
        let mut table = Vec::with_capacity(block.entries.len() * 12);
        file::write_table(&block.entries, &mut table);
        report.table_bytes += table.len() as u64;
        report.patch_bytes += block.patches.len() as u64;
        blocks.push((table, block.patches));
    }
    for (method, part) in Method::ALL.iter().zip(methods) {
        if part.pages > 0 {
            report.methods.insert(method.name(), part);
        }
    }
    let files = image.files();
    let ends = files.iter().skip(1).map(|f| f.first).chain([image.pages()]);
    let (base_entries, moves) =
        references(bases, alignments, |i| report.by_base.get(i as usize).is_some_and(|pages| *pages > 0));
    let manifest = Manifest {
        files: files
            .iter()
            .zip(ends)
            .map(|(f, end)| PagesEntry { name: f.name.clone(), pages: end - f.first })
            .collect(),
        bases: base_entries,
        blocks: Vec::new(),
        moves,
        attachments: attachments.to_vec(),
        parent: image.parent_link().map(|p| p.as_os_str().as_encoded_bytes().to_vec()),
        raw: image.folder().is_none(),
    };
    report.shifts = manifest.moves.iter().map(|m| m.gaps.len() as u64).sum();
    report.reference_bytes = reference_bytes(&manifest.bases, &manifest.moves);
    let file = file::write(image.pages(), &blocks, manifest);
    report.file_bytes = file.len() as u64;
    Packed { file, report }
}

/// What the manifest says of bases and of their pointers, of those that some page refers to. Bases that none refers to need not be there
/// when the file is read.
fn references(
    bases: &BaseSet,
    alignments: &[Alignment],
    referred: impl Fn(u32) -> bool,
) -> (Vec<BaseEntry>, Vec<MoveEntry>) {
    let numbered = || (0u32..).zip(bases.bases());
    let any = numbered().any(|(i, _)| referred(i));
    let entry = |b: &Base| BaseEntry { name: b.name.clone(), pages: b.layout.pages(), digest: b.digest };
    let entries = numbered().filter(|_| any).map(|(_, b)| entry(b)).collect();
    let moved = (0u32..).zip(alignments).filter(|(i, _)| referred(*i)).flat_map(|(i, a)| moves(i, a)).collect();
    (entries, moved)
}

/// Bytes that they take before the manifest is compressed.
fn reference_bytes(bases: &[BaseEntry], moves: &[MoveEntry]) -> u64 {
    let moves = moves.iter().map(|m| m.encoded_len() as u64 + 8).sum::<u64>();
    moves + bases.iter().map(|b| b.encoded_len() as u64 + 8).sum::<u64>()
}

/// The relocations of a base: a run of its pages each, all of one process.
fn moves(base: u32, alignment: &Alignment) -> Vec<MoveEntry> {
    let mut out: Vec<MoveEntry> = Vec::new();
    let mut last = None;
    for (n, process) in alignment.processes().iter().enumerate() {
        if last == Some(*process) {
            if let (Some(m), Some(_)) = (out.last_mut(), alignment.relocation(n as u32)) {
                m.pages += 1;
            }
        } else if let Some(relocation) = alignment.relocation(n as u32) {
            out.push(MoveEntry::new(base, n as u64, 1, relocation));
        }
        last = Some(*process);
    }
    out
}

/// The checkpoint's files that hold no pages.
fn attachments(image: &Image) -> Result<Vec<Attachment>, ImageError> {
    let Some(folder) = image.folder() else { return Ok(Vec::new()) };
    let io = |file: String| move |source| ImageError::Io { file, source };
    let mut out = Vec::new();
    for name in folder.list().map_err(io(folder.name()))? {
        if image.files().iter().any(|f| f.name == name) {
            continue;
        }
        if let Some(blob) = folder.open(&name).map_err(io(folder.name_of(&name)))? {
            out.push(Attachment { bytes: blob.bytes().to_vec(), name });
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
