//! The house style: what colour, dash and marker stand for which policy, sizes, fonts.
//!
//! A figure is drawn for one print column of 85 mm, which its width of [`WIDTH`] units fills: a unit is then
//! 0.5 point and the smallest text 6.5 points high. The colours are those of Okabe and Ito (2008) with four of
//! Paul Tol's muted scheme, which people with any of the common colour deficiencies tell apart; in grey, the
//! marker and the dash do it.

/// Width of every figure, units. SVG files have this width in pixels, PNG files twice as many.
pub const WIDTH: f64 = 480.0;
/// Height of the plot area of a figure without names on its vertical axis, units.
pub const PLOT_HEIGHT: f64 = 230.0;
/// Size of the title, units.
pub const TITLE: f64 = 15.0;
/// Size of the axes' labels and the legend, units.
pub const TEXT: f64 = 14.0;
/// Size of the ticks' labels, units.
pub const SMALL: f64 = 13.0;

/// The font family asked for in SVG files: the one that widths are measured in comes first, then those
/// of nearly its widths.
pub const FONT_FAMILY: &str = "DejaVu Sans, Verdana, Bitstream Vera Sans, Geneva, sans-serif";

/// A colour: red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rgb(pub u8, pub u8, pub u8);

/// Text, axes.
pub const INK: Rgb = Rgb(0x22, 0x22, 0x22);
/// Grid lines.
pub const GRID: Rgb = Rgb(0xdd, 0xdd, 0xdd);
/// The ground of every figure.
pub const PAPER: Rgb = Rgb(0xff, 0xff, 0xff);

/// The sign at a data point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// A filled disc.
    Disc,
    /// A filled square.
    Square,
    /// A filled triangle on its foot.
    Up,
    /// A filled triangle on its tip.
    Down,
    /// A filled square on its tip.
    Diamond,
    /// Two strokes from corner to corner.
    Cross,
    /// An upright cross.
    Plus,
    /// A star of five rays.
    Star,
    /// A ring.
    Ring,
    /// An empty square.
    Frame,
    /// A filled hexagon.
    Hexagon,
    /// None: for reference lines.
    None,
}

/// How a series looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Look {
    /// Of lines, markers and bars.
    pub color: Rgb,
    /// Lengths of stroke and gap in turn, units; empty for a solid line.
    pub dash: &'static [f64],
    /// At data points and at the tips of bars.
    pub marker: Marker,
}

const fn look_of(color: Rgb, dash: &'static [f64], marker: Marker) -> Look {
    Look { color, dash, marker }
}

const SOLID: &[f64] = &[];
const LONG: &[f64] = &[9.0, 4.0];
const SHORT: &[f64] = &[4.5, 3.0];
const DOT: &[f64] = &[1.8, 2.6];
const DASH_DOT: &[f64] = &[9.0, 3.0, 2.0, 3.0];

/// The policies known by name, in the order of every legend, table and group of bars. Policies that are
/// not in it come after `medes` by name, and the bound `oracle` always last.
const POLICIES: &[(&str, Look)] = &[
    ("no-keep-alive", look_of(Rgb(0x77, 0x77, 0x77), DOT, Marker::Cross)),
    ("fixed", look_of(Rgb(0x00, 0x72, 0xb2), LONG, Marker::Square)),
    ("adaptive", look_of(Rgb(0x00, 0x9e, 0x73), DASH_DOT, Marker::Up)),
    ("lru", look_of(Rgb(0x56, 0xb4, 0xe9), SHORT, Marker::Ring)),
    ("greedy-dual", look_of(Rgb(0xcc, 0x79, 0xa7), SHORT, Marker::Diamond)),
    ("compress", look_of(Rgb(0xe6, 0x9f, 0x00), LONG, Marker::Down)),
    ("none-heuristic", look_of(Rgb(0x99, 0x99, 0x33), DASH_DOT, Marker::Frame)),
    ("heuristic-openwhisk", look_of(Rgb(0x33, 0x22, 0x88), SHORT, Marker::Plus)),
    ("heuristic", look_of(Rgb(0x88, 0x22, 0x55), DASH_DOT, Marker::Hexagon)),
    ("medes", look_of(Rgb(0xd5, 0x5e, 0x00), SOLID, Marker::Disc)),
    ("oracle", look_of(Rgb(0x00, 0x00, 0x00), DOT, Marker::Star)),
];

/// Policies under names of their own, told apart from the policy itself.
const VARIANTS: &[(&str, Look)] = &[
    ("medes, latency", look_of(Rgb(0x88, 0x22, 0x55), LONG, Marker::Ring)),
    ("compress, zstd", look_of(Rgb(0x99, 0x99, 0x33), SHORT, Marker::Frame)),
    ("medes, ASLR off", look_of(Rgb(0x88, 0x22, 0x55), LONG, Marker::Ring)),
    ("compress, ASLR off", look_of(Rgb(0x33, 0x22, 0x88), SHORT, Marker::Plus)),
    ("compress, zstd, ASLR on", look_of(Rgb(0x99, 0x99, 0x33), SHORT, Marker::Frame)),
    ("compress, zstd, ASLR off", look_of(Rgb(0x56, 0xb4, 0xe9), DASH_DOT, Marker::Hexagon)),
    ("later than fixed", look_of(Rgb(0x56, 0xb4, 0xe9), SOLID, Marker::Cross)),
    ("later than adaptive", look_of(Rgb(0x99, 0x99, 0x33), SOLID, Marker::Down)),
];

/// For names that the house does not know.
const SPARE: &[Look] = &[
    look_of(Rgb(0x44, 0xaa, 0x99), LONG, Marker::Hexagon),
    look_of(Rgb(0xaa, 0x44, 0x99), DASH_DOT, Marker::Frame),
    look_of(Rgb(0x66, 0x11, 0x00), SHORT, Marker::Plus),
    look_of(Rgb(0x11, 0x77, 0x33), DOT, Marker::Ring),
    look_of(Rgb(0x66, 0x99, 0xcc), DASH_DOT, Marker::Diamond),
    look_of(Rgb(0xcc, 0x66, 0x77), LONG, Marker::Up),
];

/// For series that are no policies, by number: as many as there are functions in the paper, no two alike.
const NUMBERED: &[Look] = &[
    look_of(Rgb(0x00, 0x72, 0xb2), SOLID, Marker::Disc),
    look_of(Rgb(0xd5, 0x5e, 0x00), LONG, Marker::Square),
    look_of(Rgb(0x00, 0x9e, 0x73), SHORT, Marker::Up),
    look_of(Rgb(0xcc, 0x79, 0xa7), DASH_DOT, Marker::Diamond),
    look_of(Rgb(0xe6, 0x9f, 0x00), SOLID, Marker::Down),
    look_of(Rgb(0x56, 0xb4, 0xe9), LONG, Marker::Ring),
    look_of(Rgb(0x33, 0x22, 0x88), SHORT, Marker::Plus),
    look_of(Rgb(0x88, 0x22, 0x55), DASH_DOT, Marker::Hexagon),
    look_of(Rgb(0x99, 0x99, 0x33), LONG, Marker::Frame),
    look_of(Rgb(0x22, 0x22, 0x22), SHORT, Marker::Star),
];

/// The look of reference lines such as a memory cap: see [`crate::figure::Shape::Rule`].
const RULE: Look = look_of(Rgb(0x55, 0x55, 0x55), SHORT, Marker::None);

/// The look of `name`: that of the policy of this name, or of the policy it begins with (`medes, 10 nodes`);
/// `cap` is the look of reference lines, `#0`, `#1`, ... of series by number; any other name gets one of a few spare
/// looks, always the same.
pub fn look(name: &str) -> Look {
    if name == "cap" {
        return RULE;
    }
    if let Some(number) = name.strip_prefix('#').and_then(|n| n.parse::<usize>().ok()) {
        return NUMBERED[number % NUMBERED.len()];
    }
    if let Some((_, look)) = VARIANTS.iter().find(|(variant, _)| *variant == name) {
        return *look;
    }
    if let Some((_, look)) = POLICIES.iter().find(|(policy, _)| *policy == base_name(name)) {
        return *look;
    }
    // FNV-1a: the same name has the same look in every figure and run.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    SPARE[(hash % SPARE.len() as u64) as usize]
}

/// Where `policy` stands among others: sort by this.
pub fn policy_rank(policy: &str) -> (usize, String) {
    let known = POLICIES.iter().position(|(name, _)| *name == base_name(policy));
    let medes = POLICIES.len() - 2;
    let rank = match known {
        Some(rank) if rank <= medes => rank,
        Some(_) => usize::MAX,
        None => medes + 1,
    };
    (rank, policy.to_owned())
}

/// What comes before a comma, a blank or a bracket.
fn base_name(name: &str) -> &str {
    name.split([',', ' ', '(']).next().unwrap_or(name)
}

/// The colour of `part` (0 to 1) of the way along the scale of heat maps: from light to dark in grey too,
/// and apart for every colour deficiency (stops taken from the scale *cividis*, reversed).
pub fn heat(part: f64) -> Rgb {
    const STOPS: [(f64, f64, f64); 5] =
        [(254.0, 232.0, 56.0), (188.0, 174.0, 108.0), (124.0, 123.0, 120.0), (67.0, 78.0, 107.0), (0.0, 34.0, 78.0)];
    let at = if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 } * (STOPS.len() - 1) as f64;
    let i = (at as usize).min(STOPS.len() - 2);
    let mix = |a: f64, b: f64| (a + (b - a) * (at - i as f64)).round() as u8;
    let (a, b) = (STOPS[i], STOPS[i + 1]);
    Rgb(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_policy_looks_different_in_colour_and_in_marker() {
        for (i, (a, la)) in POLICIES.iter().enumerate() {
            for (b, lb) in &POLICIES[..i] {
                assert!(la.color != lb.color && la.marker != lb.marker, "{a} and {b} look alike");
            }
        }
    }

    #[test]
    fn numbered_series_and_variants_are_told_apart() {
        for (i, a) in NUMBERED.iter().enumerate() {
            assert!(NUMBERED[..i].iter().all(|b| a.color != b.color && a.marker != b.marker), "#{i} is there twice");
            assert_eq!(look(&format!("#{i}")), *a);
        }
        for (name, variant) in VARIANTS {
            let policy = look(base_name(name));
            assert!(variant.color != policy.color && variant.marker != policy.marker, "{name}");
        }
    }

    #[test]
    fn policies_stand_in_the_order_of_the_house() {
        let mut names = ["oracle", "zebra", "medes", "fixed", "adaptive", "ant"];
        names.sort_by_key(|n| policy_rank(n));
        assert_eq!(names, ["fixed", "adaptive", "medes", "ant", "zebra", "oracle"]);
        assert_eq!(look("medes, 10 nodes"), look("medes"));
        assert_eq!(look("mine"), look("mine"));
    }

    #[test]
    fn heat_colours_stay_on_the_scale() {
        assert_eq!(heat(-1.0), heat(0.0));
        assert_eq!(heat(7.0), Rgb(0, 34, 78));
        assert_eq!(heat(f64::NAN), heat(0.0));
    }
}
