//! What the rows say about cold starts, in words, and no more than they say.
//!
//! At each pool size the policy `medes` is held against every other, seed by seed. A difference is called
//! one only if its paired 95 % interval leaves zero out; no correction is made for the number of
//! comparisons. Where `medes` is not ahead, and wherever counts cannot be compared at face value, the
//! sentences name what the rows show that bears on it: they are observations and do not prove a cause.

use crate::CellData;
use crate::grid::{Grid, Pool};
use crate::number::{count, fixed, percent, short};
use crate::stats::{Estimate, mean, paired_difference, paired_ratio};

/// The policy that is held against the others.
const SUBJECT: &str = "medes";
/// The computed bound.
const BOUND: &str = "oracle";
/// Those that the paper compares with: the headline is about them.
const RIVALS: [&str; 2] = ["fixed", "adaptive"];
/// Parts of the requests dropped or waiting that differ by more than this make cold starts hard to compare.
const PART_THAT_MATTERS: f64 = 0.001;

/// What is found at one pool size, or over all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where it holds: `Pool of 20 GB`, or `In short`.
    pub heading: String,
    /// What holds, sentence by sentence.
    pub sentences: Vec<String>,
}

/// How the cold starts of one policy stand to another's.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    /// Fewer, with 95 % confidence.
    Fewer,
    /// More, with 95 % confidence.
    More,
    /// Exactly as many with every seed.
    Same,
    /// No difference that the seeds show.
    NotShown,
    /// One seed: which way it points.
    OneSeed(std::cmp::Ordering),
    /// No seed that both ran.
    NotPaired,
}

/// What `cells` say: first in short, then for each pool from the smallest.
pub fn findings(cells: &[CellData]) -> Vec<Finding> {
    let grid = Grid::new(cells);
    if grid.cells.is_empty() {
        return vec![Finding {
            heading: "In short".into(),
            sentences: vec!["There are no rows, so nothing was found.".into()],
        }];
    }
    let mut found = vec![Finding { heading: "In short".into(), sentences: in_short(&grid) }];
    found.extend(grid.pools.iter().map(|pool| Finding {
        heading: if pool.gb().is_finite() { format!("Pool of {}", pool.label) } else { "Without a memory cap".into() },
        sentences: at_pool(&grid, pool),
    }));
    found
}

fn in_short(grid: &Grid<'_>) -> Vec<String> {
    let mut out = Vec::new();
    if !grid.policies.contains(&SUBJECT) {
        out.push(format!("{SUBJECT} was not run, so the policies are only ranked."));
        return out;
    }
    for rival in RIVALS.iter().filter(|r| grid.policies.contains(r)) {
        let pools_where = |wanted: fn(&Verdict) -> bool| -> Vec<&str> {
            let is = |p: &&Pool| wanted(&verdict(&grid.runs(SUBJECT, p), &grid.runs(rival, p)));
            grid.pools.iter().filter(is).map(|p| p.label.as_str()).collect()
        };
        let groups: [(&str, Vec<&str>); 6] = [
            ("fewer", pools_where(|v| *v == Verdict::Fewer)),
            ("fewer (one seed)", pools_where(|v| matches!(v, Verdict::OneSeed(std::cmp::Ordering::Less)))),
            ("more", pools_where(|v| *v == Verdict::More)),
            ("more (one seed)", pools_where(|v| matches!(v, Verdict::OneSeed(std::cmp::Ordering::Greater)))),
            ("as many", pools_where(|v| matches!(v, Verdict::Same | Verdict::OneSeed(std::cmp::Ordering::Equal)))),
            ("no difference that the seeds show", pools_where(|v| *v == Verdict::NotShown)),
        ];
        let parts: Vec<String> =
            groups.iter().filter(|g| !g.1.is_empty()).map(|(what, at)| format!("{what} at {}", listed(at))).collect();
        if !parts.is_empty() {
            out.push(format!("Cold starts of {SUBJECT} against {rival}: {}.", parts.join("; ")));
        }
    }
    if out.is_empty() {
        out.push(format!("Neither fixed nor adaptive keep-alive was run beside {SUBJECT}."));
    }
    if !grid.parameters.is_empty() {
        out.push(format!("The comparisons below are{}", grid.setting_text(&[]).replacen(" At", " at", 1)));
    }
    out
}

fn at_pool(grid: &Grid<'_>, pool: &Pool) -> Vec<String> {
    let medes = grid.runs(SUBJECT, pool);
    let mut out = Vec::new();
    if medes.is_empty() {
        out.extend(ranking(grid, pool));
    } else {
        let (mut ahead_of_all, mut shown) = (true, Vec::new());
        for rival in grid.policies.iter().filter(|p| **p != SUBJECT && **p != BOUND) {
            let runs = grid.runs(rival, pool);
            if runs.is_empty() {
                continue;
            }
            ahead_of_all &=
                matches!(verdict(&medes, &runs), Verdict::Fewer | Verdict::OneSeed(std::cmp::Ordering::Less));
            out.push(compared(rival, &medes, &runs));
            shown.push((*rival, runs));
        }
        if !ahead_of_all {
            out.extend(why(&medes, &shown));
        }
        for (rival, runs) in &shown {
            // What concerns medes alone comes with every rival and is said once.
            let new: Vec<String> = comparable(rival, &medes, runs).into_iter().filter(|s| !out.contains(s)).collect();
            out.extend(new);
        }
    }
    out.extend(bound(grid, pool));
    out
}

fn cold_by_seed(runs: &[&CellData]) -> Vec<(u64, f64)> {
    runs.iter().map(|c| (c.summary.seed, c.summary.cold as f64)).collect()
}

fn verdict(a: &[&CellData], b: &[&CellData]) -> Verdict {
    let difference = paired_difference(&cold_by_seed(a), &cold_by_seed(b));
    match (difference.n, difference.sign()) {
        (0, _) => Verdict::NotPaired,
        (1, _) => Verdict::OneSeed(difference.mean.total_cmp(&0.0)),
        (_, -1) => Verdict::Fewer,
        (_, 1) => Verdict::More,
        _ if difference.mean == 0.0 && difference.half == Some(0.0) => Verdict::Same,
        _ => Verdict::NotShown,
    }
}

/// One sentence: how many cold starts `medes` has against `rival`.
fn compared(rival: &str, medes: &[&CellData], runs: &[&CellData]) -> String {
    let (a, b) = (cold_by_seed(medes), cold_by_seed(runs));
    let verdict = verdict(medes, runs);
    let ratio = paired_ratio(&a, &b);
    let difference = paired_difference(&a, &b);
    let means = |v: &[(u64, f64)]| count(mean(&v.iter().map(|v| v.1).collect::<Vec<_>>()));
    let against = format!("{} against {}", means(&a), means(&b));
    // Without cold starts of the rival there is no relative difference: say it in requests.
    let relative = ratio.n == difference.n;
    let size = |sign: f64| match relative {
        true => format!("{}\u{a0}%", digits(ratio.mean * sign * 100.0)),
        false => count(difference.mean * sign),
    };
    let interval = |sign: f64| {
        let (low, high, by) = match relative {
            true => (ratio.low(), ratio.high(), 100.0),
            false => (difference.low(), difference.high(), 1.0),
        };
        let (from, to) = if sign < 0.0 { (-high, -low) } else { (low, high) };
        format!("[{}, {}]", digits(from * by), digits(to * by))
    };
    let n = difference.n;
    match verdict {
        Verdict::Fewer => {
            format!(
                "{SUBJECT} has {} fewer cold starts than {rival} {}: {against}, means of {n} seeds.",
                size(-1.0),
                interval(-1.0)
            )
        }
        Verdict::More => {
            format!(
                "{SUBJECT} has {} more cold starts than {rival} {}: {against}, means of {n} seeds.",
                size(1.0),
                interval(1.0)
            )
        }
        Verdict::Same => {
            format!("{SUBJECT} has exactly as many cold starts as {rival} with each of {n} seeds: {}.", means(&a))
        }
        Verdict::NotShown => format!(
            "{SUBJECT} against {rival}: no difference that {n} seeds can show, {} {}: {against}.",
            size(1.0),
            interval(1.0)
        ),
        Verdict::OneSeed(std::cmp::Ordering::Equal) => {
            format!("{SUBJECT} has as many cold starts as {rival}, {}; one seed, so no interval.", means(&a))
        }
        Verdict::OneSeed(order) => {
            let (sign, word) = if order.is_lt() { (-1.0, "fewer") } else { (1.0, "more") };
            format!(
                "{SUBJECT} has {} {word} cold starts than {rival}: {against}; one seed, so no interval.",
                size(sign)
            )
        }
        Verdict::NotPaired => format!("{SUBJECT} and {rival} share no seed here, so they are not compared."),
    }
}

/// Enough digits of a percentage: 31, 4.2, 0.35, -12.
fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 9.95 || v == 0.0 => fixed(value, 0),
        v if v >= 0.95 => fixed(value, 1),
        _ => fixed(value, 2),
    }
}

fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn sum(runs: &[&CellData], value: impl Fn(&CellData) -> u64) -> u64 {
    runs.iter().fold(0, |sum, c| sum.saturating_add(value(c)))
}

fn average(runs: &[&CellData], value: impl Fn(&CellData) -> f64) -> f64 {
    Estimate::of(runs.iter().map(|c| value(c))).mean
}

/// What bears on `medes` not being ahead of all `rivals`.
fn why(medes: &[&CellData], rivals: &[(&str, Vec<&CellData>)]) -> Vec<String> {
    let mut out = Vec::new();
    let evictions = |runs: &[&CellData]| sum(runs, |c| c.summary.evictions);
    let idle: Vec<&str> = rivals.iter().filter(|r| evictions(&r.1) == 0).map(|r| r.0).collect();
    if !idle.is_empty() {
        let verb = if idle.len() == 1 { "it" } else { "they" };
        out.push(format!(
            "Memory was not scarce for {}: nothing was evicted at this cap, so {verb} never lost a sandbox before its time and \
             saved memory could save no cold start.",
            listed(&idle)
        ));
    }
    let requests = sum(medes, |c| c.summary.requests);
    let dedup = sum(medes, |c| c.summary.dedup);
    let runs = medes.len() as f64;
    if sum(medes, |c| c.summary.dedup_ops) == 0 {
        out.push(format!("{SUBJECT} deduplicated no sandbox here, so it saved no memory by it."));
    } else {
        out.push(format!(
            "{SUBJECT} deduplicated {} sandboxes a run and answered {} requests a run from them ({} of all), which are \
             neither cold nor warm starts.",
            count(average(medes, |c| c.summary.dedup_ops as f64)),
            count(dedup as f64 / runs),
            percent(dedup as f64 / requests as f64)
        ));
    }
    let bases = average(medes, |c| {
        if c.timeline.is_empty() {
            f64::NAN
        } else {
            mean(&c.timeline.iter().map(|s| f64::from(s.base)).collect::<Vec<_>>())
        }
    });
    if bases > 0.0 {
        out.push(format!(
            "{} base sandboxes stood on average, each with its dump in memory beside its own: memory that idle sandboxes \
             could not have.",
            short(bases)
        ));
    }
    let memory = |runs: &[&CellData]| average(runs, |c| c.summary.mean_memory_mb / 1000.0);
    let purged = |runs: &[&CellData]| average(runs, |c| c.summary.purged as f64);
    for (rival, runs) in rivals.iter().filter(|r| !matches!(verdict(medes, &r.1), Verdict::Fewer)) {
        let (a, b) = (memory(medes), memory(runs));
        if a < b * 0.95 {
            out.push(format!(
                "{SUBJECT} used less memory than {rival} on average: {} against {} GB.",
                short(a),
                short(b)
            ));
        }
        let (a, b) = (purged(medes), purged(runs));
        if a > b * 1.2 && a > b + 1.0 {
            out.push(format!(
                "Its policy removed more sandboxes than {rival}'s without need of room: {} against {} a run.",
                count(a),
                count(b)
            ));
        }
    }
    out
}

/// What forbids to compare the cold starts of `medes` and `rival` at face value.
fn comparable(rival: &str, medes: &[&CellData], runs: &[&CellData]) -> Vec<String> {
    let mut out = Vec::new();
    let requests = |c: &CellData| c.summary.requests as f64;
    let pairs = |a: &[&CellData]| a.iter().map(|c| (c.summary.seed, requests(c))).collect::<Vec<_>>();
    let difference = paired_difference(&pairs(medes), &pairs(runs));
    if difference.n > 0 && (difference.mean != 0.0 || difference.half.is_some_and(|h| h != 0.0)) {
        out.push(format!(
            "{SUBJECT} and {rival} did not get the same requests with the same seeds: compare shares, not counts."
        ));
    }
    let differs = |value: fn(&CellData) -> u64| {
        let part = |runs: &[&CellData]| sum(runs, value) as f64 / sum(runs, |c| c.summary.requests) as f64;
        let each = |runs: &[&CellData]| count(average(runs, |c| value(c) as f64));
        ((part(medes) - part(runs)).abs() > PART_THAT_MATTERS).then(|| (each(medes), each(runs)))
    };
    if let Some((a, b)) = differs(|c| c.summary.dropped.saturating_add(c.summary.failed)) {
        out.push(format!(
            "Dropped or failed requests differ ({SUBJECT} {a}, {rival} {b} a run), and a dropped request is no cold start: their \
             cold starts are not comparable at face value."
        ));
    }
    if let Some((a, b)) = differs(|c| c.summary.queued) {
        out.push(format!(
            "Requests that waited for memory differ ({SUBJECT} {a}, {rival} {b} a run), and one that waited and then found a warm \
             sandbox is no cold start: their cold starts are not comparable at face value."
        ));
    }
    for (name, of) in [(SUBJECT, medes), (rival, runs)] {
        let prewarmed = average(of, |c| c.summary.prewarmed as f64);
        if prewarmed > 0.0 {
            let all = average(of, |c| c.summary.prewarmed as f64 + c.summary.cold as f64);
            let text = format!(
                "{name} also created {} sandboxes a run ahead of requests, which are not counted as cold starts; with them it \
                 created {}.",
                count(prewarmed),
                count(all)
            );
            out.push(text);
        }
    }
    out
}

/// The computed bound, and who is below it and why that can be.
fn bound(grid: &Grid<'_>, pool: &Pool) -> Vec<String> {
    let oracle = grid.runs(BOUND, pool);
    if oracle.is_empty() {
        return Vec::new();
    }
    let cold = |runs: &[&CellData]| average(runs, |c| c.summary.cold as f64);
    let limit = cold(&oracle);
    let mut out = vec![format!(
        "{BOUND}, {} cold starts, is no policy that could run but a computed lower bound on sandbox creations for schedules \
         that start every request on arrival.",
        count(limit)
    )];
    let medes = cold(&grid.runs(SUBJECT, pool));
    if limit > 0.0 && medes >= limit {
        out.push(format!("{SUBJECT} has {} times as many.", short(medes / limit)));
    }
    for policy in grid.policies.iter().filter(|p| **p != BOUND) {
        let runs = grid.runs(policy, pool);
        if runs.is_empty() || cold(&runs) >= limit {
            continue;
        }
        let each = |value: fn(&CellData) -> f64| average(&runs, value);
        let (waited, dropped, ahead) = (
            each(|c| c.summary.queued as f64),
            each(|c| c.summary.dropped as f64 + c.summary.failed as f64),
            each(|c| c.summary.prewarmed as f64),
        );
        let mut does = Vec::new();
        for (n, text) in
            [(waited, "let {} requests wait"), (dropped, "dropped {}"), (ahead, "created {} sandboxes ahead")]
        {
            if n > 0.0 {
                does.push(text.replacen("{}", &count(n), 1));
            }
        }
        let does: Vec<&str> = does.iter().map(String::as_str).collect();
        out.push(match does.is_empty() {
            false => format!(
                "{policy} shows fewer ({}): a run of it {}, which the bound does not allow itself.",
                count(cold(&runs)),
                listed(&does)
            ),
            true => format!(
                "{policy} shows fewer ({}) though it let no request wait, dropped none and created no sandbox ahead: either the \
                 bound or the run is wrong, please report it.",
                count(cold(&runs))
            ),
        });
    }
    out
}

/// Who has the fewest and the most cold starts, where `medes` was not run.
fn ranking(grid: &Grid<'_>, pool: &Pool) -> Option<String> {
    let mut means: Vec<(&str, f64)> = grid
        .policies
        .iter()
        .filter(|p| **p != BOUND)
        .map(|p| (*p, average(&grid.runs(p, pool), |c| c.summary.cold as f64)))
        .filter(|m| m.1.is_finite())
        .collect();
    means.sort_by(|a, b| a.1.total_cmp(&b.1));
    match &means[..] {
        [] => None,
        [(one, n)] => Some(format!("{one} has {} cold starts; no other policy was run here.", count(*n))),
        [(least, a), .., (most, b)] => Some(format!(
            "Of {} policies {least} has the fewest cold starts, {}, and {most} the most, {}.",
            means.len(),
            count(*a),
            count(*b)
        )),
    }
}

#[cfg(test)]
mod tests;
