//! Registered memory for restores: registering pins pages, which costs more than a small restore's reads, so buffers are used again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::SetupError;
use super::sys::{Access, Domain, Registration};
use crate::memory::SharedMemory;
use crate::transport::Buffer;

/// Buffers are multiples of this.
const GRAIN: usize = 1 << 16;

pub(super) struct Pool {
    domain: Arc<Domain>,
    /// Bytes kept for the next restore.
    keep: usize,
    /// All buffers, by where they start.
    buffers: Mutex<BTreeMap<usize, Entry>>,
}

struct Entry {
    registration: Arc<Registration>,
    used: bool,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.registration.memory().len()
    }
}

impl Pool {
    pub fn new(domain: Arc<Domain>, keep: usize) -> Arc<Self> {
        Arc::new(Self { domain, keep, buffers: Mutex::default() })
    }

    /// The smallest spare buffer with `bytes` bytes, or a new one.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Result<Buffer, SetupError> {
        let mut buffers = self.lock();
        let spare = buffers.values_mut().filter(|e| !e.used && e.bytes() >= bytes).min_by_key(|e| e.bytes());
        let registration = match spare {
            Some(entry) => {
                entry.used = true;
                entry.registration.clone()
            }
            None => {
                drop(buffers);
                let memory = SharedMemory::zeroed("medes-restore", bytes.div_ceil(GRAIN).max(1) * GRAIN)
                    .map_err(SetupError::Memory)?;
                let address = memory.address() as u64;
                let new = Arc::new(Registration::new(&self.domain, Arc::new(memory), address, Access::LocalWrite)?);
                self.lock().insert(address as usize, Entry { registration: new.clone(), used: true });
                new
            }
        };
        let pool = self.clone();
        let give_back = Box::new(move |memory: &Arc<SharedMemory>| pool.put(memory.address() as usize));
        // SAFETY: `used` keeps it from others until it is put back; the device writes to it for reads that borrow it.
        Ok(unsafe { Buffer::borrowed(registration.memory().clone(), bytes, give_back) })
    }

    /// The registration that all of `bytes` lies in, and where in it.
    pub fn find(&self, bytes: &[u8]) -> Option<(Arc<Registration>, u64)> {
        let start = bytes.as_ptr() as usize;
        let buffers = self.lock();
        let (at, entry) = buffers.range(..=start).next_back()?;
        let offset = start - at;
        (offset + bytes.len() <= entry.bytes()).then(|| (entry.registration.clone(), offset as u64))
    }

    /// Keeps a buffer for the next one, or lets it go.
    fn put(&self, at: usize) {
        let mut buffers = self.lock();
        let spare: usize = buffers.values().filter(|e| !e.used).map(Entry::bytes).sum();
        if let Some(entry) = buffers.get_mut(&at) {
            entry.used = false;
            if spare + entry.bytes() > self.keep {
                buffers.remove(&at);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Entry>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
