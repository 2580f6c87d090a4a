//! A group: the members of one target, stacked side by side.
//!
//! The delta of a group is `stack_up @ stack_down` with `stack_up = [f_1 U_1 | ... | f_N U_N]`
//! (rows x R) and `stack_down = [D_1; ...; D_N]` (R x cols), R the sum of the ranks.  A member may
//! cover only a range of the rows (a slice of a fused module); it is zero elsewhere.

use std::ops::Range;

use crate::dtype::Matrix;
use crate::{Error, Result};

/// One adapter's low-rank delta `factor * up @ down`.
#[derive(Clone, Copy)]
pub struct Member<'a> {
    /// `rows x rank`.
    pub up: Matrix<'a>,
    /// `rank x cols`.
    pub down: Matrix<'a>,
    /// Scale of the adapter, times the coefficient a method gave it.
    pub factor: f64,
    /// First row of the group that `up` covers.
    pub row_start: usize,
}

/// The members of one target.
pub struct Group<'a> {
    rows: usize,
    cols: usize,
    members: Vec<Member<'a>>,
    offsets: Vec<usize>,
}

impl<'a> Group<'a> {
    /// Checks that the members fit each other.
    ///
    /// # Errors
    /// [`Error::Shape`] if ranks, rows or columns disagree, [`Error::Param`] for a factor that is
    /// not finite.
    pub fn new(rows: usize, cols: usize, members: Vec<Member<'a>>) -> Result<Self> {
        let mut offsets = vec![0];
        let mut rank = 0;
        for member in &members {
            check(rows, cols, member)?;
            rank += member.up.cols();
            offsets.push(rank);
        }
        Ok(Self { rows, cols, members, offsets })
    }

    /// Rows of the delta.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the delta.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// R, the sum of the ranks.
    pub fn rank(&self) -> usize {
        self.offsets[self.members.len()]
    }

    /// The members, in input order.
    pub fn members(&self) -> &[Member<'a>] {
        &self.members
    }

    /// Columns of the stack that belong to member `index`.
    pub fn columns(&self, index: usize) -> Range<usize> {
        self.offsets[index]..self.offsets[index + 1]
    }

    /// The factor of every column of the stack.
    pub fn factors(&self) -> Vec<f64> {
        let each = self.members.iter();
        each.flat_map(|m| std::iter::repeat_n(m.factor, m.up.cols())).collect()
    }
}

fn check(rows: usize, cols: usize, member: &Member<'_>) -> Result<()> {
    let shape = |what, expected: String, got: String| Err(Error::Shape { what, expected, got });
    let (up, down) = (&member.up, &member.down);
    if up.cols() != down.rows() {
        return shape(
            "rank of up and down",
            format!("{} (columns of up)", up.cols()),
            format!("{} (rows of down)", down.rows()),
        );
    }
    if down.cols() != cols {
        return shape("columns of down", cols.to_string(), down.cols().to_string());
    }
    let end = member.row_start.checked_add(up.rows());
    if end.is_none_or(|end| end > rows) {
        let got = format!("{} from row {}", up.rows(), member.row_start);
        return shape("rows of up", format!("at most {rows} in all"), got);
    }
    if !member.factor.is_finite() {
        return Err(Error::Param {
            name: "factor",
            value: member.factor.to_string(),
            allowed: "a finite number",
        });
    }
    Ok(())
}
