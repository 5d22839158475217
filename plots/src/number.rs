//! Numbers for people: grouped by thousands, no more digits than mean something.

/// Between the groups of thousands, and between number and unit: a narrow space that does not break.
pub const NARROW: char = '\u{202f}';

/// What stands for a number that is not known.
pub const UNKNOWN: &str = "–";

/// `value` with `decimals` places, thousands grouped when there are five digits or more, a true minus sign.
pub fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return UNKNOWN.into();
    }
    let digits = format!("{:.decimals$}", value.abs());
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut out = String::new();
    if value < 0.0 && digits.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        out.push('−');
    }
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && whole.len() > 4 && (whole.len() - i).is_multiple_of(3) {
            out.push(NARROW);
        }
        out.push(c);
    }
    out + rest
}

/// A whole number, grouped.
pub fn count(value: f64) -> String {
    fixed(value, 0)
}

/// About three digits that mean something: 0.123, 4.56, 78.9, 1234, 12 345.
pub fn short(value: f64) -> String {
    let size = value.abs();
    let decimals = match size {
        s if s == 0.0 || s >= 99.95 => 0,
        s if s >= 9.995 => 1,
        s if s >= 0.9995 => 2,
        _ => 3,
    };
    fixed(value, decimals)
}

/// As [`short`], without zeros at the end: 20, 1.5, 0.25.
pub fn trimmed(value: f64) -> String {
    let text = short(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A part as per cent: 12.3 %, 0.45 %.
pub fn percent(part: f64) -> String {
    let decimals = if part.abs() < 0.00995 { 2 } else { 1 };
    if part.is_finite() { format!("{}{NARROW}%", fixed(part * 100.0, decimals)) } else { UNKNOWN.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped_from_five_digits_on() {
        assert_eq!(count(1234.4), "1234");
        assert_eq!(count(1_234_567.0), "1\u{202f}234\u{202f}567");
        assert_eq!(fixed(-12345.678, 1), "−12\u{202f}345.7");
        assert_eq!(fixed(-0.001, 1), "0.0");
        assert_eq!(count(f64::NAN), UNKNOWN);
    }

    #[test]
    fn about_three_digits_are_kept() {
        assert_eq!(
            [0.0, 0.1234, 4.567, 9.999, 78.91, 99.99, 1234.5].map(short),
            ["0", "0.123", "4.57", "10.0", "78.9", "100", "1234"]
        );
        assert_eq!([20.0, 1.5, 0.25].map(trimmed), ["20", "1.5", "0.25"]);
        assert_eq!(percent(0.1234), "12.3\u{202f}%");
    }
}
