//! Memory that processes and devices share: anonymous files (memfd), mapped shared and writable.
//!
//! Shared, because a fork must not copy it and because RDMA devices can pin it for good (private mappings get copied behind their back);
//! writable, because some kernels do not register read-only shared mappings. Children of this process inherit neither the
//! file nor the mapping: sandboxes and CRIU never have base pages in their address space.
//!
//! And the heap, whose free pages an agent gives back to the system.

use std::fs::File;
use std::io;

use medes_engine::dedup::{Page, as_pages};
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, memfd_create};

/// A mapping of an anonymous file. Never resized; unmapped when dropped.
#[derive(Debug)]
pub struct SharedMemory {
    map: MmapRaw,
    /// Through which another process of this node can map it too.
    file: File,
}

impl SharedMemory {
    /// `bytes` zero bytes, at least one.
    ///
    /// # Errors
    /// No memory, or no more mappings.
    pub fn zeroed(name: &str, bytes: usize) -> io::Result<Self> {
        let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
        file.set_len(bytes.max(1) as u64)?;
        let map = MmapOptions::new().len(bytes.max(1)).map_raw(&file)?;
        map.advise(Advice::DontFork)?;
        Ok(Self { map, file })
    }

    /// Memory that `fill` writes before anybody else sees it.
    ///
    /// # Errors
    /// No memory, or whatever `fill` says.
    pub fn filled(name: &str, bytes: usize, fill: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Self> {
        let mut memory = Self::zeroed(name, bytes)?;
        fill(memory.bytes_mut())?;
        Ok(memory)
    }

    /// Where it is mapped.
    pub fn address(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// How long it is.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Never: a mapping has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The file behind it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// A file of memory (tmpfs or memfd), mapped where it lies: no copy is made. Nobody may write to the file any more or make it shorter.
    ///
    /// # Errors
    /// The file is empty, or cannot be mapped for writing too, as devices need it.
    pub fn of_file(file: File) -> io::Result<Self> {
        let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if bytes == 0 {
            return Err(io::Error::other("the file is empty"));
        }
        let map = MmapOptions::new().len(bytes).map_raw(&file)?;
        map.advise(Advice::DontFork)?;
        Ok(Self { map, file })
    }

    /// The whole pages.
    pub fn pages(&self) -> &[Page] {
        // SAFETY: mapped and readable for `len` bytes as long as `self`; who writes (`bytes_mut`) has it alone. Memory of a file is
        // not written to any more (`of_file`).
        as_pages(unsafe { std::slice::from_raw_parts(self.map.as_ptr(), self.map.len()) })
    }

    /// The bytes, for the only holder.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped and writable for `len` bytes as long as `self`; `&mut self` says that nobody else of this process looks at it.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr(), self.map.len()) }
    }
}

/// Gives free pages of the heap back to the system, of all threads' arenas. The allocator keeps what packing took, 4 to 9 MB an agent, and an agent's
/// memory counts: in a run of `fixed` after one of `medes` agents weighed 17 and 21 MB instead of 12 (docs/fidelity.md).
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function takes a number, locks what it looks at and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0)
    };
}

#[cfg(test)]
mod tests {
    use super::give_back;
    use crate::node::process::own_resident;
    use medes_engine::units::Bytes;

    #[test]
    #[cfg_attr(not(target_env = "gnu"), ignore = "another allocator")]
    fn what_another_thread_freed_is_given_back() {
        // Small pieces, so that they come from an arena, and every 64th stays, so that the arena does not shrink by itself.
        let kept = std::thread::spawn(|| {
            let pieces: Vec<Vec<u8>> = (0..65_536).map(|_| vec![1; 2048]).collect();
            pieces.into_iter().step_by(64).collect::<Vec<_>>()
        });
        let kept = kept.join().unwrap();
        let before = own_resident();
        give_back();
        let after = own_resident();
        // 128 MB were taken, 2 MB are kept. Other tests take and free memory meanwhile.
        assert!(after + Bytes::from_mb(64.0) < before, "{before} before, {after} after");
        assert!(kept.iter().all(|piece| piece.iter().all(|byte| *byte == 1)));
    }
}
