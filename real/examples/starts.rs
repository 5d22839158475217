//! How long a request takes to its first answer, function by function: cold, warm, from a plain CRIU restore of the whole dump, and from a
//! reduced sandbox, with and without a held process. Prints a Markdown table; each cell is the median of some rounds, ms.
//!
//!     cargo run --release -p medes-real --example starts [ROUNDS [FUNCTION...]]
//!
//! All ways alternate within a round, so that noise meets them alike. Needs what the tests of sandboxes need.

#[path = "../tests/common/near.rs"]
mod near;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use medes_engine::event::Method;
use medes_engine::id::{NodeId, SandboxId};
use medes_real::node::{FUNCTIONS, LocalSandboxes, NodeOptions, Push};
use medes_real::ops::{OpError, Sandboxes};

type Failure = Box<dyn std::error::Error>;

/// The request that is timed.
const REQUEST: &str = "{\"seed\": 7}";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// The median.
fn middle(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// One sandbox as a bare process and its whole dump: what deduplication is compared with.
struct Plain {
    criu: PathBuf,
    folder: PathBuf,
}

impl Plain {
    fn new(options: &NodeOptions, function: &str, source: &str) -> Result<Self, Failure> {
        let folder = options.run_dir.with_extension("plain");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder)?;
        let plain = Self { criu: options.criu.clone(), folder };
        fs::write(plain.folder.join("runner.py"), include_str!("../../scripts/functions/runner.py"))?;
        let mut command = Command::new("setarch");
        command.args(["-R", "setsid"]).arg(&options.python).arg(plain.folder.join("runner.py")).arg(plain.socket());
        command.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/").env("LANG", "C.UTF-8");
        command.env("OPENBLAS_NUM_THREADS", "1").env("OMP_NUM_THREADS", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // No leader of a group, so setsid does not fork, and the child stays this one.
        let mut child = command.spawn()?;
        let init = serde_json::json!({ "value": { "name": function, "main": "main", "code": source } }).to_string();
        while !plain.socket().exists() {
            thread::sleep(Duration::from_millis(1));
        }
        plain.post("/init", &init)?;
        for _ in 0..3 {
            plain.post("/run", &format!("{{\"value\": {REQUEST}}}"))?;
        }
        thread::sleep(Duration::from_millis(20));
        fs::create_dir(plain.folder.join("images"))?;
        let pid = child.id().to_string();
        let done =
            Command::new(&plain.criu).args(["dump", "-t", &pid, "-D"]).arg(plain.folder.join("images")).status()?;
        if !done.success() {
            child.kill()?;
        }
        child.wait()?;
        if done.success() { Ok(plain) } else { Err("CRIU could not dump".into()) }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("sock")
    }

    fn post(&self, path: &str, body: &str) -> Result<(), Failure> {
        let mut stream = UnixStream::connect(self.socket())?;
        let length = body.len();
        write!(stream, "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with("HTTP/1.0 200") { Ok(()) } else { Err(answer.into()) }
    }

    /// Restores the dump and asks; the time to the answer.
    fn answer(&self) -> Result<f64, Failure> {
        let _ = fs::remove_file(self.socket());
        let pidfile = self.folder.join("pid");
        let _ = fs::remove_file(&pidfile);
        let began = Instant::now();
        let done = Command::new(&self.criu)
            .args(["restore", "--restore-detached", "-D"])
            .arg(self.folder.join("images"))
            .arg("--pidfile")
            .arg(&pidfile)
            .status()?;
        if !done.success() {
            return Err("CRIU could not restore".into());
        }
        self.post("/run", &format!("{{\"value\": {REQUEST}}}"))?;
        let took = ms(began.elapsed());
        let pid: i32 = fs::read_to_string(&pidfile)?.trim().parse()?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
        while Path::new(&format!("/proc/{pid}")).exists() {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(took)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Reduced once, and restored as often as it is asked.
struct Reduced {
    sandboxes: LocalSandboxes,
}

const BASE: SandboxId = SandboxId { generation: 0, slot: 0 };
const OTHER: SandboxId = SandboxId { generation: 0, slot: 1 };

impl Reduced {
    fn new(options: &NodeOptions, nopause: bool, push: Push, function: &str) -> Result<Self, Failure> {
        let mut options = options.clone();
        (options.nopause, options.push) = (nopause, push);
        options.run_dir.set_extension(format!("{nopause}{push:?}"));
        let sandboxes = LocalSandboxes::new(options, Arc::new(near::Near::new(2)))?;
        for id in [BASE, OTHER] {
            sandboxes.spawn(id, function, soon())?;
            for _ in 0..3 {
                sandboxes.run(id, REQUEST, soon())?;
            }
        }
        sandboxes.checkpoint(BASE, soon())?;
        Ok(Self { sandboxes })
    }

    /// From the decision to the first answer, and of that the restore.
    fn answer(&self) -> Result<(f64, f64), OpError> {
        let began = Instant::now();
        let restored = self.sandboxes.restore(OTHER, soon())?;
        self.sandboxes.run(OTHER, REQUEST, soon())?;
        Ok((ms(began.elapsed()), ms(restored.took)))
    }
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(5), |n| n.parse())?;
    let wanted: Vec<String> = arguments.collect();
    let options = NodeOptions::new(NodeId(0), &PathBuf::from(format!("/dev/shm/medes-starts-{}", std::process::id())));
    println!(
        "| function | cold | warm | plain restore | held, pushed first | of it pages | pushed behind | not held | held / cold | held / plain | MB warm | MB stored | MB held |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (function, source) in FUNCTIONS.iter().filter(|(f, _)| wanted.is_empty() || wanted.iter().any(|w| w == f)) {
        let plain = Plain::new(&options, function, source)?;
        let held = Reduced::new(&options, false, Push::First, function)?;
        let behind = Reduced::new(&options, false, Push::Behind, function)?;
        let not_held = Reduced::new(&options, true, Push::First, function)?;
        let warm_memory = (held.sandboxes.memory().sandboxes.as_mb()) / 2.0;
        let stored = held.sandboxes.reduce(OTHER, Method::Patches, false, soon())?.stored.as_mb();
        for reduced in [&behind, &not_held] {
            reduced.sandboxes.reduce(OTHER, Method::Patches, false, soon())?;
        }
        let of_both = held.sandboxes.memory().sandboxes.as_mb();
        let mut times: [Vec<f64>; 7] = Default::default();
        for round in 0..rounds {
            let new = SandboxId { generation: 1 + round as u32, slot: 2 };
            let began = Instant::now();
            held.sandboxes.spawn(new, function, soon())?;
            held.sandboxes.run(new, REQUEST, soon())?;
            let cold = ms(began.elapsed());
            let began = Instant::now();
            held.sandboxes.run(new, REQUEST, soon())?;
            let warm = ms(began.elapsed());
            held.sandboxes.purge(new);
            let (answer, pages) = held.answer()?;
            let (without, _) = not_held.answer()?;
            let (later, _) = behind.answer()?;
            for (list, time) in times.iter_mut().zip([cold, warm, plain.answer()?, answer, pages, later, without]) {
                list.push(time);
            }
            for reduced in [&held, &behind, &not_held] {
                reduced.sandboxes.reduce(OTHER, Method::Patches, true, soon())?;
            }
        }
        let [cold, warm, plain, held_ms, pages, later, without] = times.map(middle);
        println!(
            "| {function} | {cold:.1} | {warm:.1} | {plain:.1} | {held_ms:.1} | {pages:.1} | {later:.1} | {without:.1} | {:.2} | {:.2} | {warm_memory:.1} | {stored:.1} | {:.1} |",
            held_ms / cold,
            held_ms / plain,
            of_both - warm_memory
        );
    }
    Ok(())
}
