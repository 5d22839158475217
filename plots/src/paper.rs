//! The page with every figure of the paper's evaluation: what the paper says, what is found here, whether it holds.
//!
//! As the report of a run ([`crate::report`]) it stands by itself: pictures as SVG within it, no script, nothing fetched.

use std::fmt::Write as _;
use std::path::Path;

use crate::canvas::escape;
use crate::report::{href, page_head};
use crate::{DrawnFigure, PlotError};

/// Whether a statement of the paper holds here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The whole interval lies within what is stated.
    Holds,
    /// The value lies within, its interval reaches beyond.
    OnAverage,
    /// The whole interval lies beyond what is stated, on the good side.
    Better,
    /// None of these.
    Fails,
    /// There are no rows to tell.
    Unknown,
}

impl Verdict {
    /// In words, as in the page.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::OnAverage => "holds on average; the interval reaches beyond",
            Self::Better => "more than stated",
            Self::Fails => "does not hold",
            Self::Unknown => "no rows",
        }
    }

    const fn class(self) -> &'static str {
        match self {
            Self::Holds | Self::Better => "yes",
            Self::OnAverage => "partly",
            Self::Fails | Self::Unknown => "no",
        }
    }

    /// Of a value with its interval against the range stated; `good` is the side on which more is better: -1 below,
    /// 1 above, 0 neither.
    pub fn of(low: f64, mean: f64, high: f64, range: (f64, f64), good: i8) -> Self {
        match () {
            () if !mean.is_finite() => Self::Unknown,
            () if low >= range.0 && high <= range.1 => Self::Holds,
            () if (good < 0 && high < range.0) || (good > 0 && low > range.1) => Self::Better,
            () if mean >= range.0 && mean <= range.1 => Self::OnAverage,
            () => Self::Fails,
        }
    }
}

/// A statement and what is found here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What is stated, and where.
    pub paper: String,
    /// Under which circumstances the value here was taken: pool, other policy.
    pub setting: String,
    /// The value here with its interval.
    pub ours: String,
    /// Whether it holds.
    pub verdict: Verdict,
    /// Where it does not: what bears on it.
    pub why: Vec<String>,
}

/// A table of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextTable {
    /// What it shows.
    pub caption: String,
    /// Names of the columns.
    pub head: Vec<String>,
    /// Rows; the first cell is a name.
    pub rows: Vec<Vec<String>>,
}

/// One figure of the paper with everything that belongs to it.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// Short name, which is the section's anchor: `5`.
    pub id: String,
    /// Title.
    pub title: String,
    /// What it asks.
    pub question: String,
    /// What was expected.
    pub expectation: Option<String>,
    /// Statements of the paper.
    pub claims: Vec<Claim>,
    /// Tables.
    pub tables: Vec<TextTable>,
    /// Pictures.
    pub figures: Vec<DrawnFigure>,
    /// Where the rows come from: experiment, trace, seeds, command, version.
    pub origin: String,
    /// What the reader must know.
    pub notes: Vec<String>,
}

/// The whole page.
#[derive(Clone, Debug, Default)]
pub struct Paper {
    /// Title.
    pub title: String,
    /// What it is, in a sentence or two.
    pub lead: String,
    /// How it was run: name and text.
    pub how: Vec<(String, String)>,
    /// The figures in order.
    pub sections: Vec<Section>,
}

/// Writes the page to `path`; its folder must exist. Pictures are read from where they were drawn.
pub fn write_paper(paper: &Paper, path: &Path) -> Result<(), PlotError> {
    let mut out = page_head(&paper.title, &paper.lead);
    out.push_str("</header>\n<main>\n");
    overview(&mut out, paper);
    for section in &paper.sections {
        one(&mut out, section, path)?;
    }
    out.push_str("<section>\n<h2>How it was run</h2>\n<dl>\n");
    for (name, text) in &paper.how {
        let _ = writeln!(out, "<dt>{}</dt><dd>{}</dd>", escape(name), escape(text));
    }
    out.push_str("</dl>\n</section>\n</main>\n</body>\n</html>\n");
    std::fs::write(path, out).map_err(|source| PlotError::Write { path: path.to_owned(), source })
}

fn overview(out: &mut String, paper: &Paper) {
    let claims = || paper.sections.iter().flat_map(|s| s.claims.iter());
    let count = |verdicts: &[Verdict]| claims().filter(|c| verdicts.contains(&c.verdict)).count();
    out.push_str("<section>\n<h2>In short</h2>\n");
    let _ = writeln!(
        out,
        "<p class=\"lead\">Of {} comparisons with a statement, {} hold, {} show more than stated, {} hold on average only, {} do \
         not hold.</p>",
        claims().count(),
        count(&[Verdict::Holds]),
        count(&[Verdict::Better]),
        count(&[Verdict::OnAverage]),
        count(&[Verdict::Fails]),
    );
    out.push_str(
        "<table class=\"claims\">\n<thead><tr><th scope=\"col\">Figure</th><th scope=\"col\">Statement</th>\
         <th scope=\"col\">Here. Does it hold?</th></tr></thead>\n<tbody>\n",
    );
    for section in &paper.sections {
        if section.claims.is_empty() {
            let _ = writeln!(
                out,
                "<tr><td><a href=\"#f{}\">{}</a></td><td colspan=\"2\">{}: shown, with no statement to hold it against</td></tr>",
                escape(&section.id),
                escape(&section.id),
                escape(&section.title),
            );
        }
        for of_one in section.claims.chunk_by(|a, b| a.paper == b.paper) {
            let paper = of_one.first().map_or("", |c| &c.paper);
            let id = escape(&section.id);
            let _ =
                write!(out, "<tr><td><a href=\"#f{id}\">{id}</a></td><td>{}</td><td class=\"ours\">", escape(paper));
            for claim in of_one {
                let _ = write!(
                    out,
                    "<div>{}: {} — <em class=\"verdict {}\">{}</em></div>",
                    escape(&claim.setting),
                    escape(&claim.ours),
                    claim.verdict.class(),
                    claim.verdict.words(),
                );
            }
            out.push_str("</td></tr>\n");
        }
    }
    out.push_str(
        "</tbody>\n</table>\n<p class=\"soft\">Brackets hold the 95 % confidence interval over seeds (Student's t) of the \
         pairs with the same seed; for values measured on dumps the range over the functions. 'Holds': the whole interval lies \
         within the statement; 'on average': the value does, the interval reaches beyond it.</p>\n</section>\n",
    );
}

fn one(out: &mut String, s: &Section, path: &Path) -> Result<(), PlotError> {
    let _ = writeln!(
        out,
        "<section id=\"f{id}\">\n<h2>{id}. {}</h2>\n<p>{}</p>",
        escape(&s.title),
        escape(&s.question),
        id = escape(&s.id)
    );
    if let Some(expectation) = &s.expectation {
        let _ = writeln!(out, "<p><span class=\"soft\">Expected before the run:</span> {}</p>", escape(expectation));
    }
    for of_one in s.claims.chunk_by(|a, b| a.paper == b.paper) {
        stated(out, of_one);
    }
    s.tables.iter().for_each(|t| table(out, t));
    out.push_str("<div class=\"figures\">\n");
    for figure in &s.figures {
        drawn(out, figure, path)?;
    }
    out.push_str("</div>\n");
    for note in &s.notes {
        let _ = writeln!(out, "<p class=\"soft\">{}</p>", escape(note));
    }
    let _ = writeln!(out, "<p class=\"soft origin\">Rows: {}</p>\n</section>", escape(&s.origin));
    Ok(())
}

/// One statement with what was found of it in each setting; what explains several of them is said once.
fn stated(out: &mut String, claims: &[Claim]) {
    let Some(first) = claims.first() else { return };
    let all_yes = claims.iter().all(|c| c.verdict.class() == "yes");
    let all_no = claims.iter().all(|c| c.verdict.class() == "no");
    let class = if all_yes {
        "yes"
    } else if all_no {
        "no"
    } else {
        "partly"
    };
    let _ = writeln!(out, "<div class=\"claim {class}\"><p><strong>Stated:</strong> {}</p>", escape(&first.paper));
    let mut said: Vec<&str> = Vec::new();
    for claim in claims {
        let _ = writeln!(
            out,
            "<p><strong>Here</strong> ({}): {} — <em class=\"verdict {}\">{}</em>.</p>",
            escape(&claim.setting),
            escape(&claim.ours),
            claim.verdict.class(),
            claim.verdict.words(),
        );
        let new: Vec<&str> = claim.why.iter().map(String::as_str).filter(|w| !said.contains(w)).collect();
        if new.len() < claim.why.len() && new.is_empty() {
            out.push_str("<p class=\"soft\">For the reasons above.</p>\n");
        }
        if !new.is_empty() {
            out.push_str("<ul>\n");
            for why in &new {
                let _ = writeln!(out, "<li>{}</li>", escape(why));
            }
            out.push_str("</ul>\n");
        }
        said.extend(new);
    }
    out.push_str("</div>\n");
}

fn table(out: &mut String, t: &TextTable) {
    let _ = write!(
        out,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">\n<table>\n<thead><tr>",
        escape(&t.caption)
    );
    let class = |i: usize| if i == 0 { " class=\"name\"" } else { "" };
    for (i, head) in t.head.iter().enumerate() {
        let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(i), escape(head));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in &t.rows {
        out.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let _ = write!(out, "<td{}>{}</td>", class(i), escape(cell));
        }
        out.push_str("</tr>\n");
    }
    let _ = writeln!(out, "</tbody>\n</table>\n</div>\n<p class=\"soft\">{}</p>", escape(&t.caption));
}

/// A picture within the page, with links to its files.
pub(crate) fn drawn(out: &mut String, figure: &DrawnFigure, page: &Path) -> Result<(), PlotError> {
    let read = |source| PlotError::Read { path: figure.svg_path.clone(), source };
    let svg = std::fs::read_to_string(&figure.svg_path).map_err(read)?;
    let link = |file: &Path, text: &str| format!("<a href=\"{}\">{text}</a>", escape(&href(file, page)));
    let _ = writeln!(
        out,
        "<figure id=\"{}\">\n{svg}<figcaption><strong>{}.</strong> {} {}, {}, {}</figcaption>\n</figure>",
        escape(&figure.name),
        escape(&figure.title),
        escape(&figure.caption),
        link(&figure.csv_path, "data (CSV)"),
        link(&figure.svg_path, "SVG"),
        link(&figure.png_path, "PNG"),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_said_once_with_each_of_its_settings() {
        let claim = |setting: &str, verdict, why: &[&str]| Claim {
            paper: "fewer < before".into(),
            setting: setting.into(),
            ours: "1".into(),
            verdict,
            why: why.iter().map(|w| (*w).to_owned()).collect(),
        };
        let mut out = String::new();
        stated(
            &mut out,
            &[
                claim("at 40", Verdict::Holds, &[]),
                claim("at 30", Verdict::Fails, &["because", "7 here"]),
                claim("at 20", Verdict::Fails, &["because", "8 here"]),
            ],
        );
        let times = |part: &str| out.matches(part).count();
        assert_eq!(
            (times("Stated:"), times("fewer &lt; before"), times("<strong>Here"), times("because")),
            (1, 1, 3, 1)
        );
        assert!(out.contains("claim partly") && out.contains("7 here") && out.contains("8 here"), "{out}");
    }

    #[test]
    fn a_statement_holds_when_its_whole_interval_does() {
        let of = |low, mean, high, good| Verdict::of(low, mean, high, (-50.0, -10.0), good);
        assert_eq!(of(-35.0, -31.0, -27.0, -1), Verdict::Holds);
        assert_eq!(of(-15.0, -11.0, -7.0, -1), Verdict::OnAverage);
        assert_eq!(of(-80.0, -70.0, -60.0, -1), Verdict::Better);
        assert_eq!(of(-80.0, -70.0, -60.0, 0), Verdict::Fails);
        assert_eq!(of(-12.0, -8.0, -4.0, -1), Verdict::Fails);
        assert_eq!(of(1.0, 2.0, 3.0, -1), Verdict::Fails);
        assert_eq!(of(f64::NAN, f64::NAN, f64::NAN, 1), Verdict::Unknown);
    }
}
