//! From a dedup file back to pages.
//!
//! Base pages are asked for in runs, a block's worth at a time, through [`BasePages`]: the same node's memory, a TCP
//! connection and one-sided reads can all serve them. Every page is compared with its checksum before it is given out. A
//! wrong base, a flipped bit, a run that is missing end in an error that names the page; never in wrong memory.

use std::fs::{self, File};
use std::io;
use std::ops::DerefMut;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::file::{BLOCK, BaseEntry, DedupFile, Entry, FileError};
use super::image::Image;
use super::layout::Recent;
use super::pack::digest;
use super::patch::{Codecs, DecodeError, Method, bytediff};
use super::turns::{Turns, now};
use super::{Page, ZERO_PAGE, checksum, vector};
use crate::units::PAGE_BYTES;

/// Adjacent pages of a base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// The base, by its position in the dedup file.
    pub base: u32,
    /// Number of the first page.
    pub first: u32,
    /// How many, at least one.
    pub pages: u32,
}

impl Run {
    /// The fewest runs that have some pages (base, number), ascending.
    pub fn join(mut pages: Vec<(u32, u32)>) -> Vec<Self> {
        pages.sort_unstable();
        let mut out: Vec<Self> = Vec::new();
        for (base, page) in pages {
            match out.last_mut() {
                Some(r) if r.base == base && page - r.first < r.pages => {}
                Some(r) if r.base == base && page - r.first == r.pages => r.pages += 1,
                _ => out.push(Self { base, first: page, pages: 1 }),
            }
        }
        out
    }

    /// Position of a page in the pages of ascending runs that lie behind one another.
    pub fn position(runs: &[Self], starts: &[usize], base: u32, page: u32) -> Option<usize> {
        let at = runs.partition_point(|r| (r.base, r.first) <= (base, page)).checked_sub(1)?;
        let run = runs.get(at).filter(|r| r.base == base && page - r.first < r.pages)?;
        Some(starts.get(at)? + (page - run.first) as usize)
    }
}

/// A run that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("pages {} to {} of base {}: {reason}", run.first, run.first + run.pages - 1, run.base)]
pub struct FetchError {
    /// The run.
    pub run: Run,
    /// Why.
    pub reason: String,
}

/// Whoever has the base pages.
pub trait BasePages: Sync {
    /// Gives the pages of every run, in order. They may lie in the provider's own memory or in
    /// `scratch`, which the caller keeps for the next call. A slice of the wrong length counts as missing.
    ///
    /// # Errors
    /// The first run that cannot be had.
    fn fetch<'a>(&'a self, runs: &[Run], scratch: &'a mut Scratch) -> Result<Vec<&'a [Page]>, FetchError>;
}

/// Memory of a kind of its provider's own, such as memory that a device writes to.
pub type Memory = Box<dyn DerefMut<Target = [u8]> + Send + Sync>;

/// What a caller keeps for a provider of base pages between its calls.
#[derive(Default)]
pub struct Scratch {
    /// Pages.
    pub pages: Vec<Page>,
    /// The provider's own memory, once it has some.
    pub memory: Option<Memory>,
}

/// Base pages in open images.
pub struct LocalBases<'a> {
    /// By position in the dedup file; `None` where the base is not at hand.
    images: Vec<Option<&'a Image>>,
}

/// The bases a dedup file needs are not those at hand.
#[derive(Debug, thiserror::Error)]
#[error(
    "{file} needs the base {name} ({pages} pages, digest {digest:016x}), which is not among the {given} given; give it with --base"
)]
pub struct NoSuchBase {
    /// The dedup file.
    pub file: String,
    /// How the base was called when the file was written.
    pub name: String,
    /// Its pages.
    pub pages: u64,
    /// What it is known by.
    pub digest: u64,
    /// Number of images given.
    pub given: usize,
}

impl<'a> LocalBases<'a> {
    /// The images by position, unchecked: a wrong one is found page by page.
    pub fn new(images: &[&'a Image]) -> Self {
        Self { images: images.iter().map(|i| Some(*i)).collect() }
    }

    /// Finds each base of the file among some images by its digest.
    ///
    /// # Errors
    /// The first base that is not among them.
    pub fn matching(file: &DedupFile<'_>, images: &'a [Image]) -> Result<Self, NoSuchBase> {
        let digests: Vec<u64> = images.iter().map(digest).collect();
        let find = |b: &BaseEntry| {
            let at = digests.iter().zip(images).position(|(d, i)| *d == b.digest && i.pages() == b.pages);
            at.map(|i| Some(&images[i])).ok_or_else(|| NoSuchBase {
                file: file.name().into(),
                name: b.name.clone(),
                pages: b.pages,
                digest: b.digest,
                given: images.len(),
            })
        };
        Ok(Self { images: file.manifest().bases.iter().map(find).collect::<Result<_, _>>()? })
    }
}

impl BasePages for LocalBases<'_> {
    fn fetch<'a>(&'a self, runs: &[Run], scratch: &'a mut Scratch) -> Result<Vec<&'a [Page]>, FetchError> {
        let missing = |run: &Run, reason: &str| FetchError { run: *run, reason: reason.into() };
        let image = |run: &Run| {
            let image = self.images.get(run.base as usize).copied().flatten();
            image.ok_or_else(|| missing(run, "no such base"))
        };
        let mut split = false;
        for run in runs {
            let image = image(run)?;
            if u64::from(run.first) + u64::from(run.pages) > image.pages() {
                return Err(missing(run, &format!("{} has only {} pages", image.name(), image.pages())));
            }
            split |= image.run(run.first.into(), run.pages.into()).len() < run.pages as usize;
        }
        if !split {
            return runs.iter().map(|r| Ok(image(r)?.run(r.first.into(), r.pages.into()))).collect();
        }
        // A run over the border of two pages files: copy.
        let scratch = &mut scratch.pages;
        scratch.clear();
        for run in runs {
            let image = image(run)?;
            scratch.extend((run.first..run.first + run.pages).filter_map(|n| image.page(n.into())));
        }
        let mut rest: &[Page] = scratch;
        let mut out = Vec::with_capacity(runs.len());
        for run in runs {
            let (head, tail) = rest.split_at_checked(run.pages as usize).ok_or_else(|| missing(run, "it is gone"))?;
            out.push(head);
            rest = tail;
        }
        Ok(out)
    }
}

/// Why an image cannot be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The dedup file is damaged.
    #[error(transparent)]
    File(#[from] FileError),
    /// Base pages could not be had.
    #[error("{file}, pages {first} to {last}: {source}")]
    Fetch {
        /// The dedup file.
        file: String,
        /// First page of the block that needed them.
        first: u64,
        /// Its last page.
        last: u64,
        /// The run and why.
        source: FetchError,
    },
    /// A patch is no patch.
    #[error("{file}, page {page} ({place}): its {} patch is damaged: {source}", method.name())]
    Patch {
        /// The dedup file.
        file: String,
        /// Number of the page.
        page: u64,
        /// Pages file and offset.
        place: String,
        /// How it is stored.
        method: Method,
        /// What is wrong.
        source: DecodeError,
    },
    /// A page came out that is not the one that went in.
    #[error(
        "{file}, page {page} ({place}): what its {} patch restores{against} does not have the page's checksum; the patch is damaged or the base is another one", method.name()
    )]
    Page {
        /// The dedup file.
        file: String,
        /// Number of the page.
        page: u64,
        /// Pages file and offset.
        place: String,
        /// How it is stored.
        method: Method,
        /// Against which base page; empty without one.
        against: String,
    },
    /// The output has another size.
    #[error("{file} holds {pages} pages; the memory given has room for {room}")]
    Room {
        /// The dedup file.
        file: String,
        /// Its pages.
        pages: u64,
        /// Whole pages in the memory given.
        room: u64,
    },
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The memory of one thread that unpacks.
struct Worker {
    codecs: Codecs,
    scratch: Scratch,
    relocated: Page,
    recent: Recent,
}

/// The base pages of a block, or of some pages of it, as runs, by base and number.
fn runs(entries: &[Entry], chosen: Option<&[usize]>) -> Vec<Run> {
    let base = |e: &Entry| e.method.needs_base().then_some(e.base);
    Run::join(match chosen {
        None => entries.iter().filter_map(base).collect(),
        Some(chosen) => chosen.iter().filter_map(|j| entries.get(*j).and_then(base)).collect(),
    })
}

impl Worker {
    /// Restores block `i`, or the pages of it that are `chosen`, into `out`, which has its pages, and says after how long its base pages were there.
    fn block(
        &mut self,
        file: &DedupFile<'_>,
        bases: &dyn BasePages,
        i: usize,
        chosen: Option<&[usize]>,
        out: &mut [Page],
    ) -> Result<Duration, UnpackError> {
        let first = (i * BLOCK) as u64;
        let began = now();
        let (entries, mut patches) = file.block(i)?;
        let runs = runs(&entries, chosen);
        let mut chosen = chosen.map(|c| c.iter().copied().peekable());
        let fetch = |source| UnpackError::Fetch {
            file: file.name().into(),
            first,
            last: first + entries.len() as u64 - 1,
            source,
        };
        let fetched = bases.fetch(&runs, &mut self.scratch).map_err(fetch)?;
        let read = began.elapsed();
        for (j, run) in runs.iter().enumerate() {
            let have = fetched.get(j).map_or(0, |pages| pages.len());
            if have != run.pages as usize {
                return Err(fetch(FetchError { run: *run, reason: format!("{have} pages came") }));
            }
        }
        let find = |base: (u32, u32)| -> Option<&Page> {
            let at = runs.partition_point(|r| (r.base, r.first) <= base).checked_sub(1)?;
            fetched.get(at)?.get((base.1 - runs.get(at)?.first) as usize)
        };
        for (j, (e, page)) in entries.iter().zip(out).enumerate() {
            let patch;
            (patch, patches) = patches.split_at_checked(e.length as usize).unwrap_or((&[], patches));
            if chosen.as_mut().is_some_and(|c| c.next_if_eq(&j).is_none()) {
                continue;
            }
            if e.method == Method::Zero {
                vector::copy(page, &ZERO_PAGE);
                continue;
            }
            let base = if e.method.needs_base() { find(e.base) } else { None };
            let relocation = base.and_then(|_| file.relocation(e.base.0, e.base.1));
            let number = first + j as u64;
            let done = match (e.method, base, relocation) {
                // The page is the base page with something written over it: made where it belongs.
                (Method::ByteDiff | Method::Identical, Some(base), _) => {
                    vector::copy(page, base);
                    if let Some(relocation) = relocation {
                        relocation.apply_with(page, &mut self.recent);
                    }
                    // An identical page has an empty patch: a table that says otherwise is refused.
                    bytediff::apply(patch, page)
                }
                (method, Some(base), Some(relocation)) => {
                    vector::copy(&mut self.relocated, base);
                    relocation.apply_with(&mut self.relocated, &mut self.recent);
                    self.codecs.decode(method, patch, Some(&self.relocated), page)
                }
                (method, base, _) => self.codecs.decode(method, patch, base, page),
            };
            if let Err(source) = done {
                let (file, place, method) = (file.name().to_string(), place(file, number), e.method);
                return Err(UnpackError::Patch { file, page: number, place, method, source });
            }
            if checksum(page) != e.checksum {
                return Err(wrong(file, number, e));
            }
        }
        Ok(read)
    }
}

/// Pages file and offset of a page.
fn place(file: &DedupFile<'_>, mut page: u64) -> String {
    for f in &file.manifest().files {
        if page < f.pages {
            return format!("{}, offset {}", f.name, page * PAGE_BYTES as u64);
        }
        page -= f.pages;
    }
    "past the end".into()
}

fn wrong(file: &DedupFile<'_>, page: u64, e: &Entry) -> UnpackError {
    let against = if e.method.needs_base() {
        let name = file.manifest().bases.get(e.base.0 as usize).map_or("", |b| &b.name);
        format!(" against page {} of base {name}", e.base.1)
    } else {
        String::new()
    };
    UnpackError::Page { file: file.name().into(), page, place: place(file, page), method: e.method, against }
}

/// Restores all pages into memory of the caller's, verified. On an error the memory holds anything.
///
/// # Errors
/// The error of the first block that has one.
pub fn unpack(
    file: &DedupFile<'_>,
    bases: &dyn BasePages,
    threads: usize,
    out: &mut [Page],
) -> Result<(), UnpackError> {
    if out.len() as u64 != file.pages() {
        return Err(UnpackError::Room { file: file.name().into(), pages: file.pages(), room: out.len() as u64 });
    }
    let blocks: Mutex<Vec<(usize, &mut [Page])>> = Mutex::new(out.chunks_mut(BLOCK).enumerate().rev().collect());
    first_error(threads, |_, worker| {
        let Some((i, pages)) = blocks.lock().unwrap_or_else(PoisonError::into_inner).pop() else { return Ok(None) };
        worker.block(file, bases, i, None, pages).map(|_| Some(i)).map_err(|e| (i, e))
    })
}

/// Restores all pages and gives each block (number of its first page, its pages) to `give`, in the order that `turns` says; several
/// threads call it at once. One thread more is kept for what is asked for, if `turns` keeps one. Of blocks of which some pages are wanted, adjacent
/// ones are given together.
///
/// # Errors
/// The error of the first block that has one, of unpacking or of `give`.
pub fn unpack_blocks<E: From<UnpackError> + Send>(
    file: &DedupFile<'_>,
    bases: &dyn BasePages,
    threads: usize,
    turns: &Turns,
    give: impl Fn(u64, &[Page]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let buffers: Mutex<Vec<Vec<Page>>> = Mutex::new(Vec::new());
    let kept = usize::from(turns.keeps_one());
    first_error(threads + kept, |thread, worker| {
        let Some((i, chosen)) = turns.take(thread < kept) else { return Ok(None) };
        let first = (i * BLOCK) as u64;
        let pages = (file.pages() - first).min(BLOCK as u64) as usize;
        let spare = buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = spare.unwrap_or_else(|| vec![ZERO_PAGE; BLOCK]);
        let began = now();
        let done = worker.block(file, bases, i, chosen.as_deref(), &mut buffer[..pages]).map_err(E::from);
        let done = done.and_then(|read| {
            turns.spend(read, began.elapsed().saturating_sub(read));
            match &chosen {
                None => give(first, &buffer[..pages]),
                Some(chosen) => chosen
                    .chunk_by(|a, b| a + 1 == *b)
                    .filter_map(|run| Some((*run.first()?, buffer.get(*run.first()?..(*run.last()? + 1).min(pages))?)))
                    .try_for_each(|(at, pages)| give(first + at as u64, pages)),
            }
        });
        buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        if done.is_err() {
            turns.fail();
        }
        done.map(|()| Some(i)).map_err(|e| (i, e))
    })
}

/// Calls `step` from some threads, which it is told the number of, until it has no more (`None`) or fails; of several errors the one of the first block.
fn first_error<E: Send>(
    threads: usize,
    step: impl Fn(usize, &mut Worker) -> Result<Option<usize>, (usize, E)> + Sync,
) -> Result<(), E> {
    let run = |thread| {
        let mut worker = Worker {
            codecs: Codecs::default(),
            scratch: Scratch::default(),
            relocated: ZERO_PAGE,
            recent: Recent::default(),
        };
        loop {
            match step(thread, &mut worker) {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(e) => return Some(e),
            }
        }
    };
    if threads <= 1 {
        return run(0).map_or(Ok(()), |(_, e)| Err(e));
    }
    let errors = std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        threads.into_iter().filter_map(|t| t.join().unwrap_or(None)).collect::<Vec<_>>()
    });
    errors.into_iter().min_by_key(|(i, _)| *i).map_or(Ok(()), |(_, e)| Err(e))
}

/// What an unpacking made, removed again unless it was finished.
struct Unfinished {
    /// In the order in which they were made.
    made: Vec<PathBuf>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            // What cannot be removed now is reported by nobody: the error that led here says more.
            let _ = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
        }
    }
}

/// Writes the checkpoint back into a new or empty folder, byte for byte: its pages files, its other files, its link
/// to a parent. A plain file of pages becomes the file `to` itself. On an error what was written is removed again. The files
/// without which CRIU restores nothing come last, so that what a killed process leaves is no checkpoint.
///
/// # Errors
/// As [`unpack`], and what the system refuses.
pub fn unpack_to(file: &DedupFile<'_>, bases: &dyn BasePages, threads: usize, to: &Path) -> Result<(), UnpackError> {
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |source| UnpackError::Io { path, source }
    };
    let manifest = file.manifest();
    let mut unfinished = Unfinished { made: Vec::new() };
    if !manifest.raw {
        let is_new = !to.exists();
        fs::create_dir_all(to).map_err(io(to))?;
        if is_new {
            unfinished.made.push(to.to_path_buf());
        } else if fs::read_dir(to).map_err(io(to))?.next().is_some() {
            let source = io::Error::new(io::ErrorKind::DirectoryNotEmpty, "the folder is not empty; give a new one");
            return Err(UnpackError::Io { path: to.display().to_string(), source });
        }
    }
    let mut outputs = Vec::new();
    let mut first = 0;
    for f in &manifest.files {
        let path = if manifest.raw { to.to_path_buf() } else { to.join(&f.name) };
        let output = File::create_new(&path).map_err(io(&path))?;
        unfinished.made.push(path.clone());
        output.set_len(f.pages.saturating_mul(PAGE_BYTES as u64)).map_err(io(&path))?;
        outputs.push((first, first + f.pages, output, path));
        first += f.pages;
    }
    unpack_blocks(file, bases, threads, &Turns::in_order(file), |number, pages| -> Result<(), UnpackError> {
        let end = number + pages.len() as u64;
        for (first, past, output, path) in &outputs {
            let (from, until) = (number.max(*first), end.min(*past));
            if from < until {
                let part = &pages[(from - number) as usize..(until - number) as usize];
                output.write_all_at(part.as_flattened(), (from - first) * PAGE_BYTES as u64).map_err(io(path))?;
            }
        }
        Ok(())
    })?;
    if !manifest.raw {
        for a in &manifest.attachments {
            let path = to.join(&a.name);
            unfinished.made.push(path.clone());
            fs::write(&path, &a.bytes).map_err(io(&path))?;
        }
        if let Some(link) = &manifest.parent {
            use std::os::unix::ffi::OsStrExt;
            let path = to.join("parent");
            std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(link), &path).map_err(io(&path))?;
        }
    }
    unfinished.made.clear();
    Ok(())
}
