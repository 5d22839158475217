//! Baselines: figures kept under a name, and the machine that they are of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::{BenchArgs, Figures};
use crate::output::Output;

/// What figures depend on beside the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Host name.
    pub host: String,
    /// The processor's name.
    pub cpu: String,
    /// Cores that the program may use.
    pub cores: usize,
}

impl Machine {
    /// The one that this runs on.
    pub fn this() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim()));
        Self {
            host: nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            cpu: model.unwrap_or(std::env::consts::ARCH).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, {} cores)", self.host, self.cpu, self.cores)
    }
}

/// Load average over the last minute; not a number where there is none.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|l| l.parse().ok()).unwrap_or(f64::NAN)
}

/// Date and time, UTC.
pub fn now() -> String {
    chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now()).format("%Y-%m-%d %H:%M UTC").to_string()
}

/// Where the baselines are: the file given, or the one in the user's data folder.
pub fn file(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|h| h.join(".local/share")));
    let data =
        data.context("neither XDG_DATA_HOME nor HOME is set: name a file for the baselines with --baseline FILE")?;
    Ok(data.join("medes").join("baselines.json"))
}

fn read(file: &Path) -> anyhow::Result<BTreeMap<String, Figures>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(e).with_context(|| format!("cannot read the baselines {}", file.display())),
    };
    serde_json::from_str(&text).with_context(|| {
        format!("{} is no file of baselines of this version; move it away, and save again", file.display())
    })
}

/// The baseline of that name, if its figures may be compared with those that are asked for.
pub fn find(file: &Path, name: &str, machine: &Machine, args: &BenchArgs, out: &Output) -> anyhow::Result<Figures> {
    let mut all = read(file)?;
    let Some(figures) = all.remove(name) else {
        let names: Vec<String> = all.into_keys().collect();
        let there = if names.is_empty() { "none yet".to_owned() } else { names.join(", ") };
        bail!("no baseline `{name}` in {} (there: {there}); `medes bench --save {name}` makes it", file.display());
    };
    if figures.quick != args.quick {
        let (with, without) = ("with --quick", "without --quick");
        let (its, ours) = if figures.quick { (with, without) } else { (without, with) };
        bail!("baseline `{name}` was measured {its}, this would be {ours}: other jobs, no ratio");
    }
    if figures.machine != *machine {
        let differs = format!("baseline `{name}` is of {}, this is {machine}", figures.machine);
        if !args.other_machine {
            bail!("{differs}: a ratio would compare machines, not programs; --other-machine prints it all the same");
        }
        out.warn(format!("{differs}: the ratios compare machines too"));
    }
    Ok(figures)
}

/// Keeps figures under a name; gives those that had it.
pub fn save(file: &Path, name: &str, figures: &Figures) -> anyhow::Result<Option<Figures>> {
    let mut all = read(file)?;
    let old = all.insert(name.to_owned(), figures.clone());
    if let Some(folder) = file.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    crate::store::write_whole(file, serde_json::to_string_pretty(&all)?.as_bytes())?;
    Ok(old)
}
