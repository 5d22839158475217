//! The description of a figure: every number, label and unit that the picture shows, and no picture.

/// One figure: a plot area with two axes, series in it, a legend above it.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Stem of the files; letters, digits, `_`, `-` and `.` only (see [`file_stem`]).
    pub name: String,
    /// What it shows, in one line.
    pub title: String,
    /// The text under it: what is drawn, seeds, intervals, origin of the rows.
    pub caption: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// What is drawn, in the order of the legend.
    pub series: Vec<Series>,
}

/// One axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// The quantity.
    pub label: String,
    /// Its unit, as written after the label; empty for counts and names.
    pub unit: String,
    /// How values are laid out.
    pub scale: Scale,
}

/// How values are laid out along an axis.
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// In proportion; with `zero` the axis begins at zero.
    Linear {
        /// Whether the axis must show zero.
        zero: bool,
    },
    /// With a mark at exactly these values (those that were swept).
    At {
        /// The values.
        values: Vec<f64>,
        /// By the decimal logarithm and not in proportion; needs values above zero.
        log: bool,
    },
    /// By the decimal logarithm; values not above zero cannot be drawn and are left out.
    Log,
    /// Names side by side; a value is the index of its name.
    Category(Vec<Category>),
}

/// A name on a [`Scale::Category`] axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Category {
    /// As drawn: short.
    pub label: String,
    /// In full, for the CSV.
    pub name: String,
}

/// What one entry of the legend stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// As in the legend.
    pub label: String,
    /// Whose colour, dash and marker it takes: the name of a policy, or any text (see [`crate::style::look`]).
    pub look: String,
    /// The numbers and how they are drawn.
    pub shape: Shape,
}

/// A value at a place, with the interval of the value where there is one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Place on the x axis (for bars: on the category axis).
    pub x: f64,
    /// The value.
    pub y: f64,
    /// The interval of the value: lower and upper end.
    pub interval: Option<(f64, f64)>,
}

/// Numbers of a series and how they are drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// Points joined by a line, each with a marker and a whisker for its interval.
    Line(Vec<Point>),
    /// A line without markers, its intervals as a band: for dense series.
    Band(Vec<Point>),
    /// A line that keeps each value until the next place.
    Step(Vec<Point>),
    /// Markers alone.
    Scatter(Vec<Point>),
    /// Bars from the foot of the value axis, grouped with those of the other bar series; `x` is the index
    /// of the category. They lie along whichever axis is not the category axis.
    Bars(Vec<Point>),
    /// Pieces of bars: all series of this shape in a figure are pieces of the same bars, which stand beside those
    /// of other series.
    Stack(Vec<Piece>),
    /// The part of the samples at or below each value: `(value, weight)`.
    Cdf(Vec<(f64, f64)>),
    /// Boxes, laid out as bars are.
    Boxes(Vec<BoxPoint>),
    /// Coloured cells of two category axes: `(x index, y index, value)`. A NaN value is left blank.
    Heat {
        /// The cells.
        cells: Vec<(usize, usize, f64)>,
        /// What the colour means, with its unit.
        label: String,
    },
    /// A horizontal line over the whole width at this value of the y axis.
    Rule(f64),
}

/// A piece of a stacked bar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// Index of the category.
    pub x: f64,
    /// Where it begins on the value axis.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
}

/// Percentiles that a box usually shows.
pub const QUARTILES: [f64; 5] = [5.0, 25.0, 50.0, 75.0, 95.0];

/// Spread of one category: a box between the second and the fourth of five percentiles, a stroke at the third,
/// a dot at the mean, whiskers to the first and the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxPoint {
    /// Index of the category.
    pub x: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// End of the lower whisker, lower end of the box, stroke, upper end of the box, end of the upper whisker.
    pub five: [f64; 5],
    /// Which percentiles these are; [`QUARTILES`] unless the caption says otherwise.
    pub levels: [f64; 5],
}

impl Axis {
    /// An axis of values in proportion, from zero.
    pub fn from_zero(label: &str, unit: &str) -> Self {
        Self { label: label.into(), unit: unit.into(), scale: Scale::Linear { zero: true } }
    }

    /// An axis of values on another scale.
    pub fn new(label: &str, unit: &str, scale: Scale) -> Self {
        Self { label: label.into(), unit: unit.into(), scale }
    }

    /// An axis of names that are drawn in full.
    pub fn names<S: Into<String>>(label: &str, names: impl IntoIterator<Item = S>) -> Self {
        let categories = names.into_iter().map(|name| {
            let name = name.into();
            Category { label: name.clone(), name }
        });
        Self::new(label, "", Scale::Category(categories.collect()))
    }

    /// The text beside the axis: label and unit.
    pub fn text(&self) -> String {
        if self.unit.is_empty() { self.label.clone() } else { format!("{} ({})", self.label, self.unit) }
    }

    /// The names of a category axis; nothing for other scales.
    pub fn categories(&self) -> &[Category] {
        match &self.scale {
            Scale::Category(categories) => categories,
            _ => &[],
        }
    }

    /// The place `at` as written into the CSV: the full name on a category axis, else the number.
    fn cell(&self, at: f64) -> String {
        match self.categories().get(at as usize) {
            Some(category) if at >= 0.0 => category.name.clone(),
            _ => at.to_string(),
        }
    }
}

impl Point {
    /// The mean of `estimate` at `x`, with its interval.
    pub fn of(x: f64, estimate: crate::stats::Estimate) -> Self {
        let interval = estimate.half.map(|_| (estimate.low(), estimate.high()));
        Self { x, y: estimate.mean, interval }
    }

    /// A value without an interval.
    pub fn bare(x: f64, y: f64) -> Self {
        Self { x, y, interval: None }
    }
}

impl Series {
    /// A series that looks like the policy (or other text) it is called.
    pub fn new(label: &str, shape: Shape) -> Self {
        Self { label: label.into(), look: label.into(), shape }
    }
}

impl Figure {
    /// The axis along which bars and boxes stand side by side, and the axis of their values; `None` when
    /// neither is a category axis.
    pub fn category_and_value(&self) -> Option<(&Axis, &Axis)> {
        match (&self.x.scale, &self.y.scale) {
            (Scale::Category(_), _) => Some((&self.x, &self.y)),
            (_, Scale::Category(_)) => Some((&self.y, &self.x)),
            _ => None,
        }
    }

    /// Every number drawn, a row a point, in the order drawn. A value that is not known is an empty cell.
    pub fn to_csv(&self) -> String {
        let mut out = csv::Writer::from_writer(Vec::new());
        // Bars and boxes have their place on the category axis whichever way they lie.
        let laid = self.series.iter().any(|s| matches!(s.shape, Shape::Bars(_) | Shape::Boxes(_) | Shape::Stack(_)));
        let (place, value) = self.category_and_value().filter(|_| laid).unwrap_or((&self.x, &self.y));
        let boxes = self.series.iter().find_map(|s| match &s.shape {
            Shape::Boxes(boxes) => boxes.first().map(|b| b.levels.map(|p| format!("p{p}"))),
            _ => None,
        });
        let heat = self.series.iter().find_map(|s| match &s.shape {
            Shape::Heat { label, .. } => Some(label.as_str()),
            _ => None,
        });
        let last: Vec<&str> = match (&boxes, heat) {
            (Some(levels), _) => levels.iter().map(String::as_str).collect(),
            (_, Some(label)) => vec![label],
            _ => vec!["low_95", "high_95"],
        };
        let value_name = if boxes.is_some() { format!("mean {}", value.text()) } else { value.text() };
        let place_name = if place.label.is_empty() { "name".to_owned() } else { place.text() };
        let mut head = vec!["series".to_owned(), place_name, value_name];
        head.extend(last.iter().map(|s| s.to_string()));
        // Writing into memory cannot fail, and rows are all of one length by construction.
        let mut row = |cells: Vec<String>| {
            let mut cells = cells;
            cells.resize(head.len(), String::new());
            let _ = out.write_record(&cells);
        };
        row(head.clone());
        for series in &self.series {
            let label = || series.label.clone();
            match &series.shape {
                Shape::Line(points)
                | Shape::Band(points)
                | Shape::Step(points)
                | Shape::Scatter(points)
                | Shape::Bars(points) => {
                    for p in points {
                        let (low, high) = p.interval.unwrap_or((f64::NAN, f64::NAN));
                        row(vec![label(), place.cell(p.x), number(p.y), number(low), number(high)]);
                    }
                }
                Shape::Cdf(samples) => {
                    for (x, y) in cdf(samples) {
                        row(vec![label(), number(x), number(y)]);
                    }
                }
                Shape::Boxes(boxes) => {
                    for b in boxes {
                        let mut cells = vec![label(), place.cell(b.x), number(b.mean)];
                        cells.extend(b.five.map(number));
                        row(cells);
                    }
                }
                Shape::Stack(pieces) => {
                    for p in pieces {
                        row(vec![label(), place.cell(p.x), number(p.to - p.from)]);
                    }
                }
                Shape::Heat { cells, .. } => {
                    for (x, y, v) in cells {
                        row(vec![label(), self.x.cell(*x as f64), self.y.cell(*y as f64), number(*v)]);
                    }
                }
                Shape::Rule(y) => row(vec![label(), String::new(), number(*y)]),
            }
        }
        out.into_inner().ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

/// A number to ten digits, which leaves the rounding of sums out; nothing if it is not known.
fn number(value: f64) -> String {
    let rounded = format!("{value:.9e}").parse().unwrap_or(value);
    if value.is_finite() { f64::to_string(&rounded) } else { String::new() }
}

/// The steps of the distribution of `(value, weight)`: each value with the part of the weight at or below
/// it, in order, starting at `(smallest, 0)`. Nothing for no weight.
pub fn cdf(samples: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut sorted: Vec<_> = samples.iter().copied().filter(|(v, w)| v.is_finite() && *w > 0.0).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = sorted.iter().map(|s| s.1).sum();
    let mut steps: Vec<(f64, f64)> = sorted.first().map(|s| (s.0, 0.0)).into_iter().collect();
    let mut sum = 0.0;
    for (value, weight) in sorted {
        sum += weight;
        match steps.last_mut() {
            Some(last) if last.0 == value && last.1 > 0.0 => last.1 = sum / total,
            _ => steps.push((value, sum / total)),
        }
    }
    steps
}

/// `text` as a part of a file name: lower-case letters, digits, `-` and `.` stay, all else becomes `_`.
pub fn file_stem(text: &str) -> String {
    let ok = |c: char| if c.is_ascii_alphanumeric() || "-.".contains(c) { c.to_ascii_lowercase() } else { '_' };
    let stem: String = text.chars().map(ok).collect();
    stem.trim_matches(|c| c == '_' || c == '.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_csv_has_the_full_names_and_leaves_unknown_values_empty() {
        let categories = vec![Category { label: "a…".into(), name: "a, long".into() }];
        let figure = Figure {
            name: "f".into(),
            title: "t".into(),
            caption: "c".into(),
            x: Axis::new("latency", "ms", Scale::Log),
            y: Axis::new("function", "", Scale::Category(categories)),
            series: vec![
                Series::new("fixed", Shape::Bars(vec![Point { x: 0.0, y: 1.5, interval: Some((1.0, 2.0)) }])),
                Series::new("medes", Shape::Bars(vec![Point::bare(0.0, f64::NAN)])),
            ],
        };
        assert_eq!(
            figure.to_csv(),
            "series,function,latency (ms),low_95,high_95\nfixed,\"a, long\",1.5,1,2\nmedes,\"a, long\",,,\n"
        );
    }

    #[test]
    fn a_distribution_ends_at_one_and_joins_equal_values() {
        assert_eq!(cdf(&[(2.0, 1.0), (1.0, 1.0), (2.0, 2.0), (f64::NAN, 9.0)]), [(1.0, 0.0), (1.0, 0.25), (2.0, 1.0)]);
        assert!(cdf(&[]).is_empty());
    }

    #[test]
    fn file_names_hold_nothing_that_leads_elsewhere() {
        assert_eq!(file_stem("../Cold starts/20 GB"), "cold_starts_20_gb");
    }
}
