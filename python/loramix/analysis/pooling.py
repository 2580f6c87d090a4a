"""Pairs of adapters over many groups: sums of what the groups say, none of them a mean of means.

A group counts by its size: sums over a sampled block stand for the whole weight.  Weights enter
by their signs and, where they differ between groups, by the geometric mean of the two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loramix.analysis.statistics import Analysis, GroupStatistics, PairStatistics
from loramix.types import F64, Weight, weight_of

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
    clash : the part of the excess that is significant: of the groups where it exceeds
        ``max(3 standard errors, 0.02)``, or of all together where only their sum does.
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
class _Meeting:
    """A pair in one group: exact sums of the weighted deltas, and the pair with its true signs."""

    inner: float
    first2: float
    second2: float
    both: float  # product of the two weights
    pair: PairStatistics | None
    scale: float  # positions of the weight for one that was looked at


def significant(excess: float, error: float) -> bool:
    """Whether an excess of either sign is more than chance and low rank explain."""
    return abs(excess) > max(SIGNIFICANT * error, MARGIN)


def weights_of(
    analysis: Analysis, weights: Sequence[Weight] | None = None
) -> tuple[tuple[float, ...], ...]:
    """The users' weights of the members of every group; 1 where there are none."""
    return tuple(
        tuple(weight_of(weights[owner], g.target) if weights else 1.0 for owner in g.owners)
        for g in analysis.groups
    )


def energies(
    groups: Sequence[GroupStatistics], weights: Sequence[Sequence[float]], count: int
) -> list[float]:
    """``sum_g w^2 |delta|^2`` of every adapter; NaN where no inner products were made.

    Parameters
    ----------
    weights : of the members of every group.
    count : number of adapters.
    """
    found: list[list[float]] = [[] for _ in range(count)]
    for group, own in zip(groups, weights, strict=True):
        for owner, weight, norm2 in zip(group.owners, own, np.diag(group.gram), strict=True):
            found[owner].append(weight**2 * max(float(norm2), 0.0) if weight else 0.0)
    return [math.fsum(each) for each in found]


def pool(
    groups: Sequence[GroupStatistics], weights: Sequence[Sequence[float]], count: int
) -> tuple[Pooled, ...]:
    """All pairs of a stack, (0, 1), (0, 2), ..., (1, 2), ..., over some of its groups.

    Parameters
    ----------
    weights : of the members of every group; a member of weight 0 is not there.
    count : number of adapters.
    """
    total = energies(groups, weights, count)
    meetings: dict[tuple[int, int], list[_Meeting]] = {
        (i, j): [] for i in range(count) for j in range(i + 1, count)
    }
    for group, own in zip(groups, weights, strict=True):
        pairs = {(pair.first, pair.second): pair for pair in group.pairs}
        for a in range(len(group.owners)):
            for b in range(a + 1, len(group.owners)):
                owners = (group.owners[a], group.owners[b])
                # One adapter may hold a weight twice, fused and apart: that is no pair.
                if own[a] and own[b] and owners in meetings:
                    meeting = _meeting(group, own, (a, b), pairs.get((a, b)))
                    meetings[owners].append(meeting)
    return tuple(_pooled(owners, rows, total) for owners, rows in meetings.items())


def _meeting(
    group: GroupStatistics,
    own: Sequence[float],
    members: tuple[int, int],
    pair: PairStatistics | None,
) -> _Meeting:
    a, b = members
    both = own[a] * own[b]
    size = group.target.rows * group.target.cols
    return _Meeting(
        both * float(group.gram[a, b]),
        own[a] ** 2 * float(group.gram[a, a]),
        own[b] ** 2 * float(group.gram[b, b]),
        both,
        pair.flipped() if pair and both < 0 else pair,
        size / pair.looked if pair and pair.looked else 0.0,
    )


def _pooled(owners: tuple[int, int], rows: Sequence[_Meeting], total: Sequence[float]) -> Pooled:
    first, second = owners
    inner = math.fsum(row.inner for row in rows)
    norms = (math.fsum(row.first2 for row in rows), math.fsum(row.second2 for row in rows))
    all_of = (total[first], total[second])
    cosine = adds = cancels = repeats = met = None
    if all(map(math.isfinite, (inner, *norms, *all_of))):
        size = math.sqrt(norms[0] * norms[1])
        cosine = min(1.0, max(-1.0, inner / size)) if size > 0 else 0.0
        adds = (_over(inner, all_of[0]), _over(inner, all_of[1]))
        firsts = [(row.inner, row.first2) for row in rows]
        seconds = [(row.inner, row.second2) for row in rows]
        cancels = (_taken(firsts, all_of[0]), _taken(seconds, all_of[1]))
        repeats = (_given(firsts, all_of[0]), _given(seconds, all_of[1]))
        met = (_over(norms[0], all_of[0]), _over(norms[1], all_of[1]))
    signs = _signs(rows) if cosine is not None else None
    return Pooled(first, second, len(rows), cosine, adds, cancels, repeats, met, signs)


def _taken(rows: Sequence[tuple[float, float]], whole: float) -> float:
    return _over(math.fsum(min(max(-inner, 0.0), own) for inner, own in rows), whole)


def _given(rows: Sequence[tuple[float, float]], whole: float) -> float:
    return _over(math.fsum(max(inner, 0.0) for inner, _ in rows), whole)


def _over(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _signs(rows: Sequence[_Meeting]) -> Signs | None:
    """Sums over the groups whose positions were looked at."""
    looked = [(row, row.pair) for row in rows if row.pair is not None and row.pair.looked]
    if not looked:
        return None
    scale = np.array([row.scale for row, _ in looked])
    both = np.array([abs(row.both) for row, _ in looked])
    pairs = [pair for _, pair in looked]

    def each(name: str) -> F64:
        return np.array([getattr(pair, name) for pair in pairs], dtype=np.float64)

    magnitude = scale * np.sqrt(both) * each("total")
    energy = scale * both * (each("first2") + each("second2"))
    reach = np.array([math.sqrt(row.first2 * row.second2) for row, _ in looked])
    agreement = np.array([abs(_over(r.inner, x)) for (r, _), x in zip(looked, reach, strict=True)])
    excess, excess_error = _mean(each("excess"), each("excess_error"), magnitude)
    lost_excess, lost_error = _mean(each("lost_excess"), each("loss_error"), energy)
    clash, clash_error = _clash(each("excess"), each("excess_error"), magnitude)
    return Signs(
        conflict=_over(float(scale @ each("conflicts")), float(scale @ each("positions"))),
        weighted_conflict=_average(each("weighted_conflict"), magnitude),
        excess=excess,
        excess_error=excess_error,
        clash=clash,
        clash_error=clash_error,
        lost=_average(each("lost"), energy),
        lost_excess=lost_excess,
        lost_error=lost_error,
        overlap=_average(each("shared"), reach),
        contention=_average(np.maximum(each("shared") - agreement, 0.0), reach),
        published=_published(*(float(each(n).sum()) for n in _PUBLISHED)),
    )


_PUBLISHED = ("dot", "first2", "second2", "conflicts", "positions")


def _published(dot: float, first2: float, second2: float, conflicts: float, met: float) -> float:
    size = math.sqrt(first2 * second2)
    cosine = dot / size if size > 0 else 0.0
    boost = 0.1 if cosine > -0.1 and met > 0 else 0.0
    return cosine * (1 - _over(conflicts, met)) + boost


def _average(values: F64, weights: F64) -> float:
    return _over(float(weights @ values), float(weights.sum()))


def _mean(values: F64, errors: F64, weights: F64) -> tuple[float, float]:
    """Weighted mean of independent values, and its standard error."""
    error = math.sqrt(float(((weights * errors) ** 2).sum()))
    return _average(values, weights), _over(error, float(weights.sum()))


def _clash(excess: F64, errors: F64, weights: F64) -> tuple[float, float]:
    """The significant part of an excess.

    Groups are judged one by one, so that less conflict here does not hide more of it there; what
    is too weak in every group may still be there in all of them together.
    """
    together, error = _mean(excess, errors, weights)
    real = excess > np.maximum(SIGNIFICANT * errors, MARGIN)
    apart = _mean(np.where(real, excess, 0.0), np.where(real, errors, 0.0), weights)
    if together > max(SIGNIFICANT * error, MARGIN, apart[0]):
        return together, error
    return apart
