//! Figures and the report, drawn from the rows of a run and from nothing else.
//!
//! The way of a figure: rows ([`CellData`]) -> a description ([`figure::Figure`], made by [`plan`]) -> a
//! picture ([`render`]). The description holds every number that is drawn; it is written as CSV beside
//! the picture and is what tests compare, so a picture never shows what the CSV does not say. Colours,
//! markers and fonts come from [`style`] alone.
//!
//! The simulated and the real world write the same rows, so both are drawn by the same code.

pub mod figure;
pub mod findings;
pub mod grid;
pub mod number;
pub mod paper;
pub mod plan;
pub mod render;
pub mod report;
pub mod stats;
pub mod style;
pub mod table;

mod canvas;
mod error;
mod layout;
mod outline;
mod ticks;

use std::path::{Path, PathBuf};

use medes_engine::record::{FunctionSummary, StartSummary, Summary, TimelineSample};

pub use error::PlotError;
pub use report::{ReportInput, write_report};

/// What one cell of an experiment left behind with one seed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CellData {
    /// The row of the run.
    pub summary: Summary,
    /// One row a function, in any order.
    pub functions: Vec<FunctionSummary>,
    /// The cluster over time, in order of time.
    pub timeline: Vec<TimelineSample>,
    /// Starts broken down, where that is known.
    pub starts: Vec<StartSummary>,
}

/// A figure that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawnFigure {
    /// Stem of its files; stable over runs of the same experiment.
    pub name: String,
    /// What it shows, in one line.
    pub title: String,
    /// What is drawn, how many seeds, what the intervals are, where the rows come from.
    pub caption: String,
    /// The picture as SVG, with selectable text.
    pub svg_path: PathBuf,
    /// The same picture as PNG, two pixels a unit of the SVG.
    pub png_path: PathBuf,
    /// The numbers drawn.
    pub csv_path: PathBuf,
}

/// Draws every figure that `cells` have the rows for into the folder `out`, which is created if need be.
///
/// The order of `cells` does not matter, except that where a parameter other than the memory cap and the
/// number of nodes is swept, figures of one setting show the value that comes first. Figures for which
/// there are no rows are left out; [`plan::plan`] says which and why.
pub fn draw_all(cells: &[CellData], out: &Path) -> Result<Vec<DrawnFigure>, PlotError> {
    plan::plan(cells).figures.iter().map(|figure| draw(figure, out)).collect()
}

/// Writes one figure as `NAME.svg`, `NAME.png` and `NAME.csv` into the folder `out`, which is created if
/// need be.
pub fn draw(figure: &figure::Figure, out: &Path) -> Result<DrawnFigure, PlotError> {
    let write = |extension: &str, bytes: &[u8]| {
        let path = out.join(format!("{}.{extension}", figure.name));
        std::fs::write(&path, bytes).map_err(|source| PlotError::Write { path: path.clone(), source })?;
        Ok(path)
    };
    std::fs::create_dir_all(out).map_err(|source| PlotError::Write { path: out.to_owned(), source })?;
    Ok(DrawnFigure {
        name: figure.name.clone(),
        title: figure.title.clone(),
        caption: figure.caption.clone(),
        svg_path: write("svg", render::svg(figure)?.as_bytes())?,
        png_path: write("png", &render::png(figure)?)?,
        csv_path: write("csv", figure.to_csv().as_bytes())?,
    })
}
