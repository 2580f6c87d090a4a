//! Pivoted Cholesky factorisation of a positive semidefinite matrix.
//!
//! `G = L L^T` with L of `n x rank`, stopping where the largest remaining pivot is rounding noise
//! (Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., section 10.3).  n^2 rank
//! flops; n is a sum of ranks, a few hundred.

use faer::Mat;

/// L, `n x rank`, rows in the order of G (so L is lower trapezoidal up to a row permutation).
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
    use super::pivoted;

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
    fn zero_has_rank_zero() {
        assert_eq!(pivoted(&[0.0; 9], 3).ncols(), 0);
    }
}
