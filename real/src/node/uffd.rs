//! The few calls of userfaultfd(2) on a descriptor that CRIU or a function's runner has made: say which memory may be missing, fill a page, and read what the
//! kernel tells.
//!
//! Not the crate `userfaultfd`: it needs libclang to build, and making a descriptor is another process's work here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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

/// `struct uffdio_range`.
#[repr(C)]
struct Region {
    start: u64,
    len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    range: Region,
    mode: u64,
    calls: u64,
}

/// `UFFDIO_REGISTER_MODE_MISSING`.
const MISSING: u64 = 1;

mod call {
    nix::ioctl_readwrite!(register, 0xaa, 0x00, super::Register);
    nix::ioctl_read!(unregister, 0xaa, 0x01, super::Region);
    nix::ioctl_readwrite!(copy, 0xaa, 0x03, super::Copy);
    nix::ioctl_readwrite!(zero, 0xaa, 0x04, super::Zero);
}

const FAULT: u8 = 0x12;
const FORK: u8 = 0x13;
const REMAP: u8 = 0x14;
const REMOVE: u8 = 0x15;
const UNMAP: u8 = 0x16;

/// What the kernel tells.
#[derive(Debug)]
pub enum Event {
    /// Somebody waits for the page at this address.
    Fault(u64),
    /// A child has the same missing memory.
    Fork(Missing),
    /// Memory is elsewhere now.
    Moved {
        /// Its old address.
        from: u64,
        /// Its new one.
        to: u64,
        /// Bytes.
        length: u64,
    },
    /// Memory was given back and stays mapped: what is missing there is zeros now.
    Emptied {
        /// Its first address.
        start: u64,
        /// One past its last.
        end: u64,
    },
    /// Memory is no longer mapped.
    Unmapped {
        /// Its first address.
        start: u64,
        /// One past its last.
        end: u64,
    },
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
    /// From now on whoever touches a page that is not there, in these bytes of one mapping, waits until it is filled.
    ///
    /// # Errors
    /// The kernel's: nothing that can be missing is mapped there.
    pub fn register(&self, start: u64, len: u64) -> io::Result<()> {
        let mut register = Register { range: Region { start, len }, mode: MISSING, calls: 0 };
        // SAFETY: the descriptor is a userfaultfd (else the kernel refuses) and `register` is the struct that the call takes.
        unsafe { call::register(self.0.as_raw_fd(), &raw mut register) }?;
        Ok(())
    }

    /// From now on what is not there reads as zeros.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn unregister(&self, start: u64, len: u64) -> io::Result<()> {
        let mut region = Region { start, len };
        // SAFETY: the descriptor is a userfaultfd (else the kernel refuses) and `region` is the struct that the call takes; it only reads it.
        unsafe { call::unregister(self.0.as_raw_fd(), &raw mut region) }?;
        Ok(())
    }

    /// Fills adjacent missing pages from `address` on; a page that is there already stays as it is. All must lie in one mapping.
    ///
    /// # Errors
    /// `WouldBlock`: the address space is changing, and an event about that must be read first. Else the address is not one of
    /// missing memory, the process is gone, or there is no memory.
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
                Err(Errno::EINTR) => {}
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
        let mut zero = Zero { start: address, len: PAGE, mode: 0, filled: 0 };
        // SAFETY: the descriptor is a userfaultfd (else the kernel refuses) and `zero` is the struct that the call takes.
        match unsafe { call::zero(self.0.as_raw_fd(), &raw mut zero) } {
            Ok(_) | Err(Errno::EEXIST) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The next event; `None` if there is none now.
    ///
    /// # Errors
    /// The process is gone.
    pub fn event(&self) -> io::Result<Option<Event>> {
        // struct uffd_msg: event u8, reserved to 8 bytes, then up to three u64 by event.
        let mut message = [0u8; 32];
        match nix::unistd::read(&self.0, &mut message) {
            Ok(32) => {}
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let [event, ..] = message;
        let word =
            |at: usize| message.get(at..).and_then(<[u8]>::first_chunk::<8>).map_or(0, |b| u64::from_le_bytes(*b));
        Ok(Some(match event {
            FAULT => Event::Fault(word(16) & !(PAGE - 1)),
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
            FORK => Event::Fork(unsafe { OwnedFd::from_raw_fd(word(8) as u32 as i32) }.into()),
            REMAP => Event::Moved { from: word(8), to: word(16), length: word(24) },
            REMOVE => Event::Emptied { start: word(8), end: word(16) },
            UNMAP => Event::Unmapped { start: word(8), end: word(16) },
            other => return Err(io::Error::other(format!("event {other:#x} of userfaultfd is not known"))),
        }))
    }
}
