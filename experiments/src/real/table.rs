//! The `[real]` table of an experiment file: what only the real world needs to know. The simulator reads `time_scale` and `push` alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use medes_engine::config::edit_distance;
use medes_real::controller::Deadlines;
use medes_real::load;
use medes_real::load::Load;
use medes_real::settings::{Action, SandboxKind, TransportKind};
use serde::Deserialize;

/// The table, checked.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Table {
    /// Arrivals come this many times as fast, in both worlds; functions and keep-alive times stay as they are.
    pub time_scale: f64,
    /// How sandboxes are made.
    pub sandbox: SandboxKind,
    /// How base pages of other nodes are read.
    pub transport: TransportKind,
    /// The CRIU to use; empty: `MEDES_CRIU`, or the one of scripts/setup-criu.
    pub criu: String,
    /// A restored process goes on when all pages are there (`first`), or at once (`behind`).
    pub push: Push,
    /// Most memory of one sandbox, MB, by its cgroup; 0: no cap of its own. A function that takes more is killed.
    pub sandbox_memory_mb: f64,
    /// Seconds that agents have to be there before the run starts without those that are missing.
    pub start_timeout_s: f64,
    /// Limits.
    pub deadlines: Limits,
    /// Functions of the user's, by the profile's name of the function.
    pub functions: BTreeMap<String, UserFunction>,
}

/// When a restored process goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Push {
    /// When all its pages are there.
    First,
    /// When those are there that the function is known to touch.
    #[default]
    Behind,
}

/// Seconds that things may take.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Limits {
    cold_s: f64,
    dedup_s: f64,
    warm_s: f64,
    run_s: f64,
    operation_s: f64,
    request_s: f64,
}

/// An OpenWhisk-style Python action.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct UserFunction {
    /// Its file.
    pub file: PathBuf,
    /// The function of the file to call.
    #[serde(default = "main")]
    pub main: String,
    /// What it is asked, JSON.
    #[serde(default = "nothing")]
    pub arguments: String,
    /// Whether its answers say `"ok": true` when they are right.
    #[serde(default)]
    pub checked: bool,
}

fn main() -> String {
    "main".to_owned()
}

fn nothing() -> String {
    "{}".to_owned()
}

impl Default for Table {
    fn default() -> Self {
        Self {
            time_scale: 1.0,
            sandbox: SandboxKind::default(),
            transport: TransportKind::default(),
            criu: String::new(),
            push: Push::default(),
            // OpenWhisk's largest.
            sandbox_memory_mb: 512.0,
            start_timeout_s: 30.0,
            deadlines: Limits::default(),
            functions: BTreeMap::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let d = Deadlines::default();
        let s = |d: Duration| d.as_secs_f64();
        Self {
            cold_s: s(d.cold),
            dedup_s: s(d.dedup),
            warm_s: s(d.warm),
            run_s: s(d.run),
            operation_s: s(d.operation),
            request_s: s(d.request),
        }
    }
}

const KEYS: &[&str] = &[
    "time_scale",
    "sandbox",
    "transport",
    "criu",
    "push",
    "sandbox_memory_mb",
    "start_timeout_s",
    "deadlines",
    "functions",
];
const LIMITS: &[&str] = &["cold_s", "dedup_s", "warm_s", "run_s", "operation_s", "request_s"];
const FUNCTION: &[&str] = &["file", "main", "arguments", "checked"];

impl Table {
    /// From the file.
    ///
    /// # Errors
    /// An unknown key, with the nearest known one; a value that cannot be.
    pub fn parse(raw: toml::Table) -> anyhow::Result<Self> {
        known("[real]", &raw, KEYS)?;
        if let Some(toml::Value::Table(t)) = raw.get("deadlines") {
            known("[real.deadlines]", t, LIMITS)?;
        }
        if let Some(toml::Value::Table(functions)) = raw.get("functions") {
            for (name, f) in functions {
                if let toml::Value::Table(f) = f {
                    known(&format!("[real.functions.{name}]"), f, FUNCTION)?;
                }
            }
        }
        let table: Self = toml::Value::Table(raw).try_into().context("[real]")?;
        let d = &table.deadlines;
        let positive = [
            ("time_scale", table.time_scale, 1e-3, 1e6),
            ("start_timeout_s", table.start_timeout_s, 0.0, 86_400.0),
            ("deadlines.cold_s", d.cold_s, 1e-3, 3600.0),
            ("deadlines.dedup_s", d.dedup_s, 1e-3, 3600.0),
            ("deadlines.warm_s", d.warm_s, 1e-3, 3600.0),
            ("deadlines.run_s", d.run_s, 1e-3, 86_400.0),
            ("deadlines.operation_s", d.operation_s, 1e-3, 3600.0),
            ("deadlines.request_s", d.request_s, 1e-3, 86_400.0),
        ];
        for (name, value, least, most) in positive {
            if !(least..=most).contains(&value) {
                bail!("[real] `{name}` is {value}; it goes from {least} to {most}");
            }
        }
        if table.sandbox_memory_mb != 0.0 && !(16.0..=1e6).contains(&table.sandbox_memory_mb) {
            bail!(
                "[real] `sandbox_memory_mb` is {}; it goes from 16 to 1000000, or is 0 for no cap",
                table.sandbox_memory_mb
            );
        }
        for (name, f) in &table.functions {
            serde_json::from_str::<serde_json::Value>(&f.arguments)
                .with_context(|| format!("[real.functions.{name}] `arguments` is not JSON"))?;
        }
        Ok(table)
    }

    /// The limits.
    pub fn deadlines(&self) -> Deadlines {
        let d = &self.deadlines;
        let s = Duration::from_secs_f64;
        Deadlines {
            cold: s(d.cold_s),
            dedup: s(d.dedup_s),
            warm: s(d.warm_s),
            run: s(d.run_s),
            operation: s(d.operation_s),
            request: s(d.request_s),
        }
    }

    /// The action behind a function of the profile, and what it is asked. Files of the user's are found from `folder`.
    ///
    /// # Errors
    /// There is none of that name, or its file cannot be read.
    pub fn action(&self, profile_function: &str, folder: &Path) -> anyhow::Result<(Action, Load)> {
        let own = self.functions.iter().find(|(name, _)| name.eq_ignore_ascii_case(profile_function));
        if let Some((name, f)) = own {
            let path = folder.join(&f.file);
            let code = std::fs::read_to_string(&path)
                .with_context(|| format!("[real.functions.{name}] cannot read {}", path.display()))?;
            let action = Action { name: name.to_lowercase(), code, main: f.main.clone() };
            let load = Load { action: action.name.clone(), arguments: Some(f.arguments.clone()), checked: f.checked };
            return Ok((action, load));
        }
        let Some(action) = load::action(profile_function) else {
            let shipped: Vec<&str> = load::shipped().collect();
            bail!(
                "there is no action for the function `{profile_function}`: shipped are {}; name a file of your own in [real.functions.{profile_function}] file = \"...\"",
                shipped.join(", ")
            );
        };
        let load = Load::shipped(&action.name);
        Ok((action, load))
    }
}

fn known(place: &str, table: &toml::Table, keys: &[&str]) -> anyhow::Result<()> {
    let Some(unknown) = table.keys().find(|k| !keys.contains(&k.as_str())) else { return Ok(()) };
    let near = keys.iter().map(|k| (edit_distance(k, unknown), *k)).min();
    match near {
        Some((distance, near)) if distance <= 3 => bail!("{place}: unknown key `{unknown}` (did you mean `{near}`?)"),
        _ => bail!("{place}: unknown key `{unknown}`; known are {}", keys.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Table> {
        Table::parse(toml::from_str(text)?)
    }

    #[test]
    fn the_table_is_read_and_wrong_keys_name_the_nearest() {
        let t = parse("time_scale = 2\nsandbox = 'runc'\npush = 'behind'\n[deadlines]\nrun_s = 5").unwrap();
        assert_eq!((t.time_scale, t.sandbox, t.deadlines().run), (2.0, SandboxKind::Runc, Duration::from_secs(5)));
        assert_eq!(t.deadlines().cold, Duration::from_millis(3500));
        let said = |text: &str| format!("{:#}", parse(text).unwrap_err());
        assert!(said("time_scal = 2").contains("did you mean `time_scale`"));
        assert!(said("[deadlines]\ncold = 2").contains("did you mean `cold_s`"));
        assert!(said("[functions.mine]\nflie = 'x'").contains("did you mean `file`"));
        assert!(said("sandbox = 'jail'").contains("jail"));
        assert!(said("time_scale = 0").contains("from 0.001"));
        assert!(said("sandbox_memory_mb = 5").contains("from 16") && parse("sandbox_memory_mb = 0").is_ok());
        assert!(said("[functions.mine]\nfile = 'x'\narguments = '{'").contains("not JSON"));
    }

    #[test]
    fn functions_of_profiles_are_actions_whatever_their_case() {
        let t = Table::default();
        assert_eq!(t.action("RNNModel", Path::new(".")).unwrap().0.name, "rnnmodel");
        assert!(format!("{:#}", t.action("appl3", Path::new(".")).unwrap_err()).contains("[real.functions.appl3]"));
    }
}
