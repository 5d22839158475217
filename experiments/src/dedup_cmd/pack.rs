//! `medes dedup pack`, `unpack` and `verify`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::image::{Blob, Image};
use medes_engine::dedup::pack::{Options, Report};
use medes_engine::dedup::turns::Turns;
use medes_engine::dedup::unpack::{LocalBases, UnpackError, unpack_blocks, unpack_to};
use serde::Serialize;

use super::table::{Table, mb, percent};
use super::{CodecArg, DumpArg, Output, SamplingArg, SearchArgs, open};

/// Arguments of `pack`.
#[derive(Debug, Args)]
pub struct PackArgs {
    /// The dump
    dump: DumpArg,
    /// Base dumps; without any, pages are compressed alone
    #[arg(long, num_args = 1.., value_name = "DUMP")]
    base: Vec<DumpArg>,
    /// The dedup file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// How pages are written [default: auto; with --paper: xdelta3]
    #[arg(long, value_enum)]
    codec: Option<CodecArg>,
    /// Time that auto may spend on a page beyond what it needs to store no more than any other codec, µs; `inf`: all it can
    /// gain from [default: 1]
    #[arg(long, value_parser = super::budget_us)]
    budget_us: Option<f64>,
    /// Chunks in a fingerprint (chunksperpage), 1 to 64
    #[arg(long, default_value_t = 5)]
    chunks: u32,
    /// Which chunks
    #[arg(long, value_enum, default_value_t = SamplingArg::ValueSampled)]
    fingerprint: SamplingArg,
    #[command(flatten)]
    search: SearchArgs,
}

#[derive(Serialize)]
struct Packed<'a> {
    file: &'a Path,
    saved: f64,
    ms: f64,
    report: &'a Report,
}

pub(super) fn pack(args: &PackArgs, out: &Output) -> anyhow::Result<()> {
    let dump = open(std::slice::from_ref(&args.dump))?.remove(0);
    let bases: Vec<Image> = open(&args.base)?.into_iter().map(|d| d.image).collect();
    let set = args.search.bases(args.fingerprint.into(), args.chunks, &bases)?;
    let options = Options {
        choose: args.search.choose(),
        coding: args.search.codec(args.codec).coding(args.budget_us),
        patch_threshold: args.search.patch_threshold,
        threads: args.search.threads,
    };
    let started = Instant::now();
    let packed = medes_engine::dedup::pack::pack(&dump.image, &set, &options)?;
    let ms = started.elapsed().as_secs_f64() * 1e3;
    std::fs::write(&args.output, &packed.file).with_context(|| format!("cannot write {}", args.output.display()))?;
    let r = &packed.report;
    let mut table = Table::new(["method", "pages", "%", "MB", "mean B"]);
    for (method, part) in &r.methods {
        let share = percent(part.pages as f64 / r.pages as f64);
        let mean = format!("{:.0}", part.bytes as f64 / part.pages as f64);
        table.row([method.to_string(), part.pages.to_string(), share, format!("{:.2}", part.bytes as f64 / 1e6), mean]);
    }
    let text = format!(
        "{}: {} pages, {} MB -> {} MB in {ms:.0} ms; {} % saved of the pages (patches {} MB, page tables {} MB)\n{}",
        args.output.display(),
        r.pages,
        mb(r.image_bytes),
        mb(r.file_bytes),
        percent(r.saved()),
        mb(r.patch_bytes),
        mb(r.table_bytes),
        table.text()
    );
    out.result(&text, &Packed { file: &args.output, saved: r.saved(), ms, report: r })
}

/// Arguments of `unpack`.
#[derive(Debug, Args)]
pub struct UnpackArgs {
    /// The dedup file
    file: PathBuf,
    /// The base dumps that it was packed against
    #[arg(long, num_args = 1.., value_name = "DUMP")]
    base: Vec<DumpArg>,
    /// The folder to write the dump to; it must be new or empty (a plain file of pages becomes a file)
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The dedup file
    file: PathBuf,
    /// The base dumps that it was packed against
    #[arg(long, num_args = 1.., value_name = "DUMP")]
    base: Vec<DumpArg>,
    /// Compare with this dump too, page by page
    #[arg(long, value_name = "DUMP")]
    against: Option<DumpArg>,
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

#[derive(Serialize)]
struct Verified<'a> {
    file: &'a Path,
    pages: u64,
    bases: Vec<String>,
    ms: f64,
}

/// Opens the file and finds its bases, then does `f`.
fn with<T>(
    path: &Path,
    base: &[DumpArg],
    f: impl FnOnce(&DedupFile<'_>, &LocalBases<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let blob = Blob::map(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = DedupFile::open(&path.display().to_string(), blob.bytes())?;
    let images: Vec<Image> = open(base)?.into_iter().map(|d| d.image).collect();
    let bases = LocalBases::matching(&file, &images)?;
    f(&file, &bases)
}

fn tell(out: &Output, path: &Path, file: &DedupFile<'_>, started: Instant, what: &str) -> anyhow::Result<()> {
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let bases: Vec<String> = file.manifest().bases.iter().map(|b| b.name.clone()).collect();
    let text = format!("{}: {what} {} pages in {ms:.0} ms, each verified\n", path.display(), file.pages());
    out.result(&text, &Verified { file: path, pages: file.pages(), bases, ms })
}

pub(super) fn unpack(args: &UnpackArgs, out: &Output) -> anyhow::Result<()> {
    with(&args.file, &args.base, |file, bases| {
        let started = Instant::now();
        unpack_to(file, bases, args.threads, &args.output)?;
        tell(out, &args.file, file, started, "restored")
    })
}

pub(super) fn verify(args: &VerifyArgs, out: &Output) -> anyhow::Result<()> {
    let against = args.against.as_ref().map(|d| open(std::slice::from_ref(d))).transpose()?;
    let against = against.and_then(|mut d| d.pop()).map(|d| d.image);
    with(&args.file, &args.base, |file, bases| {
        if let Some(image) = &against
            && image.pages() != file.pages()
        {
            bail!("{} holds {} pages, {} has {}", file.name(), file.pages(), image.name(), image.pages());
        }
        let started = Instant::now();
        let other = std::sync::Mutex::new(None);
        unpack_blocks(file, bases, args.threads, &Turns::in_order(file), |first, pages| {
            if let Some(image) = &against {
                let differs = (first..).zip(pages).find(|(n, page)| image.page(*n) != Some(*page));
                if let Some((n, _)) = differs {
                    let mut first = other.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    *first = Some(first.map_or(n, |m: u64| m.min(n)));
                }
            }
            Ok::<(), UnpackError>(())
        })?;
        if let Some(n) = other.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            bail!("page {n} of {} is not the one of the dump given: the file is of another dump", file.name());
        }
        tell(out, &args.file, file, started, "verified")
    })
}
