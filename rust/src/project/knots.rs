//! What a program makes of one part in the joint left basis: a pair with rows of its own.

use faer::{Mat, MatRef};

use super::{Space, is_plain, result};
use crate::Result;
use crate::account::bytes;
use crate::condense::Part;
use crate::dtype::{Dtype, Matrix};
use crate::gram::{Grams, factor_grams};
use crate::group::Member;
use crate::space::{Bases, norm};
use crate::split::Split;

/// What is made of a part in knots.
pub(super) struct Made {
    /// Of the part's own stack.
    pub(super) grams: Grams,
    /// `None` where what is made of the members that are seen is those themselves.
    pub(super) pair: Option<Pair>,
    /// Places of these members, and of those that go around them.
    pub(super) seen: Vec<usize>,
    pub(super) around: Vec<usize>,
    /// `U_i^T U` of the part's members and the up sides of the pair and those that go around,
    /// `R x rank`.
    pub(super) ups: Mat<f64>,
}

/// f32 bytes of the result of one part.
pub(super) struct Pair {
    up: Vec<u8>,
    down: Vec<u8>,
    rank: usize,
}

impl Pair {
    pub(super) fn member(&self, part: &Part<'_, '_>) -> Result<Member<'_>> {
        let (rows, cols) = (part.group.rows(), part.group.cols());
        Ok(Member {
            up: Matrix::new(Dtype::F32, rows, self.rank, &self.up)?,
            down: Matrix::new(Dtype::F32, self.rank, cols, &self.down)?,
            factor: 1.0,
            row_start: part.row_start,
        })
    }
}

/// Runs the program of a part on knots.
pub(super) fn pair(part: &Part<'_, '_>) -> Result<Made> {
    let grams = factor_grams::<f64>(part.group)?;
    let rank = part.group.rank();
    let all = MatRef::from_column_major_slice(&grams.up, rank, rank);
    let Some(split) = Split::of(part)? else {
        let (pair, ups) = pair_of_seen(part, &grams, all)?;
        let seen = (0..part.group.members().len()).collect();
        return Ok(Made { grams, pair, seen, around: vec![], ups });
    };
    let columns = |of: &[usize]| Mat::from_fn(rank, of.len(), |a, j| all[(a, of[j])]);
    let (own, own_grams) = (split.part(part), split.grams(&grams));
    let (pair, ups) = pair_of_seen(&own, &own_grams, columns(&split.columns).as_ref())?;
    let ups = concat(&ups, &columns(&split.columns_around));
    let Split { seen, around, .. } = split;
    Ok(Made { grams, pair, seen, around, ups })
}

/// `[a | b]`.
fn concat(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    let n = a.ncols();
    let entry = |i, j| if j < n { a[(i, j)] } else { b[(i, j - n)] };
    Mat::from_fn(a.nrows(), n + b.ncols(), entry)
}

/// [`pair`] of a part of which nothing goes around, and the products of up sides with that of the
/// pair; `ups` are those with the part's members.
fn pair_of_seen(
    part: &Part<'_, '_>,
    grams: &Grams,
    ups: MatRef<'_, f64>,
) -> Result<(Option<Pair>, Mat<f64>)> {
    let group = part.group;
    if is_plain(part) {
        return Ok((None, ups.to_owned()));
    }
    let bases = Bases::new(group, grams, &vec![1.0; group.members().len()], false)?;
    let (rank, ups) = (bases.left.size(), bases.ups(ups));
    let (mut up, mut down) = (vec![], vec![]);
    if rank > 0 {
        let result = result(part, &bases, Space::Knots)?;
        let size = |row: &[f32]| norm(row.iter().map(|x| f64::from(*x)));
        let sizes: Vec<f64> = result.chunks_exact(group.cols()).map(size).collect();
        (up, down) = (bases.up_bytes(&sizes)?, bytes(&result)?);
    }
    Ok((Some(Pair { up, down, rank }), ups))
}
