//! `medes doctor`: what this machine can do, and how to get what is missing.

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

fn look() -> Vec<Finding> {
    vec![
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
        Finding {
            what: "CRIU",
            state: version("criu", &["--version"])
                .or_else(|| version(OWN_CRIU, &["--version"]))
                .ok_or_else(|| "scripts/setup-criu installs one that works on recent kernels".into()),
            needed_for: "dumps of real functions",
        },
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
            what: "python3",
            state: version("python3", &["--version"]).ok_or_else(|| "apt-get install python3 python3-pip".into()),
            needed_for: "the ten functions",
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
    ]
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
