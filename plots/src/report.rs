//! The report: one HTML page that opens from disk by itself.
//!
//! Pictures stand in it as SVG and the style sheet too, there is no script, and nothing is fetched. Only
//! the links to the figures' files beside it lead out of it. Every text that comes from a user's file,
//! names of functions before all, is escaped.

use std::fmt::Write as _;
use std::path::Path;

use crate::canvas::escape;
use crate::findings::findings;
use crate::plan::plan;
use crate::table::Table;
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

/// Writes the report to `path` (`report.html`); its folder must exist. The figures' pictures are read from
/// where [`crate::draw_all`] wrote them.
pub fn write_report(input: &ReportInput<'_>, path: &Path) -> Result<(), PlotError> {
    let page = page(input, path)?;
    std::fs::write(path, page).map_err(|source| PlotError::Write { path: path.to_owned(), source })
}

fn page(input: &ReportInput<'_>, path: &Path) -> Result<String, PlotError> {
    let mut out = page_head(input.title, input.question);
    // Writing into a string cannot fail.
    if let Some(expectation) = input.expectation {
        let _ = writeln!(out, "<p><span class=\"soft\">Expected before the run:</span> {}</p>", escape(expectation));
    }
    out.push_str("</header>\n<main>\n");
    finding(&mut out, input.cells);
    table(&mut out, input.cells);
    figures(&mut out, input, path)?;
    how(&mut out, input);
    out.push_str("</main>\n</body>\n</html>\n");
    Ok(out)
}

/// The page up to its lead, within its header.
pub(crate) fn page_head(title: &str, lead: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n<style>\n{css}</style>\n</head>\n<body>\n\
         <header>\n<h1>{title}</h1>\n<p class=\"lead\">{lead}</p>\n",
        title = escape(title),
        lead = escape(lead),
        css = include_str!("report.css"),
    )
}

fn finding(out: &mut String, cells: &[CellData]) {
    out.push_str("<section>\n<h2>What was found</h2>\n");
    for (i, found) in findings(cells).iter().enumerate() {
        if i == 0 {
            for sentence in &found.sentences {
                let _ = writeln!(out, "<p class=\"lead\">{}</p>", escape(sentence));
            }
            continue;
        }
        let _ = writeln!(out, "<h3>{}</h3>\n<ul>", escape(&found.heading));
        for sentence in &found.sentences {
            let _ = writeln!(out, "<li>{}</li>", escape(sentence));
        }
        out.push_str("</ul>\n");
    }
    out.push_str(
        "<p class=\"soft\">Brackets hold the 95 % confidence interval over seeds (Student's t), for differences of the pairs \
         with the same seed. Sentences on what bears on a difference state what the rows show; they do not prove a cause.</p>\n\
         </section>\n",
    );
}

fn table(out: &mut String, cells: &[CellData]) {
    let table = Table::new(cells);
    out.push_str("<section>\n<h2>Table</h2>\n");
    if table.rows.is_empty() {
        out.push_str("<p>There are no rows.</p>\n</section>\n");
        return;
    }
    // Pool, policy and the parameters are names, the rest numbers.
    let names = 2 + table.parameters.len();
    let class = |i: usize| if i < names { " class=\"name\"" } else { "" };
    out.push_str(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table of results\">\n<table>\n<thead><tr>",
    );
    for (i, head) in table.head().iter().enumerate() {
        let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(i), escape(head));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    let mut pool = None;
    for (row, cells) in table.rows.iter().zip(table.text()) {
        let first = pool != Some(&row.pool);
        pool = Some(&row.pool);
        let row_class = match (first, row.policy == "medes") {
            (true, true) => " class=\"first subject\"",
            (true, false) => " class=\"first\"",
            (false, true) => " class=\"subject\"",
            (false, false) => "",
        };
        let _ = write!(out, "<tr{row_class}>");
        for (i, cell) in cells.iter().enumerate() {
            let _ = write!(out, "<td{}>{}</td>", class(i), escape(cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str(
        "</tbody>\n</table>\n</div>\n<p class=\"soft\">Means over seeds, a run each; cold starts with their 95 % interval where \
         there are several seeds. Percentiles are of the end-to-end latency of all answered requests. 'Waited' are requests \
         that waited for memory, 'dropped' those dropped or failed.</p>\n</section>\n",
    );
}

fn figures(out: &mut String, input: &ReportInput<'_>, path: &Path) -> Result<(), PlotError> {
    out.push_str("<section>\n<h2>Figures</h2>\n<div class=\"figures\">\n");
    for figure in input.figures {
        crate::paper::drawn(out, figure, path)?;
    }
    out.push_str("</div>\n");
    for skipped in plan(input.cells).skipped {
        let _ = writeln!(out, "<p class=\"soft\">{}</p>", escape(&skipped));
    }
    out.push_str("</section>\n");
    Ok(())
}

fn how(out: &mut String, input: &ReportInput<'_>) {
    out.push_str("<section>\n<h2>How it was run</h2>\n<dl>\n");
    for (name, text) in &input.how {
        let text = escape(text);
        let text = if name == "command" { format!("<code>{text}</code>") } else { text };
        let _ = writeln!(out, "<dt>{}</dt><dd>{text}</dd>", escape(name));
    }
    out.push_str("</dl>\n");
    if !input.notes.is_empty() {
        out.push_str("<h3>Notes</h3>\n<ul>\n");
        for note in &input.notes {
            let text = escape(note);
            // What has lines has columns as well.
            let text = if note.contains('\n') { format!("<pre>{text}</pre>") } else { text };
            let _ = writeln!(out, "<li>{text}</li>");
        }
        out.push_str("</ul>\n");
    }
    out.push_str("</section>\n");
}

/// The address of `file` seen from the page at `page`: relative where it lies in the page's folder.
pub(crate) fn href(file: &Path, page: &Path) -> String {
    let relative = page.parent().and_then(|folder| file.strip_prefix(folder).ok()).unwrap_or(file);
    let mut out = String::new();
    for byte in relative.to_string_lossy().bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_relative_to_the_page_and_escaped() {
        let page = Path::new("/a b/run/report.html");
        assert_eq!(href(Path::new("/a b/run/figures/50% x.csv"), page), "figures/50%25%20x.csv");
        assert_eq!(href(Path::new("/c/x.csv"), page), "/c/x.csv");
    }
}
