"""What pass 1 learns: a few numbers of every delta and of every pair, and nothing else.

None of them depends on the users' weights, so one analysis serves every choice of weights; for
weights of different signs there is `PairStatistics.flipped`.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from loramix.analysis import baselines
from loramix.tensors import F64
from loramix.types import Group, Target


@dataclass(frozen=True, slots=True)
class DeltaStatistics:
    """One delta.

    Attributes
    ----------
    rank : of its factors.
    norm : Frobenius norm, exact.
    stable_rank : ``|delta|^2 / s_1^2``, s the singular values; 0 for a delta of zeros.
    effective_rank : ``exp(entropy of s^2 / sum s^2)``.
    participation : ``(sum s^2)^2 / sum s^4``.
    density : smallest share of the entries that holds 95 % of the energy, of a sampled block.
    magnitudes : 64 order statistics, evenly spaced and rising, the largest included, of the
        magnitudes of 1000 entries of that block, drawn with replacement (of all, where there are
        no more).
    """

    rank: int
    norm: float
    stable_rank: float
    effective_rank: float
    participation: float
    density: float
    magnitudes: tuple[float, ...] = field(repr=False)

    @property
    def top_share(self) -> float:
        """Share of the energy in the largest singular value."""
        return 1 / self.stable_rank if self.stable_rank > 0 else 0.0


@dataclass(frozen=True, slots=True)
class PairStatistics:
    """Two deltas a, b of one group: sums over the positions where both are non-zero.

    Those positions are all there are (exact), or those of a sampled block.  Errors are standard
    errors over the choice of rows and columns; in an exact analysis, as if the weight's rows and
    columns were such a choice.

    Attributes
    ----------
    first, second : positions of a and b among the members of the group.
    looked : number of positions looked at.
    positions : number of those where both are non-zero; if 0, all ratios are 0.
    conflicts : number of those where the signs differ.
    dot, first2, second2 : ``sum a b``, ``sum a^2``, ``sum b^2``.
    product : ``sum |a b|``.
    total, conflicting : ``sum min(|a|, |b|)``; the same where the signs differ.
    floor_total, floor_conflicting : the same without positions where either is at most 5 % of the
        larger root mean square, as published; over all positions if that leaves none.
    excess_error, loss_error : standard errors of `excess` and `lost_excess`.
    overlap : published subspace overlap: mean of left and right of
        ``|Q_a^T Q_b|^2 / min(r_a, r_b)``, Q orthonormal bases of the factors, without directions
        below about 1e-5 of the largest.
    left, right : overlap weighted by energy: ``<G_a, G_b> / (|G_a| |G_b|)``, ``G = delta delta^T``
        for left and ``delta^T delta`` for right.
    left_chance, right_chance : what independent deltas with these spectra show on average.
    """

    first: int
    second: int
    looked: int
    positions: int
    conflicts: int
    dot: float
    first2: float
    second2: float
    product: float
    total: float
    conflicting: float
    floor_total: float
    floor_conflicting: float
    excess_error: float
    loss_error: float
    overlap: float
    left: float
    right: float
    left_chance: float
    right_chance: float

    def flipped(self) -> "PairStatistics":
        """The same pair with the sign of one delta changed: weights of different signs."""
        return replace(
            self,
            conflicts=self.positions - self.conflicts,
            dot=-self.dot,
            conflicting=self.total - self.conflicting,
            floor_conflicting=self.floor_total - self.floor_conflicting,
        )

    @property
    def conflict(self) -> float:
        """Share of the positions where the signs differ."""
        return self.conflicts / self.positions if self.positions else 0.0

    @property
    def cosine(self) -> float:
        """Of the positions where both are non-zero, -1 to 1."""
        size = math.sqrt(self.first2 * self.second2)
        return max(-1.0, min(1.0, self.dot / size)) if size > 0 else 0.0

    @property
    def ratio(self) -> float:
        """Scale of b over that of a; 1 where either is zero."""
        both = self.first2 > 0 and self.second2 > 0
        return math.sqrt(self.second2 / self.first2) if both else 1.0

    @property
    def weighted_conflict(self) -> float:
        """Share of the smaller magnitudes that stands where the signs differ."""
        return self.conflicting / self.total if self.total > 0 else 0.0

    @property
    def excess(self) -> float:
        """`weighted_conflict` beyond that of elliptical data of this cosine and ratio, signed.

        Where large entries change their signs, the cosine falls by squares and the conflict rises
        by magnitudes only: this comes out below zero, `lost_excess` above.
        """
        if self.total <= 0:
            return 0.0
        return self.weighted_conflict - baselines.weighted_conflict(self.cosine, self.ratio)

    @property
    def lost(self) -> float:
        """Energy that a plain sum loses where signs differ, ``2 |a b| / (a^2 + b^2)``, summed."""
        energy = self.first2 + self.second2
        return (self.product - self.dot) / energy if energy > 0 else 0.0

    @property
    def lost_excess(self) -> float:
        """`lost` beyond that of elliptical data of this cosine and ratio, signed."""
        if self.first2 + self.second2 <= 0:
            return 0.0
        return self.lost - baselines.lost_energy(self.cosine, self.ratio)

    @property
    def published_ratio(self) -> float:
        """The published magnitude-weighted conflict ratio, with the noise floor."""
        return self.floor_conflicting / self.floor_total if self.floor_total > 0 else 0.0

    @property
    def published_expected(self) -> float:
        """The published expected conflict, ``arccos(c) / pi``: a share of positions."""
        return baselines.conflict(self.cosine) if self.positions else 0.0

    @property
    def published_excess(self) -> float:
        """The published excess conflict: a share of magnitudes less a share of positions."""
        return max(self.published_ratio - self.published_expected, 0.0)

    @property
    def shared(self) -> float:
        """Energy-weighted overlap beyond chance, mean of left and right: 0 for independent ones."""
        sides = ((self.left, self.left_chance), (self.right, self.right_chance))
        return float(np.mean([(x - c) / (1 - c) if c < 1 else 0.0 for x, c in sides]))


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """One group.

    Attributes
    ----------
    target : what the group changes.
    owners : for each member, the position of its adapter in the stack.
    gram : (n, n) inner products of the deltas, exact; NaN where nobody needs them.
    deltas : one for each member; empty if only inner products were asked for.
    pairs : (0, 1), (0, 2), ..., (1, 2), ...; likewise.
    """

    target: Target
    owners: tuple[int, ...]
    gram: F64 = field(repr=False, compare=False)
    deltas: tuple[DeltaStatistics, ...] = field(default=(), repr=False)
    pairs: tuple[PairStatistics, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, group: Group, gram: F64) -> "GroupStatistics":
        """Inner products only."""
        return cls(group.target, group.owners, gram)


@dataclass(frozen=True, slots=True)
class Analysis:
    """Statistics of a stack.

    Attributes
    ----------
    groups : in the order of the groups of the stack.
    samples : rows, and columns, of the sampled blocks; None if all entries were read; 0 if only
        inner products were made.
    key : digest of everything the statistics depend on; empty if they were not stored.
    """

    groups: tuple[GroupStatistics, ...] = field(repr=False)
    samples: int | None = 0
    key: str = ""

    @property
    def grams(self) -> tuple[F64, ...]:
        """Inner products of all groups."""
        return tuple(group.gram for group in self.groups)
