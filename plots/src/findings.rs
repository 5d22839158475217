//! What the rows say about cold starts, in words, and no more than they say.
//!
//! At each pool size the policy `medes` is held against every other, seed by seed. A difference is called
//! one only if its paired 95 % interval leaves zero out; no correction is made for the number of
//! comparisons. Where `medes` is not ahead, and wherever counts cannot be compared at face value, the
//! sentences name what the rows show that bears on it: they are observations and do not prove a cause.

use std::cmp::Ordering;

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
    OneSeed(Ordering),
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
    if !grid.policies.contains(&SUBJECT) {
        return vec![format!("{SUBJECT} was not run, so the policies are only ranked.")];
    }
    let mut out = Vec::new();
    for rival in RIVALS.iter().filter(|r| grid.policies.contains(r)) {
        let mut compared: Vec<(&str, Comparison)> = Vec::new();
        for pool in &grid.pools {
            let comparison = Comparison::new(&grid.runs(SUBJECT, pool), &grid.runs(rival, pool));
            compared.extend(comparison.map(|c| (pool.label.as_str(), c)));
        }
        let mut parts = Vec::new();
        for kind in ["fewer", "more", "as many", "no difference that the seeds show"] {
            let of_kind = compared.iter().filter(|(_, c)| c.verdict.in_short() == kind);
            let at: Vec<String> = of_kind.map(|(pool, c)| format!("{pool}{}", c.in_brackets())).collect();
            if !at.is_empty() {
                parts.push(format!("{kind} at {}", listed(&at)));
            }
        }
        if !parts.is_empty() {
            out.push(format!("Cold starts of {SUBJECT} against {rival}: {}.", parts.join("; ")));
        }
    }
    if out.is_empty() {
        out.push(format!("Neither fixed nor adaptive keep-alive was run beside {SUBJECT}."));
    }
    if !grid.parameters.is_empty() {
        out.push(format!("The comparisons are{}", grid.setting_text(&[]).replacen(" At", " at", 1)));
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
            match Comparison::new(&medes, &runs) {
                Some(compared) => {
                    ahead_of_all &= compared.verdict.in_short() == "fewer";
                    out.push(compared.sentence(rival));
                    shown.push((*rival, runs));
                }
                None => out.push(format!("{SUBJECT} and {rival} share no seed here, so they are not compared.")),
            }
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

impl Verdict {
    fn in_short(&self) -> &'static str {
        match self {
            Self::Fewer | Self::OneSeed(Ordering::Less) => "fewer",
            Self::More | Self::OneSeed(Ordering::Greater) => "more",
            Self::Same | Self::OneSeed(Ordering::Equal) => "as many",
            Self::NotShown => "no difference that the seeds show",
        }
    }

    /// 1 where the subject has more, -1 where it has fewer: differences are named without their sign then.
    fn sign(&self) -> f64 {
        if self.in_short() == "fewer" { -1.0 } else { 1.0 }
    }
}

/// The cold starts of `medes` against those of another policy, over the seeds that both ran.
struct Comparison {
    verdict: Verdict,
    /// Number of seeds.
    n: usize,
    /// The difference and its unit: relative, %, or in requests where the other policy has no cold starts.
    difference: Estimate,
    unit: &'static str,
    /// Mean cold starts of both.
    means: (f64, f64),
}

impl Comparison {
    /// `None` where no seed was run with both.
    fn new(medes: &[&CellData], runs: &[&CellData]) -> Option<Self> {
        let (a, b) = (cold_by_seed(medes), cold_by_seed(runs));
        let (difference, ratio) = (paired_difference(&a, &b), paired_ratio(&a, &b));
        let verdict = match (difference.n, difference.sign()) {
            (0, _) => return None,
            (1, _) => Verdict::OneSeed(difference.mean.total_cmp(&0.0)),
            (_, -1) => Verdict::Fewer,
            (_, 1) => Verdict::More,
            _ if difference.mean == 0.0 && difference.half == Some(0.0) => Verdict::Same,
            _ => Verdict::NotShown,
        };
        let mean = |v: &[(u64, f64)]| mean(&v.iter().map(|v| v.1).collect::<Vec<_>>());
        let n = difference.n;
        let (difference, unit) = match ratio.n == n {
            true => (Estimate { mean: ratio.mean * 100.0, half: ratio.half.map(|h| h * 100.0), n }, "\u{a0}%"),
            false => (difference, ""),
        };
        Some(Self { verdict, n, difference, unit, means: (mean(&a), mean(&b)) })
    }

    fn size(&self) -> String {
        format!("{}{}", self.digits(self.difference.mean * self.verdict.sign()), self.unit)
    }

    fn interval(&self) -> String {
        let ends = (self.difference.low() * self.verdict.sign(), self.difference.high() * self.verdict.sign());
        format!("[{}, {}]", self.digits(ends.0.min(ends.1)), self.digits(ends.0.max(ends.1)))
    }

    /// Enough digits to tell the ends of the interval apart: 31, 4.2, 0.35, -12.
    fn digits(&self, value: f64) -> String {
        let narrow = self.difference.half.is_some_and(|half| half > 0.0 && half < 1.0);
        match value.abs() {
            v if v == 0.0 || (v >= 9.95 && !narrow) => fixed(value, 0),
            v if v >= 0.95 => fixed(value, 1),
            _ => fixed(value, 2),
        }
    }

    /// The difference for the list of pools in the headline.
    fn in_brackets(&self) -> String {
        match self.verdict {
            Verdict::Same | Verdict::OneSeed(Ordering::Equal) => String::new(),
            Verdict::OneSeed(_) => format!(" ({}, one seed)", self.size()),
            _ => format!(" ({} {})", self.size(), self.interval()),
        }
    }

    fn sentence(&self, rival: &str) -> String {
        let (n, a) = (self.n, count(self.means.0));
        let against = format!("{a} against {}", count(self.means.1));
        let (size, interval) = (self.size(), self.interval());
        let kind = self.verdict.in_short();
        match self.verdict {
            Verdict::Fewer | Verdict::More => {
                format!(
                    "{SUBJECT} has {size} {kind} cold starts than {rival} {interval}: {against}, means of {n} seeds."
                )
            }
            Verdict::Same => {
                format!("{SUBJECT} has exactly as many cold starts as {rival} with each of {n} seeds: {a}.")
            }
            Verdict::NotShown => {
                format!(
                    "{SUBJECT} against {rival}: no difference that {n} seeds can show, {size} {interval}: {against}."
                )
            }
            Verdict::OneSeed(Ordering::Equal) => {
                format!("{SUBJECT} has as many cold starts as {rival}, {a}; one seed, so no interval.")
            }
            Verdict::OneSeed(_) => {
                format!("{SUBJECT} has {size} {kind} cold starts than {rival}: {against}; one seed, so no interval.")
            }
        }
    }
}

fn listed<S: AsRef<str>>(names: &[S]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match &names[..] {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn not_ahead(medes: &[&CellData], runs: &[&CellData]) -> bool {
    Comparison::new(medes, runs).is_none_or(|c| c.verdict.in_short() != "fewer")
}

fn sum(runs: &[&CellData], value: impl Fn(&CellData) -> u64) -> u64 {
    runs.iter().fold(0, |sum, c| sum.saturating_add(value(c)))
}

fn average(runs: &[&CellData], value: impl Fn(&CellData) -> f64) -> f64 {
    Estimate::of(runs.iter().map(|c| value(c))).mean
}

/// What the rows show that bears on a difference between `medes` and another policy: observations, no proof of a cause.
pub fn bearing_on(medes: &[&CellData], rival: &str, runs: &[&CellData]) -> Vec<String> {
    if medes.is_empty() || runs.is_empty() {
        return Vec::new();
    }
    let mut out = why(medes, &[(rival, runs.to_vec())]);
    out.extend(comparable(rival, medes, runs));
    out
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
    for (rival, runs) in rivals.iter().filter(|r| not_ahead(medes, &r.1)) {
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
