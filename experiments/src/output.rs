//! How commands speak: results on standard output, everything else on standard error.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};

/// How much is said, and in which form.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    /// Results as JSON on standard output, for scripts.
    pub json: bool,
    /// Nothing on standard error but errors and warnings.
    pub quiet: bool,
}

impl Output {
    /// Says something that is not a result.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("{}", line.as_ref());
        }
    }

    /// Warns: said even when quiet.
    pub fn warn(&self, line: impl AsRef<str>) {
        eprintln!("warning: {}", line.as_ref());
    }

    /// Prints a result; a closed pipe is no error.
    pub fn print(&self, text: impl AsRef<str>) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush());
    }

    /// Prints a result in the form asked for: lines of text, or JSON.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn result(&self, text: &str, json: &impl serde::Serialize) -> anyhow::Result<()> {
        if self.json {
            self.print(serde_json::to_string_pretty(json)?);
        } else {
            self.print(text.trim_end());
        }
        Ok(())
    }
}

/// A table that fits the terminal, or 120 columns where there is none.
pub fn table(head: impl IntoIterator<Item = String>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(head);
    if !std::io::stdout().is_terminal() {
        table.set_width(120);
    }
    for row in rows {
        table.add_row(row);
    }
    table.to_string()
}

/// A table of figures whose columns are never broken: where they do not fit, those named in `spare` are left out,
/// the last first.
pub fn figures(head: &[String], rows: &[Vec<String>], spare: &[&str]) -> String {
    let terminal = std::io::stdout().is_terminal();
    let available = if terminal { Table::new().width().map_or(100, usize::from) } else { 120 };
    let width =
        |i: usize| rows.iter().map(|r| r[i].chars().count()).chain([head[i].chars().count()]).max().unwrap_or(0) + 2;
    let mut shown: Vec<usize> = (0..head.len()).collect();
    for name in spare.iter().rev() {
        if shown.iter().map(|i| width(*i)).sum::<usize>() <= available {
            break;
        }
        shown.retain(|i| head[*i] != *name);
    }
    let line = |cells: &[String]| {
        let mut text = String::new();
        for i in &shown {
            let pad = width(*i) - 2 - cells[*i].chars().count();
            // The first two columns are names, the others figures.
            let cell = if *i < 2 {
                format!("{}{}", cells[*i], " ".repeat(pad))
            } else {
                format!("{}{}", " ".repeat(pad), cells[*i])
            };
            text.push_str(&format!("{cell}  "));
        }
        text.trim_end().to_owned()
    };
    let rule = "-".repeat(shown.iter().map(|i| width(*i)).sum::<usize>().saturating_sub(2));
    let mut out = vec![line(head), rule.clone()];
    for (i, row) in rows.iter().enumerate() {
        if i > 0 && rows[i - 1][0] != row[0] {
            out.push(rule.clone());
        }
        out.push(line(row));
    }
    out.join("\n")
}

/// A whole number with thin thousands: `1 234 567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(super::thousands(0), "0");
        assert_eq!(super::thousands(1_234_567), "1 234 567");
        assert_eq!(super::thousands(123), "123");
    }
}
