//! Protection domain, limits of a device, fork safety.

use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use super::{CallError, CmId, errno, non_null};

/// Makes registered memory survive a fork of this process. To be called before anything else of verbs, as often as one likes.
///
/// Without it a child that writes (or a parent that writes while a child lives) may get the other's copy of a page that the device
/// still reads. From Linux 5.12 the kernel copies such pages at the fork and the call does nothing; before it, the library keeps them from
/// children. Children inherit no descriptor either: libibverbs and librdmacm open theirs to be closed by `exec`.
///
/// # Errors
/// The library was already used without it.
pub(in crate::transport) fn make_fork_safe() -> Result<(), CallError> {
    static DONE: OnceLock<i32> = OnceLock::new();
    // SAFETY: no arguments; the cell calls it once, and before any other verb of ours.
    let result = *DONE.get_or_init(|| unsafe { rdma_sys::ibv_fork_init() });
    errno("ibv_fork_init", result)
}

/// What a device can do.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) struct Limits {
    /// Work requests of one queue.
    pub queue_depth: usize,
    /// Scatter entries of one read.
    pub scatter: usize,
    /// Reads in flight on one connection, as the one who asks.
    pub reads_out: u8,
    /// Reads in flight on one connection, as the one who is asked.
    pub reads_in: u8,
}

/// A protection domain: memory and connections that may be used together. Every connection between the same two addresses of a process
/// belongs to one device context, which librdmacm opens once and never closes.
pub(in crate::transport) struct Domain {
    raw: NonNull<rdma_sys::ibv_pd>,
    context: NonNull<rdma_sys::ibv_context>,
}

// SAFETY: libibverbs is thread-safe on all its objects (ibv_alloc_pd(3) and the library's documentation); `Domain` is a handle.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}

impl Domain {
    /// A domain on the device that `id` is bound to.
    pub fn of(id: &CmId) -> Result<Arc<Self>, CallError> {
        let context = non_null("rdma_bind_addr", id.context())
            .map_err(|e| CallError { source: std::io::Error::from_raw_os_error(libc::ENODEV), ..e })?;
        // SAFETY: the context of a bound id is open, for the life of the process.
        let raw = non_null("ibv_alloc_pd", unsafe { rdma_sys::ibv_alloc_pd(context.as_ptr()) })?;
        Ok(Arc::new(Self { raw, context }))
    }

    pub fn limits(&self) -> Result<Limits, CallError> {
        let mut attributes = MaybeUninit::<rdma_sys::ibv_device_attr>::zeroed();
        // SAFETY: the context is open; the structure is written and, zeroed, valid in any case (integers only).
        let attributes = unsafe {
            errno("ibv_query_device", rdma_sys::ibv_query_device(self.context.as_ptr(), attributes.as_mut_ptr()))?;
            attributes.assume_init()
        };
        let positive = |n: i32| usize::try_from(n).unwrap_or(0).max(1);
        let byte = |n: i32| u8::try_from(n.clamp(1, 255)).unwrap_or(1);
        // Some devices (mlx5) take fewer scatter entries for a read than for other work; 0 is "not said".
        let for_reads = if attributes.max_sge_rd > 0 { positive(attributes.max_sge_rd) } else { usize::MAX };
        Ok(Limits {
            queue_depth: positive(attributes.max_qp_wr),
            scatter: positive(attributes.max_sge).min(for_reads),
            reads_out: byte(attributes.max_qp_init_rd_atom),
            reads_in: byte(attributes.max_qp_rd_atom),
        })
    }

    pub(super) fn raw(&self) -> *mut rdma_sys::ibv_pd {
        self.raw.as_ptr()
    }

    pub fn context(&self) -> *mut rdma_sys::ibv_context {
        self.context.as_ptr()
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: whatever was made in the domain holds an `Arc` of it, so nothing is left.
        unsafe { rdma_sys::ibv_dealloc_pd(self.raw.as_ptr()) };
    }
}
