//! The parameter that a misspelt name may have meant.

use super::PARAMETERS;

/// The known parameter that is nearest to `name`, if one is near.
pub fn nearest(name: &str) -> Option<&'static str> {
    let near = PARAMETERS.iter().map(|p| (edit_distance(name, p.name), p.name)).min()?;
    (near.0 <= 2.max(name.len() / 3)).then_some(near.1)
}

/// Levenshtein distance of two short names.
pub fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}
