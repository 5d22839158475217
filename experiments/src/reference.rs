//! The reference's own configuration files, read as they are: `controller.ini`, `agent.ini`, `cluster.json`.

use std::path::Path;

use anyhow::{Context, bail};
use ini::Ini;
use medes_engine::config::{PARAMETERS, edit_distance};
use medes_engine::policy;
use medes_engine::profile::{FunctionProfile, ProfileSet};
use serde::Deserialize;

/// What a folder of the reference's files says.
#[derive(Debug, Default)]
pub struct Reference {
    /// Parameters by our names, below the command line's.
    pub values: Vec<(String, String)>,
    /// Functions, in order.
    pub applications: Vec<Application>,
    /// Unknown and contradictory keys, and what was done about them.
    pub notes: Vec<String>,
}

/// `applN = keep-alive s, run ms, memory MB, advantage ; Name`.
#[derive(Debug, PartialEq)]
pub struct Application {
    name: Option<String>,
    keep_alive_s: f64,
    exec_ms: f64,
    memory_mb: f64,
    advantage: f64,
}

#[derive(Deserialize)]
struct Cluster {
    controller: Option<serde_json::Value>,
    #[serde(default)]
    memory_nodes: Vec<Machine>,
    #[serde(default)]
    grpc_nodes: Vec<Machine>,
}

#[derive(Deserialize)]
struct Machine {
    machine_id: u32,
}

/// Sections and keys of the two INI files.
const KNOWN: &[(&str, &str, &[&str])] = &[
    ("controller.ini", "heuristics", &["basechoice", "statepolicy"]),
    (
        "controller.ini",
        "policy",
        &["policy", "constraint", "provisioned", "gamma", "alpha", "beta", "dedupperbase", "threshold"],
    ),
    ("controller.ini", "params", &["memcap", "reuseperiod", "window"]),
    ("agent.ini", "parameters", &["chunksperpage", "idletime", "patchthreshold", "nopause", "adaptive"]),
    ("agent.ini", "configuration", &["numenv", "numappl"]),
];

/// Reads what there is of the three files in `folder`.
pub fn read(folder: &Path) -> anyhow::Result<Reference> {
    let mut out = Reference::default();
    let mut found = false;
    let (mut policy, mut adaptive) = (None, false);
    for file in ["controller.ini", "agent.ini"] {
        let path = folder.join(file);
        if !path.is_file() {
            continue;
        }
        found = true;
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let ini = Ini::load_from_str_noescape(&text)
            .map_err(|e| anyhow::anyhow!("{}, line {}: {}", path.display(), e.line, e.msg))?;
        let mut declared = None;
        for (section, entries) in &ini {
            let section = section.unwrap_or_default();
            for (key, raw) in entries.iter() {
                // A trailing `; ...` is a comment; of an application it is the name.
                let (value, comment) = raw.split_once(';').unwrap_or((raw, ""));
                let (value, comment) = (value.trim(), comment.trim());
                let place = format!("{}, [{section}] {key}", path.display());
                let number = key.strip_prefix("appl").filter(|_| section == "configuration");
                if let Some(number) = number {
                    let expected = out.applications.len();
                    if number.parse() != Ok(expected) {
                        bail!("{place}: the next application must be appl{expected}; number them from 0 without gaps");
                    }
                    out.applications.push(application(value, comment).with_context(|| place)?);
                    continue;
                }
                match (section, key) {
                    ("policy", "policy") => policy = Some((value.to_owned(), place)),
                    ("policy", "constraint") => {
                        let name = match value {
                            "1" => "latency",
                            "2" => "memory",
                            _ => bail!("{place}: `{value}` is neither 1 (latency) nor 2 (memory)"),
                        };
                        out.values.push(("constraint".into(), name.into()));
                    }
                    ("heuristics", "statepolicy") => {
                        out.notes.push(format!("{place}: without effect (the reference does not use it)"));
                    }
                    ("parameters", "adaptive") => adaptive = value == "1",
                    ("configuration", "numappl") => declared = Some((value.to_owned(), place)),
                    ("configuration", "numenv") => {}
                    _ if is_known(file, section, key) => {
                        if PARAMETERS.iter().any(|p| p.name == key && p.about.starts_with("Without effect")) {
                            out.notes.push(format!("{place}: without effect (the reference does not use it)"));
                        }
                        if let Some(p) = PARAMETERS.iter().find(|p| p.name == key) {
                            p.parse(value).with_context(|| place)?;
                        }
                        out.values.push((key.into(), value.into()));
                    }
                    _ => out.notes.push(format!("{place}: unknown key, ignored{}", near(file, key))),
                }
            }
        }
        if let Some((count, place)) = declared
            && count.parse() != Ok(out.applications.len())
        {
            let there = out.applications.len();
            out.notes
                .push(format!("{place} says {count}, but there are {there} lines applN; the {there} lines are taken"));
        }
    }
    settle_policy(&mut out, policy, adaptive)?;
    let path = folder.join("cluster.json");
    if path.is_file() {
        found = true;
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        cluster(&mut out, &text).with_context(|| path.display().to_string())?;
    }
    if !found {
        bail!("{} holds none of controller.ini, agent.ini, cluster.json", folder.display());
    }
    Ok(out)
}

fn is_known(file: &str, section: &str, key: &str) -> bool {
    KNOWN.iter().any(|(f, s, keys)| *f == file && *s == section && keys.contains(&key))
}

fn near(file: &str, key: &str) -> String {
    let all = KNOWN.iter().filter(|k| k.0 == file).flat_map(|k| k.2.iter().map(move |key| (k.1, *key)));
    match all.map(|(s, k)| (edit_distance(k, key), s, k)).min() {
        Some((distance, section, k)) if distance <= 2 => format!(" (did you mean [{section}] {k}?)"),
        _ => String::new(),
    }
}

fn settle_policy(out: &mut Reference, policy: Option<(String, String)>, adaptive: bool) -> anyhow::Result<()> {
    let mut name = match &policy {
        None => None,
        Some((value, place)) => {
            let number = value.parse().ok();
            let entry = policy::REGISTRY.iter().find(|e| e.reference_number.is_some() && e.reference_number == number);
            match entry {
                Some(e) => Some(e.name),
                None => bail!(
                    "{place}: `{value}` is no policy; 1 fixed, 2 heuristic-openwhisk, 3 none-heuristic, 4 heuristic, 5 medes, 6 adaptive"
                ),
            }
        }
    };
    if adaptive {
        match name {
            None | Some("fixed" | "adaptive") => name = Some("adaptive"),
            Some(other) => out.notes.push(format!(
                "agent.ini says adaptive = 1 and controller.ini chooses policy {other}: adaptive keep-alive goes with policy 1 only; {other} is taken"
            )),
        }
    }
    out.values.extend(name.map(|n| ("policy".to_owned(), n.to_owned())));
    Ok(())
}

fn application(value: &str, comment: &str) -> anyhow::Result<Application> {
    let numbers: Vec<f64> = value
        .split_whitespace()
        .map(|w| {
            w.parse::<f64>()
                .ok()
                .filter(|v| v.is_finite() && *v >= 0.0)
                .with_context(|| format!("`{w}` is not a number from 0"))
        })
        .collect::<anyhow::Result<_>>()?;
    let [keep_alive_s, exec_ms, memory_mb, advantage] = numbers[..] else {
        bail!("`{value}` has {} numbers; write keep-alive (s), run (ms), memory (MB), advantage", numbers.len());
    };
    let name = (!comment.is_empty()).then(|| comment.to_owned());
    Ok(Application { name, keep_alive_s, exec_ms, memory_mb, advantage })
}

fn cluster(out: &mut Reference, text: &str) -> anyhow::Result<()> {
    let c: Cluster = serde_json::from_str(text)?;
    if c.controller.is_none() {
        out.notes.push("cluster.json names no controller (a simulation needs none)".to_owned());
    }
    let ids = |machines: &[Machine]| {
        let mut ids: Vec<u32> = machines.iter().map(|m| m.machine_id).collect();
        ids.sort_unstable();
        ids
    };
    let (rdma, grpc) = (ids(&c.memory_nodes), ids(&c.grpc_nodes));
    if grpc.is_empty() {
        bail!("grpc_nodes is empty: list the agents");
    }
    if grpc.windows(2).any(|w| w[0] == w[1]) {
        bail!("grpc_nodes names a machine_id twice");
    }
    if !rdma.is_empty() && rdma != grpc {
        out.notes
            .push(format!("cluster.json: memory_nodes {rdma:?} and grpc_nodes {grpc:?} differ; grpc_nodes are taken"));
    }
    out.values.push(("nodes".to_owned(), grpc.len().to_string()));
    Ok(())
}

impl Reference {
    /// The profile set with the functions of `agent.ini`: their keep-alive, run time, memory and advantage; times and page classes of
    /// the set's function at the same place, going round.
    pub fn apply(&self, set: &mut ProfileSet) {
        if self.applications.is_empty() {
            return;
        }
        let known = std::mem::take(&mut set.function);
        set.function = self
            .applications
            .iter()
            .enumerate()
            .map(|(i, a)| {
                let like = &known[i % known.len()];
                FunctionProfile {
                    name: a.name.clone().unwrap_or_else(|| format!("appl{i}")),
                    keep_alive_s: a.keep_alive_s,
                    exec_ms: a.exec_ms,
                    exec_percentiles_ms: None,
                    memory_mb: a.memory_mb,
                    advantage: a.advantage,
                    ..like.clone()
                }
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    const CONTROLLER: &str = "[heuristics]\nbasechoice = 1 2 10\nstatepolicy = 1\n[policy]\npolicy = 5\nconstraint = 2\ngamma = 1.5\nalpha = 2\n[params]\nmemcap = 2500\nreuseperiod = 500\nwindow = 10\n";
    const AGENT: &str = "[parameters]\nchunksperpage = 5\nidletime = 60\nadaptive = 0\n[configuration]\nnumenv = 2\nnumappl = 2\nappl0 = 600 150 17 0.90 ; Vanilla\nappl1 = 600 250 32 0.51 ; LinAlg\n";

    #[test]
    fn the_reference_s_files_are_read_as_they_are() {
        let cluster = r#"{"controller": {"addr": "10.0.0.1", "port": 1}, "memory_nodes": [{"machine_id": 0, "addr": "a", "port": 1}],
            "grpc_nodes": [{"machine_id": 0, "addr": "a", "port": "2"}, {"machine_id": 1, "addr": "b", "port": 2}]}"#;
        let dir = folder(&[("controller.ini", CONTROLLER), ("agent.ini", AGENT), ("cluster.json", cluster)]);
        let r = read(dir.path()).unwrap();
        let value = |k: &str| r.values.iter().find(|v| v.0 == k).map(|v| v.1.as_str());
        assert_eq!((value("policy"), value("constraint"), value("nodes")), (Some("medes"), Some("memory"), Some("2")));
        assert_eq!((value("reuseperiod"), value("chunksperpage")), (Some("500"), Some("5")));
        assert_eq!(r.applications[1].name.as_deref(), Some("LinAlg"));
        assert!(
            r.notes.iter().any(|n| n.contains("statepolicy")) && r.notes.iter().any(|n| n.contains("memory_nodes"))
        );
        let (mut set, _) = crate::profiles::load("reference").unwrap();
        r.apply(&mut set);
        assert_eq!((set.function.len(), set.function[0].memory_mb), (2, 17.0));
    }

    #[test]
    fn unknown_and_contradictory_keys_are_said() {
        let dir = folder(&[
            ("controller.ini", &CONTROLLER.replace("memcap", "memcapp")),
            ("agent.ini", &AGENT.replace("adaptive = 0", "adaptive = 1").replace("numappl = 2", "numappl = 3")),
        ]);
        let notes = read(dir.path()).unwrap().notes.join("\n");
        assert!(notes.contains("memcapp: unknown key, ignored (did you mean [params] memcap?)"), "{notes}");
        assert!(notes.contains("adaptive = 1") && notes.contains("says 3"), "{notes}");
    }

    #[test]
    fn broken_files_name_file_and_key() {
        let said = |files: &[(&str, &str)]| format!("{:#}", read(folder(files).path()).unwrap_err());
        assert!(said(&[("controller.ini", "[policy]\npolicy = 9\n")]).contains("no policy"));
        assert!(said(&[("controller.ini", "[params]\nmemcap = lots\n")]).contains("[params] memcap"));
        assert!(said(&[("agent.ini", "[configuration]\nappl0 = 600 150 17\n")]).contains("3 numbers"));
        assert!(said(&[("agent.ini", "[configuration]\nappl1 = 600 150 17 0.5\n")]).contains("appl0"));
        assert!(said(&[("cluster.json", "{")]).contains("cluster.json"));
        assert!(said(&[]).contains("none of controller.ini"));
    }
}
