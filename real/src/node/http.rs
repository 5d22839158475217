//! One HTTP request to a runner over its Unix socket, blocking, with a deadline.
//!
//! Not hyper: sandboxes are driven from plain threads, one request a connection, and the end of the answer must be seen as the end of the
//! connection: only then has the runner closed its side, and a checkpoint finds no half-open socket.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest answer, head and body.
const MOST: usize = 16 << 20;

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No answer by the deadline.
    #[error("no answer in time")]
    Late,
    /// The socket refused or broke.
    #[error("{0}")]
    Io(io::Error),
    /// Not an HTTP answer.
    #[error("not an HTTP answer: {0}")]
    Malformed(&'static str),
}

impl From<io::Error> for HttpError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Late,
            _ => Self::Io(e),
        }
    }
}

/// Time left; a socket's timeout must not be zero.
fn left(deadline: Instant) -> Result<Duration, HttpError> {
    deadline.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()).ok_or(HttpError::Late)
}

/// A request that was sent.
pub struct Sent(UnixStream);

/// Connects and sends `POST path` with a JSON body.
///
/// # Errors
/// The socket's, or no room in its buffer by the deadline.
pub fn send(socket: &Path, path: &str, body: &str, deadline: Instant) -> Result<Sent, HttpError> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    Ok(Sent(stream))
}

impl Sent {
    /// The answer's status and body, once the other side has closed.
    ///
    /// # Errors
    /// No answer by the deadline, none at all, or none that is HTTP.
    pub fn answer(mut self, deadline: Instant) -> Result<(u16, String), HttpError> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16384];
        loop {
            self.0.set_read_timeout(Some(left(deadline)?))?;
            match self.0.read(&mut buffer) {
                Ok(0) => return parse(&bytes),
                Ok(n) => bytes.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
            if bytes.len() > MOST {
                return Err(HttpError::Malformed("longer than 16 MiB"));
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Result<(u16, String), HttpError> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or(HttpError::Malformed("it has no end of head"))?;
    let (head, body) = bytes.split_at(end + 4);
    let head = std::str::from_utf8(head).map_err(|_| HttpError::Malformed("its head is no text"))?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|l| l.strip_prefix("HTTP/1."))
        .and_then(|l| l.split(' ').nth(1)?.parse().ok())
        .ok_or(HttpError::Malformed("it has no status"))?;
    let named = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    };
    let body = match lines.find_map(named) {
        Some(length) => body.get(..length).ok_or(HttpError::Malformed("its body is cut off"))?,
        None => body,
    };
    let body = String::from_utf8(body.to_vec()).map_err(|_| HttpError::Malformed("its body is no text"))?;
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        let good = b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}more";
        assert_eq!(parse(good).unwrap(), (200, "{}".into()));
        assert_eq!(parse(b"HTTP/1.1 502 no\r\n\r\n[1]").unwrap(), (502, "[1]".into()));
        for bad in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"SSH-2\r\n\r\n",
            b"HTTP/1.1 x\r\n\r\n",
            b"HTTP/1.1 200\r\nContent-Length: 9\r\n\r\nab",
        ] {
            assert!(matches!(parse(bad), Err(HttpError::Malformed(_))), "{bad:?}");
        }
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        let sent = send(&path, "/run", "{}", deadline).unwrap();
        assert!(matches!(sent.answer(deadline), Err(HttpError::Late)));
        assert!(Instant::now() >= deadline);
    }
}
