//! What is said of all figures together: the list, the page, the summary.

use std::path::Path;

use medes_plots::paper::{Claim, Paper, Section, Verdict};

use super::FiguresArgs;
use super::spec::Spec;
use super::world::World;
use crate::output::{self, Output};

/// What each figure shows, needs and takes.
pub fn list(chosen: &[Spec], out: &Output) {
    if out.json {
        let row = |s: &Spec| {
            serde_json::json!({
                "number": s.figure.number, "name": s.name, "title": s.title, "question": s.question,
                "needs": s.figure.needs, "seconds": s.figure.takes_s, "real": !s.figure.real.is_empty(),
                "statements": s.statements.iter().map(|s| s.paper.clone()).collect::<Vec<_>>(),
            })
        };
        let rows: Vec<_> = chosen.iter().map(row).collect();
        out.print(serde_json::Value::Array(rows).to_string());
        return;
    }
    let head = ["figure", "name", "shows", "needs", "takes (2 cores)", "real form"].map(str::to_owned);
    let row = |s: &Spec| {
        let real = if s.figure.real.is_empty() { "simulated only" } else { "--backend real" };
        let real = if s.figure.kind.of_sandboxes() { "dumps" } else { real };
        let takes = format!("{:.0} s", s.figure.takes_s.max(1.0));
        vec![
            s.figure.number.to_string(),
            s.name.clone(),
            s.title.clone(),
            s.figure.needs.clone(),
            takes,
            real.to_owned(),
        ]
    };
    out.print(output::table(head, chosen.iter().map(row)));
    let all: f64 = chosen.iter().map(|s| s.figure.takes_s).sum();
    out.print(format!(
        "together about {:.0} min on two cores that do nothing else. Figures share cells: each is run once, and kept for the next time.\n\
         Of some: `medes figures 5 8` or `medes figures 05-cold-starts`. Where the real form is `dumps`: --dumps DIR.",
        (all / 60.0).ceil()
    ));
}

/// The whole page but its file.
pub fn page(args: &FiguresArgs, world: &World, sections: Vec<Section>, took: &[(String, f64)]) -> Paper {
    let size = match (args.small, world.is_real()) {
        (true, _) => " Small versions: they show that all works, and nothing else.",
        (_, true) => {
            " Runs on real sandboxes are minutes on few nodes: the origin under each figure says how it was shortened."
        }
        _ => "",
    };
    let all: f64 = took.iter().map(|t| t.1).sum();
    let each: Vec<String> = took.iter().map(|(id, s)| format!("{id}: {s:.1} s")).collect();
    Paper {
        title: "The evaluation of Medes, regenerated".into(),
        lead: format!(
            "The twelve figures and tables of the paper's evaluation (Saxena et al., EuroSys 2022), and what a sceptic would ask \
             beside them: each with the statement it supports, the value found here, and whether it holds.{size}"
        ),
        how: vec![
            ("command".into(), crate::report::command()),
            ("world".into(), format!("{}; figures of real memory: as their origin says", world.words())),
            ("version".into(), format!("medes {} ({})", env!("CARGO_PKG_VERSION"), crate::VERSION)),
            ("time".into(), format!("{all:.0} s in all; by figure {}", each.join(", "))),
            (
                "files".into(),
                "figures/: SVG, PNG and CSV of each picture, its origin, outline.txt; rows/: the rows of each experiment".into(),
            ),
        ],
        sections,
    }
}

/// The statements as Markdown, for those who look into the folder.
pub fn readme(paper: &Paper) -> String {
    let mut text = format!("# {}\n\n{}\n\n", paper.title, paper.lead);
    for (name, value) in &paper.how {
        text.push_str(&format!("- {name}: `{value}`\n"));
    }
    text.push_str("\n| figure | statement | where | here | holds? |\n|---|---|---|---|---|\n");
    for (s, c) in paper.sections.iter().flat_map(|s| s.claims.iter().map(move |c| (s, c))) {
        let words = c.verdict.words();
        text.push_str(&format!("| {} | {} | {} | {} | {words} |\n", s.id, c.paper, c.setting, c.ours));
    }
    text
}

/// Says what came out.
pub fn summary(paper: &Paper, report: &Path, out: &Output) -> anyhow::Result<()> {
    let claims = || paper.sections.iter().flat_map(|s| s.claims.iter().map(move |c| (s, c)));
    if out.json {
        let row = |(s, c): (&Section, &Claim)| serde_json::json!({"figure": s.id, "statement": c.paper, "where": c.setting, "here": c.ours, "verdict": c.verdict.words()});
        let rows: Vec<_> = claims().map(row).collect();
        let value = serde_json::json!({"report": report, "statements": rows});
        out.print(serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    let count = |v: Verdict| claims().filter(|(_, c)| c.verdict == v).count();
    let pictures: usize = paper.sections.iter().map(|s| s.figures.len()).sum();
    out.print(format!(
        "{} figures, {pictures} pictures; of {} comparisons {} hold, {} show more than stated, {} hold on average only, {} do not hold\nreport: {}",
        paper.sections.len(),
        claims().count(),
        count(Verdict::Holds),
        count(Verdict::Better),
        count(Verdict::OnAverage),
        count(Verdict::Fails),
        report.display()
    ));
    Ok(())
}
