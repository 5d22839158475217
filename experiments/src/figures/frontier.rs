//! What the rows of a frontier say in words: who is best in which pool, and how `medes` stands to each rival.

use medes_plots::CellData;
use medes_plots::figure::Figure;
use medes_plots::grid::{Grid, Pool, estimate};
use medes_plots::number::{count, short};
use medes_plots::paper::TextTable;
use medes_plots::plan::paper::{Kind, of_kind};
use medes_plots::stats::{paired_difference, paired_ratio};

use super::evidence::{listed, stood};
use super::spec::Beside;

/// The policy that is held against the others, and the bound, which is no policy.
const SUBJECT: &str = "medes";
const BOUND: &str = "oracle";

fn by_seed(runs: &[&CellData]) -> Vec<(u64, f64)> {
    runs.iter().map(|c| (c.summary.seed, c.summary.cold as f64)).collect()
}

/// Whether the first has more (1) or fewer (-1) cold starts, by the interval of pairs with the same seed; 0 where it does not tell.
fn sign(subject: &[(u64, f64)], other: &[(u64, f64)]) -> i8 {
    let ratio = paired_ratio(subject, other);
    // No relative difference to none.
    if ratio.n > 0 { ratio.sign() } else { paired_difference(subject, other).sign() }
}

/// A policy's name within a sentence, in quotes where it has a comma of its own.
fn named(policy: &str) -> String {
    if policy.contains(',') { format!("'{policy}'") } else { policy.to_owned() }
}

/// The least mean of a value in a pool, with whose it is.
fn least<'a>(grid: &Grid<'a>, pool: &Pool, value: fn(&CellData) -> f64) -> Option<(&'a str, f64)> {
    let policies = grid.policies.iter().copied().filter(|p| *p != BOUND);
    let means = policies.map(|p| (p, estimate(&grid.runs(p, pool), value).mean)).filter(|m| m.1.is_finite());
    means.min_by(|a, b| a.1.total_cmp(&b.1))
}

/// The table of pools, and a sentence for each rival and for what is beaten.
pub fn standing(cells: &[CellData]) -> (TextTable, Vec<String>) {
    let grid = Grid::new(cells);
    let rivals: Vec<&str> = grid.policies.iter().copied().filter(|p| !p.starts_with(SUBJECT) && *p != BOUND).collect();
    let mut head = vec!["pool".to_owned(), "fewest cold starts".to_owned(), "lowest 99th percentile start".to_owned()];
    head.extend(rivals.iter().map(|r| format!("{SUBJECT} against {r}")));
    head.push(format!("{BOUND}: at least"));
    let signed = |v: f64| match format!("{v:+.0}") {
        none if none == "-0" => "+0".to_owned(),
        text => text.replace('-', "\u{2212}"),
    };
    let row = |pool: &Pool| {
        let subject = by_seed(&grid.runs(SUBJECT, pool));
        let fewest = least(&grid, pool, |c| c.summary.cold as f64);
        let soonest = least(&grid, pool, |c| c.summary.start_p99_ms);
        let mut row = vec![
            pool.label.clone(),
            fewest.map_or_else(String::new, |(p, v)| format!("{p}: {}", count(v))),
            soonest.map_or_else(String::new, |(p, v)| format!("{p}: {} ms", short(v))),
        ];
        row.extend(rivals.iter().map(|rival| {
            let e = paired_ratio(&subject, &by_seed(&grid.runs(rival, pool)));
            match e.half {
                None if e.n == 0 => "–".to_owned(),
                None => format!("{} %", signed(100.0 * e.mean)),
                Some(_) => {
                    let [mean, low, high] = [e.mean, e.low(), e.high()].map(|v| signed(100.0 * v));
                    format!("{mean} % [{low}, {high}]")
                }
            }
        }));
        let bound = estimate(&grid.runs(BOUND, pool), |c| c.summary.cold as f64);
        row.push(if bound.n > 0 { count(bound.mean) } else { "–".to_owned() });
        row
    };
    let table = TextTable {
        caption: format!(
            "Who is best in each pool, and the cold starts of {SUBJECT} against each rival's in the same pool, of pairs with the same \
             seed, with the 95 % interval: + is more, a loss. {BOUND}: no schedule that starts each request on its arrival has fewer."
        ),
        head,
        rows: grid.pools.iter().map(row).collect(),
    };
    let mut notes: Vec<String> = rivals.iter().filter_map(|rival| against(&grid, rival)).collect();
    notes.extend(beaten(&grid, "Cold starts", |c| c.summary.cold as f64));
    notes.extend(beaten(&grid, "99th percentile start", |c| c.summary.start_p99_ms));
    notes.extend(worst(&grid, &rivals));
    notes.extend(dropped(&grid));
    (table, notes)
}

/// In which pools `medes` has more and fewer cold starts than a rival.
fn against(grid: &Grid<'_>, rival: &str) -> Option<String> {
    let mut at: [Vec<&str>; 3] = Default::default();
    for pool in &grid.pools {
        let (subject, other) = (by_seed(&grid.runs(SUBJECT, pool)), by_seed(&grid.runs(rival, pool)));
        if paired_difference(&subject, &other).n > 0 {
            at[(sign(&subject, &other) + 1) as usize].push(&pool.label);
        }
    }
    let words = ["fewer", "no difference that the seeds show", "more"];
    let parts: Vec<String> = [2, 1, 0]
        .into_iter()
        .filter(|i: &usize| !at[*i].is_empty())
        .map(|i| format!("{} in {}", words[i], listed(&at[i])))
        .collect();
    (!parts.is_empty()).then(|| format!("Cold starts of {SUBJECT} against {}: {}.", named(rival), parts.join("; ")))
}

/// How many points of `medes` another policy beats: less of the value with no more memory.
fn beaten(grid: &Grid<'_>, words: &str, value: fn(&CellData) -> f64) -> Option<String> {
    let point = |policy: &str, pool: &Pool| {
        let runs = grid.runs(policy, pool);
        (estimate(&runs, |c| c.summary.mean_memory_mb).mean, estimate(&runs, value).mean)
    };
    let (mut points, mut lost) = (0, 0);
    let mut by: Vec<String> = Vec::new();
    for pool in &grid.pools {
        let (memory, mine) = point(SUBJECT, pool);
        if !memory.is_finite() || !mine.is_finite() {
            continue;
        }
        points += 1;
        let mut any = false;
        for rival in grid.policies.iter().filter(|p| **p != BOUND && !p.starts_with(SUBJECT)) {
            let better = grid.pools.iter().map(|p| point(rival, p)).any(|(m, v)| m <= memory && v < mine);
            any |= better;
            let rival = named(rival);
            if better && !by.contains(&rival) {
                by.push(rival);
            }
        }
        lost += usize::from(any);
    }
    if points == 0 {
        return None;
    }
    Some(match lost {
        0 => format!("{words}: none of {points} points of {SUBJECT} is beaten: no rival has less with no more memory."),
        _ => format!(
            "{words}: {lost} of {points} points of {SUBJECT} are beaten: a rival has less with no more memory ({}).",
            listed(&by.iter().map(String::as_str).collect::<Vec<_>>())
        ),
    })
}

/// Where `medes` loses most to a rival, and what each then had in memory.
fn worst(grid: &Grid<'_>, rivals: &[&str]) -> Option<String> {
    let mut most: Option<(f64, &Pool, &str)> = None;
    for pool in &grid.pools {
        let subject = by_seed(&grid.runs(SUBJECT, pool));
        for rival in rivals {
            let other = by_seed(&grid.runs(rival, pool));
            let mean = paired_ratio(&subject, &other).mean;
            if sign(&subject, &other) > 0 && most.is_none_or(|m| mean > m.0) {
                most = Some((mean, pool, rival));
            }
        }
    }
    let (more, pool, rival) = most?;
    let (mine, other) = (grid.runs(SUBJECT, pool), grid.runs(rival, pool));
    let cold = |runs: &[&CellData]| count(estimate(runs, |c| c.summary.cold as f64).mean);
    let gone = |runs: &[&CellData]| {
        let values: [fn(&CellData) -> f64; 2] = [|c| c.summary.evictions as f64, |c| c.summary.purged as f64];
        let [evicted, removed] = values.map(|v| count(estimate(runs, v).mean));
        format!("lost {evicted} a run to others' need of memory and {removed} to its own policy")
    };
    let idle = |runs: &[&CellData]| {
        format!(
            "{} warm, {} base and {} reduced sandboxes",
            short(stood(runs, |s| s.warm)),
            short(stood(runs, |s| s.base)),
            short(stood(runs, |s| s.dedup))
        )
    };
    let rival = named(rival);
    let bases = match stood(&mine, |s| s.base) {
        b if b >= 0.05 => {
            format!(" Each base of {SUBJECT} has its dump in memory beside its own: room for fewer idle sandboxes.")
        }
        _ => String::new(),
    };
    Some(format!(
        "{SUBJECT} loses most in the pool of {}: {} cold starts against {} of {rival}, {:.0} % more. There {SUBJECT} held on average {} \
         idle and {}; {rival} held {} and {}.{bases}",
        pool.label,
        cold(&mine),
        cold(&other),
        100.0 * more,
        idle(&mine),
        gone(&mine),
        idle(&other),
        gone(&other),
    ))
}

/// In which pools so many requests were dropped that cold starts do not tell who is better.
fn dropped(grid: &Grid<'_>) -> Option<String> {
    let share = |c: &CellData| (c.summary.dropped + c.summary.failed) as f64 / (c.summary.requests as f64).max(1.0);
    let many = |pool: &&Pool| {
        let policies = grid.policies.iter().filter(|p| **p != BOUND);
        policies.map(|p| estimate(&grid.runs(p, pool), share).mean).any(|dropped| dropped > 1e-3)
    };
    let pools: Vec<&str> = grid.pools.iter().filter(many).map(|p| p.label.as_str()).collect();
    (!pools.is_empty()).then(|| {
        format!(
            "In {} more than one request in a thousand was dropped under some policy. A dropped request is no cold start: fewer of them \
             are no gain there, and may be fewer than the bound.",
            listed(&pools)
        )
    })
}

/// Both experiments in one picture each of latency and of cold starts.
pub fn both(beside: &Beside, here: &[CellData], there: &[CellData]) -> Vec<Figure> {
    let named = |cell: &CellData, words: &str| {
        let mut cell = cell.clone();
        cell.summary.policy = format!("{}, {words}", cell.summary.policy);
        cell.summary.parameters.clear();
        cell
    };
    let matters = |cell: &&CellData| beside.policies.contains(&cell.summary.policy);
    let plain = |cell: &CellData| {
        let mut cell = cell.clone();
        cell.summary.parameters.clear();
        cell
    };
    // A second line of the same policy would only be another setting of it, which is in the figure's own picture.
    let others =
        here.iter().filter(|c| !matters(c) && !beside.policies.iter().any(|p| c.summary.policy.starts_with(p)));
    let mut cells: Vec<CellData> = others.map(plain).collect();
    cells.extend(here.iter().filter(matters).map(|c| named(c, &beside.words[0])));
    cells.extend(there.iter().filter(matters).map(|c| named(c, &beside.words[1])));
    let name = |figure: Figure| Figure {
        name: format!("both_{}", figure.name),
        title: format!("{}, {} and {}", figure.title, beside.words[0], beside.words[1]),
        caption: format!("{} {}", beside.differ, figure.caption),
        ..figure
    };
    of_kind(Kind::Frontier, &cells).figures.into_iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(policy: &str, cap: f64, seed: u64, cold: u64, memory: f64) -> CellData {
        let mut cell = CellData::default();
        cell.summary.policy = policy.into();
        (cell.summary.memcap_mb, cell.summary.nodes, cell.summary.seed) = (cap, 1, seed);
        (cell.summary.cold, cell.summary.mean_memory_mb, cell.summary.start_p99_ms) = (cold, memory, cold as f64);
        cell
    }

    /// In the pool of 1 GB `medes` has half the cold starts of `fixed`, in that of 2 GB twice as many with more memory.
    fn cells() -> Vec<CellData> {
        let mut cells = Vec::new();
        for seed in 1..=3 {
            cells.push(run("medes", 1000.0, seed, 50 * seed, 900.0));
            cells.push(run("fixed", 1000.0, seed, 100 * seed, 950.0));
            cells.push(run("medes", 2000.0, seed, 20 * seed, 1900.0));
            cells.push(run("fixed", 2000.0, seed, 10 * seed, 1800.0));
            cells.push(run("oracle", 2000.0, seed, 5, 1000.0));
        }
        cells
    }

    #[test]
    fn the_best_and_the_beaten_are_those_of_the_rows() {
        let (table, notes) = standing(&cells());
        assert_eq!(table.head.len(), 5);
        assert_eq!(table.rows[0][..2], ["1 GB".to_owned(), "medes: 100".to_owned()]);
        assert_eq!(table.rows[0][3], "\u{2212}50 % [\u{2212}50, \u{2212}50]");
        assert_eq!(table.rows[1][1..4], ["fixed: 20", "fixed: 20.0 ms", "+100 % [+100, +100]"].map(str::to_owned));
        assert_eq!((table.rows[0][4].as_str(), table.rows[1][4].as_str()), ("–", "5"));
        let all = notes.join("\n");
        for part in [
            "against fixed: more in 2 GB; fewer in 1 GB.",
            "Cold starts: 1 of 2 points of medes are beaten: a rival has less with no more memory (fixed).",
            "loses most in the pool of 2 GB: 40 cold starts against 20 of fixed, 100 % more.",
        ] {
            assert!(all.contains(part), "{part} not in {all}");
        }
        assert!(!all.contains("was dropped"), "{all}");
        let mut full = cells();
        full[0].summary.requests = 10;
        full[0].summary.dropped = 1;
        let said = standing(&full).1.join("\n");
        assert!(said.contains("In 1 GB more than one request in a thousand was dropped"), "{said}");
        let ahead: Vec<CellData> = cells().into_iter().filter(|c| c.summary.memcap_mb == 1000.0).collect();
        let all = standing(&ahead).1.join("\n");
        assert!(all.contains("none of 1 points") && !all.contains("loses"), "{all}");
    }

    #[test]
    fn both_experiments_are_in_one_picture() {
        let beside = Beside {
            file: String::new(),
            policies: vec!["medes".into()],
            words: ["on".into(), "off".into()],
            differ: "A differs from B.".into(),
        };
        let figures = both(&beside, &cells(), &cells());
        let names: Vec<&str> = figures[0].series.iter().map(|s| s.label.as_str()).collect();
        assert_eq!(names, ["fixed", "medes, off", "medes, on", "oracle"]);
        assert!(
            figures[0].name.starts_with("both_")
                && figures[0].title.ends_with(", on and off")
                && figures[0].caption.starts_with("A differs")
        );
    }
}
