//! `medes bench`: that it measures and compares, not how fast it is.

use crate::support::Place;

#[test]
fn jobs_are_measured_kept_and_compared_on_the_same_machine_only() {
    let place = Place::new();
    let bench = "bench --quick --baseline b.json";
    let first = place.json(&format!("{bench} --save one --json --quiet"));
    let jobs = first["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 17);
    for job in jobs {
        let number = |key: &str| job[key].as_f64().unwrap();
        assert!(number("rate") > 0.0 && number("cpu_s") > 0.0 && number("peak_mb") > 1.0, "{job}");
    }
    assert!(first["machine"]["cores"].as_u64().unwrap() > 0 && first["load"].as_array().unwrap().len() == 2);

    let rate = |name: &str| jobs.iter().find(|j| j["job"] == name).unwrap()["rate"].as_f64().unwrap();
    let growth = first["growth"].as_array().unwrap();
    assert_eq!(growth.len(), 4);
    let nodes = rate("fixed, enough memory") / rate("fixed, 1,000 nodes");
    assert_eq!(growth[0]["growth"], "fixed, 1 to 1,000 nodes");
    assert!((growth[0]["cost"].as_f64().unwrap() - nodes).abs() < 1e-9, "{}", growth[0]);

    let said = place.works(&format!("{bench} fixed --against one --save two"));
    assert!(
        said.out.contains("ratio") && said.out.contains("100 nodes") && !said.out.contains("unpack"),
        "{}",
        said.out
    );
    let grows =
        |l: &&str| l.starts_with("growth") && l.contains("400 to 46,412 functions") && l.contains("times the cost");
    assert_eq!(said.out.lines().filter(grows).count(), 1, "{}", said.out);
    assert!(said.out.lines().all(|l| l.chars().count() <= 120), "{}", said.out);
    let value = place.json(&format!("{bench} index --against one --json --quiet"));
    assert_eq!(value["against"]["ratios"].as_array().unwrap().len(), 2);
    assert_eq!(value["growth"].as_array().unwrap().len(), 0, "no job of a pair was run");

    // Figures of a file: what is divided by what does not depend on how fast this machine is.
    let mut kept: serde_json::Value = serde_json::from_str(&place.text("b.json")).unwrap();
    assert_eq!(kept.as_object().unwrap().keys().collect::<Vec<_>>(), ["one", "two"]);
    for job in kept["one"]["jobs"].as_array_mut().unwrap() {
        job["rate"] = (job["rate"].as_f64().unwrap() * 1e6).into();
    }
    place.file("fast.json", &kept.to_string());
    let value = place.json("bench --quick index --against one --baseline fast.json --json --quiet");
    for ratio in value["against"]["ratios"].as_array().unwrap() {
        assert!(ratio["rate"].as_f64().unwrap() < 0.01, "{ratio}");
    }

    kept["one"]["machine"]["host"] = "elsewhere".into();
    place.file("b.json", &kept.to_string());
    let refused = place.ends(2, &format!("{bench} index --against one"));
    assert!(refused.err.contains("elsewhere") && refused.err.contains("--other-machine"), "{}", refused.err);
    let warned = place.works(&format!("{bench} index --against one --other-machine"));
    assert!(warned.err.contains("warning") && warned.out.contains("ratio"), "{}", warned.err);
}

#[test]
fn what_cannot_be_compared_is_refused_before_anything_is_measured() {
    let place = Place::new();
    let said = place.ends(2, "bench --against none --baseline b.json");
    assert!(said.err.contains("no baseline `none`") && said.err.contains("--save none"), "{}", said.err);
    assert!(place.ends(2, "bench nonsense").err.contains("100 nodes"));
    place.works("bench --quick --baseline b.json index --save small");
    assert!(place.ends(2, "bench --baseline b.json --against small").err.contains("--quick"));
    place.file("b.json", "no json");
    assert!(place.ends(2, "bench --quick --baseline b.json --against small").err.contains("b.json"));
    assert_eq!(place.text("b.json"), "no json");
}
