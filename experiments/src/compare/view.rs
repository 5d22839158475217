//! A comparison as a table and as figures.

use medes_plots::figure::{Axis, Figure, Point, Scale, Series, Shape};

use super::{Change, Comparison, Matched};
use crate::output;

/// What a row was matched by, in short: `fixed, 600 MB x 2`.
pub fn setting(m: &Matched) -> String {
    let value = |key: &str| m.setting.get(key).cloned();
    let mut parts: Vec<String> = value("policy").into_iter().collect();
    match (value("memcap_mb"), value("nodes")) {
        (Some(cap), Some(nodes)) => parts.push(format!("{nodes} x {cap} MB")),
        (Some(cap), None) => parts.push(format!("{cap} MB")),
        (None, Some(nodes)) => parts.push(format!("{nodes} nodes")),
        (None, None) => {}
    }
    let own = ["policy", "memcap_mb", "nodes"];
    parts.extend(m.setting.iter().filter(|(k, _)| !own.contains(&k.as_str())).map(|(k, v)| format!("{k} {v}")));
    if parts.is_empty() { "all".to_owned() } else { parts.join(", ") }
}

/// A change for people: `+12.3 %`, with its interval where there is one.
pub fn change(c: &Change) -> String {
    let percent = |part: f64| format!("{:+.1}", part * 100.0);
    match (c.change, c.low, c.high) {
        (None, ..) if c.second > 0.0 && c.first == 0.0 => "from none".to_owned(),
        (None, ..) => "-".to_owned(),
        (Some(part), Some(low), Some(high)) if c.first > 0.0 => {
            format!("{} % [{}, {}]", percent(part), percent(low), percent(high))
        }
        (Some(part), ..) => format!("{} %", percent(part)),
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "-".to_owned(),
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// The table, a line a setting and metric; metrics that are zero in both runs are left out.
pub fn table(c: &Comparison) -> String {
    let mut out = format!("first:  {}\nsecond: {}\n", c.first, c.second);
    for (key, [a, b]) in &c.differs {
        let or_none = |v: &String| if v.is_empty() { "-".to_owned() } else { v.clone() };
        out.push_str(&format!("{key}: {} -> {}\n", or_none(a), or_none(b)));
    }
    let intervals = c.rows.iter().any(|m| m.seeds > 1);
    let note = if intervals { " (mean over seeds of the change, 95 % interval)" } else { "" };
    out.push_str(&format!("change: second against first{note}\n\n"));
    let head = ["setting", "", "first", "second", "change"].map(str::to_owned);
    let line = |m: &Matched, change_of: &Change| {
        let seeds = if m.seeds > 1 { format!(" ({} seeds)", m.seeds) } else { String::new() };
        vec![
            setting(m) + &seeds,
            change_of.label.to_owned(),
            number(change_of.first),
            number(change_of.second),
            change(change_of),
        ]
    };
    let shown = |c: &&Change| c.judged || c.first != 0.0 || c.second != 0.0;
    let rows: Vec<Vec<String>> =
        c.rows.iter().flat_map(|m| m.changes.iter().filter(shown).map(move |c| line(m, c))).collect();
    out.push_str(&output::figures(&head, &rows, &[]));
    out
}

/// What the runs are to each other: a real one is measured, a simulated one beside it predicts.
fn words(c: &Comparison) -> [&'static str; 2] {
    let worlds = c.differs.get("backend");
    let word = |side: usize| match worlds {
        Some(worlds) if worlds[side].starts_with("real") => "measured",
        Some(_) => "predicted",
        None => ["first", "second"][side],
    };
    [word(0), word(1)]
}

/// Whether what is judged is within a part of the first run, quantity by quantity: bars of the ratio, and the band as two lines.
pub fn within(c: &Comparison, part: f64) -> Figure {
    let [first, second] = words(c);
    let judged = |m: &Matched| m.changes.iter().filter(|c| c.judged).cloned().collect::<Vec<Change>>();
    let names: Vec<&str> = c.rows.first().map(|m| judged(m).iter().map(|c| c.label).collect()).unwrap_or_default();
    let bars = |m: &Matched| {
        let point = |(x, c): (u32, Change)| Some(Point::bare(f64::from(x), 1.0 + c.change?));
        let points = (0..).zip(judged(m)).filter_map(point).collect();
        let look = m.setting.get("policy").cloned().unwrap_or_else(|| setting(m));
        Series { label: setting(m), look, shape: Shape::Bars(points) }
    };
    let mut series: Vec<Series> = c.rows.iter().map(bars).collect();
    let percent = part * 100.0;
    series.push(Series { label: format!("{percent:.0} % off"), look: "cap".into(), shape: Shape::Rule(1.0 + part) });
    series.push(Series { label: "equal".into(), look: "oracle".into(), shape: Shape::Rule(1.0) });
    series.push(Series {
        label: format!("{percent:.0} % off, below"),
        look: "cap".into(),
        shape: Shape::Rule(1.0 - part),
    });
    let number_of = |value: f64| if value.is_finite() { number(value) } else { "-".to_owned() };
    let value = |c: &Change| format!("{} {} to {}", c.label, number_of(c.first), number_of(c.second));
    let values: Vec<String> = c
        .rows
        .iter()
        .map(|m| format!("{}: {}", setting(m), judged(m).iter().map(value).collect::<Vec<_>>().join(", ")))
        .collect();
    Figure {
        name: "compare_within".into(),
        title: format!("{second} against {first}, and {percent:.0} % to either side").replacen(
            second,
            &capital(second),
            1,
        ),
        caption: format!(
            "{} as a multiple of {first}. {}. {}: {}; {}: {}. Rows: summary.csv of both.",
            capital(second),
            values.join("; "),
            capital(first),
            c.first,
            second,
            c.second
        ),
        x: Axis::names("", names),
        y: Axis::from_zero(&format!("{second} / {first}"), ""),
        series,
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// One figure of the ratios, and one of both values for each metric that is judged.
pub fn figures(c: &Comparison) -> Vec<Figure> {
    let settings: Vec<String> = c.rows.iter().map(setting).collect();
    let judged: Vec<usize> =
        c.rows.first().map(|m| (0..m.changes.len()).filter(|i| m.changes[*i].judged).collect()).unwrap_or_default();
    let caption = format!("First: {}; second: {}. Rows: summary.csv of both.", c.first, c.second);
    let at = |metric: usize| (0_u32..).zip(&c.rows).map(move |(x, m)| (f64::from(x), &m.changes[metric]));
    let label = |metric: usize| c.rows.first().map_or("", |m| m.changes[metric].label);
    let ratio = |c: &Change, x: f64| {
        let interval = c.low.zip(c.high).map(|(low, high)| (1.0 + low, 1.0 + high));
        c.change.map(|change| Point { x, y: 1.0 + change, interval })
    };
    let mut ratios: Vec<Series> = judged
        .iter()
        .map(|metric| Series::new(label(*metric), Shape::Bars(at(*metric).filter_map(|(x, c)| ratio(c, x)).collect())))
        .collect();
    ratios.push(Series::new("no change", Shape::Rule(1.0)));
    let mut out = vec![Figure {
        name: "compare".into(),
        title: "The second run as a multiple of the first".into(),
        caption: format!(
            "Mean over seeds of second / first; whiskers: 95 % interval where there are several. {caption}"
        ),
        x: Axis::names("", settings.clone()),
        y: Axis::from_zero("second / first", ""),
        series: ratios,
    }];
    for metric in judged {
        let bars = |pick: fn(&Change) -> f64| {
            Shape::Bars(at(metric).map(|(x, c)| Point::bare(x, pick(c))).filter(|p| p.y.is_finite()).collect())
        };
        let [first, second] = words(c);
        let (first, second) = (Series::new(first, bars(|c| c.first)), Series::new(second, bars(|c| c.second)));
        let id = c.rows.first().map_or("", |m| m.changes[metric].metric);
        out.push(Figure {
            name: format!("compare_{id}"),
            title: format!("{} in both runs", label(metric)),
            caption: format!("Means over seeds. {caption}"),
            x: Axis::names("", settings.clone()),
            y: Axis::new(label(metric), "", Scale::Linear { zero: true }),
            series: vec![first, second],
        });
    }
    out
}
