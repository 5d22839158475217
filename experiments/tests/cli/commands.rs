//! The commands beside `run`.

use crate::support::Place;

#[test]
fn list_names_the_shipped_experiments() {
    let place = Place::new();
    let said = place.works("list");
    let rows = place.json("list --json");
    let names: Vec<&str> = rows.as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    for name in ["quickstart", "memcap", "fullday", "bench"] {
        assert!(names.contains(&name) && said.out.contains(name), "{name}");
    }
    assert_eq!(said.err, "");
    let memcap = rows.as_array().unwrap().iter().find(|r| r["name"] == "memcap").unwrap();
    assert!(memcap["cells"].as_u64().unwrap() >= 3 * 6 * 5, "three pools, six policies, five seeds");
}

#[test]
fn everything_that_explain_lists_is_explained() {
    let place = Place::new();
    let all = place.json("explain --json");
    let text = place.works("explain").out;
    for (kind, at_least) in [("parameters", 25), ("policies", 11), ("trace", 14)] {
        let entries = all[kind].as_array().unwrap();
        assert!(entries.len() >= at_least, "{kind}");
        for entry in entries {
            let name = entry["name"].as_str().unwrap();
            assert!(text.contains(name), "explain does not list {name}");
            let said = place.works(&format!("explain {name}"));
            let about: String = entry["about"].as_str().unwrap().chars().take(30).collect();
            assert!(said.out.contains(name) && said.out.contains(&about), "{}", said.out);
        }
    }
    for name in ["lru", "size", "warm-rate", "round-robin", "reference", "measured"] {
        assert!(place.works(&format!("explain {name}")).out.contains(name));
    }
    assert!(place.ends(2, "explain memcp").err.contains("memcap"));
    // All keys that [trace] takes are there: the error names them.
    let error = place.ends(2, "run tiny.toml --set trace.nonsense=1").err;
    let (_, takes) = error.split_once("expected one of ").unwrap();
    let keys: Vec<&str> = takes.split('`').skip(1).step_by(2).collect();
    let listed: Vec<&str> = all["trace"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(listed, keys);
    assert!(place.works("explain trace.window").out.contains("480..959"));
}

/// Every parameter can be given its own default, and every policy can be run.
#[test]
fn every_parameter_and_policy_is_accepted_by_run() {
    let place = Place::new();
    let all = place.json("explain --json");
    let mut command = place.medes("run tiny.toml --quiet --out defaults --seed 1 --set policy=fixed --set memcap=300");
    for entry in all["parameters"].as_array().unwrap() {
        let (name, default) = (entry["name"].as_str().unwrap(), entry["default"].as_str().unwrap());
        if !["policy", "memcap"].contains(&name) {
            command.args(["--set", &format!("{name}={default}")]);
        }
    }
    command.assert().success();
    let policies: Vec<&str> = all["policies"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    place.works(&format!(
        "run tiny.toml --quiet --out policies --seed 1 --set memcap=300 --set policy={}",
        policies.join(",")
    ));
    let summary = place.summary("policies");
    assert_eq!(summary.values("policy"), policies);
    let cold = |policy: &str| {
        let row = summary.rows.iter().find(|r| r["policy"] == policy).unwrap();
        row["cold"].parse::<f64>().unwrap() + row["dropped"].parse::<f64>().unwrap()
    };
    for policy in &policies {
        assert!(cold("oracle") <= cold(policy), "the oracle has more cold starts than {policy}");
        assert!(cold("no-keep-alive") >= cold(policy), "{policy} has more cold starts than no keep-alive");
    }
}

#[test]
fn doctor_looks_at_the_machine() {
    let place = Place::new();
    assert!(place.works("doctor").out.contains("CRIU"));
    for finding in place.json("doctor --json").as_array().unwrap() {
        assert!(finding["ok"].is_boolean() && finding["state"].is_string(), "{finding}");
    }
}

#[test]
fn completions_and_help() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.works(&format!("completions {shell}")).out.contains("doctor"), "{shell}");
    }
    let help = place.works("--help");
    assert!(help.out.contains("Exit status") && help.err.is_empty());
    assert!(place.works("--version").out.starts_with("medes "));
    for command in ["run", "list", "explain", "doctor", "trace", "trace stats", "trace synth"] {
        assert!(place.works(&format!("{command} --help")).out.contains("Usage"), "{command}");
    }
}

/// A reader that has seen enough, as `head` does, is no error.
#[test]
fn a_closed_pipe_is_no_failure() {
    let place = Place::new();
    let script = format!("'{}' explain | head -n 1; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_medes"));
    let out = std::process::Command::new("bash").args(["-c", &script]).current_dir(place.path(".")).output().unwrap();
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).as_ref()), (Some(0), ""));
}
