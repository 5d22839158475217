//! Where an axis begins and ends, and the round values marked on it.

use crate::number;

/// An axis laid out: its ends and its marks.
#[derive(Clone, Debug, PartialEq)]
pub struct Ticks {
    /// The lower end.
    pub low: f64,
    /// The upper end; above `low`.
    pub high: f64,
    /// Marks within the ends, with their text.
    pub marks: Vec<(f64, String)>,
}

/// An axis in proportion over `low..=high`, widened to round values, with about `wanted` marks.
pub fn linear(low: f64, high: f64, wanted: usize) -> Ticks {
    let (low, high) = widen(low, high);
    let step = round_step((high - low) / wanted.max(1) as f64);
    let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
    let values = (0..=(last - first).min(100.0) as u32).map(|i| (first + f64::from(i)) * step);
    Ticks { low: first * step, high: last * step, marks: values.map(|v| (v, label(v, step, last * step))).collect() }
}

/// An axis over `low..=high`, in proportion or logarithmic, with marks at exactly `values`, a little wider
/// than them.
pub fn at(low: f64, high: f64, values: &[f64], log: bool) -> Ticks {
    let (low, high) = widen(low, high);
    let marks = values.iter().filter(|v| v.is_finite()).map(|v| (*v, number::trimmed(*v))).collect();
    if log && low > 0.0 {
        let margin = (high / low).powf(0.06);
        return Ticks { low: low / margin, high: high * margin, marks };
    }
    let margin = (high - low) * 0.06;
    Ticks { low: low - margin, high: high + margin, marks }
}

/// A logarithmic axis over `low..=high` (both above zero): marks at powers of ten, and at 2 and 5 times
/// them when there are few.
pub fn log(low: f64, high: f64) -> Ticks {
    let (low, high) = if low > 0.0 && high >= low && high.is_finite() { (low, high) } else { (1.0, 10.0) };
    let down = |v: f64| *steps(v).iter().rev().find(|s| **s <= v * (1.0 + 1e-9)).unwrap_or(&v);
    let up = |v: f64| *steps(v).iter().find(|s| **s >= v * (1.0 - 1e-9)).unwrap_or(&v);
    let (low, mut high) = (down(low), up(high));
    if high <= low {
        high = up(low * 1.5);
    }
    let decades = (high / low).log10();
    let (from, to) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let every = (decades / 6.0).ceil().max(1.0) as i32;
    let factors: &[f64] = if decades <= 1.7 {
        &[1.0, 2.0, 5.0]
    } else if decades <= 2.7 {
        &[1.0, 3.0]
    } else {
        &[1.0]
    };
    let marks = (from..=to)
        .filter(|e| e.rem_euclid(every) == 0)
        .flat_map(|e| factors.iter().map(move |f| f * 10f64.powi(e)))
        .filter(|v| *v >= low * (1.0 - 1e-9) && *v <= high * (1.0 + 1e-9))
        .map(|v| (v, if v >= 1.0 { label(v, v, v) } else { number::trimmed(v) }));
    Ticks { low, high, marks: marks.collect() }
}

/// The values 1, 2 and 5 times a power of ten around `v`.
fn steps(v: f64) -> Vec<f64> {
    let e = v.log10().floor() as i32;
    (e - 1..=e + 1).flat_map(|e| [1.0, 2.0, 5.0].map(|f| f * 10f64.powi(e))).collect()
}

/// 1, 2, 2.5 or 5 times a power of ten: the smallest that is not below `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].map(|f| f * power).into_iter().find(|s| *s >= step * (1.0 - 1e-9)).unwrap_or(step)
}

/// Ends that are finite and apart.
fn widen(low: f64, high: f64) -> (f64, f64) {
    match (low.is_finite() && high.is_finite(), high - low) {
        (false, _) => (0.0, 1.0),
        (_, span) if span > low.abs().max(high.abs()) * 1e-9 => (low, high),
        _ if low == 0.0 => (0.0, 1.0),
        _ => (low - low.abs() * 0.1, low + low.abs() * 0.1),
    }
}

/// `value` on an axis with marks every `step` up to `largest`: millions as M, else grouped thousands.
fn label(value: f64, step: f64, largest: f64) -> String {
    let (by, unit) = match largest {
        l if l >= 1e12 => return format!("{value:.1e}"),
        l if l >= 1e9 => (1e9, "G"),
        l if l >= 1e6 => (1e6, "M"),
        _ => (1.0, ""),
    };
    if value == 0.0 {
        return "0".into();
    }
    let places = (0..6).find(|p| ((step / by * 10f64.powi(*p)).fract() + 1e-6).fract() < 1e-5).unwrap_or(6);
    let text = number::fixed(value / by, places as usize);
    if unit.is_empty() { text } else { format!("{text}{}{unit}", number::NARROW) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(t: &Ticks) -> Vec<&str> {
        t.marks.iter().map(|m| m.1.as_str()).collect()
    }

    #[test]
    fn linear_axes_have_round_marks() {
        assert_eq!(texts(&linear(0.0, 43.0, 5)), ["0", "10", "20", "30", "40", "50"]);
        assert_eq!(texts(&linear(0.0, 1.1, 5)), ["0", "0.25", "0.50", "0.75", "1.00", "1.25"]);
        assert_eq!(
            texts(&linear(0.0, 1_900_000.0, 4)),
            ["0", "0.5\u{202f}M", "1.0\u{202f}M", "1.5\u{202f}M", "2.0\u{202f}M"]
        );
        assert_eq!(
            texts(&linear(0.0, 31_000.0, 4)),
            ["0", "10\u{202f}000", "20\u{202f}000", "30\u{202f}000", "40\u{202f}000"]
        );
    }

    #[test]
    fn nothing_and_one_value_still_give_an_axis() {
        for t in [
            linear(f64::INFINITY, f64::NEG_INFINITY, 5),
            linear(0.0, 0.0, 5),
            linear(7.0, 7.0, 5),
            log(7.0, 7.0),
            log(0.0, f64::NAN),
        ] {
            assert!(t.high > t.low && t.marks.len() >= 2, "{t:?}");
        }
        assert_eq!(texts(&at(20.0, 20.0, &[20.0], false)), ["20"]);
    }

    #[test]
    fn log_axes_mark_decades_and_parts_of_few() {
        assert_eq!(texts(&log(3.0, 60.0)), ["2", "5", "10", "20", "50", "100"]);
        assert_eq!(texts(&log(0.4, 90_000.0)), ["1", "10", "100", "1000", "10\u{202f}000", "100\u{202f}000"]);
        assert!(log(1e-9, 1e9).marks.len() <= 8);
    }
}
