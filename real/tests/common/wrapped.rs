//! Bases that do more, or worse, than those they wrap.

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

/// Bases that damage what they pack: one bit at so many tenths of the file; 0: none.
pub struct Damaging(pub Near, pub Arc<AtomicU64>);

impl Bases for Damaging {
    fn register(&self, id: SandboxId, function: &str, image: &Image, deadline: Instant) -> Result<Registered, OpError> {
        self.0.register(id, function, image, deadline)
    }
    fn withdraw(&self, id: SandboxId) {
        self.0.withdraw(id);
    }
    fn pack(&self, image: &Image, function: &str, method: Method, deadline: Instant) -> Result<Packed, OpError> {
        let mut packed = self.0.pack(image, function, method, deadline)?;
        let tenths = self.1.load(Ordering::Relaxed) as usize;
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
        self.0.unpack(file, turns, give, deadline)
    }
}

/// Bases that note how many pages each unpacking gave.
pub struct Counting(pub Near, pub Arc<Mutex<Vec<u64>>>);

impl Bases for Counting {
    fn register(&self, id: SandboxId, function: &str, image: &Image, deadline: Instant) -> Result<Registered, OpError> {
        self.0.register(id, function, image, deadline)
    }
    fn withdraw(&self, id: SandboxId) {
        self.0.withdraw(id);
    }
    fn pack(&self, image: &Image, function: &str, method: Method, deadline: Instant) -> Result<Packed, OpError> {
        self.0.pack(image, function, method, deadline)
    }
    fn unpack(
        &self,
        file: &DedupFile<'_>,
        turns: &Turns,
        give: &Give<'_>,
        deadline: Instant,
    ) -> Result<Unpacked, OpError> {
        let given = AtomicU64::new(0);
        let counted = |first: u64, pages: &[Page]| {
            given.fetch_add(pages.len() as u64, Ordering::Relaxed);
            give(first, pages)
        };
        let done = self.0.unpack(file, turns, &counted, deadline);
        self.1.lock().unwrap().push(given.into_inner());
        done
    }
}
