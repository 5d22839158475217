//! `medes explain`: parameters, keys of `[trace]`, policies, placements, evictions, profile sets, straight from their registries.

use medes_engine::config::{PARAMETERS, Parameter, nearest, parameter};
use medes_engine::{eviction, placement, policy};
use medes_traces::OPTIONS;

use crate::output::{Output, table};
use crate::profiles;

/// Explains one name, or lists all.
pub fn explain(name: Option<&str>, out: &Output) -> anyhow::Result<()> {
    let Some(name) = name else {
        list(out);
        return Ok(());
    };
    let mut found = Vec::new();
    if let Some(p) = parameter(name) {
        found.push(of_parameter(p));
    }
    let key = name.strip_prefix("trace.").unwrap_or(name);
    if let Some((key, default, about)) = OPTIONS.iter().find(|o| o.0 == key) {
        found.push(format!(
            "key {key} of [trace]\n  {about}\n  default: {default}\n  set it: medes run quickstart --set trace.{key}=VALUE"
        ));
    }
    if let Some(e) = policy::entry(name) {
        let number = e.reference_number.map(|n| format!("\n  number in controller.ini: {n}")).unwrap_or_default();
        found.push(format!(
            "policy {}\n  {}\n  source: {}\n  eviction: {}{number}",
            e.name, e.about, e.source, e.eviction
        ));
    }
    if let Some(e) = eviction::strategy(name) {
        found.push(format!("eviction {}\n  {}", e.name, e.about));
    }
    if let Some(p) = placement::REGISTRY.iter().find(|p| p.name == name) {
        found.push(format!("placement {}\n  {}", p.name, p.about));
    }
    if let Some((n, origin)) = profiles::shipped().into_iter().find(|p| p.0 == name) {
        found.push(format!("profile set {n}\n  {origin}"));
    }
    if found.is_empty() {
        let near = nearest(name).map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default();
        anyhow::bail!(
            "nothing is called `{name}`{near}; `medes explain` lists all parameters, keys, policies and strategies"
        );
    }
    if out.json {
        out.print(serde_json::to_string_pretty(&found)?);
    } else {
        out.print(found.join("\n\n"));
    }
    Ok(())
}

fn of_parameter(p: &Parameter) -> String {
    let unit = if p.unit.is_empty() { String::new() } else { format!(" {}", p.unit) };
    let reference = if p.reference.is_empty() { "not in the reference's files" } else { p.reference };
    format!(
        "parameter {}\n  {}\n  takes: {}\n  default: {}{unit}\n  reference: {reference}\n  sweep it: medes run quickstart --set {}=A,B,C",
        p.name,
        p.about,
        p.expected(),
        p.default,
        p.name
    )
}

fn list(out: &Output) {
    if out.json {
        let entry = |p: &Parameter| serde_json::json!({"name": p.name, "unit": p.unit, "default": p.default, "takes": p.expected(), "reference": p.reference, "about": p.about});
        let policies = policy::REGISTRY
            .iter()
            .map(|e| serde_json::json!({"name": e.name, "about": e.about, "source": e.source, "eviction": e.eviction}));
        let value = serde_json::json!({
            "parameters": PARAMETERS.iter().map(entry).collect::<Vec<_>>(),
            "trace": OPTIONS.map(|(name, default, about)| serde_json::json!({"name": name, "default": default, "about": about})),
            "policies": policies.collect::<Vec<_>>(),
        });
        out.print(serde_json::to_string_pretty(&value).unwrap_or_default());
        return;
    }
    let head = |h: &[&str]| h.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let row = |cells: &[&str]| cells.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    out.print("Parameters (in [parameters] of an experiment file, or --set NAME=VALUE[,VALUE...])");
    out.print(table(
        head(&["name", "default", "unit", "what it does"]),
        PARAMETERS.iter().map(|p| row(&[p.name, p.default, p.unit, p.about])),
    ));
    out.print("Keys of the trace (in [trace] of an experiment file, or --set trace.NAME=VALUE)");
    out.print(table(head(&["name", "default", "what it does"]), OPTIONS.iter().map(|o| row(&[o.0, o.1, o.2]))));
    out.print("Policies (--set policy=...)");
    out.print(table(
        head(&["name", "what it does", "source"]),
        policy::REGISTRY.iter().map(|e| row(&[e.name, e.about, e.source])),
    ));
    out.print("Evictions (--set eviction=...)");
    out.print(table(head(&["name", "what goes first"]), eviction::REGISTRY.iter().map(|e| row(&[e.name, e.about]))));
    out.print("Placements (--set placement=...)");
    out.print(table(head(&["name", "where"]), placement::REGISTRY.iter().map(|e| row(&[e.name, e.about]))));
    out.print("Profile sets (--set profile=...)");
    out.print(table(head(&["name", "origin"]), profiles::shipped().into_iter().map(|(n, o)| vec![n.to_owned(), o])));
}
