//! Cold, warm, plain and dedup starts of one run of `medes measure`, side by side: table, goals, figure, file.

use medes_plots::figure::Figure;
use medes_plots::plan::starts::{self, Row};
use medes_real::measure::Samples;
use serde::Serialize;

use super::{Measured, Spread};
use crate::output::figures;

/// First goal: a dedup start takes at most this part of a cold start, where that takes more than [`SHORT_MS`].
const OF_COLD: f64 = 0.5;
/// Cold starts that are not worth a dedup start.
const SHORT_MS: f64 = 80.0;
/// Second goal: the first answer after a dedup start takes at most this part of that after a plain CRIU restore of the whole dump.
const OF_PLAIN: f64 = 1.3;

/// Medians of the rounds, ms. An answer is from the decision to the first answer.
#[derive(Clone, Debug, Serialize)]
pub struct Starts {
    cold_start: f64,
    cold_answer: f64,
    warm_answer: f64,
    /// A dedup start by the default way, pages pushed behind the process, and in it base page reading, original page computing, sandbox restoration as they
    /// follow each other.
    dedup_start: f64,
    dedup_parts: [f64; 3],
    dedup_answer: f64,
    /// As the first of a function on a node.
    first_answer: f64,
    /// All pages pushed before the process goes on.
    pushed_start: f64,
    pushed_answer: f64,
    plain_restore: f64,
    plain_answer: f64,
    base_checkpoint: f64,
    checkpoint: f64,
    dedup_start_of_cold: f64,
    dedup_answer_of_plain: f64,
}

impl Starts {
    /// Of what was seen.
    pub fn of(s: &Samples) -> Self {
        let median = |samples: &[f64]| Spread::of(samples).median;
        let (dedup_start, read) = (median(&s.behind_start), median(&s.behind_read));
        let (cold_start, dedup_answer, plain_answer) =
            (median(&s.cold), median(&s.behind_answer), median(&s.plain_answer));
        Self {
            cold_start,
            cold_answer: median(&s.cold_answer),
            warm_answer: median(&s.warm_answer),
            dedup_start,
            // Letting a held process go on takes nothing to speak of.
            dedup_parts: [read, (dedup_start - read).max(0.0), 0.0],
            dedup_answer,
            first_answer: median(&s.first_answer),
            pushed_start: median(&s.restore),
            pushed_answer: median(&s.dedup_answer),
            plain_restore: median(&s.plain_restore),
            plain_answer,
            base_checkpoint: median(&s.base_checkpoint),
            checkpoint: median(&s.checkpoint),
            dedup_start_of_cold: dedup_start / cold_start,
            dedup_answer_of_plain: dedup_answer / plain_answer,
        }
    }

    /// A dedup start, by one whose pages are all pushed first.
    pub fn behind_of_first(&self) -> f64 {
        if self.pushed_start > 0.0 { self.dedup_start / self.pushed_start } else { 1.0 }
    }
}

/// The table, and under it what the goals say.
pub fn table(rows: &[Measured]) -> String {
    let head = [
        "function",
        "cold start",
        "dedup start",
        "base read",
        "computing",
        "of cold",
        "| to answer: cold",
        "warm",
        "dedup",
        "the first",
        "all pushed",
        "plain restore",
        "of plain",
    ]
    .map(str::to_owned);
    let number = |v: f64| format!("{v:.1}");
    let line = |r: &Measured| {
        let s = &r.starts;
        let [read, patch, _] = s.dedup_parts;
        let mut cells = vec![r.function.clone()];
        cells.extend([s.cold_start, s.dedup_start, read, patch].map(number));
        cells.push(format!("{:.2}", s.dedup_start_of_cold));
        let answers = [s.cold_answer, s.warm_answer, s.dedup_answer, s.first_answer, s.pushed_answer, s.plain_answer];
        cells.extend(answers.map(number));
        cells.push(format!("{:.2}", s.dedup_answer_of_plain));
        cells
    };
    let mut text = figures(&head, &rows.iter().map(line).collect::<Vec<_>>(), &[]);
    text.push_str("\n\nms, medians. A start is from the decision until the function can run, with what it waits for pages later; to answer is until its first answer came.\n");
    text.push_str("Dedup: the process goes on when what its function is known to touch is there, and other pages are pushed behind it (userfaultfd); the first: only what the\n");
    text.push_str("function's first run on the node touched is known; all pushed: all pages are there before it goes on. Plain restore: a whole dump, by CRIU.\n");
    for sentence in verdict(rows) {
        text.push_str(&format!("- {sentence}\n"));
    }
    text
}

/// Whether the goals are met, and which way back is the faster.
fn verdict(rows: &[Measured]) -> Vec<String> {
    let missed = |bad: &dyn Fn(&Starts) -> bool| {
        let names: Vec<&str> = rows.iter().filter(|r| bad(&r.starts)).map(|r| r.function.as_str()).collect();
        if names.is_empty() { "met by all".to_owned() } else { format!("missed by {}", names.join(", ")) }
    };
    let behind = rows.iter().filter(|r| r.starts.dedup_answer <= r.starts.pushed_answer).count();
    let sum = |pick: fn(&Starts) -> f64| rows.iter().map(|r| pick(&r.starts)).sum::<f64>();
    let (lazy, eager) = (sum(|s| s.dedup_answer), sum(|s| s.pushed_answer));
    let (better, wins, less, more) = if lazy <= eager {
        ("pages pushed behind", behind, lazy, eager)
    } else {
        ("pages pushed first", rows.len() - behind, eager, lazy)
    };
    vec![
        format!(
            "dedup start at most {OF_COLD} of a cold start, where that takes over {SHORT_MS} ms: {}",
            missed(&|s| s.cold_start > SHORT_MS && s.dedup_start > OF_COLD * s.cold_start)
        ),
        format!(
            "first answer of a dedup start at most {OF_PLAIN} of that of a plain restore: {}; the first dedup start of a function on a node: {}",
            missed(&|s| s.dedup_answer > OF_PLAIN * s.plain_answer),
            missed(&|s| s.first_answer > OF_PLAIN * s.plain_answer)
        ),
        format!(
            "sooner at the first answer, over all: {better} ({less:.0} against {more:.0} ms, the sooner for {wins} of {} functions); the default is behind",
            rows.len()
        ),
    ]
}

/// The figure.
pub fn figure(rows: &[Measured], origin: &str) -> Figure {
    let row = |r: &Measured| {
        let [read, patch, resume] = r.starts.dedup_parts;
        Row { function: r.function.clone(), parts: [0.0, read, patch, resume], cold: Some(r.starts.cold_start) }
    };
    starts::figure(
        "dedup_start",
        "A dedup start in its parts, and the cold start".into(),
        format!(
            "Medians, without controller. Base pages read over TCP from another node of the machine; reading and computing go on in several threads \
             and share the time until a held process goes on, and what it waits for pages later. {origin}."
        ),
        &rows.iter().map(row).collect::<Vec<_>>(),
    )
}

/// A row a function, under a line that says where it is from.
pub fn csv(rows: &[Measured], origin: &str) -> anyhow::Result<Vec<u8>> {
    let mut out = csv::Writer::from_writer(format!("# {origin}\n").into_bytes());
    out.write_record([
        "function",
        "cold_ms",
        "warm_run_ms",
        "base_op_ms",
        "dump_ms",
        "restore_ms",
        "restored_run_ms",
        "dedup_start_ms",
        "dedup_read_ms",
        "dedup_compute_ms",
        "dedup_resume_ms",
    ])?;
    for r in rows {
        let s = &r.starts;
        let [read, patch, resume] = s.dedup_parts;
        let numbers = [
            s.cold_start,
            s.warm_answer,
            s.base_checkpoint,
            s.checkpoint,
            s.plain_restore,
            s.plain_answer - s.plain_restore,
            s.dedup_start,
            read,
            patch,
            resume,
        ];
        out.write_record(std::iter::once(r.function.clone()).chain(numbers.iter().map(|n| format!("{n:.2}"))))?;
    }
    Ok(out.into_inner()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn measured(cold: f64, dedup: f64, pushed: f64, plain: f64) -> Measured {
        let samples = Samples {
            cold: vec![cold],
            restore: vec![pushed],
            dedup_answer: vec![pushed],
            first_answer: vec![dedup + 1.0],
            behind_start: vec![dedup],
            behind_read: vec![0.75 * dedup],
            behind_answer: vec![dedup],
            plain_answer: vec![plain],
            ..Samples::default()
        };
        let starts = Starts::of(&samples);
        Measured {
            function: "f".into(),
            memory_mb: 1.0,
            stored_mb: 1.0,
            held_mb: 1.0,
            starts,
            times_ms: BTreeMap::new(),
        }
    }

    #[test]
    fn goals_are_held_against_the_medians() {
        let [cold, plain, way] = <[String; 3]>::try_from(verdict(&[measured(100.0, 50.0, 40.0, 40.0)])).unwrap();
        assert!(
            cold.contains("met by all")
                && plain.contains("met by all; the first dedup start of a function on a node: met by all")
                && way.contains("first (40 against 50 ms, the sooner for 1 of 1"),
            "{cold} {plain} {way}"
        );
        let [cold, plain, way] = <[String; 3]>::try_from(verdict(&[measured(100.0, 50.1, 60.0, 38.0)])).unwrap();
        assert!(
            cold.contains("missed by f")
                && plain.contains("missed by f;")
                && way.contains("behind (50 against 60 ms, the sooner for 1 of 1")
        );
        // A start that is short anyway.
        assert!(verdict(&[measured(80.0, 79.0, 80.0, 80.0)])[0].contains("met by all"));
    }

    #[test]
    fn parts_share_the_time_of_the_start_and_the_file_has_them() {
        let rows = [measured(100.0, 40.0, 50.0, 60.0)];
        assert_eq!(rows[0].starts.dedup_parts, [30.0, 10.0, 0.0]);
        assert_eq!(rows[0].starts.behind_of_first(), 0.8);
        let text = String::from_utf8(csv(&rows, "here").unwrap()).unwrap();
        assert!(text.starts_with("# here\nfunction,cold_ms"), "{text}");
        assert!(text.ends_with("40.00,30.00,10.00,0.00\n"), "{text}");
        assert_eq!(figure(&rows, "here").series.len(), 3, "two parts that are not zero, and the cold start");
    }
}
