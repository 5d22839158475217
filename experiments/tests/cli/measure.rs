//! `medes measure` of functions: what it refuses, and, where sandboxes can be made, what it writes.

use std::path::PathBuf;

use crate::support::{Place, skip};

#[test]
fn what_cannot_be_measured_is_refused_with_the_mend() {
    let place = Place::new();
    let refused = place.medes("measure vanilla").env("MEDES_CRIU", "/nonexistent/criu").assert().failure();
    let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
    assert!(said.contains("scripts/setup-criu") && refused.get_output().status.code() == Some(1), "{said}");
    for (line, said) in [
        ("measure jpeg", "shipped are vanilla"),
        ("measure --function mine", "NAME=FILE"),
        ("measure vanilla --rounds 0", "--rounds"),
        ("measure vanilla --profile nothing", "no profile set"),
    ] {
        assert!(place.ends(2, line).err.contains(said), "{line}");
    }
}

/// Whether real sandboxes can be measured here; says so, and how to enable it, where they cannot.
fn possible() -> bool {
    let named = |variable: &str, or: &str| PathBuf::from(std::env::var_os(variable).unwrap_or_else(|| or.into()));
    let root = nix::unistd::geteuid().is_root();
    let criu = named("MEDES_CRIU", "/opt/medes/criu/bin/criu").exists();
    let functions = named("MEDES_FUNCTIONS_VENV", "/opt/medes/functions").join("bin/python").exists();
    if !(root && criu && functions) {
        skip(&format!(
            "measuring needs root (here: {root}), scripts/setup-criu ({criu}) and scripts/make-dumps ({functions})"
        ));
    }
    root && criu && functions
}

#[test]
fn a_function_is_measured_and_the_simulator_loads_what_is_written() {
    if !possible() {
        return;
    }
    let place = Place::new();
    let report = place.json("measure vanilla --rounds 1 --json --out here.toml --starts starts.csv --figures figures");
    let function = &report["functions"][0];
    let starts = |what: &str| function["starts"][what].as_f64().unwrap();
    let answers = ["cold_answer", "warm_answer", "dedup_answer", "first_answer", "pushed_answer", "plain_answer"];
    for what in answers.into_iter().chain(["pushed_start", "dedup_start_of_cold"]) {
        assert!(starts(what) > 0.0, "{what}: {function}");
    }
    let parts: f64 = function["starts"]["dedup_parts"].as_array().unwrap().iter().filter_map(|p| p.as_f64()).sum();
    assert!((parts - starts("dedup_start")).abs() < 1e-6, "{function}");
    assert!(function["memory_mb"].as_f64().unwrap() > function["stored_mb"].as_f64().unwrap());
    assert!(place.read("starts.csv").starts_with(b"# medes measure of version"));
    assert!(place.read("figures/dedup_start.png").starts_with(b"\x89PNG"));
    let profile = String::from_utf8(place.read("here.toml")).unwrap();
    assert_eq!(profile.matches("[function.control]").count(), 1, "what controller and agent add to its starts");
    assert!(profile.contains("\nbehind = "), "{profile}");
    assert_eq!(profile.matches("cores = 0.0").count(), 2, "waiting, of this function and of any other: {profile}");
    let run = "run tiny.toml --set policy=medes --set functions=rank --json --set profile=here.toml";
    assert_eq!(place.json(run)["rows"].as_array().unwrap().len(), 4);
}
