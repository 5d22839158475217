//! `--config`: the reference's own files, as they are.

use crate::support::Place;

const CONTROLLER: &str = "[heuristics]\nbasechoice = 1 2 10\nstatepolicy = 1\n\n[policy]\npolicy = 5\nconstraint = 2\nprovisioned = 0\n\
    gamma = 1.5\nalpha = 2\nbeta = 10\ndedupperbase = 40\nthreshold = 20\n\n[params]\nmemcap = 400\nreuseperiod = 500\nwindow = 10\n";
const AGENT: &str = "[parameters]\nchunksperpage = 20\nidletime = 30\npatchthreshold = 4096\nnopause = 0\nadaptive = 0\n\n\
    [configuration]\nnumenv = 2\nnumappl = 2\nappl0 = 600 150 17 0.90 ; Vanilla\nappl1 = 600 250 32 0.51 ; LinAlg\n";
const CLUSTER: &str = r#"{"controller": {"addr": "10.0.0.1", "port": 50050},
    "memory_nodes": [{"machine_id": 0, "addr": "10.0.0.2", "port": 1}, {"machine_id": 1, "addr": "10.0.0.3", "port": 1}],
    "grpc_nodes": [{"machine_id": 0, "addr": "10.0.0.2", "port": 2}, {"machine_id": 1, "addr": "10.0.0.3", "port": 2}]}"#;

const FILE: &str = "title = 'With files'\nquestion = 'Are they read?'\nfunctions = 'rank'\n[trace]\nsource = 'azure-like'\n\
    functions = 20\nminutes = 20\ninvocations = 2000\n";

fn place() -> Place {
    let place = Place::new();
    place.file("own.toml", FILE);
    place.file("config/controller.ini", CONTROLLER);
    place.file("config/agent.ini", AGENT);
    place.file("config/cluster.json", CLUSTER);
    place
}

#[test]
fn they_set_what_they_say() {
    let place = place();
    let said = place.works("run own.toml --config config --out out");
    assert!(said.err.contains("statepolicy"), "a key without effect is said: {}", said.err);
    let summary = place.summary("out");
    assert_eq!((summary.values("policy"), summary.numbers("memcap_mb")), (vec!["medes"], vec![400.0]));
    assert_eq!(summary.values("nodes"), ["2"]);
    let functions = place.text("out/functions.csv");
    assert!(functions.contains("Vanilla") && functions.contains("LinAlg"), "{functions}");
    assert_eq!(functions.lines().count(), 3, "the two functions of agent.ini");
    // The command line goes before the files.
    place.works("run own.toml --config config --out set --set memcap=250,350");
    assert_eq!(place.summary("set").numbers("memcap_mb"), [250.0, 350.0]);
}

#[test]
fn unknown_and_contradictory_keys_are_said() {
    let place = place();
    place.file("config/controller.ini", &CONTROLLER.replace("gamma", "gama"));
    place
        .file("config/agent.ini", &AGENT.replace("numappl = 2", "numappl = 5").replace("adaptive = 0", "adaptive = 1"));
    let said = place.works("run own.toml --config config --out out");
    for part in ["gama", "gamma", "numappl", "adaptive = 1"] {
        assert!(said.err.contains(part), "`{part}` is not in\n{}", said.err);
    }
}

#[test]
fn what_is_wrong_in_them_is_named() {
    let cases: &[(&str, String, &[&str])] = &[
        ("controller.ini", CONTROLLER.replace("policy = 5", "policy = 9"), &["controller.ini", "9"]),
        ("controller.ini", CONTROLLER.replace("memcap = 400", "memcap = lots"), &["controller.ini", "memcap", "lots"]),
        ("agent.ini", AGENT.replace("600 250 32 0.51", "600 250 32"), &["agent.ini", "appl1"]),
        ("agent.ini", AGENT.replace("chunksperpage = 20", "chunksperpage = 0"), &["agent.ini", "chunksperpage"]),
        ("cluster.json", CLUSTER.replace("grpc_nodes", "nodes"), &["cluster.json", "grpc_nodes"]),
        ("cluster.json", "{".to_owned(), &["cluster.json"]),
    ];
    for (file, text, parts) in cases {
        let place = place();
        place.file(&format!("config/{file}"), text);
        let said = place.ends(2, "run own.toml --config config --out out");
        for part in *parts {
            assert!(said.err.contains(part), "`{part}` is not in\n{}", said.err);
        }
        assert!(!place.path("out").exists());
    }
}
