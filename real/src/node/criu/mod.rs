//! CRIU by its RPC: one request to a `criu swrk` that is started for it.
//!
//! Own messages and not the crate `rust-criu`: its options lack what is needed here (`leave_stopped`, `lazy_pages`, `rst_sibling`, cgroup
//! modes), it has no deadline, it starts CRIU from whatever thread calls it (see `nursery`), and it builds with protobuf's code generator
//! where this crate already has prost. The protocol is one packet each way.

mod messages;

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use prost::Message;

use super::cgroup::Cgroup;
use super::nursery::{Birth, Nursery};
use crate::ops::OpError;
pub use messages::{Features, Kind, Options, Request, Response};

/// Oldest version that the restore of held processes was seen to work with.
const OLDEST: (i32, i32) = (4, 0);
/// The network is not shut off while a tree is collected.
const NO_LOCK: i32 = 3;
/// Name of CRIU's log in the folder of the images.
const LOG: &str = "criu.log";
/// Levels of its log: warnings, and all (for a second attempt, which is rare: it makes CRIU slower).
const WARNINGS: i32 = 2;
pub const ALL: i32 = 4;
/// Lines that say "Error" in checkpoints that succeed as well: a limit that a container may not raise, and hints at optional features.
const HARMLESS: [&str; 2] = ["RLIMIT_NOFILE", "fs.nr_open"];
/// Lines of its log that are passed on, and bytes of one.
const LINES: usize = 4;
const LINE: usize = 240;

/// A CRIU that works here.
#[derive(Debug)]
pub struct Criu {
    program: PathBuf,
    /// As it says itself.
    pub version: String,
    /// Whether it and the kernel can restore lazily.
    pub lazy: bool,
}

/// What an operation is called in errors, and whether its failure loses the sandbox.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// The operation.
    pub what: &'static str,
    /// Whether the sandbox is lost if it fails.
    pub gone: bool,
}

impl Purpose {
    fn error(self, reason: String) -> OpError {
        OpError::Criu { what: self.what.into(), reason, gone: self.gone }
    }
}

/// A request under way.
pub struct Pending {
    child: Child,
    socket: OwnedFd,
    purpose: Purpose,
    log: Option<PathBuf>,
    // Names the folder by its number until CRIU has opened it.
    _folder: Option<File>,
}

impl Criu {
    /// Asks a program for its version and features.
    ///
    /// # Errors
    /// It cannot be started, does not answer, or is too old.
    pub fn new(program: &Path, nursery: &Nursery, deadline: Instant) -> Result<Self, OpError> {
        let mut out = Self { program: program.into(), version: String::new(), lazy: false };
        let ask = |kind, features| {
            let request = Request { kind: kind as i32, options: None, features };
            let purpose = Purpose { what: "starting", gone: false };
            out.begin(nursery, None, None, &request, purpose)?.finish(deadline)
        };
        let version = ask(Kind::Version, None)?.version.unwrap_or_default();
        if (version.major, version.minor) < OLDEST {
            let (have, want) = ((version.major, version.minor), OLDEST);
            let reason = format!(
                "{} is version {}.{}; {}.{} or later is needed: scripts/setup-criu gets it",
                program.display(),
                have.0,
                have.1,
                want.0,
                want.1
            );
            return Err(Purpose { what: "starting", gone: false }.error(reason));
        }
        let features = ask(Kind::FeatureCheck, Some(Features { lazy_pages: Some(true) })).ok().and_then(|r| r.features);
        out.version = format!("{}.{}.{}", version.major, version.minor, version.sub.unwrap_or(0));
        out.lazy = features.is_some_and(|f| f.lazy_pages == Some(true));
        Ok(out)
    }

    /// Starts a request about the images in `folder`; CRIU and what it restores are born into `group`.
    ///
    /// # Errors
    /// CRIU cannot be started.
    pub fn about(
        &self,
        nursery: &Nursery,
        folder: &Path,
        group: Option<&Cgroup>,
        kind: Kind,
        mut options: Options,
        purpose: Purpose,
    ) -> Result<Pending, OpError> {
        let file = File::open(folder).map_err(|e| OpError::io(folder, &e))?;
        options.images_dir_fd = file.as_raw_fd();
        options.work_dir_fd = Some(file.as_raw_fd());
        options.log_file = Some(LOG.into());
        options.log_level = options.log_level.or(Some(WARNINGS));
        // A sandbox's mounts are the machine's, and no more is kept of them than where they are.
        options.external = vec!["mnt[]".into()];
        // Nobody reaches a sandbox but through its socket: its network is empty, and there is nothing to shut off.
        options.empty_ns = Some(libc::CLONE_NEWNET.cast_unsigned());
        if kind == Kind::Restore {
            options.root = Some("/".into());
        } else {
            options.network_lock = Some(NO_LOCK);
        }
        options.manage_cgroups = Some(true);
        options.manage_cgroups_mode = Some(0);
        let request = Request { kind: kind as i32, options: Some(options), features: None };
        let mut pending = self.begin(nursery, group, Some(file), &request, purpose)?;
        pending.log = Some(folder.join(LOG));
        Ok(pending)
    }

    fn begin(
        &self,
        nursery: &Nursery,
        group: Option<&Cgroup>,
        folder: Option<File>,
        request: &Request,
        purpose: Purpose,
    ) -> Result<Pending, OpError> {
        let system = |e: Errno| purpose.error(e.desc().into());
        let (socket, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).map_err(system)?;
        let cgroups = group.map(Cgroup::doors).transpose().map_err(|(path, e)| OpError::io(&path, &e))?;
        let mut command = Command::new(&self.program);
        // CRIU serves the descriptor it is told; its standard input needs no inheritance by hand.
        command.args(["swrk", "0"]).stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let birth = Birth { cgroups: cgroups.unwrap_or_default(), ..Birth::default() };
        let child = nursery.start(command, birth).map_err(|e| {
            purpose.error(format!("{} cannot be started: {e}; scripts/setup-criu installs one", self.program.display()))
        })?;
        let pending = Pending { child, socket, purpose, log: None, _folder: folder };
        send(pending.socket.as_raw_fd(), &request.encode_to_vec(), MsgFlags::MSG_NOSIGNAL).map_err(system)?;
        Ok(pending)
    }
}

impl AsFd for Pending {
    /// Readable when the answer is there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Pending {
    /// Waits for the answer.
    ///
    /// # Errors
    /// CRIU refused (the end of its log says why) or was not done by the deadline and has been killed.
    pub fn finish(self, deadline: Instant) -> Result<Response, OpError> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, until(deadline)) {
                Ok(0) if Instant::now() >= deadline => {
                    return Err(OpError::Late { what: format!("{} by CRIU", self.purpose.what) });
                }
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => break,
                Err(e) => return Err(self.purpose.error(e.desc().into())),
            }
        }
        let mut buffer = vec![0; 65536];
        let n = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap_or(0);
        let response = Response::decode(buffer.get(..n).unwrap_or_default());
        match response {
            Ok(response) if n > 0 && response.success => Ok(response),
            Ok(response) if n > 0 => Err(self.purpose.error(self.why(response.message))),
            _ => Err(self.purpose.error(self.why(Some("it ended without an answer".into())))),
        }
    }

    /// What CRIU said: its message and the errors in its log.
    fn why(&self, message: Option<String>) -> String {
        let log = self.log.as_ref().and_then(|l| fs::read(l).ok()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let all: Vec<String> = message.into_iter().chain(reasons(&log)).collect();
        if all.is_empty() { "it gave no reason".into() } else { all.join("; ") }
    }
}

/// The last lines of a log that say why: errors, without them warnings, without these the very last line.
fn reasons(log: &str) -> Vec<String> {
    let told = |word: &'static str| {
        let matter = move |l: &&str| l.contains(word) && !HARMLESS.iter().any(|h| l.contains(h));
        let mut last: Vec<&str> = log.lines().rev().filter(matter).take(LINES).collect();
        last.reverse();
        last
    };
    let mut lines = told("Error");
    if lines.is_empty() {
        lines = told("Warn");
    }
    if lines.is_empty() {
        lines = log.lines().rev().filter(|l| !HARMLESS.iter().any(|h| l.contains(h))).take(1).collect();
    }
    lines.into_iter().map(|l| l.trim().chars().take(LINE).collect()).collect()
}

impl Drop for Pending {
    /// CRIU ends by itself after its answer; without one it is killed.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Milliseconds until then, rounded up, for `poll`.
pub fn until(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    PollTimeout::try_from(left.as_millis().min(1_000_000)).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_the_lines_that_matter_are_told() {
        let limit = "Error (criu/util.c:1533): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted";
        let full = "Error (criu/image.c:700): Can't write: No space left on device";
        let log = format!(
            "{limit}\nWarn  (criu/x.c:1): something odd\n(00.1) {full}\n(00.2) Error (criu/cr-dump.c:2): Dumping FAILED.\n"
        );
        let said = reasons(&log);
        assert!(said.len() == 2 && said[0].contains("No space left") && said[1].contains("FAILED"), "{said:?}");
        assert_eq!(
            reasons(&format!("{limit}\nWarn  (criu/x.c:1): something odd")),
            ["Warn  (criu/x.c:1): something odd"]
        );
        assert_eq!(reasons(&format!("(00.1) frozen\n{limit}\n")), ["(00.1) frozen"]);
        assert!(reasons(limit).is_empty() && reasons("").is_empty());
        let long = format!("Error {}", "x".repeat(1000));
        assert_eq!(reasons(&[long.as_str(); 9].join("\n")).iter().map(String::len).collect::<Vec<_>>(), [LINE; LINES]);
    }
}
