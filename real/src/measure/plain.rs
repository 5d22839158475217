//! A sandbox as a bare process and its whole dump, restored by CRIU and nothing else: what deduplication is compared with.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::soon;
use crate::load::{self, Load};
use crate::node::NodeOptions;
use crate::ops::OpError;

/// Between two looks at whether something is there.
const LOOK: Duration = Duration::from_micros(500);
/// For a runner to close its side of the last connection: CRIU dumps none that is open.
const SETTLE: Duration = Duration::from_millis(20);

/// The dump, in a folder of its own.
pub struct Plain {
    criu: PathBuf,
    folder: PathBuf,
}

fn failed(what: &str, reason: impl ToString) -> OpError {
    OpError::Sandbox { what: format!("a plain restore, {what}"), reason: reason.to_string(), gone: true }
}

/// Ends a process when dropped: whatever fails meanwhile, none is left, and its number is free for the next restore.
struct Ended(i32);

impl Drop for Ended {
    fn drop(&mut self) {
        // One that is gone is none the worse.
        let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
        let until = soon();
        while Path::new(&format!("/proc/{}", self.0)).exists() && Instant::now() < until {
            // It is this program's child, or somebody else waits for it.
            let _ = waitpid(Pid::from_raw(self.0), Some(WaitPidFlag::WNOHANG));
            thread::sleep(LOOK);
        }
    }
}

impl Plain {
    /// Starts the function, runs it `settled` times, and checkpoints it.
    ///
    /// # Errors
    /// Whatever step failed; nothing is left.
    pub fn new(options: &NodeOptions, load: &Load, settled: u64) -> Result<Self, OpError> {
        // A folder for each function: they are measured by turns, and all dumps are there at once.
        let folder = options.run_dir.join(&load.action);
        let io = |e: std::io::Error| OpError::io(&folder, &e);
        fs::create_dir_all(folder.join("images")).map_err(io)?;
        fs::write(folder.join("runner.py"), include_str!("../../../scripts/functions/runner.py")).map_err(io)?;
        let plain = Self { criu: options.criu.clone(), folder: folder.clone() };
        let code = match options.functions.get(&load.action) {
            Some(file) => fs::read_to_string(file).map_err(|e| OpError::io(file, &e))?,
            None => load::action(&load.action).ok_or_else(|| failed("starting", "no such function"))?.code,
        };
        let mut child = plain.start(options).map_err(io)?;
        let ended = Ended(child.id().cast_signed());
        let done = plain.prepare(load, &code, settled, ended.0);
        drop(ended);
        // It has ended, dumped or killed, and was waited for.
        let _ = child.try_wait();
        done.map(|()| plain)
    }

    fn start(&self, options: &NodeOptions) -> std::io::Result<Child> {
        // What this program was itself given open (a shell's lock, a log) is not for CRIU to checkpoint: the shell closes it. No child of ours by
        // way of a nursery: it would ask to die with its parent, and the restored one's parent is a CRIU that ends.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec setarch -R setsid \"$@\" 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-", "sh"])
            .arg(&options.python)
            .arg(self.folder.join("runner.py"))
            .arg(self.socket());
        command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/").env("LANG", "C.UTF-8");
        command.env("OPENBLAS_NUM_THREADS", "1").env("OMP_NUM_THREADS", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // No leader of a group, so setsid does not fork, and the child stays this one.
        command.spawn()
    }

    fn prepare(&self, load: &Load, code: &str, settled: u64, pid: i32) -> Result<(), OpError> {
        let until = soon();
        while UnixStream::connect(self.socket()).is_err() {
            if Instant::now() > until {
                return Err(failed("starting", "nobody listens"));
            }
            thread::sleep(LOOK);
        }
        let init = serde_json::json!({ "name": load.action, "main": "main", "code": code }).to_string();
        let (status, body) = self.post("/init", &init)?;
        if status != 200 {
            return Err(failed("starting", format!("/init answered {status}: {body}")));
        }
        for seed in 0..settled {
            self.ask(load, seed)?;
        }
        thread::sleep(SETTLE);
        self.criu("dump", &["--tree", &pid.to_string()])
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("sock")
    }

    /// Runs CRIU quietly; its log stays with the images as long as this does.
    fn criu(&self, verb: &str, words: &[&str]) -> Result<(), OpError> {
        let mut command = Command::new(&self.criu);
        command.arg(verb).args(words).args(["--log-file", "log", "--images-dir"]).arg(self.folder.join("images"));
        let done = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        match done {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => {
                let log = fs::read_to_string(self.folder.join("images/log")).unwrap_or_default();
                let said: Vec<&str> = log.lines().filter(|l| l.contains("Error")).collect();
                Err(failed(verb, if said.is_empty() { "CRIU said nothing".to_owned() } else { said.join("; ") }))
            }
            Err(e) => Err(OpError::io(&self.criu, &e)),
        }
    }

    fn post(&self, path: &str, value: &str) -> Result<(u32, String), OpError> {
        let asked = || -> std::io::Result<String> {
            let mut stream = UnixStream::connect(self.socket())?;
            let left = soon().saturating_duration_since(Instant::now());
            stream.set_read_timeout(Some(left))?;
            let body = format!("{{\"value\": {value}}}");
            let length = body.len();
            write!(stream, "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = asked().map_err(|e| failed(path, e))?;
        let status = answer.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Ok((status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned())))
    }

    fn ask(&self, load: &Load, seed: u64) -> Result<(), OpError> {
        let (status, body) = self.post("/run", &load.request(seed))?;
        if load.right(status, &body) { Ok(()) } else { Err(failed("/run", format!("answered {status}: {body}"))) }
    }

    /// Restores the dump and asks: CRIU's time, and that to the answer.
    ///
    /// # Errors
    /// CRIU failed, or a wrong answer.
    pub fn answer(&self, load: &Load, seed: u64) -> Result<(Duration, Duration), OpError> {
        // CRIU binds the socket anew, and writes no file that is there.
        let _ = fs::remove_file(self.socket());
        let file = self.folder.join("images/pid");
        let _ = fs::remove_file(&file);
        let began = Instant::now();
        self.criu("restore", &["--restore-detached", "--pidfile", "pid"])?;
        let restored = began.elapsed();
        let pid = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        let _ended = Ended(pid.ok_or_else(|| failed("restore", "CRIU named no process"))?);
        self.ask(load, seed)?;
        Ok((restored, began.elapsed()))
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // The run's folder goes as a whole, too.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medes_engine::id::NodeId;

    /// Functions are measured by turns: what is restored must be the function that is asked.
    #[test]
    fn each_function_is_restored_from_its_own_dump() {
        let run_dir = PathBuf::from(format!("/dev/shm/medes-plain-{}", std::process::id()));
        let mut options = NodeOptions::new(NodeId(1), &run_dir);
        if !nix::unistd::geteuid().is_root() || !options.criu.exists() || !options.python.exists() {
            let _ = writeln!(
                std::io::stderr(),
                "skipped: plain restores: needs root, CRIU and functions; see `medes doctor`"
            );
            return;
        }
        fs::create_dir_all(&run_dir).unwrap();
        let loads = ["one", "two"].map(|name| {
            let file = run_dir.join(format!("{name}.py"));
            // An answer to another function's question is a wrong one.
            fs::write(&file, format!("def main(args):\n    return {{'ok': args['who'] == '{name}'}}\n")).unwrap();
            options.functions.insert(name.into(), file);
            Load { action: name.into(), arguments: Some(format!("{{\"who\": \"{name}\"}}")), checked: true }
        });
        let plain = loads.each_ref().map(|load| Plain::new(&options, load, 1).unwrap());
        for (plain, load) in plain.iter().zip(&loads).chain(plain.iter().zip(&loads)) {
            plain.answer(load, 1).unwrap();
        }
        drop(plain);
        fs::remove_dir_all(&run_dir).unwrap();
    }
}
