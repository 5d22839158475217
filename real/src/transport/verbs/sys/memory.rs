//! Memory regions.

use std::ptr::NonNull;
use std::sync::Arc;

use super::{CallError, Domain, non_null};
use crate::memory::SharedMemory;

/// Who may do what with registered memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::transport) enum Access {
    /// Peers may read, nobody may write: base pages.
    RemoteRead,
    /// The own device may write: restore buffers. Peers may do nothing.
    LocalWrite,
}

/// A mapping known to the device. The registration holds the mapping: memory that a device may touch is never unmapped under it (it
/// would not fail, readers would silently get what was there before).
pub(in crate::transport) struct Registration {
    raw: NonNull<rdma_sys::ibv_mr>,
    address: u64,
    memory: Arc<SharedMemory>,
    _domain: Arc<Domain>,
}

// SAFETY: libibverbs is thread-safe on all its objects; the registration is a handle.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Registration {
    /// Registers all of `memory`. Peers (and reads into it) name its first byte `address`, which need not be where it is mapped.
    ///
    /// # Errors
    /// Too little lockable memory, or a kind of mapping that cannot be registered.
    pub fn new(
        domain: &Arc<Domain>,
        memory: Arc<SharedMemory>,
        address: u64,
        access: Access,
    ) -> Result<Self, CallError> {
        let flags = match access {
            Access::RemoteRead => rdma_sys::ibv_access_flags::IBV_ACCESS_REMOTE_READ,
            Access::LocalWrite => rdma_sys::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE,
        };
        // SAFETY: the domain is alive, and the range is mapped for as long as `memory`, which the registration holds.
        let raw = unsafe {
            rdma_sys::ibv_reg_mr_iova(domain.raw(), memory.address().cast(), memory.len(), address, flags.0 as i32)
        };
        Ok(Self { raw: non_null("ibv_reg_mr_iova", raw)?, address, memory, _domain: domain.clone() })
    }

    /// What the first byte is called.
    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn local_key(&self) -> u32 {
        // SAFETY: the region is alive and its keys never change.
        unsafe { self.raw.as_ref().lkey }
    }

    pub fn remote_key(&self) -> u32 {
        // SAFETY: as above.
        unsafe { self.raw.as_ref().rkey }
    }

    pub fn memory(&self) -> &Arc<SharedMemory> {
        &self.memory
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: the region is alive. From here on reads of peers that are under way or yet to come are refused; then `memory` goes.
        unsafe { rdma_sys::ibv_dereg_mr(self.raw.as_ptr()) };
    }
}
