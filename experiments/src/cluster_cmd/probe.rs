//! What a host has, asked by one script, and how to get what it lacks.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::SHORT;
use super::ssh::{Host, SshError};

/// Clocks may differ by this much beyond what the connection's delay explains, ms. Times are taken on the controller, so a difference
/// spoils no figure; logs of several hosts become hard to read.
const CLOCK_MS: f64 = 500.0;
/// An agent with less memory than this can hold no function of the larger kind, MB.
const LEAST_MEMORY_MB: u64 = 1024;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// How it stands.
    pub level: Level,
    /// What is there, or how to get it.
    pub text: String,
}

/// Whether an agent can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// It is there.
    Fine,
    /// An agent runs without it.
    Lacking,
    /// No agent runs without it.
    Missing,
}

/// Prints `key=value` lines. Plain POSIX shell: nothing is taken to be there.
const SCRIPT: &str = r#"
criu=${MEDES_CRIU:-/opt/medes/criu/bin/criu}
[ -x "$criu" ] || criu=$(command -v criu || true)
sudo=
[ "$(id -u)" = 0 ] || sudo='sudo -n'
echo "kernel=$(uname -sr)"
echo "machine=$(uname -m)"
if $sudo true 2>/dev/null; then echo root=yes; else echo root=no; fi
if [ -n "$criu" ]; then
    echo "criu=$($criu --version 2>/dev/null | head -n 1)"
    if $sudo "$criu" check >/dev/null 2>&1; then echo criu_works=yes; else echo "criu_works=$($sudo "$criu" check 2>&1 | tail -n 1)"; fi
fi
python=${MEDES_FUNCTIONS_VENV:-/opt/medes/functions}/bin/python
[ -x "$python" ] || python=$(command -v python3 || true)
if [ -n "$python" ]; then
    echo "python=$($python --version 2>&1)"
    # Looked for, not loaded: that takes a slow host a minute. scripts/cloudlab/setup has loaded them.
    if $python -c 'import importlib.util, sys; sys.exit(any(importlib.util.find_spec(m) is None for m in sys.argv[1:]))' \
        numpy PIL cv2 chameleon pyaes sklearn pandas onnxruntime 2>/dev/null; then echo libraries=yes; fi
fi
awk '/^MemAvailable:/ { print "memory_kb=" $2 }' /proc/meminfo
df -k /dev/shm 2>/dev/null | awk 'NR == 2 { print "tmpfs_kb=" $4 }'
for device in /sys/class/infiniband/*; do
    [ -e "$device" ] || continue
    for port in "$device"/ports/*; do
        case $(cat "$port/state" 2>/dev/null) in *ACTIVE) ;; *) continue ;; esac
        gid=$(cat "$port/gids/0" 2>/dev/null)
        echo "verbs=$(basename "$device") port $(basename "$port"), GID $gid"
    done
done
[ -e /sys/fs/cgroup/cgroup.controllers ] && echo cgroup=2
[ -d /sys/fs/cgroup/memory ] && echo cgroup=1
"#;

/// Prints the clock, ns since 1970.
const CLOCK: &str = "echo \"clock=$(date +%s%N)\"\n";

/// Prints `busy=PORT` for each port that somebody listens at. Looks in /proc: `ss` may not be there.
fn ports_script(ports: &[u16]) -> String {
    let mut script = String::new();
    for port in ports {
        script.push_str(&format!(
            "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '$4 == \"0A\" && $2 ~ /:{port:04X}$/ {{ found = 1 }} END {{ if (found) print \"busy={port}\" }}'\n"
        ));
    }
    script
}

/// Looks at a host whose agents need `ports`; `running` says that they run already and the ports are theirs.
///
/// # Errors
/// The host cannot be asked.
pub fn probe(host: &Host, ports: &[u16], running: bool) -> Result<Vec<Finding>, SshError> {
    let mut text = host.must("looking at it", &format!("{SCRIPT}{}", ports_script(ports)), SHORT)?;
    // By itself: the shorter the command, the closer its clock is known.
    let before = now_ms();
    text.push_str(&host.must("asking its clock", CLOCK, SHORT)?);
    Ok(judge(&text, (before, now_ms()), running))
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

/// What the script's lines mean; `window` is our clock before and after, ms.
fn judge(text: &str, window: (f64, f64), running: bool) -> Vec<Finding> {
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, value) in text.lines().filter_map(|l| l.split_once('=')) {
        found.entry(key).or_default().push(value.trim());
    }
    let one = |key: &str| found.get(key).and_then(|v| v.first().copied());
    let mut out = Vec::new();
    let mut add = |what, level, text: String| out.push(Finding { what, level, text });
    let kernel = format!("{}, {}", one("kernel").unwrap_or("unknown"), one("machine").unwrap_or("unknown"));
    if one("kernel").is_some_and(|k| k.starts_with("Linux ")) {
        add("kernel", Level::Fine, kernel);
    } else {
        add("kernel", Level::Missing, format!("{kernel}: agents need Linux"));
    }
    match one("root") {
        Some("yes") => add("root", Level::Fine, "yes".into()),
        _ => add("root", Level::Missing, "log in as root, or let the user use sudo without a password".into()),
    }
    match (one("criu"), one("criu_works")) {
        (Some(version), Some("yes")) => add("CRIU", Level::Fine, version.into()),
        (Some(version), why) => {
            let why = why.unwrap_or("it says nothing");
            add("CRIU", Level::Missing, format!("{version} fails here ({why}): run scripts/cloudlab/setup there"));
        }
        (None, _) => add("CRIU", Level::Missing, "none: run scripts/cloudlab/setup there".into()),
    }
    match (one("python"), one("libraries")) {
        (Some(version), Some(_)) => add("Python", Level::Fine, format!("{version} with the functions' libraries")),
        (Some(version), None) => {
            add("Python", Level::Lacking, format!("{version} without numpy etc.: run scripts/cloudlab/setup there"));
        }
        (None, _) => add("Python", Level::Missing, "none: run scripts/cloudlab/setup there".into()),
    }
    let mb = |key| one(key).and_then(|v| v.parse::<u64>().ok()).map_or(0, |kb| kb / 1024);
    let level = if mb("memory_kb") >= LEAST_MEMORY_MB { Level::Fine } else { Level::Lacking };
    add("memory", level, format!("{} MB free", mb("memory_kb")));
    let level = if mb("tmpfs_kb") >= LEAST_MEMORY_MB / 2 { Level::Fine } else { Level::Lacking };
    add(
        "tmpfs",
        level,
        format!("{} MB free in /dev/shm for dumps; `mount -o remount,size=...` gives more", mb("tmpfs_kb")),
    );
    match found.get("verbs") {
        Some(devices) => add("verbs", Level::Fine, devices.join("; ")),
        None => add("verbs", Level::Lacking, "no active RDMA device: base pages go over tcp (docs/rdma.md)".into()),
    }
    match one("cgroup") {
        Some(version) => add("cgroups", Level::Fine, format!("version {version}")),
        None => add("cgroups", Level::Lacking, "none: a sandbox's memory has no cap of its own".into()),
    }
    let clock = one("clock").and_then(|v| v.parse::<f64>().ok()).map(|ns| ns / 1e6);
    match clock {
        Some(theirs) => {
            let away = (window.0 - theirs).max(theirs - window.1).max(0.0);
            let level = if away <= CLOCK_MS { Level::Fine } else { Level::Lacking };
            let mend = if level == Level::Fine { "" } else { ": run an NTP client (apt-get install chrony)" };
            add("clock", level, format!("within {:.0} ms of ours{mend}", away.max(window.1 - window.0)));
        }
        None => add("clock", Level::Lacking, "unreadable: `date +%s%N` is not GNU's".into()),
    }
    match found.get("busy") {
        Some(ports) if !running => add(
            "ports",
            Level::Missing,
            format!("{} in use by another program: end it, or give others in the cluster file", ports.join(", ")),
        ),
        Some(_) => add("ports", Level::Fine, "used by the running agents".into()),
        None => add("ports", Level::Fine, "free".into()),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(findings: &[Finding], what: &str) -> Level {
        findings.iter().find(|f| f.what == what).unwrap().level
    }

    const GOOD: &str = "clock=1000000000\nkernel=Linux 6.1.0\nmachine=x86_64\nroot=yes\ncriu=Version: 4.1\ncriu_works=yes\n\
        python=Python 3.11\nlibraries=yes\nmemory_kb=8000000\ntmpfs_kb=4000000\nverbs=rxe0 port 1, GID fe80::1\ncgroup=2\n";

    #[test]
    fn a_host_that_has_everything_is_fine() {
        let found = judge(GOOD, (999.0, 1001.0), false);
        assert!(found.iter().all(|f| f.level == Level::Fine), "{found:?}");
    }

    #[test]
    fn what_is_missing_says_how_to_get_it() {
        let found = judge("kernel=Linux 6.1\nroot=no\nbusy=4001\nclock=9000000000\n", (999.0, 1001.0), false);
        for what in ["root", "CRIU", "Python", "ports"] {
            assert_eq!(level(&found, what), Level::Missing, "{what}");
        }
        for what in ["memory", "tmpfs", "verbs", "cgroups", "clock"] {
            assert_eq!(level(&found, what), Level::Lacking, "{what}");
        }
        let found = judge(&format!("{GOOD}busy=4001\n"), (999.0, 1001.0), true);
        assert_eq!(level(&found, "ports"), Level::Fine);
        let found = judge(&GOOD.replace("criu_works=yes", "criu_works=no vdso"), (999.0, 1001.0), false);
        assert!(found.iter().any(|f| f.what == "CRIU" && f.text.contains("no vdso")));
    }

    #[test]
    fn the_script_runs_here_and_is_understood() {
        let out = std::process::Command::new("sh")
            .args(["-c", &format!("{SCRIPT}{}{CLOCK}", ports_script(&[1]))])
            .output()
            .expect("a shell");
        let now = now_ms();
        let found = judge(&String::from_utf8_lossy(&out.stdout), (now - 60_000.0, now), false);
        assert_eq!(level(&found, "kernel"), Level::Fine);
        assert_eq!(level(&found, "clock"), Level::Fine);
    }
}
