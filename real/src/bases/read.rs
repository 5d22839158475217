//! Pages of bases, wherever they are: of this node where they lie, of others through the transport.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use medes_engine::dedup::pack::BaseSource;
use medes_engine::dedup::unpack::{BasePages, FetchError, Memory, Run, Scratch};
use medes_engine::dedup::{Page, as_pages};
use medes_engine::units::PAGE_BYTES;

use super::ClusterBases;
use super::name::BaseName;
use crate::memory::SharedMemory;
use crate::ops::OpError;
use crate::transport::{PageRun, Transport, TransportError};

/// A base and how to come to its pages.
pub(super) struct Reached {
    pub name: BaseName,
    /// Its memory, if it is a base of this node.
    pub here: Option<Arc<SharedMemory>>,
}

/// Reads pages of some bases, named by their position, until a deadline; after the first base that is lost it reads no more.
pub(super) struct Reader {
    bases: Vec<Reached>,
    transport: Arc<dyn Transport>,
    deadline: Instant,
    lost: OnceLock<(usize, OpError)>,
    /// Summed over threads, ns.
    spent: AtomicU64,
    /// Pages of this node, and of others.
    pages: [AtomicU64; 2],
    /// What [`BaseSource::fetch`] has read from other nodes.
    kept: OnceLock<Kept>,
}

/// Pages of ascending runs.
#[derive(Default)]
struct Kept {
    runs: Vec<Run>,
    /// Position of each run's first page in the buffer.
    starts: Vec<usize>,
    buffer: Option<Memory>,
}

impl ClusterBases {
    /// A reader of some bases.
    pub(super) fn reader(&self, names: impl Iterator<Item = BaseName>, deadline: Instant) -> Reader {
        let own = self.own();
        let reach = |name: BaseName| {
            // Of this process, and still there; anything else of this node is refused by the transport.
            let here = own.get(&name.id).filter(|o| o.region == name.region).map(|o| o.memory.clone());
            if here.is_none() {
                self.transport.reach(name.region.owner, &name.endpoint);
            }
            Reached { name, here }
        };
        Reader {
            bases: names.map(reach).collect(),
            transport: self.transport.clone(),
            deadline,
            lost: OnceLock::new(),
            spent: AtomicU64::new(0),
            pages: [AtomicU64::new(0), AtomicU64::new(0)],
            kept: OnceLock::new(),
        }
    }
}

impl Reader {
    /// The base that was lost, by its position, and how.
    pub fn lost(&self) -> Option<&(usize, OpError)> {
        self.lost.get()
    }

    /// Time spent reading, summed over threads.
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Ordering::Relaxed))
    }

    /// Pages read from this node, and from others.
    pub fn read_pages(&self) -> [u64; 2] {
        [0, 1].map(|i| self.pages[i].load(Ordering::Relaxed))
    }

    /// Whether some base is on another node.
    pub fn reads_far(&self) -> bool {
        self.bases.iter().any(|b| b.here.is_none())
    }

    /// Fails a run, and all reads from now on.
    fn fail(&self, run: Run, error: OpError) -> FetchError {
        let reason = error.to_string();
        let _ = self.lost.set((run.base as usize, error));
        FetchError { run, reason }
    }

    fn base(&self, run: &Run) -> Result<&Reached, FetchError> {
        self.bases.get(run.base as usize).ok_or_else(|| FetchError { run: *run, reason: "no such base".into() })
    }

    /// Reads runs of other nodes' bases, one behind the other, into memory that is made large enough.
    fn read_far(&self, runs: &[Run], buffer: &mut Option<Memory>) -> Result<(), FetchError> {
        let Some(first) = runs.first() else { return Ok(()) };
        let bytes = runs.iter().map(|r| r.pages as usize * PAGE_BYTES).sum::<usize>();
        if buffer.as_ref().is_none_or(|b| b.len() < bytes) {
            *buffer = None;
            let made = self.transport.buffer(bytes.next_multiple_of(1 << 20));
            let io = |e: std::io::Error| OpError::Io { path: "memory for base pages".into(), reason: e.to_string() };
            *buffer = Some(Box::new(made.map_err(|e| self.fail(*first, io(e)))?));
        }
        let Some(buffer) = buffer else { return Ok(()) };
        let mut rest = &mut buffer[..];
        for runs in runs.chunk_by(|a, b| a.base == b.base) {
            let pages: Vec<PageRun> = runs.iter().map(|r| PageRun { first: r.first, pages: r.pages }).collect();
            let bytes = pages.iter().map(|r| r.pages as usize * PAGE_BYTES).sum();
            let (into, behind) = rest.split_at_mut(bytes);
            let name = &self.base(&runs[0])?.name;
            let read = self.transport.read(&name.region, &pages, into, self.deadline);
            read.map_err(|e| self.fail(runs[0], explain(name, &e)))?;
            rest = behind;
        }
        Ok(())
    }

    /// Splits runs by where they are; counts them.
    fn far(&self, runs: &[Run]) -> Result<Vec<Run>, FetchError> {
        if let Some((_, error)) = self.lost.get() {
            return Err(FetchError { run: runs.first().copied().unwrap_or_default(), reason: error.to_string() });
        }
        let mut far = Vec::new();
        for run in runs {
            let base = self.base(run)?;
            self.pages[usize::from(base.here.is_none())].fetch_add(run.pages.into(), Ordering::Relaxed);
            if base.here.is_none() {
                far.push(*run);
            }
        }
        Ok(far)
    }

    fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        let from = Instant::now();
        let out = work();
        self.spent.fetch_add(from.elapsed().as_nanos() as u64, Ordering::Relaxed);
        out
    }
}

/// What a failed read means for whoever needs the base.
fn explain(name: &BaseName, error: &TransportError) -> OpError {
    match error {
        TransportError::Timeout { peer } => {
            OpError::Late { what: format!("reading pages of base {} from {peer}", name.id) }
        }
        other => OpError::BaseLost { base: name.id, reason: other.to_string() },
    }
}

impl BasePages for Reader {
    fn fetch<'a>(&'a self, runs: &[Run], scratch: &'a mut Scratch) -> Result<Vec<&'a [Page]>, FetchError> {
        let buffer = &mut scratch.memory;
        let far = self.far(runs)?;
        self.timed(|| self.read_far(&far, buffer))?;
        let mut rest: &[Page] = buffer.as_ref().map_or(&[], |memory| as_pages(memory));
        let mut out = Vec::with_capacity(runs.len());
        for run in runs {
            let (first, pages) = (run.first as usize, run.pages as usize);
            let found = match &self.base(run)?.here {
                Some(memory) => memory.pages().get(first..first + pages),
                None => rest.split_at_checked(pages).map(|(head, tail)| {
                    rest = tail;
                    head
                }),
            };
            out.push(found.ok_or_else(|| FetchError { run: *run, reason: "the base has fewer pages".into() })?);
        }
        Ok(out)
    }
}

/// For packing: everything is read at once.
impl BaseSource for Reader {
    fn fetch(&self, runs: &[Run]) -> Result<(), FetchError> {
        if self.kept.get().is_some() {
            return Ok(());
        }
        let far = self.far(runs)?;
        let mut kept = Kept::default();
        self.timed(|| self.read_far(&far, &mut kept.buffer))?;
        let mut at = 0;
        for run in &far {
            kept.starts.push(at);
            at += run.pages as usize;
        }
        kept.runs = far;
        let _ = self.kept.set(kept);
        Ok(())
    }

    fn page(&self, base: u32, number: u32) -> Option<&Page> {
        match &self.bases.get(base as usize)?.here {
            Some(memory) => memory.pages().get(number as usize),
            None => {
                let kept = self.kept.get()?;
                let at = Run::position(&kept.runs, &kept.starts, base, number)?;
                as_pages(kept.buffer.as_ref()?).get(at)
            }
        }
    }
}
