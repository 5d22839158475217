//! `medes doctor`: what this machine can do, and how to get what is missing.

mod verbs;

use std::path::Path;
use std::process::Command;

use crate::output::{Output, table};

/// Where scripts/setup-criu puts one.
const OWN_CRIU: &str = "/opt/medes/criu/bin/criu";

struct Finding {
    what: &'static str,
    state: Result<String, String>,
    needed_for: &'static str,
}

/// Looks at the machine; nothing that the simulator needs can be missing.
pub fn doctor(out: &Output) -> anyhow::Result<()> {
    let findings = look();
    if out.json {
        let rows: Vec<_> = findings
            .iter()
            .map(|f| {
                let (ok, text) = match &f.state {
                    Ok(t) => (true, t),
                    Err(t) => (false, t),
                };
                serde_json::json!({"what": f.what, "ok": ok, "state": text, "needed_for": f.needed_for})
            })
            .collect();
        out.print(serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    let rows = findings.iter().map(|f| {
        let (mark, text) = match &f.state {
            Ok(t) => ("yes", t),
            Err(t) => ("no", t),
        };
        vec![f.what.to_owned(), mark.to_owned(), text.clone(), f.needed_for.to_owned()]
    });
    let head = ["what", "there", "state, or how to get it", "needed for"].map(str::to_owned);
    out.print(table(head, rows));
    Ok(())
}

/// What this machine lacks to run sandboxes, each with the way to get it.
pub fn missing_for_sandboxes() -> Vec<String> {
    const NEEDED: [&str; 4] = ["root", "userfaultfd", "functions' libraries", "CRIU"];
    let lacks = |f: Finding| f.state.err().filter(|_| NEEDED.contains(&f.what)).map(|how| format!("{}: {how}", f.what));
    look().into_iter().filter_map(lacks).collect()
}

fn look() -> Vec<Finding> {
    let mut all = vec![
        Finding {
            what: "cores and memory",
            state: Ok(format!(
                "{} cores, {}",
                std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
                memory().unwrap_or_else(|| "memory unknown".into())
            )),
            needed_for: "everything",
        },
        Finding {
            what: "root",
            state: if is_root() { Ok("yes".into()) } else { Err("run as root, or with sudo".into()) },
            needed_for: "dumps of real functions",
        },
        Finding { what: "CRIU", state: criu(), needed_for: "dumps of real functions, dedup on real sandboxes" },
        Finding {
            what: "userfaultfd",
            state: if Path::new("/proc/sys/vm/unprivileged_userfaultfd").exists() {
                Ok("in the kernel".into())
            } else {
                Err("a kernel with CONFIG_USERFAULTFD".into())
            },
            needed_for: "lazy restores",
        },
        Finding {
            what: "moving pages",
            state: medes_real::node::can_watch().map_err(|e| format!("{e}; Linux 6.8 has both")),
            needed_for: "first dedup starts that know what is touched",
        },
        Finding {
            what: "python3",
            state: version("python3", &["--version"]).ok_or_else(|| "apt-get install python3 python3-pip".into()),
            needed_for: "the ten functions",
        },
        Finding { what: "functions' libraries", state: venv(), needed_for: "real sandboxes" },
        Finding {
            what: "cgroups",
            state: medes_real::node::memory_caps()
                .map_err(|e| format!("{e}; without, sandboxes have no caps of their own")),
            needed_for: "memory caps of single sandboxes",
        },
        Finding { what: "tmpfs", state: tmpfs(), needed_for: "dumps of real sandboxes" },
        Finding { what: "runc", state: runc(), needed_for: "sandbox = \"runc\"" },
        Finding {
            what: "KSM",
            state: match std::fs::read_to_string("/sys/kernel/mm/ksm/run") {
                Ok(v) => Ok(if v.trim() == "1" { "on" } else { "off (echo 1 > /sys/kernel/mm/ksm/run)" }.into()),
                Err(_) => Err("a kernel with CONFIG_KSM".into()),
            },
            needed_for: "comparing with the kernel's own deduplication",
        },
        Finding {
            what: "QEMU",
            state: version("qemu-system-x86_64", &["--version"])
                .ok_or_else(|| "apt-get install qemu-system-x86".into()),
            needed_for: "the RDMA lab",
        },
        Finding {
            what: "Slurm",
            state: version("sbatch", &["--version"])
                .ok_or_else(|| "a login node of your cluster; to try it: apt-get install slurm-wlm munge".into()),
            needed_for: "medes run --on slurm",
        },
        Finding {
            what: "address randomisation",
            state: std::fs::read_to_string("/proc/sys/kernel/randomize_va_space")
                .map(|v| {
                    if v.trim() == "0" {
                        "off".to_owned()
                    } else {
                        "on: patches between sandboxes save less".to_owned()
                    }
                })
                .map_err(|e| e.to_string()),
            needed_for: "reading figures of dumps",
        },
    ];
    all.extend(verbs::findings());
    all
}

/// runc, and what its sandboxes' roots are made of.
fn runc() -> Result<String, String> {
    let version = version("runc", &["--version"]).ok_or("apt-get install runc")?;
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    // A module is loaded when it is first asked for, by root.
    if !known.lines().any(|l| l.split_whitespace().next_back() == Some("overlay")) && !is_root() {
        return Err(format!("{version}, but no overlay file system in the kernel: modprobe overlay"));
    }
    match criu() {
        Ok(_) => Ok(format!("{version}; it checkpoints and restores with the CRIU that sandboxes use")),
        Err(e) => Err(format!("{version}; containers run but are not checkpointed: {e}")),
    }
}

/// The Python with the functions' libraries.
fn venv() -> Result<String, String> {
    let venv = std::env::var("MEDES_FUNCTIONS_VENV").unwrap_or_else(|_| "/opt/medes/functions".into());
    match Path::new(&venv).join("bin/python").exists() {
        true => Ok(venv),
        false => Err(format!(
            "python3 -m venv {venv} && {venv}/bin/pip install -r scripts/functions/requirements.txt, or say where with MEDES_FUNCTIONS_VENV"
        )),
    }
}

/// The CRIU that sandboxes use, and what it says of this kernel. Another one on the path is of no use to them.
fn criu() -> Result<String, String> {
    let path = std::env::var("MEDES_CRIU").unwrap_or_else(|_| OWN_CRIU.into());
    let version = version(&path, &["--version"]).ok_or_else(|| {
        format!("no {path}: scripts/setup-criu installs one that works on recent kernels; MEDES_CRIU names another")
    })?;
    let version = version.trim_start_matches("Version: ");
    match Command::new(&path).arg("check").output() {
        Ok(o) if o.status.success() => Ok(format!("{version}, {path}; criu check: looks good")),
        Ok(o) => {
            let text = String::from_utf8_lossy(&o.stderr).lines().last().unwrap_or_default().to_owned();
            Err(format!(
                "{version}, {path}; criu check, as root: {text}; scripts/setup-criu installs one that works on recent kernels"
            ))
        }
        Err(e) => Err(format!("{path}: {e}")),
    }
}

/// Room on the file system where dumps go.
fn tmpfs() -> Result<String, String> {
    let said =
        Command::new("df").args(["-B1", "--output=fstype,avail", "/dev/shm"]).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let mut words = text.lines().nth(1).unwrap_or_default().split_whitespace();
    match (words.next(), words.next().and_then(|n| n.parse::<f64>().ok())) {
        (Some("tmpfs"), Some(bytes)) => Ok(format!("/dev/shm, {:.1} GB free", bytes / 1e9)),
        _ => Err("mount -t tmpfs tmpfs /dev/shm: dumps on a disk are slow".into()),
    }
}

fn version(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout);
    out.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|l| l.strip_prefix("Uid:")).and_then(|l| l.split_whitespace().nth(1)) == Some("0")
}

fn memory() -> Option<String> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kb: f64 = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse().ok()?;
    Some(format!("{:.1} GB", kb * 1024.0 / 1e9))
}
