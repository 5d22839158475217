//! A connection with deadlines.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A connection, each use of which ends by a time given.
#[derive(Debug)]
pub(super) struct Stream(TcpStream);

fn late() -> io::Error {
    ErrorKind::TimedOut.into()
}

/// Time left, or that there is none.
fn left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(late()) } else { Ok(left.max(Duration::from_millis(1))) }
}

fn readable_kind(e: io::Error) -> io::Error {
    if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) { late() } else { e }
}

impl Stream {
    pub fn connect(address: SocketAddr, until: Instant) -> io::Result<Self> {
        Self::of(TcpStream::connect_timeout(&address, left(until)?).map_err(readable_kind)?)
    }

    pub fn of(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Fills `into`.
    pub fn read(&mut self, mut into: &mut [u8], until: Instant) -> io::Result<()> {
        while !into.is_empty() {
            self.0.set_read_timeout(Some(left(until)?))?;
            match self.0.read(into) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => into = &mut into[n..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(readable_kind(e)),
            }
        }
        Ok(())
    }

    /// Waits as long as it takes for the first byte, then at most `limit` for the rest.
    pub fn read_when_it_comes(&mut self, into: &mut [u8], limit: Duration) -> io::Result<()> {
        let Some((first, rest)) = into.split_at_mut_checked(1) else { return Ok(()) };
        self.0.set_read_timeout(None)?;
        self.0.read_exact(first)?;
        self.read(rest, Instant::now() + limit)
    }

    /// Writes all slices.
    pub fn write(&mut self, mut slices: &mut [IoSlice<'_>], until: Instant) -> io::Result<()> {
        // Without the empty ones, so that zero means what it says.
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            self.0.set_write_timeout(Some(left(until)?))?;
            match self.0.write_vectored(slices) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => IoSlice::advance_slices(&mut slices, n),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(readable_kind(e)),
            }
        }
        Ok(())
    }
}
