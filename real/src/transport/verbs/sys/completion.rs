//! Completion queue with its event channel.

use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use super::{CallError, Domain, errno, non_null, set_nonblocking};

/// Work that is over.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) struct Completion {
    /// The number that the work was posted with.
    pub number: u64,
    /// `ibv_wc_status`: 0 is success.
    pub status: u32,
}

/// Where completions arrive; at most one waits for its events at a time, any number may poll.
pub(in crate::transport) struct CompletionQueue {
    raw: NonNull<rdma_sys::ibv_cq>,
    channel: NonNull<rdma_sys::ibv_comp_channel>,
    _domain: Arc<Domain>,
}

// SAFETY: libibverbs is thread-safe on all its objects; polling takes the queue's own lock.
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    pub fn new(domain: &Arc<Domain>, entries: usize) -> Result<Self, CallError> {
        // SAFETY: the domain keeps its context open. On failure below the channel is destroyed by hand, since nobody owns it yet.
        let channel =
            non_null("ibv_create_comp_channel", unsafe { rdma_sys::ibv_create_comp_channel(domain.context()) })?;
        // SAFETY: context and channel are alive, no user context, vector 0 exists on every device.
        let cq = unsafe { rdma_sys::ibv_create_cq(domain.context(), entries as i32, null_mut(), channel.as_ptr(), 0) };
        let made = non_null("ibv_create_cq", cq).map(|raw| Self { raw, channel, _domain: domain.clone() });
        let queue = made.inspect_err(|_| {
            // SAFETY: made above, given to nobody.
            unsafe { rdma_sys::ibv_destroy_comp_channel(channel.as_ptr()) };
        })?;
        set_nonblocking(queue.as_fd())?;
        Ok(queue)
    }

    pub(super) fn raw(&self) -> *mut rdma_sys::ibv_cq {
        self.raw.as_ptr()
    }

    /// Asks for an event with the next completion. To be followed by a poll: what completed before makes no event.
    pub fn arm(&self) -> Result<(), CallError> {
        // SAFETY: the queue is alive; 0: any completion, not only solicited ones.
        errno("ibv_req_notify_cq", unsafe { rdma_sys::ibv_req_notify_cq(self.raw.as_ptr(), 0) })
    }

    /// Takes the events that are there. Each is acknowledged at once, for `ibv_destroy_cq` waits for those that are not.
    pub fn take_events(&self) {
        let (mut cq, mut context) = (null_mut(), null_mut());
        // SAFETY: the channel is alive and does not block; it serves this queue alone, so the event is this queue's.
        unsafe {
            while rdma_sys::ibv_get_cq_event(self.channel.as_ptr(), &mut cq, &mut context) == 0 {
                rdma_sys::ibv_ack_cq_events(self.raw.as_ptr(), 1);
            }
        }
    }

    /// Appends what has completed.
    pub fn poll(&self, into: &mut Vec<Completion>) -> Result<(), CallError> {
        const AT_ONCE: usize = 16;
        loop {
            // SAFETY: an `ibv_wc` is integers and a union of integers, for which zero is a value.
            let mut entries: [rdma_sys::ibv_wc; AT_ONCE] = unsafe { std::mem::zeroed() };
            // SAFETY: the queue is alive; there is room for as many entries as are asked for.
            let n = unsafe { rdma_sys::ibv_poll_cq(self.raw.as_ptr(), AT_ONCE as i32, entries.as_mut_ptr()) };
            let Ok(n) = usize::try_from(n) else {
                return errno("ibv_poll_cq", n);
            };
            into.extend(entries[..n].iter().map(|w| Completion { number: w.wr_id, status: w.status }));
            if n < AT_ONCE {
                return Ok(());
            }
        }
    }
}

impl AsFd for CompletionQueue {
    /// Readable when an event is there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the channel, which lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.channel.as_ref().fd) }
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: connections that use the queue hold an `Arc` of it, so none is left; all events are acknowledged.
        unsafe {
            rdma_sys::ibv_destroy_cq(self.raw.as_ptr());
            rdma_sys::ibv_destroy_comp_channel(self.channel.as_ptr());
        }
    }
}
