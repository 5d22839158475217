//! Where everything of a figure stands: margins from the width of its texts, axes from its values.

use crate::canvas::Font;
use crate::figure::{Axis, Figure, Scale, Series, Shape, cdf};
use crate::style::{PLOT_HEIGHT, SMALL, TEXT, TITLE, WIDTH};
use crate::ticks::{self, Ticks};

/// Between any two things that must not touch, units.
pub const GAP: f64 = 7.0;
/// Height of a line of the legend and of labels, units.
pub const LINE: f64 = 19.0;
/// Width of a legend's sample, units.
pub const SAMPLE: f64 = 34.0;
/// The fonts of the house.
pub const TITLE_FONT: Font = Font { size: TITLE, bold: true, up: false };
pub const TEXT_FONT: Font = Font::of(TEXT);
pub const SMALL_FONT: Font = Font::of(SMALL);

/// An axis laid out between two places of the picture.
pub struct Along {
    /// Where its low end is, units.
    from: f64,
    /// Where its high end is, units.
    to: f64,
    kind: Kind,
}

enum Kind {
    Values { ticks: Ticks, log: bool },
    Names(usize),
}

impl Along {
    /// Where `value` is, units; outside values at the nearer end. `None` for what has no place: NaN, and
    /// values not above zero on a logarithmic axis.
    pub fn at(&self, value: f64) -> Option<f64> {
        let part = match &self.kind {
            Kind::Names(n) => (value + 0.5) / (*n).max(1) as f64,
            Kind::Values { ticks, log: false } => (value - ticks.low) / (ticks.high - ticks.low),
            Kind::Values { log: true, .. } if value <= 0.0 => return None,
            Kind::Values { ticks, log: true } => (value / ticks.low).ln() / (ticks.high / ticks.low).ln(),
        };
        let part = if part.is_nan() { return None } else { part.clamp(0.0, 1.0) };
        Some(self.from + part * (self.to - self.from))
    }

    /// As [`Self::at`], with what has no place at the low end: for ends of intervals.
    pub fn at_or_low(&self, value: f64) -> f64 {
        self.at(value).unwrap_or(self.from)
    }

    /// Where the foot of bars is.
    pub fn foot(&self) -> f64 {
        match &self.kind {
            Kind::Values { log: false, .. } => self.at_or_low(0.0),
            _ => self.from,
        }
    }

    /// Marks of a value axis: place and text; nothing for names.
    pub fn marks(&self) -> Vec<(f64, &str)> {
        match &self.kind {
            Kind::Values { ticks, .. } => {
                ticks.marks.iter().filter_map(|(v, text)| Some((self.at(*v)?, text.as_str()))).collect()
            }
            Kind::Names(_) => Vec::new(),
        }
    }

    /// The room of one name, units.
    pub fn slot(&self) -> f64 {
        match &self.kind {
            Kind::Names(n) => (self.to - self.from).abs() / (*n).max(1) as f64,
            Kind::Values { .. } => (self.to - self.from).abs(),
        }
    }
}

/// A figure laid out.
pub struct Layout {
    /// Height of the picture, units; its width is [`WIDTH`].
    pub height: f64,
    /// The title, broken into lines.
    pub title: Vec<String>,
    /// Lines of the legend: indices of series, with the left end of each entry.
    pub legend: Vec<Vec<(usize, f64)>>,
    /// Top of the legend, units.
    pub legend_top: f64,
    /// Left, top, right and bottom of the plot area, units.
    pub plot: (f64, f64, f64, f64),
    /// The horizontal axis.
    pub x: Along,
    /// The vertical axis.
    pub y: Along,
    /// The vertical axis' label, broken into lines.
    pub y_label: Vec<String>,
    /// The horizontal axis' label, broken into lines.
    pub x_label: Vec<String>,
    /// Whether the names on the horizontal axis are written upwards.
    pub upwards: bool,
    /// How many bars or boxes stand side by side within one name.
    pub abreast: usize,
}

/// Lays `figure` out.
pub fn layout(figure: &Figure) -> Layout {
    let abreast = abreast(figure);
    let title = TITLE_FONT.wrap(&figure.title, WIDTH - 2.0 * GAP);
    let legend = legend(figure);
    let legend_top = GAP + title.len() as f64 * (TITLE + 4.0) + 3.0;
    let heat = figure.series.iter().any(|s| matches!(s.shape, Shape::Heat { .. }));
    let legend_height = if heat { 2.0 * LINE } else { legend.len() as f64 * LINE };
    let top = legend_top + legend_height + GAP;

    let names = figure.y.categories();
    let plot_height = match (names.len(), heat) {
        (0, _) => PLOT_HEIGHT,
        (n, true) => n as f64 * (260.0 / n as f64).clamp(18.0, 34.0),
        (n, false) => n as f64 * row_height(abreast),
    };
    let y_kind = kind(figure, &figure.y, false);
    let y_texts: Vec<&str> = match &y_kind {
        Kind::Values { ticks, .. } => ticks.marks.iter().map(|m| m.1.as_str()).collect(),
        Kind::Names(_) => names.iter().map(|c| c.label.as_str()).collect(),
    };
    let widest = y_texts.iter().map(|t| SMALL_FONT.width(t)).fold(0.0, f64::max);
    let y_label = wrapped(&figure.y.text(), plot_height.max(120.0));
    let left = (GAP + y_label.len() as f64 * (TEXT + 3.0) + GAP + widest + GAP).min(WIDTH * 0.6);
    let right = WIDTH - 16.0;

    let x_kind = kind(figure, &figure.x, true);
    let names = figure.x.categories();
    let widest = names.iter().map(|c| SMALL_FONT.width(&c.label)).fold(0.0, f64::max);
    let upwards = widest + 4.0 > (right - left) / names.len().max(1) as f64;
    let upwards = upwards && !names.is_empty();
    let ticks_height = if upwards { widest + GAP } else { LINE };
    let x_label = wrapped(&figure.x.text(), right - left + 40.0);
    let bottom = top + plot_height;
    Layout {
        height: (bottom + 4.0 + ticks_height + x_label.len() as f64 * LINE + GAP).ceil(),
        title,
        legend,
        legend_top,
        plot: (left, top, right, bottom),
        x: Along { from: left, to: right, kind: x_kind },
        // Names are read from the top, values grow upwards.
        y: match y_kind {
            kind @ Kind::Names(_) => Along { from: top, to: bottom, kind },
            kind => Along { from: bottom, to: top, kind },
        },
        y_label,
        x_label,
        upwards,
        abreast,
    }
}

fn wrapped(text: &str, width: f64) -> Vec<String> {
    if text.is_empty() { Vec::new() } else { TEXT_FONT.wrap(&text.replace(" (", "\u{a0}("), width) }
}

/// Height of a name's row with so many bars, units.
fn row_height(abreast: usize) -> f64 {
    match abreast {
        0 | 1 => 26.0,
        n @ 2..=4 => n as f64 * 9.5 + 8.0,
        n => n as f64 * 7.5 + 8.0,
    }
}

/// The most series that have a bar or box at the same name: one when each name belongs to one series.
fn abreast(figure: &Figure) -> usize {
    let names = figure.category_and_value().map_or(0, |(axis, _)| axis.categories().len());
    let has = |series: &Series, name: usize| match &series.shape {
        Shape::Bars(points) => points.iter().any(|p| p.x == name as f64),
        Shape::Boxes(boxes) => boxes.iter().any(|b| b.x == name as f64),
        Shape::Stack(pieces) => pieces.iter().any(|p| p.x == name as f64),
        _ => false,
    };
    let slots = slots(figure);
    let at = |name: usize| {
        let there = figure.series.iter().zip(&slots).filter(|(s, _)| has(s, name)).filter_map(|(_, slot)| *slot);
        there.collect::<std::collections::BTreeSet<_>>().len()
    };
    let most = (0..names).map(at).max().unwrap_or(0);
    if most <= 1 { most } else { slots.iter().flatten().max().map_or(0, |last| last + 1) }
}

/// Whether the series is of bars or boxes.
pub fn is_laid(series: &Series) -> bool {
    matches!(series.shape, Shape::Bars(_) | Shape::Boxes(_) | Shape::Stack(_))
}

/// For each series its place among the bars or boxes of a name; pieces of stacked bars share one.
pub fn slots(figure: &Figure) -> Vec<Option<usize>> {
    let (mut next, mut stack) = (0, None);
    let mut slot = |s: &Series| {
        if !is_laid(s) {
            return None;
        }
        if let (Shape::Stack(_), Some(slot)) = (&s.shape, stack) {
            return Some(slot);
        }
        let slot = next;
        next += 1;
        if matches!(s.shape, Shape::Stack(_)) {
            stack = Some(slot);
        }
        Some(slot)
    };
    figure.series.iter().map(&mut slot).collect()
}

/// The legend's lines, without what the names on an axis say.
fn legend(figure: &Figure) -> Vec<Vec<(usize, f64)>> {
    let named = |s: &Series| {
        is_laid(s) && figure.category_and_value().is_some_and(|(a, _)| a.categories().iter().any(|c| c.name == s.label))
    };
    let shown: Vec<usize> = (0..figure.series.len())
        .filter(|i| !named(&figure.series[*i]) && !matches!(figure.series[*i].shape, Shape::Heat { .. }))
        .collect();
    let mut lines: Vec<Vec<(usize, f64)>> = Vec::new();
    let mut x = WIDTH;
    for i in shown {
        let width = SAMPLE + GAP + TEXT_FONT.width(&figure.series[i].label) + 2.0 * GAP;
        if x + width > WIDTH - GAP || lines.is_empty() {
            lines.push(Vec::new());
            x = 2.0 * GAP;
        }
        if let Some(line) = lines.last_mut() {
            line.push((i, x));
        }
        x += width;
    }
    lines
}

/// The kind of `axis`, from the values of the figure that lie along it.
fn kind(figure: &Figure, axis: &Axis, horizontal: bool) -> Kind {
    let wanted = if horizontal { 5 } else { 6 };
    let (low, high) = extent(figure, horizontal, matches!(axis.scale, Scale::Log | Scale::At { log: true, .. }));
    match &axis.scale {
        Scale::Category(names) => Kind::Names(names.len()),
        Scale::Linear { zero: true } => {
            Kind::Values { ticks: ticks::linear(low.min(0.0), high.max(0.0), wanted), log: false }
        }
        Scale::Linear { zero: false } => Kind::Values { ticks: ticks::linear(low, high, wanted), log: false },
        Scale::At { values, log } => Kind::Values { ticks: ticks::at(low, high, values, *log), log: *log },
        Scale::Log => Kind::Values { ticks: ticks::log(low, high), log: true },
    }
}

/// The range to show along one axis. Intervals count as far as they are no longer than the values'
/// own range: with two seeds an interval can be many times wider than everything else.
fn extent(figure: &Figure, horizontal: bool, log: bool) -> (f64, f64) {
    let lying = matches!(figure.y.scale, Scale::Category(_));
    let (mut values, mut ends, mut bars) = (Vec::new(), Vec::new(), false);
    for series in &figure.series {
        match &series.shape {
            Shape::Line(p) | Shape::Band(p) | Shape::Step(p) | Shape::Scatter(p) if horizontal => {
                values.extend(p.iter().map(|p| p.x));
            }
            Shape::Line(p) | Shape::Band(p) | Shape::Step(p) | Shape::Scatter(p) => {
                values.extend(p.iter().map(|p| p.y));
                ends.extend(p.iter().filter_map(|p| p.interval));
            }
            Shape::Bars(p) if lying == horizontal => {
                bars = true;
                values.extend(p.iter().map(|p| p.y));
                ends.extend(p.iter().filter_map(|p| p.interval));
            }
            Shape::Stack(pieces) if lying == horizontal => {
                bars = true;
                values.extend(pieces.iter().map(|p| p.to));
            }
            Shape::Boxes(b) if lying == horizontal => {
                values.extend(b.iter().flat_map(|b| b.five.into_iter().chain([b.mean])));
            }
            Shape::Cdf(samples) => values.extend(cdf(samples).into_iter().map(|(x, y)| if horizontal { x } else { y })),
            Shape::Rule(at) if lying == horizontal => values.push(*at),
            _ => {}
        }
    }
    let fits = |v: &f64| v.is_finite() && (!log || *v > 0.0);
    let low = values.iter().copied().filter(fits).fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().filter(fits).fold(f64::NEG_INFINITY, f64::max);
    if low > high {
        return (low, high);
    }
    let room = if high > low { high - low } else { high.abs() * 0.5 };
    let (from, to) = match log {
        true => (low / 3.0, high * 3.0),
        false if low >= 0.0 => ((low - room).max(0.0), high + room),
        false => (low - room, high + room),
    };
    let low_end = ends.iter().map(|e| e.0.max(from)).filter(fits).fold(low, f64::min);
    let high_end = ends.iter().map(|e| e.1.min(to)).filter(fits).fold(high, f64::max);
    // On a logarithmic axis bars stand on a power of ten, and the smallest has some length.
    let foot = |low: f64| 10f64.powf((low / 1.5).log10().floor());
    (if log && bars { foot(low_end) } else { low_end }, high_end)
}
