//! Samples of real traces through the tool, where they are at hand.

use crate::support::{Place, real_data};

fn run(place: &Place, args: &str) -> serde_json::Value {
    place.json(&format!("run tiny.toml --json --seed 1 --set request_rows=none {args}"))
}

#[test]
fn a_quarter_of_an_hour_of_500_functions_of_azure_2019() {
    let Some(data) = real_data() else { return };
    let place = Place::new();
    let files = data.join("azure2019_500fn_8h");
    let minutes =
        format!("--trace azure2019:{} --set trace.window=540..554 --set policy=fixed,medes,oracle", files.display());
    let value = run(&place, &format!("--out out {minutes} --set memcap=2000 --set nodes=20 --set constraint=memory"));
    let rows = value["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|r| r["requests"] == rows[0]["requests"]), "each policy serves the same requests");
    assert!(rows[0]["requests"].as_u64().unwrap() > 10_000);
    assert!(rows[2]["cold"].as_u64() <= rows[0]["cold"].as_u64(), "the oracle has more cold starts than fixed");
}

#[test]
fn the_whole_sample_has_the_requests_it_should_have() {
    let Some(data) = real_data() else { return };
    let place = Place::new();
    for (kind, folder) in [("azure2019", "azure2019_500fn_8h"), ("invitro", "azure2019_500fn_8h_invitro")] {
        let stats = place.json(&format!("trace stats --json {kind}:{}", data.join(folder).display()));
        let text = stats["stats"].to_string();
        assert!(text.contains("3037902"), "{kind}: {text}");
    }
}

#[test]
fn the_small_samples_run() {
    let Some(data) = real_data() else { return };
    let place = Place::new();
    let file = data.join("samples/azure2021_first199.csv");
    let value =
        run(&place, &format!("--out y21 --trace azure2021:{} --set policy=medes --set memcap=2000", file.display()));
    assert_eq!(value["rows"][0]["requests"], 199);
    let file = data.join("samples/azure2019_test_workload.csv");
    run(&place, &format!("--out y19 --trace azure2019:{} --set policy=medes --set memcap=2000", file.display()));
}
