//! The report: one HTML page that opens from disk by itself.

use std::path::Path;

use crate::{CellData, DrawnFigure, PlotError};

/// What the report tells.
#[derive(Clone, Debug)]
pub struct ReportInput<'a> {
    /// Title of the experiment.
    pub title: &'a str,
    /// What it asks.
    pub question: &'a str,
    /// What was expected, if anything was said before the run.
    pub expectation: Option<&'a str>,
    /// How it was run: name and text, in order (command, seeds, inputs, versions, date).
    pub how: Vec<(String, String)>,
    /// What the reader must know of the input and the run: warnings, lines of the trace's report.
    pub notes: Vec<String>,
    /// The rows, one element a cell and seed.
    pub cells: &'a [CellData],
    /// The figures, in order, as [`crate::draw_all`] returned them.
    pub figures: &'a [DrawnFigure],
}

/// Writes the report to `path` (`report.html`); its folder must exist.
pub fn write_report(_input: &ReportInput<'_>, _path: &Path) -> Result<(), PlotError> {
    Ok(())
}
