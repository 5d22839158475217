//! Runs that are broken off, and go on.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Place, Said};

/// Twelve cells of a hundred thousand requests: long enough to be stopped in the middle.
const LONG: &str = r#"
title = "Long"
question = "Does it go on?"
seeds = [1, 2, 3, 4, 5, 6]
request_rows = "1/50"
[trace]
source = "azure-like"
functions = 100
minutes = 120
invocations = 100000
[parameters]
policy = ["medes", "greedy-dual"]
memcap = 1000
nodes = 4
"#;

/// Starts the long run and waits until two of its cells are there.
fn begun(place: &Place, out: &str) -> Child {
    place.file("long.toml", LONG);
    let mut command = Command::new(env!("CARGO_BIN_EXE_medes"));
    command.args(["run", "long.toml", "--jobs", "1", "--out", out]).current_dir(place.path("."));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while place.cells(out).len() < 2 {
        assert!(began.elapsed() < Duration::from_secs(120), "no two cells after two minutes");
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it could be stopped");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn a_missing_cell_is_run_again_and_the_others_are_found() {
    let place = Place::new();
    place.works("run tiny.toml --out out");
    place.works("run tiny.toml --out whole --quiet");
    std::fs::remove_file(&place.cells("out")[3]).unwrap();
    let said = place.works("run tiny.toml --out out");
    assert!(said.err.contains("7 of 8 cells"), "{}", said.err);
    place.same_rows("out", "whole");
    // A cell that is damaged is no cell, and neither are the remains of one.
    std::fs::write(&place.cells("out")[5], "{\"parameters\":").unwrap();
    place.file("out/cells/0123456789abcdef.requests.part", "half");
    let said = place.works("run tiny.toml --out out");
    assert!(said.err.contains("7 of 8 cells"), "{}", said.err);
    assert!(!place.path("out/cells/0123456789abcdef.requests.part").exists());
    place.same_rows("out", "whole");
}

#[test]
fn a_grown_grid_takes_what_is_there() {
    let place = Place::new();
    place.works("run tiny.toml --out out --quiet --seed 1");
    let said = place.works("run tiny.toml --out out --seed 1 --seed 5");
    assert!(said.err.contains("4 of 8 cells"), "{}", said.err);
    place.works("run tiny.toml --out whole --quiet --seed 1 --seed 5");
    place.same_rows("out", "whole");
}

/// Percentiles of nothing are no numbers; a cell that has some is a finished cell all the same.
#[test]
fn cells_without_an_answer_are_found_again() {
    let place = Place::new();
    let run = "run tiny.toml --out out --seed 1 --set policy=fixed,oracle --set memcap=20,150";
    place.works(run);
    let first = place.text("out/summary.csv");
    assert!(first.contains("NaN"), "all functions fit into 20 MB?\n{first}");
    assert!(place.works(run).err.contains("4 of 4 cells"));
    assert_eq!(first, place.text("out/summary.csv"));
}

#[test]
fn a_changed_input_does_not_pass_for_the_old_one() {
    let place = Place::new();
    place.file("t.csv", "time,function,duration,memory\n0,a,100,50\n1,b,100,50\n");
    let run = "run tiny.toml --json --out out --trace csv:t.csv --seed 1 --set policy=fixed --set memcap=300";
    assert_eq!(place.json(run)["rows"][0]["requests"], 2);
    place.file("t.csv", "time,function,duration,memory\n0,a,100,50\n1,b,100,50\n2,c,100,50\n");
    let again = place.json(run);
    assert_eq!((&again["cells_found"], &again["rows"][0]["requests"]), (&0.into(), &3.into()));
}

#[test]
fn a_killed_run_goes_on_to_the_same_end() {
    let place = Place::new();
    let mut child = begun(&place, "killed");
    child.kill().unwrap();
    child.wait().unwrap();
    let there = place.cells("killed").len();
    assert!((2..12).contains(&there), "{there} cells when it was killed");
    assert!(!place.path("killed/summary.csv").exists(), "no summary of half a grid");
    let said = place.works("run long.toml --out killed");
    assert!(said.err.contains(&format!("{there} of 12 cells")), "{}", said.err);
    place.works("run long.toml --out whole --quiet");
    place.same_rows("killed", "whole");
}

#[test]
fn an_interrupted_run_says_so_and_goes_on() {
    let place = Place::new();
    let child = begun(&place, "out");
    let signal = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap();
    assert!(signal.success());
    let began = Instant::now();
    let said = Said::of(child.wait_with_output().unwrap());
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?} to stop", began.elapsed());
    assert_eq!((said.status, said.out.as_str()), (Some(1), ""));
    assert!(said.err.contains("the same command continues"), "{}", said.err);
    let there = place.cells("out").len();
    assert!((2..12).contains(&there), "{there} cells when it was stopped");
    let half: Vec<_> = std::fs::read_dir(place.path("out/cells")).unwrap().flatten().collect();
    let said = place.works("run long.toml --out out");
    assert!(said.err.contains(&format!("{there} of 12 cells")), "{}, with {half:?}", said.err);
    assert_eq!(place.summary("out").rows.len(), 12);
}
