"""Two adapters in one group: exact sums of the weighted deltas, and what their signs say.

Everything that pooling adds up, read once from the statistics of the group.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from loramix.analysis.statistics import GroupStatistics, PairStatistics


class Looked(NamedTuple):
    """What the signs of one pair say in one group, and what each number weighs.

    Attributes
    ----------
    scale : positions of the weight for one that was looked at.
    magnitude, energy, reach : what excesses, losses and overlaps count by.
    raw : dot, first2, second2, conflicts and positions as they were sampled.
    """

    scale: float
    magnitude: float
    energy: float
    reach: float
    conflicts: float
    positions: float
    weighted_conflict: float
    excess: float
    excess_error: float
    lost: float
    lost_excess: float
    lost_error: float
    overlap: float
    contention: float
    raw: tuple[float, float, float, float, float]


class Meeting(NamedTuple):
    """A pair in one group: exact sums of the weighted deltas, and what their signs say."""

    owners: tuple[int, int]
    inner: float
    first2: float
    second2: float
    looked: Looked | None


def meetings(group: GroupStatistics, own: Sequence[float]) -> Iterable[Meeting]:
    """The pairs of a group; members of weight 0 are not there.

    Parameters
    ----------
    own : the weights of its members.
    """
    pairs = {(pair.first, pair.second): pair for pair in group.pairs}
    for a, first in enumerate(group.owners):
        for b in range(a + 1, len(group.owners)):
            second, both = group.owners[b], own[a] * own[b]
            # One adapter may hold a weight twice, fused and apart: that is no pair.
            if both and first != second:
                inner = both * float(group.gram[a, b])
                first2 = own[a] ** 2 * float(group.gram[a, a])
                second2 = own[b] ** 2 * float(group.gram[b, b])
                pair = pairs.get((a, b))
                looked = None
                if pair is not None and pair.looked:
                    positions = group.target.rows * group.target.cols
                    reach = math.sqrt(max(first2 * second2, 0.0))
                    agreement = abs(over(inner, reach))
                    looked = _looked(pair, both, positions / pair.looked, reach, agreement)
                yield Meeting((first, second), inner, first2, second2, looked)


def _looked(
    pair: PairStatistics, both: float, scale: float, reach: float, agreement: float
) -> Looked:
    pair = pair.flipped() if both < 0 else pair
    size, overlap = abs(both), pair.shared
    return Looked(
        scale=scale,
        magnitude=scale * math.sqrt(size) * pair.total,
        energy=scale * size * (pair.first2 + pair.second2),
        reach=reach,
        conflicts=scale * pair.conflicts,
        positions=scale * pair.positions,
        weighted_conflict=pair.weighted_conflict,
        excess=pair.excess,
        excess_error=pair.excess_error,
        lost=pair.lost,
        lost_excess=pair.lost_excess,
        lost_error=pair.loss_error,
        overlap=overlap,
        contention=max(overlap - agreement, 0.0),
        raw=(pair.dot, pair.first2, pair.second2, pair.conflicts, pair.positions),
    )


def over(part: float, whole: float) -> float:
    """A share; 0 of nothing."""
    return part / whole if whole > 0 else 0.0
