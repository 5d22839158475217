//! A dump becomes a base.
//!
//! Its pages must lie in shared memory that stays. A dump on tmpfs with one pages file is that already: the file is mapped where it lies, shared and
//! writable as RDMA devices need it, and nothing is copied; the file may be unlinked while the base lives. A dump elsewhere, or of several
//! pages files (a process tree), is copied once, and takes the memory a second time until the dump is deleted.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use medes_engine::dedup::image::{Folder, Image};
use medes_engine::dedup::layout::Layout;
use medes_engine::dedup::pack::fingerprints;
use medes_engine::id::SandboxId;
use medes_engine::units::PAGE_BYTES;
use rustix::fs::fstatfs;

use super::{ClusterBases, Own, in_time};
use crate::memory::SharedMemory;
use crate::ops::{OpError, Registered};
use crate::wire::{BaseHead, RegisterPart, pack_sandbox};

/// `f_type` of tmpfs.
const TMPFS: i128 = 0x0102_1994;

impl ClusterBases {
    pub(super) fn register_image(
        &self,
        id: SandboxId,
        function: &str,
        image: &Image,
        deadline: Instant,
    ) -> Result<Registered, OpError> {
        let io = |e: io::Error| OpError::Io { path: image.name().into(), reason: e.to_string() };
        let memory = Arc::new(shared(image).map_err(io)?);
        let started = Instant::now();
        let layout = Layout::of(image);
        let taken =
            fingerprints(image, &layout, &self.settings.fingerprinter, self.settings.relocate, self.settings.threads);
        let fingerprint = started.elapsed();
        in_time("fingerprinting a base", deadline)?;

        let published = self.transport.publish(memory.clone());
        let region = published.map_err(|e| io(io::Error::other(e.to_string())))?;
        // Before anybody can be told of it.
        let earlier = self.own().insert(id, Own { region, memory });
        if let Some(earlier) = earlier {
            self.transport.withdraw(&earlier.region);
        }
        let started = Instant::now();
        let head = BaseHead {
            sandbox: pack_sandbox(id),
            function: function.into(),
            node: region.owner.0,
            incarnation: region.incarnation,
            endpoint: self.transport.endpoint(),
            address: region.address,
            key: region.key,
            pages: region.pages,
            layout: layout.to_bytes(),
        };
        let parts = taken.iter().map(|batch| {
            let (first, counts, hashes) = batch.packed();
            RegisterPart { head: None, first, counts, hashes }
        });
        match self.client.register(head, parts.collect(), deadline) {
            Ok(answer) => Ok(Registered { pages: answer.pages, fingerprint, enter: started.elapsed() }),
            Err(e) => {
                self.own().remove(&id);
                self.transport.withdraw(&region);
                Err(e)
            }
        }
    }
}

/// The pages of an image in shared memory: mapped where they lie if that is possible, or a copy.
fn shared(image: &Image) -> io::Result<SharedMemory> {
    if let ([file], Some(Folder::Disk(folder))) = (image.files(), image.folder()) {
        let path = folder.join(&file.name);
        let open = File::options().read(true).write(true).open(path);
        if let Ok(open) = open
            && fstatfs(&open).is_ok_and(|s| i128::from(s.f_type) == TMPFS)
            && let Ok(memory) = SharedMemory::of_file(open)
            && memory.pages().len() as u64 == image.pages()
        {
            return Ok(memory);
        }
    }
    SharedMemory::filled("medes-base", image.pages() as usize * PAGE_BYTES, |bytes| {
        let mut rest = bytes;
        for file in image.files() {
            let from = file.pages().as_flattened();
            let (now, later) = rest.split_at_mut_checked(from.len()).ok_or(io::ErrorKind::InvalidData)?;
            now.copy_from_slice(from);
            rest = later;
        }
        Ok(())
    })
}
