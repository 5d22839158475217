//! Pictures of descriptions, as SVG and PNG from the same strokes.

use plotters::backend::DrawingBackend;

use crate::PlotError;
use crate::canvas::{self, Anchor, Canvas, Xy};
use crate::figure::{BoxPoint, Figure, Piece, Point, Series, Shape, cdf};
use crate::layout::{GAP, LINE, Layout, SAMPLE, SMALL_FONT, TEXT_FONT, TITLE_FONT, layout, slots};
use crate::number;
use crate::style::{GRID, INK, Look, Marker, PAPER, Rgb, SMALL, TEXT, TITLE, WIDTH, heat, look};

/// Width of data lines, units.
const STROKE: f64 = 2.0;
/// Width of axes and whiskers, units.
const THIN: f64 = 1.0;
/// Half the width of a marker on a line, units.
const MARKER: f64 = 4.4;

type Drawn = Result<(), String>;

/// The figure as an SVG document without a prologue, fit to stand in an HTML page. Its text is text.
pub fn svg(figure: &Figure) -> Result<String, PlotError> {
    let layout = layout(figure);
    canvas::svg(WIDTH, layout.height, &figure.title, |c| draw(c, figure, &layout)).map_err(|e| failed(figure, e))
}

/// The figure as a PNG file, two pixels a unit, 288 pixels an inch at one print column.
pub fn png(figure: &Figure) -> Result<Vec<u8>, PlotError> {
    let layout = layout(figure);
    canvas::png(WIDTH, layout.height, |c| draw(c, figure, &layout)).map_err(|e| failed(figure, e))
}

fn failed(figure: &Figure, reason: String) -> PlotError {
    PlotError::Draw { figure: figure.name.clone(), reason }
}

fn draw<DB: DrawingBackend>(c: &mut Canvas<DB>, figure: &Figure, l: &Layout) -> Drawn {
    for (i, line) in l.title.iter().enumerate() {
        let at = (2.0 * GAP, GAP + (i as f64 + 0.5) * (TITLE + 4.0));
        c.text(line, at, Anchor::Start, TITLE_FONT, INK)?;
    }
    axes(c, figure, l)?;
    legend(c, figure, l)?;
    // Areas below lines below reference lines and markers.
    let mut drawn = false;
    for series in figure.series.iter().filter(|s| matches!(s.shape, Shape::Band(_))) {
        drawn |= band(c, series, l)?;
    }
    let slots = slots(figure);
    let of = slots.iter().flatten().max().map_or(0, |last| last + 1);
    for (series, slot) in figure.series.iter().zip(&slots) {
        let Some(slot) = *slot else { continue };
        let place = Place::new(figure, l, slot, of);
        drawn |= match &series.shape {
            Shape::Bars(points) => bars(c, points, look(&series.look), &place)?,
            Shape::Stack(pieces) => stack(c, pieces, look(&series.look), &place)?,
            Shape::Boxes(points) => boxes(c, points, look(&series.look), &place)?,
            _ => false,
        };
    }
    for series in &figure.series {
        drawn |= lines(c, figure, series, l)?;
    }
    if !drawn {
        let middle = ((l.plot.0 + l.plot.2) / 2.0, (l.plot.1 + l.plot.3) / 2.0);
        c.text("no values to draw", middle, Anchor::Middle, TEXT_FONT, INK)?;
    }
    Ok(())
}

fn axes<DB: DrawingBackend>(c: &mut Canvas<DB>, figure: &Figure, l: &Layout) -> Drawn {
    let (left, top, right, bottom) = l.plot;
    let mut last = f64::NEG_INFINITY;
    for (x, text) in l.x.marks() {
        let half = SMALL_FONT.width(text) / 2.0;
        c.line(&[(x, top), (x, bottom)], GRID, THIN)?;
        c.line(&[(x, bottom), (x, bottom + 4.0)], INK, THIN)?;
        if x - half >= last + 4.0 {
            let shown = x.min(WIDTH - 2.0 - half);
            c.text(text, (shown, bottom + 4.0 + LINE / 2.0), Anchor::Middle, SMALL_FONT, INK)?;
            last = x + half;
        }
    }
    for (y, text) in l.y.marks() {
        c.line(&[(left, y), (right, y)], GRID, THIN)?;
        c.line(&[(left - 4.0, y), (left, y)], INK, THIN)?;
        c.text(text, (left - GAP, y), Anchor::End, SMALL_FONT, INK)?;
    }
    for (i, name) in figure.x.categories().iter().enumerate() {
        let x = l.x.at_or_low(i as f64);
        if l.upwards {
            let font = crate::canvas::Font { up: true, ..SMALL_FONT };
            c.text(&name.label, (x, bottom + GAP), Anchor::End, font, INK)?;
        } else {
            c.text(&name.label, (x, bottom + 4.0 + LINE / 2.0), Anchor::Middle, SMALL_FONT, INK)?;
        }
    }
    for (i, name) in figure.y.categories().iter().enumerate() {
        let y = l.y.at_or_low(i as f64);
        let between = y - l.y.slot() / 2.0;
        if i > 0 && l.abreast > 1 {
            c.line(&[(left - 4.0, between), (right, between)], GRID, THIN)?;
        }
        c.text(&name.label, (left - GAP, y), Anchor::End, SMALL_FONT, INK)?;
    }
    c.line(&[(left, top), (left, bottom), (right, bottom)], INK, THIN)?;
    for (i, line) in l.y_label.iter().enumerate() {
        let font = crate::canvas::Font { up: true, ..TEXT_FONT };
        let at = (GAP + (i as f64 + 0.5) * (TEXT + 3.0), (top + bottom) / 2.0);
        c.text(line, at, Anchor::Middle, font, INK)?;
    }
    for (i, line) in l.x_label.iter().enumerate() {
        let below = l.x_label.len() as f64 - i as f64 - 0.5;
        let half = TEXT_FONT.width(line) / 2.0;
        let x = ((left + right) / 2.0).min(WIDTH - GAP - half);
        c.text(line, (x, l.height - GAP + 1.0 - below * LINE), Anchor::Middle, TEXT_FONT, INK)?;
    }
    Ok(())
}

fn legend<DB: DrawingBackend>(c: &mut Canvas<DB>, figure: &Figure, l: &Layout) -> Drawn {
    for (row, line) in l.legend.iter().enumerate() {
        let y = l.legend_top + (row as f64 + 0.5) * LINE;
        for (i, x) in line {
            let series = &figure.series[*i];
            let look = look(&series.look);
            let middle = (x + SAMPLE / 2.0, y);
            let ends = [(*x, y), (x + SAMPLE, y)];
            match &series.shape {
                Shape::Stack(_) => {
                    c.rect((*x, y - 6.0), (x + SAMPLE - 7.0, y + 6.0), look.color)?;
                    c.marker(look.marker, (x + (SAMPLE - 7.0) / 2.0, y), MARKER * 0.8, PAPER)?;
                }
                Shape::Bars(_) | Shape::Boxes(_) => {
                    c.rect((*x, y - 5.0), (x + SAMPLE - 7.0, y + 5.0), look.color)?;
                    c.marker(look.marker, (x + SAMPLE - 7.0, y), MARKER, look.color)?;
                }
                Shape::Scatter(_) => c.marker(look.marker, middle, MARKER, look.color)?,
                Shape::Line(_) => {
                    c.dashed(&ends, look.color, STROKE, look.dash)?;
                    c.marker(look.marker, middle, MARKER, look.color)?;
                }
                _ => c.dashed(&ends, look.color, STROKE, look.dash)?,
            }
            c.text(&series.label, (x + SAMPLE + GAP, y), Anchor::Start, TEXT_FONT, INK)?;
        }
    }
    Ok(())
}

/// Which bars or boxes of a name belong to one series, and which way they lie.
struct Place<'a> {
    layout: &'a Layout,
    lying: bool,
    /// Offset of the middle of the bar from the middle of the name, units.
    offset: f64,
    /// Width of the bar, units.
    width: f64,
}

impl<'a> Place<'a> {
    fn new(figure: &Figure, layout: &'a Layout, index: usize, of: usize) -> Self {
        let lying = !figure.y.categories().is_empty();
        let axis = if lying { &layout.y } else { &layout.x };
        let room = (axis.slot() - 6.0).max(axis.slot() * 0.5);
        let (width, offset) = match layout.abreast {
            0 | 1 => (room.min(26.0), 0.0),
            _ => (room / of as f64, room * ((index as f64 + 0.5) / of as f64 - 0.5)),
        };
        Self { layout, lying, offset, width }
    }

    /// The point of value `value` at name `name`, `across` units from the middle of the bar.
    fn at(&self, name: f64, value: f64, across: f64) -> Xy {
        let l = self.layout;
        match self.lying {
            true => (l.x.at_or_low(value), l.y.at_or_low(name) + self.offset + across),
            false => (l.x.at_or_low(name) + self.offset + across, l.y.at_or_low(value)),
        }
    }

    fn foot(&self, name: f64, across: f64) -> Xy {
        match self.lying {
            true => (self.layout.x.foot(), self.at(name, 0.0, across).1),
            false => (self.at(name, 0.0, across).0, self.layout.y.foot()),
        }
    }

    fn shows(&self, value: f64) -> bool {
        if self.lying { &self.layout.x } else { &self.layout.y }.at(value).is_some()
    }
}

fn bars<DB: DrawingBackend>(c: &mut Canvas<DB>, points: &[Point], look: Look, p: &Place<'_>) -> Result<bool, String> {
    let mut drawn = false;
    for point in points.iter().filter(|b| p.shows(b.y)) {
        drawn = true;
        let half = p.width * 0.42;
        c.rect(p.foot(point.x, -half), p.at(point.x, point.y, half), look.color)?;
        if let Some((low, high)) = point.interval {
            whisker(c, [p.at(point.x, low, 0.0), p.at(point.x, high, 0.0)], (half * 0.7).min(3.0), INK)?;
        }
        // The policy's own marker, so that bars can be told apart without their colour.
        c.marker(look.marker, p.at(point.x, point.y, 0.0), (half * 0.95).min(MARKER), look.color)?;
    }
    Ok(drawn)
}

fn stack<DB: DrawingBackend>(c: &mut Canvas<DB>, pieces: &[Piece], look: Look, p: &Place<'_>) -> Result<bool, String> {
    let half = p.width * 0.42;
    for piece in pieces {
        let (from, to) = (p.at(piece.x, piece.from, -half), p.at(piece.x, piece.to, half));
        c.rect(from, to, look.color)?;
        // The piece's own marker, where it has room: pieces can be told apart without their colour.
        let middle = ((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0);
        let room = if p.lying { (to.0 - from.0).abs() } else { (to.1 - from.1).abs() };
        if room > 3.0 * MARKER {
            c.marker(look.marker, middle, (half * 0.7).min(MARKER * 0.8), PAPER)?;
        }
    }
    Ok(!pieces.is_empty())
}

fn boxes<DB: DrawingBackend>(
    c: &mut Canvas<DB>,
    boxes: &[BoxPoint],
    look: Look,
    p: &Place<'_>,
) -> Result<bool, String> {
    let mut drawn = false;
    for b in boxes.iter().filter(|b| b.five.iter().all(|v| p.shows(*v))) {
        drawn = true;
        let half = (p.width * 0.42).min(9.0);
        let [low, q1, median, q3, high] = b.five;
        whisker(c, [p.at(b.x, low, 0.0), p.at(b.x, high, 0.0)], half * 0.5, look.color)?;
        let corners = [(q1, -half), (q3, -half), (q3, half), (q1, half), (q1, -half)].map(|(v, a)| p.at(b.x, v, a));
        c.fill(&corners, PAPER, 1.0)?;
        c.fill(&corners, look.color, 0.45)?;
        c.line(&corners, look.color, 1.4)?;
        c.line(&[p.at(b.x, median, -half), p.at(b.x, median, half)], INK, 2.2)?;
        if p.shows(b.mean) {
            c.marker(Marker::Diamond, p.at(b.x, b.mean, 0.0), MARKER * 0.8, INK)?;
        }
    }
    Ok(drawn)
}

/// A stroke between two ends with a bar of half width `cap` across each.
fn whisker<DB: DrawingBackend>(c: &mut Canvas<DB>, ends: [Xy; 2], cap: f64, color: Rgb) -> Drawn {
    c.line(&ends, color, 1.2)?;
    let lying = (ends[0].1 - ends[1].1).abs() < 1e-9;
    for (x, y) in ends {
        let across = if lying { [(x, y - cap), (x, y + cap)] } else { [(x - cap, y), (x + cap, y)] };
        c.line(&across, color, 1.2)?;
    }
    Ok(())
}

/// The places of `points` in runs: a point without a place breaks the line.
fn runs(points: &[Point], l: &Layout) -> Vec<Vec<(Xy, Point)>> {
    let mut runs = vec![Vec::new()];
    for point in points {
        match (l.x.at(point.x), l.y.at(point.y)) {
            (Some(x), Some(y)) => {
                if let Some(run) = runs.last_mut() {
                    run.push(((x, y), *point));
                }
            }
            _ => runs.push(Vec::new()),
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

fn band<DB: DrawingBackend>(c: &mut Canvas<DB>, series: &Series, l: &Layout) -> Result<bool, String> {
    let Shape::Band(points) = &series.shape else { return Ok(false) };
    let color = look(&series.look).color;
    for run in runs(points, l) {
        let edge = |low: bool| {
            run.iter().map(move |((x, y), p)| match p.interval {
                Some((a, b)) => (*x, l.y.at_or_low(if low { a } else { b })),
                None => (*x, *y),
            })
        };
        if run.len() > 1 && run.iter().any(|(_, p)| p.interval.is_some()) {
            let outline: Vec<Xy> = edge(true).chain(edge(false).rev()).collect();
            c.fill(&outline, color, 0.18)?;
        }
    }
    Ok(!points.is_empty())
}

fn lines<DB: DrawingBackend>(c: &mut Canvas<DB>, figure: &Figure, series: &Series, l: &Layout) -> Result<bool, String> {
    let look = look(&series.look);
    match &series.shape {
        Shape::Line(points) | Shape::Scatter(points) => {
            let runs = runs(points, l);
            if matches!(series.shape, Shape::Line(_)) {
                for run in &runs {
                    let path: Vec<Xy> = run.iter().map(|r| r.0).collect();
                    c.dashed(&path, look.color, STROKE, look.dash)?;
                }
            }
            for ((x, y), point) in runs.iter().flatten() {
                if let Some((low, high)) = point.interval {
                    whisker(c, [(*x, l.y.at_or_low(low)), (*x, l.y.at_or_low(high))], 3.5, look.color)?;
                }
                c.marker(look.marker, (*x, *y), MARKER, look.color)?;
            }
            Ok(!runs.is_empty())
        }
        Shape::Band(points) => path(c, runs(points, l), look, false),
        Shape::Step(points) => path(c, runs(points, l), look, true),
        Shape::Cdf(samples) => {
            let points: Vec<Point> = cdf(samples).into_iter().map(|(x, y)| Point::bare(x, y)).collect();
            path(c, runs(&points, l), look, true)
        }
        Shape::Rule(value) => {
            let (left, top, right, bottom) = l.plot;
            let ends = match figure.y.categories().is_empty() {
                true => l.y.at(*value).map(|y| [(left, y), (right, y)]),
                false => l.x.at(*value).map(|x| [(x, top), (x, bottom)]),
            };
            if let Some(ends) = ends {
                c.dashed(&ends, look.color, 1.6, look.dash)?;
            }
            Ok(false)
        }
        Shape::Heat { cells, label } => heat_map(c, cells, label, l),
        Shape::Bars(_) | Shape::Boxes(_) | Shape::Stack(_) => Ok(false),
    }
}

fn path<DB: DrawingBackend>(
    c: &mut Canvas<DB>,
    runs: Vec<Vec<(Xy, Point)>>,
    look: Look,
    steps: bool,
) -> Result<bool, String> {
    for run in &runs {
        let mut path: Vec<Xy> = Vec::with_capacity(run.len() * 2);
        for (at, _) in run {
            if let Some(before) = path.last().copied().filter(|_| steps) {
                path.push((at.0, before.1));
            }
            path.push(*at);
        }
        c.dashed(&path, look.color, STROKE, look.dash)?;
        if let ([only], false) = (&path[..], steps) {
            c.marker(look.marker, *only, MARKER, look.color)?;
        }
    }
    Ok(!runs.is_empty())
}

fn heat_map<DB: DrawingBackend>(
    c: &mut Canvas<DB>,
    cells: &[(usize, usize, f64)],
    label: &str,
    l: &Layout,
) -> Result<bool, String> {
    let finite = || cells.iter().map(|c| c.2).filter(|v| v.is_finite());
    let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    if low > high {
        return Ok(false);
    }
    let part = |v: f64| if high > low { (v - low) / (high - low) } else { 0.0 };
    let (w, h) = (l.x.slot() / 2.0, l.y.slot() / 2.0);
    // Written into the cells only where every one of them has room.
    let room = finite().all(|v| SMALL_FONT.width(&number::trimmed(v)) + 4.0 <= 2.0 * w) && 2.0 * h >= SMALL + 2.0;
    for (x, y, v) in cells.iter().filter(|c| c.2.is_finite()) {
        let (x, y) = (l.x.at_or_low(*x as f64), l.y.at_or_low(*y as f64));
        c.rect((x - w + 0.5, y - h + 0.5), (x + w - 0.5, y + h - 0.5), heat(part(*v)))?;
        if room {
            let color = if part(*v) > 0.45 { PAPER } else { INK };
            c.text(&number::trimmed(*v), (x, y), Anchor::Middle, SMALL_FONT, color)?;
        }
    }
    // The scale in place of a legend: its label, then the colours between the smallest and largest value.
    let (left, y) = (2.0 * GAP, l.legend_top + 1.5 * LINE);
    c.text(label, (left, l.legend_top + 0.5 * LINE), Anchor::Start, TEXT_FONT, INK)?;
    let from = left + SMALL_FONT.width(&number::trimmed(low)) + GAP;
    c.text(&number::trimmed(low), (left, y), Anchor::Start, SMALL_FONT, INK)?;
    for i in 0..60 {
        let x = from + f64::from(i) * 3.0;
        c.rect((x, y - 6.0), (x + 3.0, y + 6.0), heat(f64::from(i) / 59.0))?;
    }
    c.text(&number::trimmed(high), (from + 180.0 + GAP, y), Anchor::Start, SMALL_FONT, INK)?;
    Ok(true)
}
