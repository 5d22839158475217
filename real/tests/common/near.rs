//! Base pages in this process: what the cluster's does, without a cluster.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::fingerprint::{Fingerprinter, HashKind, Sampling};
use medes_engine::dedup::image::Image;
use medes_engine::dedup::pack::{BaseSet, Options, pack};
use medes_engine::dedup::turns::Turns;
use medes_engine::dedup::unpack::{LocalBases, UnpackError, unpack_blocks};
use medes_engine::event::Method;
use medes_engine::id::SandboxId;
use medes_real::ops::{Bases, Give, OpError, PackTimes, Packed, Registered, Unpacked};

type Set = Arc<(SandboxId, BaseSet)>;

/// One base a function: the one registered last.
pub struct Near {
    bases: Mutex<BTreeMap<String, Set>>,
    options: Options,
}

impl Near {
    pub fn new(threads: usize) -> Self {
        Self { bases: Mutex::default(), options: Options { threads, ..Options::default() } }
    }

    fn of(&self, function: &str) -> Option<Set> {
        self.bases.lock().unwrap().get(function).cloned()
    }
}

impl Bases for Near {
    fn register(&self, id: SandboxId, function: &str, image: &Image, _: Instant) -> Result<Registered, OpError> {
        let mut set = BaseSet::new(fingerprinter(), false);
        set.add(image.clone(), self.options.threads).unwrap();
        self.bases.lock().unwrap().insert(function.into(), Arc::new((id, set)));
        Ok(Registered { pages: image.pages(), ..Registered::default() })
    }

    fn withdraw(&self, id: SandboxId) {
        self.bases.lock().unwrap().retain(|_, set| set.0 != id);
    }

    fn pack(&self, image: &Image, function: &str, method: Method, _: Instant) -> Result<Packed, OpError> {
        let set = self.of(function).filter(|_| method == Method::Patches);
        let none = BaseSet::new(fingerprinter(), false);
        let packed = pack(image, set.as_ref().map_or(&none, |s| &s.1), &self.options)
            .map_err(|e| OpError::Damaged(e.to_string()))?;
        let bases = set.iter().map(|s| s.0).collect();
        Ok(Packed { file: packed.file, bases, times: PackTimes::default() })
    }

    fn unpack(&self, file: &DedupFile<'_>, turns: &Turns, give: &Give<'_>, _: Instant) -> Result<Unpacked, OpError> {
        let sets: Vec<Set> = self.bases.lock().unwrap().values().cloned().collect();
        let wanted =
            |digest| sets.iter().flat_map(|s| s.1.bases()).find(|b| b.digest == digest).and_then(|b| b.image());
        let images: Option<Vec<&Image>> = file.manifest().bases.iter().map(|b| wanted(b.digest)).collect();
        let id = SandboxId { generation: 0, slot: 0 };
        let images = images.ok_or_else(|| OpError::BaseLost { base: id, reason: "it was withdrawn".into() })?;
        let failure = Mutex::new(None);
        let done = unpack_blocks(file, &LocalBases::new(&images), self.options.threads, turns, |first, pages| {
            give(first, pages).map_err(|e| {
                *failure.lock().unwrap() = Some(e);
                let source = std::io::Error::other("not taken");
                UnpackError::Io { path: String::new(), source }
            })
        });
        match (done, failure.into_inner().unwrap()) {
            (Ok(()), _) => Ok(Unpacked::default()),
            (_, Some(e)) => Err(e),
            (Err(e), None) => Err(OpError::Damaged(e.to_string())),
        }
    }
}

fn fingerprinter() -> Fingerprinter {
    Fingerprinter::new(Sampling::ValueSampled, 5, HashKind::Fold(1)).unwrap()
}
