//! A part of which some members go around the program.

use faer::Mat;

use crate::condense::Part;
use crate::elementwise::{Program, Side};
use crate::gram::Grams;
use crate::group::Group;
use crate::recompress::Mixing;
use crate::{Error, Result};

/// The members that a program sees as a group of their own, and the others.
pub(crate) struct Split<'a> {
    group: Group<'a>,
    weights: Vec<f64>,
    program: Program,
    /// Places of the members that are seen, and of those that go around.
    pub(crate) seen: Vec<usize>,
    pub(crate) around: Vec<usize>,
    /// Columns of the part's stack that belong to them.
    pub(crate) columns: Vec<usize>,
    pub(crate) columns_around: Vec<usize>,
}

impl<'a> Split<'a> {
    /// `None` where nothing goes around.
    ///
    /// # Errors
    /// [`Error::Shape`] for sides or weights that are not one for each member.
    pub(crate) fn of(part: &Part<'_, 'a>) -> Result<Option<Self>> {
        let (group, sides) = (part.group, &part.program.sides);
        let count = group.members().len();
        part.program.check_sides(count)?;
        if part.weights.len() != count {
            return Err(Error::Shape {
                what: "weights",
                expected: format!("{count}, one for each member"),
                got: part.weights.len().to_string(),
            });
        }
        if !sides.contains(&Side::Around) {
            return Ok(None);
        }
        let is_around = |i: &usize| sides[*i] == Side::Around;
        let (around, seen): (Vec<_>, Vec<_>) = (0..sides.len()).partition(is_around);
        let columns = |of: &[usize]| of.iter().flat_map(|i| group.columns(*i)).collect();
        let members = seen.iter().map(|i| group.members()[*i]).collect();
        let kept: Vec<Side> = seen.iter().map(|i| sides[*i]).collect();
        let sides = if kept.iter().all(|side| *side == Side::All) { vec![] } else { kept };
        Ok(Some(Self {
            group: Group::new(group.rows(), group.cols(), members)?,
            weights: seen.iter().map(|i| part.weights[*i]).collect(),
            program: Program { sides, ..part.program.clone() },
            columns: columns(&seen),
            columns_around: columns(&around),
            seen,
            around,
        }))
    }

    /// What the program sees of the part that was split.
    pub(crate) fn part(&self, whole: &Part<'_, '_>) -> Part<'_, 'a> {
        Part {
            group: &self.group,
            weights: self.weights.clone(),
            program: self.program.clone(),
            row_start: whole.row_start,
        }
    }

    /// The Gram matrices of what is seen, from those of the part.
    pub(crate) fn grams(&self, whole: &Grams) -> Grams {
        let rank = self.columns.len() + self.columns_around.len();
        let of = |gram: &[f64]| {
            let pairs = self.columns.iter().flat_map(|a| self.columns.iter().map(move |b| (a, b)));
            pairs.map(|(a, b)| gram[a * rank + b]).collect()
        };
        Grams { up: of(&whole.up), down: of(&whole.down) }
    }

    /// What the part mixes from its stacks of `rank` columns, if `seen` is what is mixed from those
    /// that are seen.
    pub(crate) fn beside(&self, seen: &Mixing, rank: usize) -> Mixing {
        let p = seen.up.ncols();
        let size = p + self.columns_around.len();
        let (mut up, mut down) = (Mat::zeros(rank, size), Mat::zeros(size, rank));
        for (own, column) in self.columns.iter().enumerate() {
            for j in 0..p {
                up[(*column, j)] = seen.up[(own, j)];
                down[(j, *column)] = seen.down[(j, own)];
            }
        }
        for (own, column) in self.columns_around.iter().enumerate() {
            up[(*column, p + own)] = 1.0;
            down[(p + own, *column)] = 1.0;
        }
        Mixing { up, down }
    }
}
