use super::*;
use medes_engine::record::{Summary, TimelineSample};

/// A run at 20 nodes of 1 GB with 100 000 requests.
fn run(policy: &str, seed: u64, cold: u64) -> CellData {
    let summary = Summary {
        policy: policy.into(),
        memcap_mb: 1000.0,
        nodes: 20,
        seed,
        requests: 100_000,
        cold,
        evictions: 50,
        mean_memory_mb: 18_000.0,
        ..Summary::default()
    };
    CellData { summary, ..CellData::default() }
}

fn runs(policy: &str, cold: &[u64]) -> Vec<CellData> {
    cold.iter().enumerate().map(|(seed, cold)| run(policy, seed as u64, *cold)).collect()
}

/// Everything said about the one pool.
fn said(cells: &[CellData]) -> String {
    let found = findings(cells);
    assert_eq!(found[1].heading, "Pool of 20 GB");
    found[1].sentences.join("\n")
}

fn has(text: &str, part: &str) {
    assert!(text.contains(part), "not said: {part}\nsaid: {text}");
}

#[test]
fn fewer_is_said_with_the_paired_interval() {
    // Relative differences -0.30, -0.31, -0.32: mean -31 %, half width 4.3027 x 0.01 / sqrt(3) = 2.5 %.
    let cells = [runs("medes", &[700, 690, 680]), runs("fixed", &[1000, 1000, 1000])].concat();
    has(
        &said(&cells),
        "medes has 31\u{a0}% fewer cold starts than fixed [29, 33]: 690 against 1000, means of 3 seeds.",
    );
    assert_eq!(
        findings(&cells)[0].sentences,
        ["Cold starts of medes against fixed: fewer at 20 GB (31\u{a0}% [29, 33])."]
    );
    assert!(!said(&cells).contains("deduplicated"), "no excuse where none is needed");
}

#[test]
fn more_is_said_with_what_bears_on_it() {
    let mut cells = [runs("medes", &[1100, 1110, 1120]), runs("adaptive", &[1000, 1000, 1000])].concat();
    for c in &mut cells[..3] {
        c.summary.dedup_ops = 40;
        c.summary.dedup = 250;
        c.summary.purged = 900;
        c.summary.mean_memory_mb = 9_000.0;
        c.timeline = vec![TimelineSample { base: 3, ..TimelineSample::default() }; 2];
    }
    let text = said(&cells);
    has(&text, "medes has 11\u{a0}% more cold starts than adaptive [8.5, 13]: 1110 against 1000, means of 3 seeds.");
    has(
        &text,
        "medes deduplicated 40 sandboxes a run and answered 250 requests a run from them (0.25\u{202f}% of all)",
    );
    has(&text, "3.00 base sandboxes stood on average");
    has(&text, "medes used less memory than adaptive on average: 9.00 against 18.0 GB.");
    has(&text, "Its policy removed more sandboxes than adaptive's without need of room: 900 against 0 a run.");
    assert_eq!(
        findings(&cells)[0].sentences,
        ["Cold starts of medes against adaptive: more at 20 GB (11\u{a0}% [8.5, 13])."]
    );
}

#[test]
fn what_the_seeds_do_not_show_is_not_called_a_difference() {
    let cells = [runs("medes", &[900, 1100, 980]), runs("fixed", &[1000, 1000, 1000])].concat();
    has(
        &said(&cells),
        "medes against fixed: no difference that 3 seeds can show, −0.67\u{a0}% [−26, 24]: 993 against 1000.",
    );
    let same = [runs("medes", &[5, 6]), runs("fixed", &[5, 6])].concat();
    has(&said(&same), "medes has exactly as many cold starts as fixed with each of 2 seeds: 6.");
    has(&findings(&same)[0].sentences[0], "as many at 20 GB");
}

#[test]
fn one_seed_has_no_interval_and_says_so() {
    let cells = [runs("medes", &[690]), runs("fixed", &[1000]), runs("adaptive", &[690])].concat();
    let text = said(&cells);
    has(&text, "medes has 31\u{a0}% fewer cold starts than fixed: 690 against 1000; one seed, so no interval.");
    has(&text, "medes has as many cold starts as adaptive, 690; one seed, so no interval.");
    has(&findings(&cells)[0].sentences[0], "fewer at 20 GB (31\u{a0}%, one seed)");
}

#[test]
fn a_rival_without_cold_starts_is_compared_in_requests() {
    let cells = [runs("medes", &[4, 6]), runs("fixed", &[0, 0])].concat();
    has(&said(&cells), "no difference that 2 seeds can show, 5.0 [−7.7, 18]: 5 against 0.");
    let apart = [runs("medes", &[4]), vec![run("fixed", 9, 4)]].concat();
    has(&said(&apart), "medes and fixed share no seed here, so they are not compared.");
}

#[test]
fn memory_that_is_not_scarce_is_named() {
    let mut cells = [runs("medes", &[1000]), runs("fixed", &[1000]), runs("adaptive", &[999])].concat();
    for c in &mut cells {
        c.summary.evictions = 0;
    }
    let text = said(&cells);
    has(&text, "Memory was not scarce for fixed and adaptive: nothing was evicted at this cap, so they never lost");
    has(&text, "medes deduplicated no sandbox here, so it saved no memory by it.");
}

#[test]
fn counts_that_cannot_be_compared_are_named() {
    let mut cells = [runs("medes", &[500]), runs("fixed", &[1000]), runs("adaptive", &[900])].concat();
    cells[1].summary.dropped = 4000;
    cells[1].summary.queued = 9000;
    cells[2].summary.prewarmed = 300;
    cells[2].summary.requests = 99_999;
    let text = said(&cells);
    has(&text, "Dropped or failed requests differ (medes 0, fixed 4000 a run)");
    has(&text, "Requests that waited for memory differ (medes 0, fixed 9000 a run)");
    has(
        &text,
        "adaptive also created 300 sandboxes a run ahead of requests, which are not counted as cold starts; with them it created 1200.",
    );
    has(&text, "medes and adaptive did not get the same requests");
    assert!(!text.contains("adaptive 0 a run"), "{text}");
}

#[test]
fn the_bound_is_called_a_bound_and_who_is_below_it_is_named() {
    let mut cells =
        [runs("medes", &[600]), runs("fixed", &[250]), runs("lru", &[200]), runs("oracle", &[300])].concat();
    cells[1].summary.queued = 70;
    cells[1].summary.prewarmed = 8;
    let text = said(&cells);
    has(&text, "oracle, 300 cold starts, is no policy that could run but a computed lower bound on sandbox creations");
    has(&text, "medes has 2.00 times as many.");
    has(&text, "fixed shows fewer (250): a run of it let 70 requests wait and created 8 sandboxes ahead");
    has(&text, "lru shows fewer (200) though it let no request wait");
    assert!(!text.contains("cold starts than oracle"), "the bound is no rival: {text}");
}

#[test]
fn without_medes_policies_are_ranked() {
    let cells = [runs("fixed", &[10]), runs("lru", &[5]), runs("adaptive", &[7])].concat();
    has(&said(&cells), "Of 3 policies lru has the fewest cold starts, 5, and fixed the most, 10.");
    has(&said(&runs("fixed", &[10])), "fixed has 10 cold starts; no other policy was run here.");
    assert_eq!(findings(&[])[0].sentences, ["There are no rows, so nothing was found."]);
}
