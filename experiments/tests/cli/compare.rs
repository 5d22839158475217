//! `medes compare`.

use std::path::Path;
use std::process::Command;

use crate::support::{Place, skip};

#[test]
fn two_runs_are_held_side_by_side() {
    let place = Place::new();
    place.works("run tiny.toml --out a");
    place.works("run tiny.toml --set chunksperpage=1 --out b");

    let itself = place.works("compare a a --within 0");
    assert!(itself.out.contains("cold starts") && itself.out.contains("+0.0 %"), "{}", itself.out);
    assert!(itself.out.lines().all(|l| l.chars().count() <= 100), "{}", itself.out);

    let json = place.json("compare a b --json");
    let rows = json["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "two policies, two caps");
    assert!(rows.iter().all(|r| r["seeds"] == 2 && r["setting"]["policy"].is_string()));

    std::fs::create_dir(place.path("c")).unwrap();
    place.file("c/summary.csv", &place.text("a/summary.csv"));
    place.file("c/README.md", "- backend: `real`\n");
    let worlds = place.works("compare a c");
    assert!(worlds.out.contains("backend: simulated -> real"), "{}", worlds.out);

    let fixed = place.works("compare a:policy=fixed a:policy=medes --figures drawn");
    assert!(fixed.out.contains("policy: fixed -> medes"), "{}", fixed.out);
    for file in ["compare.svg", "compare.png", "compare.csv", "compare_cold.svg"] {
        assert!(place.path("drawn").join(file).exists(), "{file}");
    }
    let csv = place.text("drawn/compare.csv");
    assert_eq!(csv.lines().count(), 1 + 4 * 2 + 1, "{csv}");

    let beyond = place.ends(1, "compare a:policy=fixed a:policy=medes --within 0");
    assert!(beyond.err.contains("not within 0 %"), "{}", beyond.err);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let place = Place::new();
    place.works("run tiny.toml --seed 1 --out a");
    for (line, said) in [
        ("compare a nowhere", "no result folder nowhere"),
        ("compare a .", "is no result folder"),
        ("compare a:policy a", "KEY=VALUE"),
        ("compare a:polcy=fixed a", "no column polcy"),
        ("compare a:policy=lru a", "there are fixed, medes"),
        ("compare a a --within minus", "no percentage"),
    ] {
        let ended = place.ends(2, line);
        assert!(ended.err.contains(said), "{line}: {}", ended.err);
    }
    place.works("run tiny.toml --seed 1 --set memcap=500,400 --out b");
    let none = place.ends(2, "compare a b");
    assert!(none.err.contains("memcap_mb: 300.0, 600.0 against 400.0, 500.0"), "{}", none.err);
}

#[test]
fn traces_are_looked_for_on_which_luck_decides_little() {
    if Command::new("python3").arg("--version").output().is_err() {
        return skip("scripts/choose-trace needs Python 3: apt-get install python3");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/choose-trace");
    let choose = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(&script).args(arguments).env("MEDES", env!("CARGO_BIN_EXE_medes"));
        command.output().unwrap()
    };
    let done = choose(&["measured", "--tries", "3", "--within", "9"]);
    let (found, said) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{said}");
    let count = found.lines().filter(|line| line.contains("trace.generator_seed")).count();
    assert!(said.contains(&format!("choose-trace: {count} of 3 within 9.0, seed 1")), "{said}{found}");
    let absent = choose(&["no-such-profile", "--tries", "1"]);
    assert!(!absent.status.success() && String::from_utf8_lossy(&absent.stderr).contains("no-such-profile"));
}
