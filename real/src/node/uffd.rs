//! The few calls of userfaultfd(2) on a descriptor that CRIU hands over: fill a page, and read what the kernel tells.
//!
//! Not the crate `userfaultfd`: it needs libclang to build, and its other half (making and registering) is CRIU's work here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use medes_engine::dedup::Page;
use medes_engine::dedup::image::PAGE;
use nix::errno::Errno;

/// `struct uffdio_copy`.
#[repr(C)]
struct Copy {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

/// `struct uffdio_zeropage`.
#[repr(C)]
struct Zero {
    start: u64,
    len: u64,
    mode: u64,
    filled: i64,
}

mod call {
    nix::ioctl_readwrite!(copy, 0xaa, 0x03, super::Copy);
    nix::ioctl_readwrite!(zero, 0xaa, 0x04, super::Zero);
}

/// What the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody waits for the page at this address.
    Fault(u64),
    /// Something else happened to the address space.
    Other,
}

/// Missing memory of one process. When dropped, what is still missing reads as zeros.
#[derive(Debug)]
pub struct Missing(OwnedFd);

impl From<OwnedFd> for Missing {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Missing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Missing {
    /// Fills adjacent missing pages from `address` on; a page that is there already stays as it is. All must lie in one mapping.
    ///
    /// # Errors
    /// The address is not one of missing memory, the process is gone, or there is no memory.
    pub fn fill(&self, address: u64, pages: &[Page]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = pages.get(done..).filter(|r| !r.is_empty()) {
            let mut copy = Copy {
                dst: address + done as u64 * PAGE,
                src: rest.as_ptr() as u64,
                len: rest.len() as u64 * PAGE,
                mode: 0,
                copied: 0,
            };
            // SAFETY: the descriptor is a userfaultfd (else the kernel refuses), `copy` is the struct that the call takes, and `src` and `len`
            // name memory that `rest` borrows; the kernel only reads it. What it writes is another process's memory.
            match unsafe { call::copy(self.0.as_raw_fd(), &raw mut copy) } {
                Ok(_) => return Ok(()),
                Err(_) if copy.copied > 0 => done += (copy.copied.cast_unsigned() / PAGE) as usize,
                Err(Errno::EEXIST) => done += 1,
                Err(Errno::EAGAIN | Errno::EINTR) => std::thread::yield_now(),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Makes a missing page zeros.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub fn zero(&self, address: u64) -> io::Result<()> {
        loop {
            let mut zero = Zero { start: address, len: PAGE, mode: 0, filled: 0 };
            // SAFETY: the descriptor is a userfaultfd (else the kernel refuses) and `zero` is the struct that the call takes.
            match unsafe { call::zero(self.0.as_raw_fd(), &raw mut zero) } {
                Ok(_) | Err(Errno::EEXIST) => return Ok(()),
                Err(Errno::EAGAIN | Errno::EINTR) => std::thread::yield_now(),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The next event; `None` if there is none now.
    ///
    /// # Errors
    /// The process is gone.
    pub fn event(&self) -> io::Result<Option<Event>> {
        // struct uffd_msg: event u8, reserved to 8 bytes; of a fault then flags u64, address u64.
        let mut message = [0u8; 32];
        match nix::unistd::read(&self.0, &mut message) {
            Ok(32) => {}
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let [event, ..] = message;
        let address = message.get(16..).and_then(<[u8]>::first_chunk::<8>).map_or(0, |b| u64::from_le_bytes(*b));
        Ok(Some(if event == 0x12 { Event::Fault(address & !(PAGE - 1)) } else { Event::Other }))
    }
}
