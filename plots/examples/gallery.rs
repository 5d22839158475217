//! Draws every kind of figure and a report from made-up rows, to look at the house style:
//! `cargo run -p medes-plots --example gallery -- FOLDER`.

use std::error::Error;
use std::path::{Path, PathBuf};

use medes_plots::figure::{Axis, BoxPoint, Figure, Point, QUARTILES, Scale, Series, Shape};
use medes_plots::{CellData, ReportInput, draw, draw_all, write_report};

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
    report("azure", &out, &azure)?;
    kinds(&out.join("kinds"))
}

/// The kinds of series that no experiment's figures use by themselves.
fn kinds(out: &Path) -> Result<(), Box<dyn Error>> {
    let policies = ["fixed", "adaptive", "compress", "medes"];
    let samples = |i: usize| (1..200).map(|n| (f64::from(n).powi(2) / (i + 1) as f64, 1.0)).collect();
    let points = |i: usize| -> Vec<Point> {
        let y = |x: usize| (x * (i + 3) % 7 + i + 1) as f64;
        (0..5).map(|x| Point { x: x as f64, y: y(x), interval: Some((y(x) * 0.8, y(x) * 1.2)) }).collect()
    };
    let boxes = |i: usize| -> Vec<BoxPoint> {
        let five = |x: usize| [1.0, 2.0, 3.0, 5.0, 8.0].map(|v| v + (x + i) as f64);
        (0..5).map(|x| BoxPoint { x: x as f64, mean: 3.4 + (x + i) as f64, five: five(x), levels: QUARTILES }).collect()
    };
    let names = || Axis::names("function", made_up::FUNCTIONS[..5].iter().copied());
    let long = || Axis::names("codec", (0..5).map(|i| format!("codec with a long name {i}")));
    let heat = |_| {
        let cells = (0..25).map(|n| (n % 5, n / 5, if n == 7 { f64::NAN } else { (n * n) as f64 / 576.0 })).collect();
        Shape::Heat { cells, label: "redundancy (part of memory)".into() }
    };
    let ms = || Axis::new("end-to-end latency", "ms", Scale::Log);
    type Kind<'a> = (&'a str, Axis, Axis, &'a dyn Fn(usize) -> Shape);
    let kinds: [Kind<'_>; 6] = [
        ("cdf", ms(), Axis::from_zero("part of requests", ""), &|i| Shape::Cdf(samples(i))),
        ("step", Axis::from_zero("time", "s"), Axis::from_zero("sandboxes", ""), &|i| Shape::Step(points(i))),
        ("upright_bars", names(), Axis::from_zero("improvement factor", ""), &|i| Shape::Bars(points(i))),
        ("upright_boxes", long(), Axis::from_zero("improvement factor", ""), &|i| Shape::Boxes(boxes(i))),
        ("lying_boxes", Axis::from_zero("improvement factor", ""), names(), &|i| Shape::Boxes(boxes(i))),
        ("heat", long(), names(), &heat),
    ];
    for (name, x, y, shape) in kinds {
        let series = policies.iter().take(if name == "heat" { 1 } else { 4 }).enumerate();
        let series = series.map(|(i, policy)| Series::new(policy, shape(i))).collect();
        let (name, title) = (name.to_owned(), format!("A figure of the kind {name}"));
        draw(&Figure { name, title, caption: String::new(), x, y, series }, out)?;
    }
    Ok(())
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
