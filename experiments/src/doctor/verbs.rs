//! What one-sided reads need of a machine.

use std::fs;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::{Finding, is_root};

const FOR: &str = "transport = \"verbs\"";
/// Base images and restore buffers are locked while they are registered, so less than this is too little, bytes.
const LEAST_LOCKED: u64 = 1 << 30;

/// Devices, the kernel's connection manager, the limit of locked memory, and this program itself.
pub(super) fn findings() -> Vec<Finding> {
    let root = Path::new("/sys/class/infiniband");
    vec![
        Finding { what: "RDMA devices", state: devices(root), needed_for: FOR },
        Finding {
            what: "RDMA connections",
            state: match Path::new("/dev/infiniband/rdma_cm").exists() {
                true => Ok("/dev/infiniband/rdma_cm".into()),
                false => Err("modprobe rdma_ucm (package rdma-core loads it at the start)".into()),
            },
            needed_for: FOR,
        },
        Finding {
            what: "locked memory",
            state: match getrlimit(Resource::RLIMIT_MEMLOCK) {
                Ok((soft, _)) => locked(soft, is_root()),
                Err(e) => Err(e.to_string()),
            },
            needed_for: FOR,
        },
        Finding {
            what: "verbs in this program",
            state: match cfg!(feature = "rdma") {
                true => Ok("built in".into()),
                false => Err(medes_real::transport::NOT_BUILT.into()),
            },
            needed_for: FOR,
        },
    ]
}

/// Each port of each device with its state and network interface; an error if none is active.
fn devices(root: &Path) -> Result<String, String> {
    let (mut seen, mut active) = (Vec::new(), false);
    let names = |folder: &Path| {
        let mut names: Vec<String> = fs::read_dir(folder)
            .map(|d| d.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default();
        names.sort();
        names
    };
    for device in names(root) {
        let ports = root.join(&device).join("ports");
        for port in names(&ports) {
            let text = |file: &str| fs::read_to_string(ports.join(&port).join(file)).unwrap_or_default();
            // As in "4: ACTIVE".
            let state = text("state");
            let state = state.trim().rsplit(' ').next().unwrap_or_default().to_lowercase();
            active |= state == "active";
            let interface = text("gid_attrs/ndevs/0");
            let on = if interface.trim().is_empty() { String::new() } else { format!(" on {}", interface.trim()) };
            seen.push(format!("{device} port {port}{on}: {state}"));
        }
    }
    match (seen.is_empty(), active) {
        (true, _) => Err("an RDMA network card, or Soft-RoCE (docs/rdma.md); tcp works without".into()),
        (_, false) => Err(format!("{}: bring its link up ('rdma link' shows it)", seen.join(", "))),
        (_, true) => Ok(seen.join(", ")),
    }
}

fn locked(limit: u64, root: bool) -> Result<String, String> {
    match limit {
        _ if root => Ok("root has no limit".into()),
        RLIM_INFINITY => Ok("no limit".into()),
        enough if enough >= LEAST_LOCKED => Ok(format!("{:.1} GB", enough as f64 / 1e9)),
        little => Err(format!(
            "{:.1} MB are too little: 'ulimit -l unlimited' (LimitMEMLOCK=infinity for a service), or run as root",
            little as f64 / 1e6
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_shown_and_one_must_be_active() {
        let root = tempfile::tempdir().unwrap();
        assert!(devices(root.path()).unwrap_err().contains("Soft-RoCE"));
        let port = root.path().join("mlx5_0/ports/1");
        fs::create_dir_all(port.join("gid_attrs/ndevs")).unwrap();
        fs::write(port.join("gid_attrs/ndevs/0"), "eth1\n").unwrap();
        fs::write(port.join("state"), "1: DOWN\n").unwrap();
        assert!(devices(root.path()).unwrap_err().contains("mlx5_0 port 1 on eth1: down"));
        fs::write(port.join("state"), "4: ACTIVE\n").unwrap();
        assert_eq!(devices(root.path()), Ok("mlx5_0 port 1 on eth1: active".into()));
    }

    #[test]
    fn little_locked_memory_is_too_little_but_for_root() {
        assert!(locked(65_536, false).unwrap_err().contains("ulimit -l"));
        assert!(locked(65_536, true).is_ok());
        assert!(locked(RLIM_INFINITY, false).is_ok());
        assert_eq!(locked(2 << 30, false), Ok("2.1 GB".into()));
    }
}
