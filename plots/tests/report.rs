//! The report as a file: complete, self-contained, escaped.

use std::path::Path;

use medes_plots::{CellData, ReportInput, draw_all, write_report};

mod made_up;

fn written(cells: &[CellData], folder: &Path) -> String {
    let figures = draw_all(cells, &folder.join("figures")).unwrap();
    let input = ReportInput {
        title: "Fewer <cold> starts?",
        question: "Which policy & why?",
        expectation: Some("\"10 to 50 %\" fewer"),
        how: vec![("command".into(), "medes run 'a<b>.toml'".into()), ("seeds".into(), "1, 2".into())],
        notes: vec!["3 rows of <trace> were mended".into(), "count  found\n    2  <odd>".into()],
        cells,
        figures: &figures,
    };
    let path = folder.join("report.html");
    write_report(&input, &path).unwrap();
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_page_holds_everything_and_fetches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut cells = made_up::cells(&["fixed", "medes", "<script>alert(1)</script>"], &[20.0, 40.0], 2);
    for cell in &mut cells {
        cell.functions[0].function = "<img src=x onerror=alert(1)>".into();
    }
    let page = written(&cells, folder.path());
    for part in [
        "<title>Fewer &lt;cold&gt; starts?</title>",
        "Which policy &amp; why?",
        "&quot;10 to 50 %&quot; fewer",
        "medes run &#39;a&lt;b&gt;.toml&#39;",
        "3 rows of &lt;trace&gt; were mended",
        "fewer cold starts than fixed",
        "<td class=\"name\">20 GB</td>",
        "href=\"figures/cold_by_pool.csv\"",
        "&lt;img",
    ] {
        assert!(page.contains(part), "the page lacks {part}");
    }
    assert_eq!(page.matches("<svg ").count(), page.matches("<figure ").count());
    for forbidden in ["<script", "<img", "src=", "url(", "@import", "<link", "http://", "https://"] {
        let page = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "").replace("&lt;img src=x", "");
        assert!(!page.contains(forbidden), "the page has {forbidden}");
    }
    let finding = page.find("What was found").unwrap();
    assert!(finding < page.find("<table>").unwrap() && page.find("<table>") < page.find("<figure "));
    assert!(page.contains("<li><pre>count  found\n    2  &lt;odd&gt;</pre></li>"), "columns of a note stay columns");
}

#[test]
fn a_report_of_nothing_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let page = written(&[], folder.path());
    assert!(page.contains("There are no rows, so nothing was found.") && page.contains("there are no cells"));
}

#[test]
fn a_picture_that_is_gone_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let cells = made_up::cells(&["fixed"], &[20.0], 1);
    let figures = draw_all(&cells, folder.path()).unwrap();
    std::fs::remove_file(&figures[0].svg_path).unwrap();
    let (how, notes) = (Vec::new(), Vec::new());
    let input =
        ReportInput { title: "", question: "", expectation: None, how, notes, cells: &cells, figures: &figures };
    let error = write_report(&input, &folder.path().join("report.html")).unwrap_err().to_string();
    assert!(error.contains("cold_by_pool.svg") && error.contains("draw the figures again"), "{error}");
    let error = draw_all(&cells, &figures[1].svg_path).unwrap_err().to_string();
    assert!(error.starts_with("cannot write "), "{error}");
}
