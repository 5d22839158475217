//! Bases that do more, or worse, than those of `near`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use medes_engine::dedup::Page;
use medes_engine::dedup::file::DedupFile;
use medes_engine::dedup::image::Image;
use medes_engine::dedup::turns::Turns;
use medes_engine::event::Method;
use medes_engine::id::SandboxId;
use medes_real::ops::{Bases, Give, OpError, Packed, Registered, Unpacked};

use super::near::Near;

/// Bases that damage what they pack, and note what they unpack.
pub struct Wrapped {
    pub bases: Near,
    /// One bit is flipped at so many tenths of a packed file; 0: none.
    pub damage: Arc<AtomicU64>,
    /// How many pages each unpacking gave.
    pub given: Arc<Mutex<Vec<u64>>>,
}

impl Wrapped {
    pub fn new(bases: Near) -> Self {
        Self { bases, damage: Arc::default(), given: Arc::default() }
    }
}

impl Bases for Wrapped {
    fn register(&self, id: SandboxId, function: &str, image: &Image, deadline: Instant) -> Result<Registered, OpError> {
        self.bases.register(id, function, image, deadline)
    }
    fn withdraw(&self, id: SandboxId) {
        self.bases.withdraw(id);
    }
    fn pack(&self, image: &Image, function: &str, method: Method, deadline: Instant) -> Result<Packed, OpError> {
        let mut packed = self.bases.pack(image, function, method, deadline)?;
        let tenths = self.damage.load(Ordering::Relaxed) as usize;
        let at = packed.file.len() * tenths / 10;
        packed.file[at] ^= if tenths > 0 { 8 } else { 0 };
        Ok(packed)
    }
    fn unpack(
        &self,
        file: &DedupFile<'_>,
        turns: &Turns,
        give: &Give<'_>,
        deadline: Instant,
    ) -> Result<Unpacked, OpError> {
        let count = AtomicU64::new(0);
        let counted = |first: u64, pages: &[Page]| {
            count.fetch_add(pages.len() as u64, Ordering::Relaxed);
            give(first, pages)
        };
        let done = self.bases.unpack(file, turns, &counted, deadline);
        self.given.lock().unwrap().push(count.into_inner());
        done
    }
}
