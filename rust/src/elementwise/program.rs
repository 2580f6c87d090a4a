//! What an elementwise method does, as data.

use crate::{Error, Result};

/// Which entries of a delta take part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Keep {
    /// All of them.
    #[default]
    All,
    /// The share `density` of largest magnitude, after the share `skip` of the very largest.
    Largest {
        /// Share that is kept, (0, 1].
        density: f64,
        /// Share of outliers that is dropped first, [0, 1).
        skip: f64,
    },
    /// The `max(least, trunc(density * n))` of largest magnitude, for other tools' arithmetic.
    Truncated {
        /// Share that is kept, (0, 1].
        density: f64,
        /// Number that is kept at least.
        least: usize,
    },
    /// The fewest, by falling magnitude, that hold the share `energy` of the squared norm.
    Holding {
        /// Share of the squared norm, (0, 1].
        energy: f64,
    },
    /// Each with probability `density`, divided by `divisor`; see `rng` for the draws.
    Random {
        /// Probability, (0, 1].
        density: f64,
        /// What survivors are divided by; `density` makes it unbiased.
        divisor: f64,
    },
    /// As `Random`, unbiased, with a probability that falls with the rank of the magnitude in the
    /// row, from `density + spread / 2` to `density - spread / 2`.
    Ranked {
        /// Mean probability, (0, 1].
        density: f64,
        /// Between the largest and the smallest entry of a row, `[0, 2 min(density, 1 - density)]`.
        spread: f64,
    },
}

/// What happens where more positions are in conflict than `Conflicts::most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The rule acts on all positions.
    Everywhere,
    /// The rule acts nowhere.
    Nowhere,
}

/// Limits a random rule to positions where the weighted deltas disagree in sign.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conflicts {
    /// Largest share of positions for which that makes sense, [0, 1].
    pub most: f64,
    /// What happens above it.
    pub fallback: Fallback,
}

/// Entries that belong to one adapter: taken out before the vote, added to the result after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Selfish {
    /// How many times larger than the others, at least 1.
    pub lambda: f64,
    /// Compare with the sum of the others, as published, and not with the largest of them.
    pub published: bool,
    /// Add it back at the strength of the heaviest, like a mean of one, and not as it is.
    pub level: bool,
}

/// What a member gives to its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// All of its delta.
    #[default]
    All,
    /// Entries with the sign of the majority.
    Low,
    /// Entries without it: all of them at positions where nobody wins.
    High,
    /// Nothing: its weighted delta is added to the result as it is.
    Around,
}

/// What votes: the weighted entry, or without the size (and the sign) of the weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ballot {
    /// `w d`.
    #[default]
    Weighted,
    /// `sign(w) d`.
    Signed,
    /// `d`.
    Plain,
}

/// Whose sign wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vote {
    /// Nobody votes, everybody counts.
    #[default]
    None,
    /// The sign of the sum.
    Mass,
    /// The sign of the majority; the sign of the sum where there is none.
    Count,
    /// As `Mass`, zero counts as positive.
    MassOrPositive,
    /// The sign of the majority; positive where there is none.
    CountOrPositive,
}

/// What becomes of the entries that agree with the vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduce {
    /// Their sum.
    #[default]
    Sum,
    /// Their sum over the weights of all, agreeing or not, times the largest weight.
    Average,
    /// Their mean by weight, times the largest weight of all.
    Mean,
    /// Their sum over their number.
    Count,
    /// Their sum over the sum of their weights, signs included; over 1 where that is 0.
    SignedShare,
    /// Their mean by weight times squared delta, times the largest weight of all.
    Importance,
}

/// An elementwise method.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// What each member gives, before anything else; empty where all give everything.
    ///
    /// All members but those that go around have one vote for the sign of a position, with their
    /// weighted entry; a draw is decided by the sum of the entries, and by nobody if that is 0.
    pub sides: Vec<Side>,
    /// Whether a draw of that vote is positive instead, as published.
    pub published_sides: bool,
    /// Which entries of a delta take part.
    pub keep: Keep,
    /// Whether a random rule is limited to conflicts.
    pub conflicts: Option<Conflicts>,
    /// Whether entries that belong to one adapter go around the rest.
    pub selfish: Option<Selfish>,
    /// N x N, row-major: what of each kept delta goes into each; empty for nothing.  N are the
    /// members that do not go around.
    pub mix: Vec<f64>,
    /// What votes.
    pub ballot: Ballot,
    /// Whose sign wins.
    pub vote: Vote,
    /// What becomes of those that agree.
    pub reduce: Reduce,
    /// Norm that the result is brought to, growing at most twofold; `None` leaves it.
    pub norm: Option<f64>,
    /// Whether singular values are shrunk by the noise outside the span of the deltas.
    pub clean: bool,
    /// Key of the random draws.
    pub seed: u64,
    /// Stable hash of the target, for the random draws.
    pub target: u64,
}

impl Program {
    /// The sum of the weighted deltas; what goes around does so still.
    #[must_use]
    pub fn sum(&self) -> Self {
        let plain = |side: &Side| if *side == Side::Around { *side } else { Side::All };
        let sides = if self.sides.contains(&Side::Around) {
            self.sides.iter().map(plain).collect()
        } else {
            Vec::new()
        };
        Self { sides, seed: self.seed, target: self.target, ..Self::default() }
    }

    /// Refuses sides that are not one for each member.
    pub(crate) fn check_sides(&self, members: usize) -> Result<()> {
        if self.sides.is_empty() || self.sides.len() == members {
            return Ok(());
        }
        Err(Error::Shape {
            what: "sides",
            expected: format!("{members}, one for each member, or nothing"),
            got: self.sides.len().to_string(),
        })
    }

    /// Refuses what [`Keep`], [`Conflicts`] and [`Selfish`] do not allow.
    pub(super) fn check(&self, members: usize) -> Result<()> {
        let share = |name, value: f64, good: bool, allowed| {
            if good {
                Ok(())
            } else {
                Err(Error::Param { name, value: value.to_string(), allowed })
            }
        };
        let positive = |name, x: f64| share(name, x, x > 0.0 && x <= 1.0, "in (0, 1]");
        match self.keep {
            Keep::All => {}
            Keep::Largest { density, skip } => {
                positive("density", density)?;
                share("outliers", skip, (0.0..1.0).contains(&skip), "in [0, 1)")?;
            }
            Keep::Truncated { density, .. } => positive("density", density)?,
            Keep::Holding { energy } => positive("energy", energy)?,
            Keep::Random { density, divisor } => {
                positive("density", density)?;
                positive("divisor", divisor)?;
            }
            Keep::Ranked { density, spread } => {
                positive("density", density)?;
                let most = 2.0 * density.min(1.0 - density);
                let good = spread >= 0.0 && spread <= most;
                share("spread", spread, good, "in [0, 2 min(density, 1 - density)]")?;
            }
        }
        if let Some(conflicts) = self.conflicts {
            let most = conflicts.most;
            share("most", most, (0.0..=1.0).contains(&most), "in [0, 1]")?;
        }
        if let Some(selfish) = self.selfish {
            let lambda = selfish.lambda;
            share("lambda", lambda, lambda >= 1.0 && lambda.is_finite(), "at least 1")?;
        }
        if !(self.mix.is_empty() || self.mix.len() == members * members) {
            return Err(Error::Shape {
                what: "mix",
                expected: format!("{members} x {members}, or nothing"),
                got: format!("{} numbers", self.mix.len()),
            });
        }
        Ok(())
    }

    /// Whether the rule is limited to conflicts at all: only random ones can be.
    pub(super) fn limits(&self) -> Option<Conflicts> {
        self.conflicts.filter(|_| matches!(self.keep, Keep::Random { .. } | Keep::Ranked { .. }))
    }
}
