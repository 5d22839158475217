//! Bad usage and bad input: status 2, a message that names it on standard error, nothing on standard output.

use crate::support::{Place, Said, TINY};

/// Runs a command that has to be refused with all of `parts` in the message.
fn refused(place: &Place, line: &str, parts: &[&str]) -> Said {
    let said = place.ends(2, line);
    assert_eq!(said.out, "", "medes {line}");
    assert!(said.err.starts_with("error: "), "medes {line}\n{}", said.err);
    for part in parts {
        assert!(said.err.contains(part), "medes {line}: `{part}` is not in\n{}", said.err);
    }
    said
}

#[test]
fn wrong_usage() {
    let place = Place::new();
    refused(&place, "frobnicate", &["frobnicate"]);
    refused(&place, "run", &["<FILE>"]);
    refused(&place, "run tiny.toml --frobnicate", &["--frobnicate"]);
    refused(&place, "run tiny.toml --jobs 0", &["--jobs"]);
    refused(&place, "run tiny.toml --seed one", &["--seed", "one"]);
    refused(&place, "run tiny.toml --set memcap", &["memcap", "key=value"]);
    refused(&place, "run nowhere.toml", &["nowhere.toml", "quickstart", "medes list"]);
    refused(&place, "completions tcsh5", &["tcsh5"]);
    assert_eq!(place.ends(2, "").out, "", "without a command the help goes to standard error");
}

#[test]
fn wrong_experiment_files() {
    let place = Place::new();
    let cases: &[(&str, &str, &[&str])] = &[
        ("seeds = [1, 2]", "seedz = [1, 2]", &["seedz"]),
        ("title = \"Tiny\"", "", &["title"]),
        ("nodes = 2", "nodse = 2", &["nodse", "nodes"]),
        ("nodes = 2", "nodes = [[2]]", &["nodes"]),
        ("nodes = 2", "nodes = []", &["nodes", "empty"]),
        ("memcap = [600, 300]", "memcap = [600, -1]", &["memcap", "-1"]),
        ("\"medes\"]", "\"medees\"]", &["policy", "medees", "greedy-dual"]),
        ("seeds = [1, 2]", "seeds = []", &["seeds"]),
        ("seeds = [1, 2]", "seeds = [1, 1]", &["twice"]),
        ("seeds = [1, 2]", "seeds = [1.5]", &["1.5"]),
        ("minutes = 20", "minutes = \"many\"", &["minutes"]),
        ("minutes = 20", "minuets = 20", &["minuets"]),
        ("minutes = 20", "minutes = 20\nwindow = \"9..3\"", &["window", "9..3"]),
        ("source = \"azure-like\"", "source = \"azure\"", &["azure2019"]),
        ("source = \"azure-like\"", "", &["source"]),
        ("seeds = [1, 2]", "seeds = [1, 2]\nfunctions = \"most\"", &["functions", "most"]),
        ("seeds = [1, 2]", "seeds = [1, 2]\nrequest_rows = \"few\"", &["request_rows", "few"]),
        ("nodes = 2", "nodes = 2\n[[fault]]\nnode = 2\nat_s = 1", &["node 2"]),
        ("nodes = 2", "nodes = 2\n[[fault]]\nnode = 0\nwhen = 1", &["when"]),
        ("nodes = 2", "nodes = ", &["expected", "line"]),
    ];
    for (old, new, parts) in cases {
        let text = TINY.replacen(old, new, 1);
        assert_ne!(text, TINY, "{old}");
        place.file("bad.toml", &text);
        refused(
            &place,
            "run bad.toml --out out",
            &[&["bad.toml"], *parts].concat()[usize::from(parts == &["azure2019"])..],
        );
        assert!(!place.path("out").exists(), "{new}: a result folder was made for an experiment that cannot run");
    }
    std::fs::write(place.path("bytes.toml"), [0xff, 0xfe, 0x00]).unwrap();
    refused(&place, "run bytes.toml", &["bytes.toml"]);
}

#[test]
fn wrong_values_on_the_command_line() {
    let place = Place::new();
    let cases: &[(&str, &[&str])] = &[
        ("--set memcp=5", &["memcp", "did you mean `memcap`"]),
        ("--set memcap=5,x", &["memcap", "`x`"]),
        ("--set memcap=nan", &["memcap", "nan"]),
        ("--set memcap=0", &["memcap"]),
        ("--set memcap=", &["memcap"]),
        ("--set nodes=1e30", &["nodes"]),
        ("--set chunksperpage=65", &["chunksperpage", "64"]),
        ("--set basechoice=1", &["basechoice"]),
        ("--set provisioned=yes", &["provisioned"]),
        ("--set profile=nope", &["nope", "reference, measured"]),
        ("--set profile=nope.toml", &["nope.toml"]),
        ("--set trace.functions=0", &["functions"]),
        ("--set trace.minutes=0", &["minutes"]),
        ("--set trace.invocations=0", &["invocations"]),
        ("--set trace.window=30..40", &["azure-like", "no request", "window"]),
        ("--set trace.window=0..4", &["window", "0..4"]),
        ("--trace nope:x", &["nope:x", "azure2019"]),
        ("--trace azure2019", &["azure2019", "path"]),
        ("--trace azure2019:nowhere", &["nowhere"]),
        ("--trace csv:nowhere.csv", &["nowhere.csv"]),
        ("--config nowhere", &["nowhere", "controller.ini"]),
    ];
    for (args, parts) in cases {
        refused(&place, &format!("run tiny.toml --out out {args}"), parts);
        assert!(!place.path("out").exists(), "{args}: a result folder was made for an experiment that cannot run");
    }
    refused(&place, "run tiny.toml --out out --set codec=nope", &["codec", "`nope`", "xdelta3"]);
    place.file("p.toml", "name = \"p\"\n");
    refused(&place, "run tiny.toml --set profile=p.toml", &["p.toml"]);
}

#[test]
fn wrong_traces_name_file_line_and_column() {
    let place = Place::new();
    let head = "time,function,duration,memory\n";
    let cases: &[(&str, &[&str])] = &[
        ("0,a,100,50\n1,b,long,50\n", &["t.csv", "line 3", "duration", "long"]),
        ("0,a,100,50\nsoon,b,100,50\n", &["t.csv", "line 3", "time", "soon"]),
        ("0,a,100,50\n1,b\n", &["t.csv", "line 3"]),
        ("", &["t.csv"]),
    ];
    for (rows, parts) in cases {
        place.file("t.csv", &format!("{head}{rows}"));
        refused(&place, "run tiny.toml --out out --trace csv:t.csv", parts);
        refused(&place, "trace stats csv:t.csv", parts);
    }
    place.file("t.csv", "when,function\n0,a\n");
    refused(&place, "run tiny.toml --out out --trace csv:t.csv", &["t.csv", "time"]);
    place.file("r.txt", "0 1 0\nsoon 1 0\n");
    refused(&place, "run tiny.toml --out out --trace requests:r.txt", &["r.txt", "line 2", "soon"]);
    std::fs::create_dir(place.path("empty")).unwrap();
    for kind in ["azure2019", "invitro"] {
        refused(&place, &format!("run tiny.toml --out out --trace {kind}:empty"), &["empty"]);
    }
    std::fs::write(place.path("t.csv"), [0u8, 159, 146, 150, 10, 0, 10]).unwrap();
    for kind in ["csv", "requests", "azure2021", "azure2019"] {
        refused(&place, &format!("run tiny.toml --out out --trace {kind}:t.csv"), &["t.csv"]);
    }
    assert!(!place.path("out").exists());
}

#[test]
fn azure_files_with_a_wrong_row() {
    let place = Place::new();
    place.works("trace synth --functions 12 --minutes 30 --invocations 400 --out days --quiet");
    let file = "days/invocations_per_function_md.anon.d01.csv";
    let whole = place.text(file);
    let lines: Vec<&str> = whole.lines().collect();
    let with = |line: usize, text: &str| {
        let mut changed = lines.clone();
        changed[line] = text;
        place.file(file, &(changed.join("\n") + "\n"));
    };
    let row = lines[4];
    with(4, &row[..row.len() / 2]);
    refused(&place, "run tiny.toml --out out --trace azure2019:days", &["d01.csv", "line 5"]);
    let text = row.rsplit_once(',').unwrap().0.to_owned() + ",many";
    with(4, &text);
    refused(&place, "run tiny.toml --out out --trace azure2019:days", &["d01.csv", "line 5", "1440", "many"]);
    with(0, &(lines[0].to_owned() + ",1441"));
    refused(&place, "run tiny.toml --out out --trace azure2019:days", &["d01.csv", "1441"]);
    with(0, &lines[0].replace("HashApp", "App"));
    refused(&place, "run tiny.toml --out out --trace azure2019:days", &["d01.csv", "HashApp"]);
    place.file(file, &whole);
    place.works("run tiny.toml --out out --quiet --seed 1 --trace azure2019:days");
}

#[test]
fn a_run_that_fails_ends_with_1() {
    let place = Place::new();
    let said = place.ends(1, "run tiny.toml --out tiny.toml");
    assert!(said.err.contains("tiny.toml") && said.out.is_empty(), "{}", said.err);
}
