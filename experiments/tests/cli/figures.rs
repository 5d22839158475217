//! The figures of the paper's evaluation, in small form: tables and structure as checked in, pictures that are pictures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::Place;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/figures")
}

/// CSV files and the outline of the pictures in a folder, by name.
fn tables(folder: &Path) -> BTreeMap<String, String> {
    let listed = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|f| f.path());
    let wanted = |p: &PathBuf| p.extension().is_some_and(|e| e == "csv") || p.ends_with("outline.txt");
    listed
        .filter(wanted)
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&p).unwrap()))
        .collect()
}

/// Every experiment in small form gives the tables that are checked in, digit for digit, and pictures with the same axes, series
/// and labels. After a change that is meant, `UPDATE_GOLDENS=1 cargo test -p medes --test cli figures` writes them anew.
#[test]
fn small_figures_are_as_checked_in() {
    let place = Place::new();
    let said = place.works("figures --small --out out");
    assert!(said.out.contains("17 figures") && said.out.contains("out/report.html"), "{}", said.out);
    let found = tables(&place.path("out/figures"));
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::remove_dir_all(goldens()).ok();
        std::fs::create_dir_all(goldens()).unwrap();
        for (name, text) in &found {
            std::fs::write(goldens().join(name), text).unwrap();
        }
    }
    let kept = tables(&goldens());
    assert_eq!(found.keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>(), "other figures than checked in");
    for (name, text) in &found {
        for (n, (here, there)) in text.lines().zip(kept[name].lines()).enumerate() {
            assert_eq!(here, there, "{name}, line {}", n + 1);
        }
        assert_eq!(text.lines().count(), kept[name].lines().count(), "{name}");
    }
    pictures_and_page(&place);
}

fn pictures_and_page(place: &Place) {
    let page = place.text("out/report.html");
    for number in 1..=17 {
        let stem = format!("fig{number:02}");
        let outline = place.text("out/figures/outline.txt");
        let pictures: Vec<&str> =
            outline.lines().filter_map(|l| l.split(" | ").next()).filter(|n| n.starts_with(&stem)).collect();
        assert!(!pictures.is_empty(), "{stem} has no picture");
        for picture in pictures {
            assert!(place.read(&format!("out/figures/{picture}.png")).starts_with(b"\x89PNG"), "{picture}");
            let svg = place.text(&format!("out/figures/{picture}.svg"));
            assert!(svg.contains("<text") && page.contains(&format!("id=\"{picture}\"")), "{picture}");
            assert!(!svg.contains("no values to draw"), "{picture} is empty");
        }
        assert!(place.text(&format!("out/figures/{stem}_origin.txt")).len() > 60, "{stem} does not say its origin");
        assert!(page.contains(&format!("id=\"f{number}\"")), "figure {number} is not in the page");
    }
    for fetched in ["<script", "<link", "src=", "url(", "@import"] {
        assert!(!page.contains(fetched), "the page has {fetched}: it must stand by itself");
    }
    for part in ["Stated:", "Does it hold?", "width=device-width", "@media print"] {
        assert!(page.contains(part), "the page lacks {part}");
    }
}

#[test]
fn figures_are_listed_and_chosen() {
    let place = Place::new();
    let listed = place.json("figures --list --json");
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 17);
    for figure in listed {
        let has = |key: &str| figure[key].as_str().is_some_and(|t| !t.is_empty());
        assert!(has("title") && has("question") && has("needs") && figure["seconds"].as_f64() > Some(0.0), "{figure}");
    }
    let text = place.works("figures --list").out;
    assert!(text.contains("needs") && text.contains("takes") && text.contains("together about"), "{text}");

    let said = place.json("figures 8 5 --small --json --out some");
    let of: Vec<&str> = said["statements"].as_array().unwrap().iter().filter_map(|s| s["figure"].as_str()).collect();
    assert!(of.contains(&"5") && of.contains(&"8") && !of.contains(&"7"), "{of:?}");
    assert!(place.path("some/rows/05-cold-starts/summary.csv").is_file());
    // The same command again runs nothing.
    assert!(place.works("figures 8 5 --small --out some").err.contains("from an earlier run"));
}

#[test]
fn what_cannot_be_drawn_is_said_with_the_mend() {
    let place = Place::new();
    assert!(place.ends(2, "figures 99").err.contains("--list"));
    assert!(place.ends(2, "figures 1 --dumps nowhere").err.contains("scripts/make-dumps"));
    assert!(place.ends(2, "figures 5 --trace nothing:x").err.contains("nothing"));
    assert!(place.ends(2, "figures 13 --backend real").err.contains("--list"));
    assert!(place.ends(2, "figures 5 --backend real --small").err.contains("trace.minutes"));
    assert!(place.ends(2, "figures 5 --cluster cluster.json").err.contains("--backend real"));
    assert!(place.ends(2, "figures 5 --backend real --cluster nowhere.json").err.contains("nowhere.json"));
    place.file(
        "cluster.json",
        r#"{"memory_nodes": [], "grpc_nodes": [{"machine_id": 0, "addr": "127.0.0.1", "port": 1}]}"#,
    );
    assert!(place.ends(2, "figures 5 --backend real --cluster cluster.json").err.contains("controller"));
    // Figures of memory need no machines in either world.
    assert!(place.works("figures 10 --backend real --out memory").out.contains("1 figures"));
}

/// A trace of the user's replaces the generated one in every figure, and a shipped file runs as an experiment by itself.
#[test]
fn any_trace_and_any_file() {
    let place = Place::new();
    let mut rows = String::from("time,function\n");
    for i in 0..600 {
        rows.push_str(&format!("{},f{}\n", i / 2, i % 25));
    }
    place.file("requests.csv", &rows);
    place.works("figures 5 7 --trace csv:requests.csv --seed 1 --seed 2 --out mine");
    assert!(place.text("mine/figures/fig05_origin.txt").contains("csv:requests.csv"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("paper/05-cold-starts.toml");
    let small = "--set trace.functions=50 --set trace.minutes=5 --set trace.invocations=500 --seed 1";
    place.works(&format!("run {} {small} --out run", file.display()));
    assert_eq!(place.summary("run").values("policy"), ["fixed", "adaptive", "medes"]);
}
