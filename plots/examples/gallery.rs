//! Draws every kind of figure and a report from made-up rows, to look at the house style:
//! `cargo run -p medes-plots --example gallery -- FOLDER`.

use std::error::Error;
use std::path::{Path, PathBuf};

use medes_plots::{CellData, ReportInput, draw_all, write_report};

#[path = "../tests/made_up/mod.rs"]
mod made_up;

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "target/gallery".into()));
    let three = ["fixed", "adaptive", "medes"];
    let six = ["fixed", "adaptive", "greedy-dual", "compress", "medes", "oracle"];
    report("memcap", &out, &made_up::cells(&six, &[20.0, 30.0, 40.0], 5))?;
    report("quickstart", &out, &made_up::cells(&three, &[20.0], 1))?;
    report("swept", &out, &made_up::swept())?;
    let functions = made_up::hashes(1000);
    let azure: Vec<CellData> = three
        .iter()
        .flat_map(|p| (1..=3).map(|seed| made_up::cell(p, 30.0, seed, &functions)).collect::<Vec<_>>())
        .collect();
    report("azure", &out, &azure)
}

fn report(name: &str, out: &Path, cells: &[CellData]) -> Result<(), Box<dyn Error>> {
    let folder = out.join(name);
    let figures = draw_all(cells, &folder.join("figures"))?;
    let input = ReportInput {
        title: "Cold starts under a memory cap",
        question: "Which policy has how many cold starts at which pool size?",
        expectation: Some("10 to 50 % fewer cold starts than the fixed and the adaptive keep-alive."),
        how: vec![
            ("command".into(), format!("medes run experiments/{name}.toml --jobs 2")),
            ("seeds".into(), "1, 2, 3, 4, 5".into()),
            ("rows".into(), "made up by the gallery; they say nothing about any policy".into()),
        ],
        notes: vec!["These rows are made up to look at the house style.".into()],
        cells,
        figures: &figures,
    };
    write_report(&input, &folder.join("report.html"))?;
    println!("{}: {} figures", folder.display(), figures.len());
    Ok(())
}
