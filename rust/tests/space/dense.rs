//! Dense matrices in f64.

use crate::support::random;

/// Row-major.
#[derive(Clone, Debug)]
pub(crate) struct Dense {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f64>,
}

impl Dense {
    pub(crate) fn new(rows: usize, cols: usize, data: Vec<f64>) -> Self {
        assert_eq!(data.len(), rows * cols);
        Self { rows, cols, data }
    }

    pub(crate) fn zeros(rows: usize, cols: usize) -> Self {
        Self::new(rows, cols, vec![0.0; rows * cols])
    }

    pub(crate) fn random(rows: usize, cols: usize, seed: u64) -> Self {
        Self::new(rows, cols, random(rows * cols, seed).into_iter().map(f64::from).collect())
    }

    pub(crate) fn at(&self, i: usize, j: usize) -> f64 {
        self.data[i * self.cols + j]
    }

    pub(crate) fn times(&self, other: &Self) -> Self {
        assert_eq!(self.cols, other.rows);
        let entry = |x: usize| {
            let (i, j) = (x / other.cols, x % other.cols);
            (0..self.cols).map(|k| self.at(i, k) * other.at(k, j)).sum()
        };
        Self::new(self.rows, other.cols, (0..self.rows * other.cols).map(entry).collect())
    }

    pub(crate) fn transpose(&self) -> Self {
        let entry = |x: usize| self.at(x % self.rows, x / self.rows);
        Self::new(self.cols, self.rows, (0..self.data.len()).map(entry).collect())
    }

    pub(crate) fn scaled(&self, by: f64) -> Self {
        Self::new(self.rows, self.cols, self.data.iter().map(|x| x * by).collect())
    }

    pub(crate) fn plus(&self, other: &Self) -> Self {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols));
        let data = self.data.iter().zip(&other.data).map(|(x, y)| x + y).collect();
        Self::new(self.rows, self.cols, data)
    }

    pub(crate) fn minus(&self, other: &Self) -> Self {
        self.plus(&other.scaled(-1.0))
    }

    pub(crate) fn dot(&self, other: &Self) -> f64 {
        self.data.iter().zip(&other.data).map(|(x, y)| x * y).sum()
    }

    pub(crate) fn norm(&self) -> f64 {
        self.dot(self).sqrt()
    }

    pub(crate) fn first_columns(&self, count: usize) -> Self {
        let entry = |x: usize| self.at(x / count, x % count);
        Self::new(self.rows, count, (0..self.rows * count).map(entry).collect())
    }

    /// Eigenvalues, largest first, and eigenvectors in columns, of a symmetric matrix: Jacobi.
    pub(crate) fn eigen(&self) -> (Vec<f64>, Self) {
        let n = self.rows;
        let (mut a, mut v) = (self.clone(), Self::zeros(n, n));
        (0..n).for_each(|i| v.data[i * n + i] = 1.0);
        for _ in 0..60 {
            for p in 0..n {
                for q in p + 1..n {
                    let apq = a.at(p, q);
                    if apq.abs() < 1e-300 {
                        continue;
                    }
                    let theta = (a.at(q, q) - a.at(p, p)) / (2.0 * apq);
                    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                    let c = 1.0 / (t * t + 1.0).sqrt();
                    let turn = |m: &mut Self, x: usize, y: usize| {
                        let (mx, my) = (m.data[x], m.data[y]);
                        m.data[x] = c * (mx - t * my);
                        m.data[y] = c * (my + t * mx);
                    };
                    for k in 0..n {
                        turn(&mut a, k * n + p, k * n + q);
                        turn(&mut v, k * n + p, k * n + q);
                    }
                    for k in 0..n {
                        turn(&mut a, p * n + k, q * n + k);
                    }
                }
            }
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|i, j| a.at(*j, *j).total_cmp(&a.at(*i, *i)));
        let values = order.iter().map(|i| a.at(*i, *i)).collect();
        let entry = |x: usize| v.at(x / n, order[x % n]);
        (values, Self::new(n, n, (0..n * n).map(entry).collect()))
    }
}
