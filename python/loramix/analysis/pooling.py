"""Pairs of adapters over many groups: sums of what the groups say, none of them a mean of means.

A group counts by its size: sums over a sampled block stand for the whole weight.  Weights enter
by their signs and, where they differ between groups, by the geometric mean of the two.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from loramix.analysis.meetings import Looked, Meeting, meetings, over
from loramix.analysis.statistics import Analysis, GroupStatistics
from loramix.types import Weight, weight_of

SIGNIFICANT = 3.0
"""Standard errors that an excess must exceed to count."""
MARGIN = 0.02
"""Excess that low-rank products of Gaussians show without any structure."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What the signs of two adapters do to each other.

    Attributes
    ----------
    conflict : share of the positions where the signs differ.
    weighted_conflict : share of the smaller magnitudes that stands there.
    excess : weighted conflict beyond that of elliptical data of the same cosine and ratio, signed,
        mean over the groups by their smaller magnitudes.
    excess_error : its standard error; groups are drawn independently.
    clash : what is significant of `excess` or of `lost_excess`, whichever is more: of the groups
        where it exceeds ``max(3 standard errors, 0.02)``, or of all together where only their sum
        does.  The first sees many entries, the second a few large ones.
    clash_error : its standard error.
    lost : energy that a plain sum loses where signs differ, over the energy of both.
    lost_excess : the same beyond elliptical data, mean by energy.
    lost_error : its standard error.
    overlap : energy-weighted overlap of the subspaces beyond chance, mean by ``|a| |b|``.
    contention : the part of the overlap that is no agreement, ``max(0, overlap - |cosine|)`` of
        every group, mean by ``|a| |b|``.
    published : the published compatibility: ``cosine * (1 - conflict)`` of the positions looked
        at, each group as it was sampled, and 0.1 more where the cosine exceeds -0.1.
    """

    conflict: float
    weighted_conflict: float
    excess: float
    excess_error: float
    clash: float
    clash_error: float
    lost: float
    lost_excess: float
    lost_error: float
    overlap: float
    contention: float
    published: float


@dataclass(frozen=True, slots=True)
class Pooled:
    """Two adapters over the groups where both have a weight other than 0.

    Attributes
    ----------
    first, second : positions in the stack, first < second.
    groups : number of the groups that both change.
    cosine : of the weighted deltas over those groups, exact; 0 where they never meet, None where
        no inner products were made.
    adds : what the second adds to the retention of the first in a plain sum, and the other way
        round: ``<w_a a, w_b b> / |w_a a|^2`` over all groups of a; negative: takes.
    cancels : the share of the first that the second takes away, group by group, and the other way
        round: ``sum_g min(max(0, -<w_a a, w_b b>), |w_a a|^2)`` over the energy of a.  What is
        added elsewhere does not bring it back.
    repeats : the same for what is added.
    met : share of the energy of the first, and of the second, in the groups that both change.
    signs : None where the signs of no shared group were looked at.
    """

    first: int
    second: int
    groups: int
    cosine: float | None
    adds: tuple[float, float] | None
    cancels: tuple[float, float] | None
    repeats: tuple[float, float] | None
    met: tuple[float, float] | None
    signs: Signs | None


@dataclass(frozen=True, slots=True)
class Meetings:
    """All pairs of a stack in all of its groups, ready to be added up over any of them.

    Attributes
    ----------
    count : number of adapters.
    energies : for every group, energies of its weighted members by owner.
    rows : for every group, its pairs.
    """

    count: int
    energies: tuple[tuple[tuple[int, float], ...], ...] = field(repr=False)
    rows: tuple[tuple[Meeting, ...], ...] = field(repr=False)

    @classmethod
    def of(
        cls, groups: Sequence[GroupStatistics], weights: Sequence[Sequence[float]], count: int
    ) -> "Meetings":
        """Read the statistics of a stack.

        Parameters
        ----------
        weights : of the members of every group; a member of weight 0 is not there.
        count : number of adapters.
        """
        each = list(zip(groups, weights, strict=True))
        return cls(
            count,
            tuple(tuple(_energies(group, own)) for group, own in each),
            tuple(tuple(meetings(group, own)) for group, own in each),
        )

    def pool(self, at: Iterable[int] | None = None) -> tuple[Pooled, ...]:
        """All pairs, (0, 1), (0, 2), ..., (1, 2), ..., over all groups or those at some places."""
        places = range(len(self.rows)) if at is None else list(at)
        total = self.energy(places)
        each: dict[tuple[int, int], list[Meeting]] = {
            (i, j): [] for i in range(self.count) for j in range(i + 1, self.count)
        }
        for place in places:
            for row in self.rows[place]:
                each[row.owners].append(row)
        return tuple(_pooled(owners, rows, total) for owners, rows in each.items())

    def energy(self, at: Iterable[int] | None = None) -> list[float]:
        """``sum_g w^2 |delta|^2`` of every adapter; NaN where no inner products were made."""
        places = range(len(self.rows)) if at is None else at
        return _added((self.energies[place] for place in places), self.count)


def energies(
    groups: Sequence[GroupStatistics], weights: Sequence[Sequence[float]], count: int
) -> list[float]:
    """``sum_g w^2 |delta|^2`` of every adapter; see `Meetings.energy`."""
    return _added(map(_energies, groups, weights), count)


def weights_of(
    analysis: Analysis, weights: Sequence[Weight] | None = None
) -> tuple[tuple[float, ...], ...]:
    """The users' weights of the members of every group; 1 where there are none."""
    return tuple(
        tuple(weight_of(weights[owner], g.target) if weights else 1.0 for owner in g.owners)
        for g in analysis.groups
    )


def significant(excess: float, error: float) -> bool:
    """Whether an excess of either sign is more than chance and low rank explain."""
    return abs(excess) > max(SIGNIFICANT * error, MARGIN)


def _energies(group: GroupStatistics, own: Sequence[float]) -> list[tuple[int, float]]:
    return [
        (owner, weight**2 * max(float(group.gram[i, i]), 0.0) if weight else 0.0)
        for i, (owner, weight) in enumerate(zip(group.owners, own, strict=True))
    ]


def _added(each: Iterable[Sequence[tuple[int, float]]], count: int) -> list[float]:
    found: list[list[float]] = [[] for _ in range(count)]
    for row in each:
        for owner, energy in row:
            found[owner].append(energy)
    return [math.fsum(one) for one in found]


def _pooled(owners: tuple[int, int], rows: Sequence[Meeting], total: Sequence[float]) -> Pooled:
    first, second = owners
    inner = math.fsum(row.inner for row in rows)
    norms = (math.fsum(row.first2 for row in rows), math.fsum(row.second2 for row in rows))
    all_of = (total[first], total[second])
    if not all(map(math.isfinite, (inner, *norms, *all_of))):
        return Pooled(first, second, len(rows), None, None, None, None, None, None)
    size = math.sqrt(norms[0] * norms[1])
    firsts = [(row.inner, row.first2) for row in rows]
    seconds = [(row.inner, row.second2) for row in rows]
    looked = [row.looked for row in rows if row.looked is not None]
    return Pooled(
        first=first,
        second=second,
        groups=len(rows),
        cosine=min(1.0, max(-1.0, inner / size)) if size > 0 else 0.0,
        adds=(over(inner, all_of[0]), over(inner, all_of[1])),
        cancels=(_taken(firsts, all_of[0]), _taken(seconds, all_of[1])),
        repeats=(_given(firsts, all_of[0]), _given(seconds, all_of[1])),
        met=(over(norms[0], all_of[0]), over(norms[1], all_of[1])),
        signs=_signs(looked) if looked else None,
    )


def _taken(rows: Sequence[tuple[float, float]], whole: float) -> float:
    return over(math.fsum(min(max(-inner, 0.0), own) for inner, own in rows), whole)


def _given(rows: Sequence[tuple[float, float]], whole: float) -> float:
    return over(math.fsum(max(inner, 0.0) for inner, _ in rows), whole)


def _signs(rows: Sequence[Looked]) -> Signs:
    """Sums over the groups whose positions were looked at."""
    excess, excess_error = _mean((r.magnitude, r.excess, r.excess_error) for r in rows)
    lost_excess, lost_error = _mean((r.energy, r.lost_excess, r.lost_error) for r in rows)
    clash, clash_error = max(
        _clash([(r.magnitude, r.excess, r.excess_error) for r in rows]),
        _clash([(r.energy, r.lost_excess, r.lost_error) for r in rows]),
    )
    conflicts = math.fsum(r.conflicts for r in rows)
    return Signs(
        conflict=over(conflicts, math.fsum(r.positions for r in rows)),
        weighted_conflict=_mean((r.magnitude, r.weighted_conflict, 0.0) for r in rows)[0],
        excess=excess,
        excess_error=excess_error,
        clash=clash,
        clash_error=clash_error,
        lost=_mean((r.energy, r.lost, 0.0) for r in rows)[0],
        lost_excess=lost_excess,
        lost_error=lost_error,
        overlap=_mean((r.reach, r.overlap, 0.0) for r in rows)[0],
        contention=_mean((r.reach, r.contention, 0.0) for r in rows)[0],
        published=_published(*map(math.fsum, zip(*(r.raw for r in rows), strict=True))),
    )


def _published(dot: float, first2: float, second2: float, conflicts: float, met: float) -> float:
    size = math.sqrt(first2 * second2)
    cosine = dot / size if size > 0 else 0.0
    boost = 0.1 if cosine > -0.1 and met > 0 else 0.0
    return cosine * (1 - over(conflicts, met)) + boost


def _mean(rows: Iterable[tuple[float, float, float]]) -> tuple[float, float]:
    """Weighted mean of (weight, value, error), all independent, and its standard error."""
    each = list(rows)
    total = math.fsum(weight for weight, _, _ in each)
    value = math.fsum(weight * value for weight, value, _ in each)
    error = math.sqrt(math.fsum((weight * error) ** 2 for weight, _, error in each))
    return over(value, total), over(error, total)


def _clash(rows: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """The significant part of an excess, of rows as for `_mean`.

    Groups are judged one by one, so that less conflict here does not hide more of it there; what
    is too weak in every group may still be there in all of them together.
    """
    together, error = _mean(rows)
    apart = _mean(
        (weight, one, own) if one > 0 and significant(one, own) else (weight, 0.0, 0.0)
        for weight, one, own in rows
    )
    if together > apart[0] and significant(together, error):
        return together, error
    return apart
