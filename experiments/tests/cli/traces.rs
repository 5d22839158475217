//! `medes trace`, and the traces it writes given back to `medes run`.

use crate::support::Place;

const SYNTH: &str = "trace synth --functions 30 --minutes 60 --invocations 3000 --seed 5 --out days";

#[test]
fn a_generated_trace_is_the_same_on_disk_and_in_memory() {
    let place = Place::new();
    let wrote = place.json(&format!("{SYNTH} --json"));
    assert_eq!((wrote["functions"].as_u64(), wrote["requests"].as_u64()), (Some(30), Some(3000)));
    let seed = "--set seeds=1 --set policy=fixed --set memcap=300 --set request_rows=none --json";
    let files =
        place.json(&format!("run tiny.toml --out files {seed} --trace azure2019:days --set trace.window=1..60"));
    let shape =
        "--set trace.functions=30 --set trace.minutes=60 --set trace.invocations=3000 --set trace.generator_seed=5";
    let memory = place.json(&format!("run tiny.toml --out memory {seed} {shape}"));
    assert_eq!(files["rows"], memory["rows"]);
}

#[test]
fn statistics_say_what_there_is() {
    let place = Place::new();
    place.works(SYNTH);
    let stats = place.json("trace stats azure2019:days --window 1..60 --json");
    assert_eq!(stats["stats"]["functions"].as_u64(), Some(30), "{}", stats["stats"]);
    let text = place.works("trace stats azure2019:days --window 1..60").out;
    assert!(text.contains("30") && text.contains("3000"), "{text}");
    place.works("trace stats azure-like --set functions=40 --set minutes=30");
}

#[test]
fn a_sample_holds_the_functions_asked_for() {
    let place = Place::new();
    place.works(SYNTH);
    let part = place.json("trace sample azure2019:days --functions 10 --seed 2 --out part --json");
    assert_eq!(part["functions"], 10);
    let again = place.json("trace sample azure2019:days --functions 10 --seed 2 --out again --json");
    assert_eq!(part["requests"], again["requests"]);
    let file = "invocations_per_function_md.anon.d01.csv";
    assert_eq!(place.read(&format!("part/{file}")), place.read(&format!("again/{file}")));
    assert!(place.ends(2, "trace sample azure2019:days --functions 99 --out more").err.contains("30"));
    // What is there is not written over unless it is said.
    assert!(place.ends(2, "trace sample azure2019:days --functions 10 --out part").err.contains("--force"));
    place.works("trace sample azure2019:days --functions 10 --out part --force");
}

#[test]
fn every_form_written_can_be_run() {
    let place = Place::new();
    place.works(SYNTH);
    for (form, out) in [("csv", "t.csv"), ("requests", "t.txt"), ("azure2019", "a"), ("invitro", "i")] {
        place.works(&format!("trace convert azure2019:days --window 1..60 --to {form} --out {out} --seed 1"));
        // The request files of the reference name applications by number: those of the profile.
        let run = format!(
            "run tiny.toml --json --out out-{form} --seed 1 --set policy=fixed --set memcap=300 --trace {form}:{out}"
        );
        assert_eq!(place.json(&run)["rows"][0]["requests"], 3000, "{form}");
    }
}
