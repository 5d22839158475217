//! Patch sizes as a line: header + site x edits + byte x bytes.

/// Least squares over samples of (edits, bytes, patch size), none of the three figures below zero.
pub(super) fn patch_size(samples: impl Iterator<Item = [f64; 3]>) -> [f64; 3] {
    // Normal equations of size = c0 + c1 x + c2 y.
    let mut a = [[0.0; 3]; 3];
    let mut b = [0.0; 3];
    let mut n = 0.0;
    for [x, y, size] in samples {
        let row = [1.0, x, y];
        for i in 0..3 {
            for j in 0..3 {
                a[i][j] += row[i] * row[j];
            }
            b[i] += row[i] * size;
        }
        n += 1.0;
    }
    if n == 0.0 {
        return [0.0; 3];
    }
    // Drop whatever comes out negative, and fit the rest again.
    let mut used = [true; 3];
    loop {
        let c = solve(&a, &b, used);
        match (0..3).find(|i| used[*i] && c[*i] < 0.0) {
            Some(i) => used[i] = false,
            None => return c.map(|v| (v * 100.0).round() / 100.0),
        }
    }
}

/// Solves the equations of the columns in use by elimination; the others are zero.
fn solve(a: &[[f64; 3]; 3], b: &[f64; 3], used: [bool; 3]) -> [f64; 3] {
    let mut m = [[0.0; 4]; 3];
    for i in 0..3 {
        for j in 0..3 {
            m[i][j] = if used[i] && used[j] { a[i][j] } else { f64::from(u8::from(i == j)) };
        }
        m[i][3] = if used[i] { b[i] } else { 0.0 };
        // A ridge too small to matter, for samples that are all alike.
        m[i][i] += 1e-9;
    }
    for i in 0..3 {
        let pivot = m[i].map(|v| v / m[i][i]);
        for (k, row) in m.iter_mut().enumerate() {
            let factor = row[i];
            if k == i {
                *row = pivot;
            } else {
                row.iter_mut().zip(pivot).for_each(|(v, p)| *v -= factor * p);
            }
        }
    }
    [m[0][3], m[1][3], m[2][3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_again_and_nothing_is_negative() {
        let points = (0..50).map(|i| {
            let (x, y) = (f64::from(i % 7), f64::from(i * i % 90));
            [x, y, 20.0 + 3.0 * x + 1.5 * y]
        });
        assert_eq!(patch_size(points), [20.0, 3.0, 1.5]);
        let falling = (0..50).map(|i| [f64::from(i), f64::from(i % 3), 60.0 - f64::from(i)]);
        assert!(patch_size(falling).iter().all(|c| *c >= 0.0));
        assert_eq!(patch_size(std::iter::empty()), [0.0; 3]);
        assert_eq!(patch_size([[4.0, 9.0, 30.0]; 5].into_iter()).len(), 3);
    }
}
