//! Memory that reads go to.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::memory::SharedMemory;

/// What becomes of a buffer's memory.
type GiveBack = Box<dyn FnOnce(&Arc<SharedMemory>) + Send + Sync>;

/// Memory for one restore, given back to its transport when dropped. Nobody else has it in the meantime.
pub struct Buffer {
    memory: Arc<SharedMemory>,
    bytes: usize,
    give_back: Option<GiveBack>,
}

impl Buffer {
    /// Memory of its own, given back to the system.
    ///
    /// # Errors
    /// No memory.
    pub fn new(bytes: usize) -> io::Result<Self> {
        Ok(Self { memory: Arc::new(SharedMemory::zeroed("medes-restore", bytes)?), bytes, give_back: None })
    }

    /// The first `bytes` bytes of memory that a transport keeps, or all that it has. Unsafe because two buffers must not share memory.
    ///
    /// # Safety
    /// Until `give_back` is called nobody else reads or writes the memory, but for reads that borrow the buffer.
    #[cfg_attr(not(feature = "rdma"), allow(dead_code))]
    pub(super) unsafe fn borrowed(memory: Arc<SharedMemory>, bytes: usize, give_back: GiveBack) -> Self {
        let bytes = bytes.min(memory.len());
        Self { memory, bytes, give_back: Some(give_back) }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped for at least `bytes` bytes as long as `memory`, and this buffer's alone (`new`, `borrowed`).
        unsafe { std::slice::from_raw_parts(self.memory.address(), self.bytes) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`.
        unsafe { std::slice::from_raw_parts_mut(self.memory.address(), self.bytes) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer of {} bytes", self.bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(give_back) = self.give_back.take() {
            give_back(&self.memory);
        }
    }
}
