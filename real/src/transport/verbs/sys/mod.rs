//! The few verbs that one-sided reads need, as safe types over `rdma-sys`.
//!
//! One file a resource: [`Domain`] (protection domain), [`Registration`] (memory region), [`CompletionQueue`], [`CmId`] with its event
//! channel (reliable connection by rdma_cm). Each type owns one C object and whatever that object needs to live longer than itself, so that
//! the order in which things are dropped is the order in which the C library wants them destroyed. The one function that stays `unsafe` is
//! [`CmId::post_reads`]: the hardware writes to memory after it has returned.
//!
//! Left out: everything else of verbs (sends, writes, atomics, shared receive queues, the extended interface, which `rdma-sys` 0.3
//! does not support on 64-bit machines).

mod cm;
mod completion;
mod device;
mod memory;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

pub(in crate::transport) use cm::{CmId, Event, EventChannel, EventKind, Parameters, ReadWork, Sizes};
pub(in crate::transport) use completion::{Completion, CompletionQueue};
pub(in crate::transport) use device::{Domain, Limits, make_fork_safe};
pub(in crate::transport) use memory::{Access, Registration};

/// A call of libibverbs or librdmacm that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {source}{}", mend(.call, .source))]
pub struct CallError {
    /// The C function.
    pub call: &'static str,
    /// What it said.
    pub source: io::Error,
}

/// What usually helps against a failure.
fn mend(call: &str, source: &io::Error) -> &'static str {
    match (call, source.raw_os_error()) {
        ("ibv_reg_mr_iova", Some(libc::ENOMEM)) => {
            " (locked memory: raise it with 'ulimit -l unlimited', or LimitMEMLOCK of the service)"
        }
        ("ibv_reg_mr_iova", Some(libc::EFAULT)) => " (only writable shared mappings can be registered)",
        ("rdma_create_event_channel", _) => " (load the module rdma_ucm; the user needs /dev/infiniband/rdma_cm)",
        ("rdma_bind_addr", Some(libc::ENODEV | libc::EADDRNOTAVAIL)) => {
            " (no RDMA device has this address; 'rdma link' and 'medes doctor' show those that there are)"
        }
        ("rdma_bind_addr", Some(libc::EADDRINUSE)) => " (another program listens there)",
        _ => "",
    }
}

/// The result of a call that gives -1 and sets `errno`.
fn minus_one(call: &'static str, result: i32) -> Result<(), CallError> {
    if result == 0 { Ok(()) } else { Err(CallError { call, source: io::Error::last_os_error() }) }
}

/// The result of a call that gives the error itself.
fn errno(call: &'static str, result: i32) -> Result<(), CallError> {
    if result == 0 { Ok(()) } else { Err(CallError { call, source: io::Error::from_raw_os_error(result.abs()) }) }
}

/// The pointer that a call gives, or the `errno` that it set.
fn non_null<T>(call: &'static str, pointer: *mut T) -> Result<std::ptr::NonNull<T>, CallError> {
    std::ptr::NonNull::new(pointer).ok_or_else(|| CallError { call, source: io::Error::last_os_error() })
}

/// Makes reads from `fd` give `EAGAIN` instead of waiting.
fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<(), CallError> {
    // SAFETY: F_GETFL and F_SETFL take and give integers; the descriptor is open while it is borrowed.
    let result = unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        if flags < 0 { flags } else { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK).min(0) }
    };
    minus_one("fcntl", result)
}

/// Waits until one of the descriptors can be read or the deadline is there; says which can be read.
pub(in crate::transport) fn wait_readable(fds: &[BorrowedFd<'_>], deadline: Instant) -> Vec<bool> {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    let left = deadline.saturating_duration_since(Instant::now());
    // A wait of less than a millisecond is rounded up: no spinning on the last one.
    let milliseconds = left.as_micros().div_ceil(1000).min(60_000) as i32;
    // SAFETY: `polled` has as many entries as is said.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, milliseconds) };
    // An interrupted wait leaves `revents` at 0: the caller looks at its deadline and waits again.
    polled.iter().map(|p| p.revents != 0).collect()
}
