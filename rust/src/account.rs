//! Inner products that a report is made of: the members among each other, and the result with them.
//!
//! For one group whose result W was written: `gram_ij = <U_i D_i, U_j D_j>` of the members as they
//! are stored, without their factors, and `along_i = <W, U_i D_i>` of what was meant after the cut,
//! before it was rounded to the output type.  With the norm of W that is enough for every angle,
//! share and best coefficient of a member in the result.  Errors are 1e-7 of the products of the
//! norms of the factors, as those of [`crate::gram`].
//!
//! With `W = L R` (rows x k, k x cols), `along_i = sum of (U_i^T L) * (D_i R^T)`; where W was made
//! from the stack, the Gram matrices of the stack give both products.  Cost: `O(R^2 k)`, or
//! `2 (rows + cols) R k` flops for a W that is given as it is.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};

use crate::Result;
use crate::dtype::{Dtype, Matrix};
use crate::gram::{Grams, factor_grams, is_safe};
use crate::group::{Group, Member};
use crate::sink::put;
use crate::stack::Meant;
use crate::tile::{Real, TILE, down_tile, pieces, up_tile};

/// What is kept of a written result; see the head of the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// `n x n`, row-major, symmetric to the bit.
    pub gram: Vec<f64>,
    /// `n`, in the order of the members.
    pub along: Vec<f64>,
}

impl Account {
    /// With that of members in other rows, which have nothing in common with these.
    pub(crate) fn beside(self, other: Self) -> Self {
        let (n, m) = (self.along.len(), other.along.len());
        let mut gram = vec![0.0; (n + m) * (n + m)];
        for i in 0..n {
            gram[i * (n + m)..][..n].copy_from_slice(&self.gram[i * n..][..n]);
        }
        for i in 0..m {
            gram[(n + i) * (n + m) + n..][..m].copy_from_slice(&other.gram[i * m..][..m]);
        }
        Self { gram, along: [self.along, other.along].concat() }
    }
}

/// The account of a pair that was written: up (`rows x rank`) and then down at the front of `out`,
/// up times `gain`.
///
/// # Errors
/// Bytes that do not decode.
pub fn of_written(
    group: &Group<'_>,
    (rank, gain): (usize, f64),
    dtype: Dtype,
    out: &[u8],
) -> Result<Account> {
    let (rows, cols) = (group.rows(), group.cols());
    let (up, rest) = out.split_at(rows * rank * dtype.size());
    let member = Member {
        up: Matrix::new(dtype, rows, rank, up)?,
        down: Matrix::new(dtype, rank, cols, &rest[..rank * cols * dtype.size()])?,
        factor: 1.0,
        row_start: 0,
    };
    let pair = Group::new(rows, cols, vec![member])?;
    let one = |scale: f64| Mat::from_fn(rank, rank, |i, j| if i == j { scale } else { 0.0 });
    let meant = Meant { left: one(1.0 / gain), right: one(1.0) };
    let fast = factor_grams::<f32>(group)?;
    if is_safe(group, &fast) {
        across::<f32>(group, &pair, &fast, &meant)
    } else {
        across::<f64>(group, &pair, &factor_grams::<f64>(group)?, &meant)
    }
}

/// Little-endian bytes of finite floats.
pub(crate) fn bytes(values: &[f32]) -> Result<Vec<u8>> {
    let mut bytes = vec![0; values.len() * Dtype::F32.size()];
    put(Dtype::F32, values, &mut bytes)?;
    Ok(bytes)
}

/// The account of what was made from the stack of the group itself.
pub(crate) fn of_meant(group: &Group<'_>, grams: &Grams, meant: &Meant) -> Account {
    let rank = group.rank();
    let up = MatRef::from_column_major_slice(&grams.up, rank, rank);
    let down = MatRef::from_column_major_slice(&grams.down, rank, rank);
    let (left, right) = (up * &meant.left, &meant.right * down);
    Account { gram: inner(group, grams), along: along(group, &left, &right) }
}

/// The account, for the members of `group`, of `pairs` that were turned into `left` (R x k of the
/// rows of the group) and `right` (k x all pairs).
///
/// # Errors
/// Bytes that do not decode.
pub(crate) fn of_turned(
    group: &Group<'_>,
    grams: &Grams,
    left: &Mat<f64>,
    (pairs, right): (&Group<'_>, &Mat<f64>),
    safe: bool,
) -> Result<Account> {
    let down = if safe && is_safe(group, grams) {
        down_products::<f32>(group, pairs)?
    } else {
        down_products::<f64>(group, pairs)?
    };
    let right = right * down.transpose();
    Ok(Account { gram: inner(group, grams), along: along(group, left, &right) })
}

fn across<T: Real>(
    group: &Group<'_>,
    pairs: &Group<'_>,
    grams: &Grams,
    meant: &Meant,
) -> Result<Account> {
    let (up, down) = (up_products::<T>(group, pairs)?, down_products::<T>(group, pairs)?);
    let (left, right) = (&up * &meant.left, &meant.right * down.transpose());
    Ok(Account { gram: inner(group, grams), along: along(group, &left, &right) })
}

/// Traces of the members' blocks of `left (R x k) * right (k x R)`.
fn along(group: &Group<'_>, left: &Mat<f64>, right: &Mat<f64>) -> Vec<f64> {
    let of_column = |a: usize| (0..left.ncols()).map(|j| left[(a, j)] * right[(j, a)]).sum::<f64>();
    let members = 0..group.members().len();
    members.map(|i| group.columns(i).map(of_column).sum()).collect()
}

/// Inner products of the members without their factors, from the Gram matrices of the stack.
pub(crate) fn inner(group: &Group<'_>, grams: &Grams) -> Vec<f64> {
    let (n, rank) = (group.members().len(), group.rank());
    let mut gram = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let rows = group.columns(i);
            let of_column = |a: usize| {
                let block = a * rank + rows.start..a * rank + rows.end;
                let terms = grams.up[block.clone()].iter().zip(&grams.down[block]);
                terms.map(|(u, d)| u * d).sum::<f64>()
            };
            let value = group.columns(j).map(of_column).sum();
            gram[i * n + j] = value;
            gram[j * n + i] = value;
        }
    }
    gram
}

/// `U_a^T U_b` of two stacks, `R_a x R_b`.
fn up_products<T: Real>(a: &Group<'_>, b: &Group<'_>) -> Result<Mat<f64>> {
    let mut sum = Sum::<T>::new(a.rank(), b.rank());
    for rows in pieces(a.rows(), TILE) {
        let n = rows.len();
        let (x, y) = sum.tiles(n);
        up_tile(a, rows.clone(), x)?;
        up_tile(b, rows, y)?;
        sum.add(n, |x, n, rank| MatRef::from_row_major_slice(x, n, rank).transpose());
    }
    Ok(sum.total)
}

/// `D_a D_b^T` of two stacks, `R_a x R_b`.
fn down_products<T: Real>(a: &Group<'_>, b: &Group<'_>) -> Result<Mat<f64>> {
    let mut sum = Sum::<T>::new(a.rank(), b.rank());
    for cols in pieces(a.cols(), TILE) {
        let n = cols.len();
        let (x, y) = sum.tiles(n);
        down_tile(a, cols.clone(), x)?;
        down_tile(b, cols, y)?;
        sum.add(n, |x, n, rank| MatRef::from_row_major_slice(x, rank, n));
    }
    Ok(sum.total)
}

/// Products of tiles in T, summed in f64.
struct Sum<T> {
    x: Vec<T>,
    y: Vec<T>,
    product: Vec<T>,
    total: Mat<f64>,
}

impl<T: Real> Sum<T> {
    fn new(a: usize, b: usize) -> Self {
        let buffer = |size: usize| vec![T::default(); size];
        let total = Mat::zeros(a, b);
        Self { x: buffer(a * TILE), y: buffer(b * TILE), product: buffer(a * b), total }
    }

    /// Where the next tiles go, `n` rows or columns wide.
    fn tiles(&mut self, n: usize) -> (&mut [T], &mut [T]) {
        let (a, b) = (self.total.nrows(), self.total.ncols());
        (&mut self.x[..a * n], &mut self.y[..b * n])
    }

    /// Adds `x y^T` of the tiles; `view` makes `rank x n` of one.
    fn add(&mut self, n: usize, view: impl for<'t> Fn(&'t [T], usize, usize) -> MatRef<'t, T>) {
        let (a, b) = (self.total.nrows(), self.total.ncols());
        let target = MatMut::from_column_major_slice_mut(&mut self.product, a, b);
        let (x, y) = (view(&self.x[..a * n], n, a), view(&self.y[..b * n], n, b));
        matmul(target, Accum::Replace, x, y.transpose(), T::from_f64(1.0), Par::Seq);
        for (column, values) in self.product.chunks_exact(a.max(1)).enumerate() {
            for (row, value) in values.iter().enumerate() {
                self.total[(row, column)] += value.to_f64();
            }
        }
    }
}
