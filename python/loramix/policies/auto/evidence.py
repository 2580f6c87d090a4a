"""What the statistics of a pair prove once the users' weights and chance are taken into account."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loramix.analysis.statistics import DeltaStatistics, GroupStatistics, PairStatistics
from loramix.errors import ParamError
from loramix.tensors import F64

_APART = 1e-3
"""Share of the overlap by chance under which subspaces do not meet: of two random directions 3 %
are that far apart on one side, and 0.1 % on both."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two weighted members of a group; the signs of the weights are in all figures.

    Attributes
    ----------
    first, second : positions of the members in the group.
    cosine, cosine_bound : exact; what chance or shape alone may make of it.
    shared, shared_bound : `PairStatistics.shared`; likewise.
    clash, clash_bound : `PairStatistics.lost_excess` of the weighted deltas; likewise.
    excess, excess_bound : `PairStatistics.excess`; likewise.
    agreeing : ``2 sum |a b| / (|a| |b|)`` over the entries whose signs agree.
    apart : whether they share no entry, or no direction on either side.
    say : how much the pair has to say, 0 to 1: in full where the smaller of the two is not minor
        beside the largest member of the group.
    """

    first: int
    second: int
    cosine: float
    cosine_bound: float
    shared: float
    shared_bound: float
    clash: float
    clash_bound: float
    excess: float
    excess_bound: float
    agreeing: float
    apart: bool
    say: float

    @property
    def similar(self) -> bool:
        """Whether the cosine is not chance, whatever its sign."""
        return abs(self.cosine) > self.cosine_bound

    @property
    def overlaps(self) -> bool:
        """Whether the subspaces meet more than by chance."""
        return self.shared > self.shared_bound

    @property
    def clashes(self) -> bool:
        """Whether signs clash more than the angle says."""
        return self.say * self.clash > self.clash_bound

    @property
    def numbers(self) -> dict[str, float]:
        """The figures by name."""
        return {
            "cosine": self.cosine,
            "cosine_bound": self.cosine_bound,
            "shared": self.shared,
            "shared_bound": self.shared_bound,
            "lost_excess": self.clash,
            "lost_excess_bound": self.clash_bound,
            "excess": self.excess,
            "excess_bound": self.excess_bound,
        }


def sizes_of(gram: F64, weights: Sequence[float]) -> F64:
    """Norms of the weighted deltas."""
    norms = np.sqrt(np.maximum(np.diag(gram), 0))
    return np.asarray(np.abs(np.array(weights, dtype=float)) * norms)


def gather(
    group: GroupStatistics,
    weights: Sequence[float],
    *,
    errors: float,
    margin: float,
    minor: float,
) -> tuple[Evidence, ...]:
    """Evidence on every pair of members whose weights and norms are not zero.

    A figure counts beyond ``max(errors * its standard error, margin)``.  For cosines and overlaps,
    which are exact, that error is the spread that deltas of random orientation show:
    ``1 / sqrt(rows cols)`` for the cosine, whatever their spectra, and at most ``sqrt(2) / size``
    for the overlap on one side.

    Parameters
    ----------
    weights : of all members; 0 leaves one out.
    errors, margin, minor : see `Auto`.

    Raises
    ------
    ParamError : the statistics of a pair were not made.
    """
    sizes = sizes_of(group.gram, weights)
    used = [bool(size > 0) for size in sizes]
    if sum(used) >= 2 or np.isnan(sizes).any():
        _check(group)
    found = []
    for pair in group.pairs:
        i, j = pair.first, pair.second
        if used[i] and used[j]:
            say = min(1.0, float(min(sizes[i], sizes[j]) / (minor * sizes.max())))
            both = (weights[i], weights[j])
            found.append(_weigh(group, pair, both, say, errors=errors, margin=margin))
    return tuple(found)


def _check(group: GroupStatistics) -> None:
    count = len(group.owners)
    if len(group.pairs) == count * (count - 1) // 2 and len(group.deltas) == count:
        return
    message = (
        f"policy auto: {group.target.key}: {len(group.pairs)} pairs and {len(group.deltas)} deltas "
        f"of {count} members were measured, and it needs them all: analyse the stack first, "
        "sampled or exact"
    )
    raise ParamError(message)


def _weigh(
    group: GroupStatistics,
    pair: PairStatistics,
    weights: tuple[float, float],
    say: float,
    *,
    errors: float,
    margin: float,
) -> Evidence:
    gram, i, j = group.gram, pair.first, pair.second
    turned = (weights[0] < 0) != (weights[1] < 0)
    seen = pair.flipped() if turned else pair
    rows, cols = group.target.rows, group.target.cols
    cosine = float(gram[i, j]) / math.sqrt(gram[i, i]) / math.sqrt(gram[j, j])
    both = math.sqrt(seen.first2 * seen.second2)
    loss = _share_of_loss(seen, weights)
    spread = math.sqrt(0.5 / rows**2 + 0.5 / cols**2)
    return Evidence(
        first=i,
        second=j,
        cosine=max(-1.0, min(1.0, -cosine if turned else cosine)),
        cosine_bound=max(errors / math.sqrt(rows * cols), margin),
        shared=seen.shared,
        shared_bound=max(errors * spread, margin),
        clash=seen.lost_excess * loss,
        clash_bound=max(errors * seen.loss_error * loss, margin),
        excess=seen.excess,
        excess_bound=max(errors * seen.excess_error, margin),
        agreeing=(seen.product + seen.dot) / both if both > 0 else 0.0,
        apart=_apart(seen),
        say=say,
    )


def _share_of_loss(pair: PairStatistics, weights: tuple[float, float]) -> float:
    """What weights do to a share of lost energy, measured without them.

    ``2 |w_a w_b| |a b| / (w_a^2 a^2 + w_b^2 b^2)`` over ``2 |a b| / (a^2 + b^2)``.
    """
    first, second = abs(weights[0]), abs(weights[1])
    largest = max(first, second)
    first, second = first / largest, second / largest
    energy = first**2 * pair.first2 + second**2 * pair.second2
    return first * second * (pair.first2 + pair.second2) / energy if energy > 0 else 0.0


def _apart(pair: PairStatistics) -> bool:
    sides = ((pair.left, pair.left_chance), (pair.right, pair.right_chance))
    return pair.positions == 0 or all(found <= _APART * chance for found, chance in sides)


def is_low_rank(deltas: Sequence[DeltaStatistics], *, rows: int, cols: int, most: float) -> bool:
    """Whether all factors have at most this share of the rank that the shape allows."""
    return all(delta.rank <= most * min(rows, cols) for delta in deltas)
