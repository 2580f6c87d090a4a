//! Cholesky factorisations of a Gram matrix: the fast one for independent columns, the pivoted one
//! for all others.

use faer::{Mat, MatRef, Side};

/// Share of a column's square that must be its own for the columns to count as independent.
const OWN: f64 = 1e-5;

/// L with `G = L L^T`, lower triangular, if every column is clearly independent of those before;
/// safe for Gram matrices with relative errors up to 1e-7.  n^3 / 3 flops.
pub(crate) fn definite(gram: &[f64], n: usize) -> Option<Mat<f64>> {
    definite_above(MatRef::from_column_major_slice(gram, n, n), OWN)
}

/// The same if more than the share `own` of every column's square is its own.
pub(crate) fn definite_above(gram: MatRef<'_, f64>, own: f64) -> Option<Mat<f64>> {
    let lower = gram.llt(Side::Lower).ok()?.L().to_owned();
    let clear = |a: usize| lower[(a, a)] * lower[(a, a)] > own * gram[(a, a)];
    (0..gram.nrows()).all(clear).then_some(lower)
}

/// L with `G = L L^T`, `n x rank`, rows in the order of G, stopping where the largest remaining
/// pivot is rounding noise (Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed.,
/// section 10.3).  n^2 rank flops.
pub(crate) fn pivoted(gram: &[f64], n: usize) -> Mat<f64> {
    let mut rest = gram.to_vec();
    let largest = (0..n).map(|i| rest[i * n + i]).fold(0.0, f64::max);
    let noise = largest * f64::EPSILON * n as f64;
    let mut left: Vec<usize> = (0..n).collect();
    let mut columns: Vec<Vec<f64>> = Vec::with_capacity(n);
    while let Some(slot) = next_pivot(&rest, n, &left, noise) {
        let pivot = left.swap_remove(slot);
        let root = rest[pivot * n + pivot].sqrt();
        let mut column = vec![0.0; n];
        column[pivot] = root;
        for &row in &left {
            column[row] = rest[pivot * n + row] / root;
        }
        for &other in &left {
            let factor = column[other];
            let target = &mut rest[other * n..(other + 1) * n];
            target.iter_mut().zip(&column).for_each(|(t, c)| *t -= factor * c);
        }
        columns.push(column);
    }
    Mat::from_fn(n, columns.len(), |i, j| columns[j][i])
}

fn next_pivot(rest: &[f64], n: usize, left: &[usize], noise: f64) -> Option<usize> {
    let mut best = None;
    let mut value = noise;
    for (slot, &index) in left.iter().enumerate() {
        let diagonal = rest[index * n + index];
        if diagonal > value {
            value = diagonal;
            best = Some(slot);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::{definite, pivoted};

    fn product(factors: &[f64], n: usize, r: usize) -> Vec<f64> {
        let at = |i: usize, j: usize| (0..r).map(|k| factors[i * r + k] * factors[j * r + k]).sum();
        (0..n * n).map(|x| at(x / n, x % n)).collect()
    }

    #[test]
    fn rebuilds_a_singular_matrix_with_its_rank() {
        let factors: Vec<f64> = (0..7 * 3).map(|x| f64::from((x * x * 37) % 19) - 9.0).collect();
        let gram = product(&factors, 7, 3);
        let l = pivoted(&gram, 7);
        assert_eq!(l.ncols(), 3);
        let back = &l * l.transpose();
        let worst = (0..49).map(|x| (back[(x / 7, x % 7)] - gram[x]).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-10, "{worst}");
    }

    #[test]
    fn definite_agrees_and_refuses_dependent_columns() {
        let factors: Vec<f64> = (0..5 * 5).map(|x| f64::from((x * x * 37) % 19) - 9.0).collect();
        let gram = product(&factors, 5, 5);
        let l = definite(&gram, 5).expect("independent rows");
        let back = &l * l.transpose();
        let worst = (0..25).map(|x| (back[(x / 5, x % 5)] - gram[x]).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-9, "{worst}");
        assert!(definite(&product(&factors, 8, 3), 8).is_none());
    }

    #[test]
    fn zero_has_rank_zero() {
        assert_eq!(pivoted(&[0.0; 9], 3).ncols(), 0);
    }
}
