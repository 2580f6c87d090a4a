//! Decoding of parts of a stack into small row-major buffers that stay in cache.

use std::ops::Range;

use faer::traits::RealField;

use crate::Result;
use crate::dtype::{Dtype, Matrix};
use crate::group::Group;

/// Rows (or columns) decoded at a time: 256 x 96 f32 are 98 KB, inside any L2.
pub(crate) const TILE: usize = 256;

/// An arithmetic type of the kernels: f32 for speed, f64 where squares must survive.
pub(crate) trait Real: RealField + Copy + Send + Sync + Default {
    fn decode(
        matrix: &Matrix<'_>,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [Self],
        stride: usize,
    ) -> Result<()>;
    fn from_f64(value: f64) -> Self;
    fn to_f64(self) -> f64;
    /// The same numbers, if they are f32.
    fn floats(values: &mut [Self]) -> Option<&mut [f32]>;
}

macro_rules! real {
    ($type:ty, $decode:ident, $floats:expr) => {
        impl Real for $type {
            fn decode(
                matrix: &Matrix<'_>,
                rows: Range<usize>,
                cols: Range<usize>,
                out: &mut [Self],
                stride: usize,
            ) -> Result<()> {
                $decode(matrix, rows, cols, out, stride)
            }
            fn from_f64(value: f64) -> Self {
                value as Self
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn floats(values: &mut [Self]) -> Option<&mut [f32]> {
                $floats(values)
            }
        }
    };
}
real!(f32, decode, Some);
real!(f64, exact, |_| None);

fn exact(
    matrix: &Matrix<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    out: &mut [f64],
    stride: usize,
) -> Result<()> {
    matrix.decode_f64(rows, cols, out, stride)
}

/// Exact for every type but F64, whose values are rounded to f32 here and nowhere else.
pub(crate) fn decode(
    matrix: &Matrix<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    out: &mut [f32],
    stride: usize,
) -> Result<()> {
    if matrix.dtype() != Dtype::F64 {
        return matrix.decode_f32(rows, cols, out, stride);
    }
    let mut wide = vec![0f64; cols.len()];
    for (index, row) in rows.enumerate() {
        matrix.decode_f64(row..row + 1, cols.clone(), &mut wide, cols.len())?;
        let narrow = &mut out[index * stride..][..wide.len()];
        narrow.iter_mut().zip(&wide).for_each(|(n, w)| *n = *w as f32);
    }
    Ok(())
}

/// Rows `rows` of the up stack, factors not applied: `rows.len() x R`, row-major.
pub(crate) fn up_tile<T: Real>(group: &Group<'_>, rows: Range<usize>, out: &mut [T]) -> Result<()> {
    let stride = group.rank();
    if group.members().iter().any(|m| m.up.rows() != group.rows()) {
        out.fill(T::default()); // a member that covers a slice leaves zeros around it
    }
    for (index, member) in group.members().iter().enumerate() {
        let first = rows.start.max(member.row_start);
        let last = rows.end.min(member.row_start + member.up.rows());
        if first < last {
            let at = (first - rows.start) * stride + group.columns(index).start;
            let source = first - member.row_start..last - member.row_start;
            T::decode(&member.up, source, 0..member.up.cols(), &mut out[at..], stride)?;
        }
    }
    Ok(())
}

/// Columns `cols` of the down stack: `R x cols.len()`, row-major.
pub(crate) fn down_tile<T: Real>(
    group: &Group<'_>,
    cols: Range<usize>,
    out: &mut [T],
) -> Result<()> {
    let stride = cols.len();
    for (index, member) in group.members().iter().enumerate() {
        let at = group.columns(index).start * stride;
        T::decode(&member.down, 0..member.down.rows(), cols.clone(), &mut out[at..], stride)?;
    }
    Ok(())
}

/// `0..len` in pieces of at most `size`.
pub(crate) fn pieces(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len.div_ceil(size)).map(move |i| i * size..((i + 1) * size).min(len))
}
