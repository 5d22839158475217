//! `medes dedup`: what deduplication does to memory dumps of the user's own functions.

mod analyze;
pub(crate) mod model;
mod pack;
mod sweep;
mod table;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use medes_engine::dedup::choose::Weights;
use medes_engine::dedup::fingerprint::{Fingerprinter, HashKind, Sampling};
use medes_engine::dedup::image::Image;
use medes_engine::dedup::pack::{BUDGET_NS, BaseSet, Choose, Coding};
use medes_engine::dedup::patch::Method;

use crate::output::Output;

/// The commands of `medes dedup`.
#[derive(Debug, Subcommand)]
pub enum DedupCmd {
    /// How much memory is redundant, within a function and between functions
    #[command(after_help = "\
A DUMP is the images folder of `criu dump`, or a plain file of pages of 4096 bytes (of larger pages, each is taken as several).
Write NAME=DUMP to say which function it is of; otherwise the name is that of the folder, or of the folder above if the folder's name is a number.
Several dumps with one name are instances of one function; the first one is the base that others are compared with.

Examples:
  medes dedup analyze dumps/linalg/0 dumps/linalg/1
  medes dedup analyze --figures out dumps/*/0 dumps/*/1
  medes dedup analyze --relocate a=/tmp/one a=/tmp/two      as if addresses were not randomised")]
    Analyze(analyze::AnalyzeArgs),
    /// Deduplicate with many settings and compare: chunks a page, fingerprints, codecs
    #[command(after_help = "\
Every DUMP is packed against all bases with every combination; times are of one pass on one thread unless --threads.

Examples:
  medes dedup sweep dumps/linalg/1 --base dumps/linalg/0
  medes dedup sweep dumps/linalg/1 --base dumps/linalg/0 --paper --chunks 1,5,40 --codecs xdelta3,auto
  medes dedup sweep dumps/*/1 --base dumps/*/0 --figures out")]
    Sweep(sweep::SweepArgs),
    /// Write a dump as a dedup file: patches against base dumps
    #[command(after_help = "\
Examples:
  medes dedup pack dumps/linalg/1 --base dumps/linalg/0 -o linalg-1.dedup
  medes dedup pack dumps/linalg/1 --base dumps/linalg/0 -o paper.dedup --paper
  medes dedup pack dumps/linalg/1 -o alone.dedup --codec zstd        no base: compression alone")]
    Pack(pack::PackArgs),
    /// Write the dump back, byte for byte and verified, from a dedup file
    #[command(after_help = "\
The bases may be given in any order; they are found by their content.

Example:
  medes dedup unpack linalg-1.dedup --base dumps/linalg/0 -o restored && criu restore -D restored")]
    Unpack(pack::UnpackArgs),
    /// Check that a dedup file restores every page
    #[command(after_help = "\
Example:
  medes dedup verify linalg-1.dedup --base dumps/linalg/0 --against dumps/linalg/1")]
    Verify(pack::VerifyArgs),
    /// Write the function profiles that the simulator reads, from dumps; or check its predictions against packing
    #[command(after_help = "\
Give at least two instances of each function: the first is the base, the second is measured; with a third,
--check packs that one, which the model has not seen. Page classes, edits, compression and codec costs are measured.
Cold, warm and restore times cannot be read off a dump: they are taken from --times, a profile set, or assumed and marked so.

Examples:
  medes dedup model dumps/*/[012] -o config/mine.toml --times config/measured.toml
  medes dedup model dumps/*/[012] --check")]
    Model(model::ModelArgs),
}

/// Runs a command.
///
/// # Errors
/// What is wrong with the input, or what the system refuses, with the file's name.
pub fn run(cmd: &DedupCmd, out: &Output) -> anyhow::Result<()> {
    match cmd {
        DedupCmd::Analyze(args) => analyze::run(args, out),
        DedupCmd::Sweep(args) => sweep::run(args, out),
        DedupCmd::Pack(args) => pack::pack(args, out),
        DedupCmd::Unpack(args) => pack::unpack(args, out),
        DedupCmd::Verify(args) => pack::verify(args, out),
        DedupCmd::Model(args) => model::run(args, out),
    }
}

/// A dump as given: `[NAME=]PATH`.
#[derive(Clone, Debug)]
pub struct DumpArg {
    name: String,
    path: PathBuf,
}

impl std::str::FromStr for DumpArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((name, path)) = text.split_once('=')
            && !name.is_empty()
            && !name.contains('/')
        {
            return Ok(Self { name: name.into(), path: path.into() });
        }
        let path = PathBuf::from(text);
        let part = |p: &std::path::Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
        let last = part(&path).unwrap_or_else(|| text.into());
        let number = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
        let above = if number { path.parent().and_then(part) } else { None };
        Ok(Self { name: above.unwrap_or(last), path })
    }
}

/// A dump, opened.
struct Dump {
    name: String,
    image: Image,
}

fn open(dumps: &[DumpArg]) -> anyhow::Result<Vec<Dump>> {
    let open = |d: &DumpArg| {
        let image = Image::open(&d.path).with_context(|| format!("cannot read the dump {}", d.path.display()))?;
        if image.pages() == 0 {
            let path = d.path.display();
            if d.path.is_file() {
                bail!(
                    "the dump {path} is an empty file; give a file of raw pages or the images folder of a CRIU checkpoint"
                );
            }
            bail!(
                "the dump {path} holds no pages: no pagemap-PID.img there names any; copy the images folder whole, with \
                 pagemap-*.img and pages-*.img, or dump again"
            );
        }
        Ok(Dump { name: d.name.clone(), image })
    };
    dumps.iter().map(open).collect()
}

/// Instances of each function, in the order in which the functions come first.
fn by_function(dumps: Vec<Dump>) -> Vec<(String, Vec<Image>)> {
    let mut out: Vec<(String, Vec<Image>)> = Vec::new();
    for dump in dumps {
        match out.iter_mut().find(|(name, _)| *name == dump.name) {
            Some((_, images)) => images.push(dump.image),
            None => out.push((dump.name, vec![dump.image])),
        }
    }
    out
}

/// Which chunks stand for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SamplingArg {
    /// The first chunks with an even hash (the reference's)
    ValueSampled,
    /// Chunks at equal distances
    FixedOffset,
    /// The first chunk that is not zero in each of equal segments
    NonNull,
}

impl From<SamplingArg> for Sampling {
    fn from(s: SamplingArg) -> Self {
        match s {
            SamplingArg::ValueSampled => Self::ValueSampled,
            SamplingArg::FixedOffset => Self::FixedOffset,
            SamplingArg::NonNull => Self::NonNull,
        }
    }
}

/// How chunks are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HashArg {
    /// Folded multiplications, 64 bits, keyed
    Fold,
    /// SHA-1, as the reference
    Sha1,
}

impl From<HashArg> for HashKind {
    fn from(h: HashArg) -> Self {
        match h {
            HashArg::Fold => Self::Fold(0),
            HashArg::Sha1 => Self::Sha1,
        }
    }
}

/// How a base page is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ChooseArg {
    /// The reference's score: reference count and locality of the sandbox
    Reference,
    /// The base page that most chunks hit
    Votes,
    /// The nearest, byte for byte, of those with the most votes and the page at the same place
    Nearest,
    /// Of all candidates the one with the smallest patch (slow: what is possible)
    Best,
}

impl From<ChooseArg> for Choose {
    fn from(c: ChooseArg) -> Self {
        match c {
            ChooseArg::Reference => Self::Reference(Weights::default()),
            ChooseArg::Votes => Self::Votes,
            ChooseArg::Nearest => Self::Nearest,
            ChooseArg::Best => Self::Best,
        }
    }
}

/// How pages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CodecArg {
    /// The smallest for each page
    Auto,
    /// Runs of differing bytes
    ByteDiff,
    /// zstd with the base page as prefix
    ZstdPrefix,
    /// xdelta3 level 1, as the paper
    Xdelta3,
    /// zstd of the page alone, no base
    Zstd,
    /// LZ4 of the page alone, no base
    Lz4,
}

/// A time budget: 0 or more, `inf` among it.
fn budget_us(text: &str) -> Result<f64, String> {
    let us = text.parse::<f64>().ok().filter(|us| *us >= 0.0);
    us.ok_or_else(|| "give microseconds: 0 or more, or `inf`".into())
}

impl CodecArg {
    fn coding(self, budget_us: Option<f64>) -> Coding {
        let method = match self {
            Self::Auto => {
                let budget_ns = match budget_us.map(|us| us * 1e3) {
                    None => Some(BUDGET_NS),
                    Some(ns) if ns < 1e9 => Some(ns as u32),
                    Some(_) => None,
                };
                return Coding::Auto { budget_ns };
            }
            Self::ByteDiff => Method::ByteDiff,
            Self::ZstdPrefix => Method::ZstdPrefix,
            Self::Xdelta3 => Method::Xdelta3,
            Self::Zstd => Method::Zstd,
            Self::Lz4 => Method::Lz4,
        };
        Coding::One(method)
    }
}

/// What commands that look for base pages have in common.
#[derive(Clone, Debug, Args)]
struct SearchArgs {
    /// As in the paper: fingerprints and patches of pages as they are, base pages by the reference's score, xdelta3;
    /// --choose and --codec still override
    #[arg(long)]
    paper: bool,
    /// Leave pointers as they are. By default those of base pages are corrected for the image's addresses, so that
    /// address-space randomisation does not matter
    #[arg(long)]
    no_relocate: bool,
    /// How a base page is chosen [default: nearest; with --paper: reference]
    #[arg(long, value_enum)]
    choose: Option<ChooseArg>,
    /// How chunks are hashed [default: fold; with --paper: sha1]
    #[arg(long, value_enum)]
    hash: Option<HashArg>,
    /// Largest patch that is used, bytes (patchthreshold)
    #[arg(long, default_value_t = 4096)]
    patch_threshold: u32,
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

impl SearchArgs {
    fn choose(&self) -> Choose {
        let default = if self.paper { ChooseArg::Reference } else { ChooseArg::Nearest };
        self.choose.unwrap_or(default).into()
    }

    fn hash(&self) -> HashKind {
        self.hash.unwrap_or(if self.paper { HashArg::Sha1 } else { HashArg::Fold }).into()
    }

    fn codec(&self, codec: Option<CodecArg>) -> CodecArg {
        codec.unwrap_or(if self.paper { CodecArg::Xdelta3 } else { CodecArg::Auto })
    }

    fn bases(&self, sampling: Sampling, chunks: u32, images: &[Image]) -> anyhow::Result<BaseSet> {
        let mut set =
            BaseSet::new(Fingerprinter::new(sampling, chunks, self.hash())?, !self.no_relocate && !self.paper);
        for image in images {
            set.add(image.clone(), self.threads)?;
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests;
