//! What a run leaves behind.

use std::collections::BTreeMap;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use crate::support::{PROMISED, Place};

/// The rows of a file, by the library's row reader: the tool itself reads and writes columns.
fn parquet(place: &Place, name: &str) -> Vec<BTreeMap<String, Field>> {
    let bytes = place.read(name);
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"), "{name} is no Parquet file");
    let reader = SerializedFileReader::new(std::fs::File::open(place.path(name)).unwrap()).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    rows.map(|row| row.unwrap().get_column_iter().map(|(name, value)| (name.clone(), value.clone())).collect())
        .collect()
}

fn texts(rows: &[BTreeMap<String, Field>], column: &str) -> Vec<String> {
    let text = |row: &BTreeMap<String, Field>| match &row[column] {
        Field::Str(text) => text.clone(),
        Field::Null => String::new(),
        other => panic!("{column} holds {other:?}"),
    };
    rows.iter().map(text).collect()
}

fn wholes(rows: &[BTreeMap<String, Field>], column: &str) -> Vec<u64> {
    let whole = |row: &BTreeMap<String, Field>| match &row[column] {
        Field::ULong(whole) => *whole,
        other => panic!("{column} holds {other:?}"),
    };
    rows.iter().map(whole).collect()
}

#[test]
fn a_run_writes_every_promised_file() {
    let place = Place::new();
    let said = place.works("run tiny.toml --out out --jobs 2");
    assert!(said.out.contains("Does it run?") && said.out.contains("out/report.html"), "{}", said.out);

    let summary = place.summary("out");
    assert_eq!(summary.head[..PROMISED.len()], PROMISED, "the promised columns come first, in the promised order");
    assert_eq!(summary.rows.len(), 8);
    assert_eq!((summary.values("policy"), summary.values("seed")), (vec!["fixed", "medes"], vec!["1", "2"]));
    let mut caps = summary.numbers("memcap_mb");
    caps.dedup();
    assert_eq!(caps, [600.0, 300.0, 600.0, 300.0], "rows stand in the order of the experiment file");
    for row in &summary.rows {
        let number = |column: &str| row[column].parse::<f64>().unwrap();
        let ended: f64 = ["cold", "warm", "dedup", "dropped", "failed"].map(number).iter().sum();
        assert_eq!(ended, number("requests"), "each request ends once: {row:?}");
        assert!(number("p50_ms") <= number("p99_ms") && number("p99_ms") <= number("p999_ms"), "{row:?}");
        assert!(number("mean_memory_mb") <= number("max_memory_mb"), "{row:?}");
        assert!(number("max_memory_mb") <= number("memcap_mb") * number("nodes"), "over the cap: {row:?}");
    }

    let requests = parquet(&place, "out/requests.parquet");
    assert_eq!(requests.len() as f64, summary.numbers("requests").iter().sum::<f64>());
    let kinds = texts(&requests, "start_kind");
    for kind in ["cold", "warm", "dedup"] {
        let rows = kinds.iter().filter(|k| *k == kind).count();
        assert_eq!(rows as f64, summary.numbers(kind).iter().sum::<f64>(), "{kind} starts");
    }
    assert_eq!(texts(&requests, "policy").iter().filter(|p| *p == "medes").count(), requests.len() / 2);

    let timeline = parquet(&place, "out/timeline.parquet");
    let arrivals: u64 = wholes(&timeline, "arrivals").iter().sum();
    assert_eq!(arrivals as f64, summary.numbers("requests").iter().sum::<f64>());

    let functions = place.text("out/functions.csv");
    assert_eq!(functions.lines().count(), 1 + 8 * 20, "a row a cell, seed and function");

    let readme = place.text("out/README.md");
    for part in
        ["# Tiny", "Does it run?", "medes run tiny.toml --out out", "azure-like", "seeds: `1, 2`", "summary.csv"]
    {
        assert!(readme.contains(part), "README.md does not have `{part}`:\n{readme}");
    }
    report_is_self_contained(&place.text("out/report.html"));
    figures_come_in_both_forms(&place);
}

/// Nothing in the page makes a browser fetch anything.
fn report_is_self_contained(html: &str) {
    assert!(html.contains("Does it run?") && html.contains("<svg"));
    for part in ["<script", "<link", "<iframe", "<object", "<embed", "@import", "@font-face", "url("] {
        assert!(!html.contains(part), "report.html has `{part}`");
    }
    for (at, _) in html.match_indices("src=").chain(html.match_indices("xlink:href=")) {
        let text: String = html[at..].chars().take(60).collect();
        assert!(text.contains("=\"data:") || text.contains("=\"#"), "report.html loads {text}");
    }
    for (at, _) in html.match_indices("http") {
        let text: String = html[at..].chars().take(60).collect();
        assert!(text.starts_with("http://www.w3.org/"), "report.html refers to {text}");
    }
}

fn figures_come_in_both_forms(place: &Place) {
    let names: Vec<String> = std::fs::read_dir(place.path("out/figures"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    for kind in ["cold_by_pool", "cold_per_function", "p999_per_function", "memory_over_time", "memory_distribution"] {
        assert!(names.iter().any(|n| n.starts_with(kind)), "no figure {kind} among {names:?}");
    }
    let svgs: Vec<&String> = names.iter().filter(|n| n.ends_with(".svg")).collect();
    for svg in svgs {
        assert!(place.text(&format!("out/figures/{svg}")).contains("<svg"), "{svg}");
        let png = place.read(&format!("out/figures/{}", svg.replace(".svg", ".png")));
        assert!(png.starts_with(b"\x89PNG"), "{svg} has no PNG beside it");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_whatever_the_number_of_threads() {
    let place = Place::new();
    place.works("run tiny.toml --out one --jobs 1 --set policy=medes,compress,oracle,greedy-dual --set memcap=300");
    place.works("run tiny.toml --out two --jobs 2 --set policy=medes,compress,oracle,greedy-dual --set memcap=300");
    place.same_rows("one", "two");
}

#[test]
fn json_is_the_summary() {
    let place = Place::new();
    let value =
        place.json("run tiny.toml --out out --json --set chunksperpage=1,20 --set policy=medes --set memcap=300");
    let summary = place.summary("out");
    let rows = value["rows"].as_array().unwrap();
    assert_eq!((rows.len(), summary.rows.len()), (4, 4), "two values and two seeds");
    assert_eq!(summary.values("chunksperpage"), ["1", "20"], "a swept parameter stands under its own name");
    for (json, row) in rows.iter().zip(&summary.rows) {
        assert_eq!(json.as_object().unwrap().len(), summary.head.len());
        for (column, text) in row {
            let same = match &json[column] {
                serde_json::Value::String(s) => s == text,
                serde_json::Value::Null => text == "NaN",
                number => number.as_f64() == text.parse().ok(),
            };
            assert!(same, "{column}: {} in JSON, {text} in summary.csv", json[column]);
        }
    }
    assert_eq!((&value["experiment"], &value["cells_found"]), (&"tiny".into(), &0.into()));
}

#[test]
fn quiet_says_nothing_and_seeds_are_replaced() {
    let place = Place::new();
    let said = place.works("run tiny.toml --out out --quiet --seed 7 --seed 9 --set policy=fixed --set memcap=300");
    assert_eq!(said.err, "");
    assert_eq!(place.summary("out").values("seed"), ["7", "9"]);
}

#[test]
fn every_request_or_one_in_n_or_none_is_written() {
    let place = Place::new();
    let run = "run tiny.toml --quiet --seed 1 --set policy=fixed --set memcap=300 --set request_rows";
    place.works(&format!("{run}=1/100 --out hundredth"));
    assert_eq!(parquet(&place, "hundredth/requests.parquet").len(), 20);
    assert_eq!(place.summary("hundredth").numbers("requests"), [2000.0]);
    place.works(&format!("{run}=none --out none"));
    assert!(!place.path("none/requests.parquet").exists());
}

#[test]
fn the_outside_checker_agrees() {
    let place = Place::new();
    let policies =
        "fixed,adaptive,medes,greedy-dual,lru,compress,no-keep-alive,heuristic,heuristic-openwhisk,none-heuristic";
    place.works(&format!("run tiny.toml --out out --quiet --check --seed 3 --set policy={policies} --set memcap=300"));
    place.works("run tiny.toml --out memory --quiet --check --seed 3 --set policy=medes --set constraint=memory --set memcap=300");
}

#[test]
fn without_out_the_same_command_finds_its_results_again() {
    let place = Place::new();
    let run = "run tiny.toml --json --seed 1 --set policy=fixed --set memcap=300";
    let first = place.json(run);
    let again = place.json(run);
    assert_eq!(first["out"], again["out"]);
    assert!(first["out"].as_str().unwrap().starts_with("results/tiny/"), "{}", first["out"]);
    assert_eq!((&first["cells_found"], &again["cells_found"]), (&0.into(), &1.into()));
    assert_eq!(first["rows"], again["rows"]);
}

#[test]
fn a_lost_node_is_a_fault_of_the_experiment() {
    let place = Place::new();
    place.file("lost.toml", &format!("{}\n[[fault]]\nnode = 0\nat_s = 300\nfor_s = 60\n", crate::support::TINY));
    place.works("run lost.toml --out out --quiet --check --seed 1");
    place.works("run tiny.toml --out whole --quiet --seed 1");
    assert_ne!(place.read("out/summary.csv"), place.read("whole/summary.csv"));
}
