//! `medes measure` of functions. Needs root, CRIU and the functions' libraries.

use crate::support::Place;

#[test]
fn a_function_is_measured_and_the_simulator_loads_what_was_written() {
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
    let ready = nix::unistd::geteuid().is_root()
        && ["/opt/medes/criu/bin/criu", "/opt/medes/functions/bin/python"].iter().all(|p| place.path(p).exists());
    if !ready {
        println!(
            "skipped: measuring: it needs root, CRIU (scripts/setup-criu) and the functions' libraries; scripts/test as root gets them"
        );
        return;
    }
    place.file(
        "mine.py",
        "def main(args):\n    return {'seed': args.get('seed'), 'squares': sum(i * i for i in range(1000))}\n",
    );
    let json = place.json("measure vanilla --function mine=mine.py --rounds 2 --out config/mine.toml --json");
    let rows = json["functions"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|r| r["function"].as_str().unwrap()).collect();
    assert_eq!(names, ["mine", "vanilla"]);
    for row in rows {
        let median = |what: &str| row["times_ms"][what]["median"].as_f64().unwrap_or_else(|| panic!("{what}: {row}"));
        for what in ["cold start", "warm start", "run", "checkpoint", "encode", "hold", "dedup start"] {
            assert!(median(what) > 0.0, "{what}: {row}");
        }
        assert_eq!(row["times_ms"]["cold start"]["n"], 2);
        assert!(row["memory_mb"].as_f64().unwrap() > row["stored_mb"].as_f64().unwrap());
    }
    let text = place.text("config/mine.toml");
    for part in ["CRIU 4", "Linux", "2 rounds", "name = \"mine\""] {
        assert!(text.contains(part), "{part}: {text}");
    }
    place.works("run tiny.toml --set profile=config/mine.toml --set functions=rank --seed 1 --out measured");
    assert_eq!(place.summary("measured").values("policy").len(), 4);
}
