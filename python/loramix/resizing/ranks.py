"""One budget for many targets: which singular values are worth their place.

Every target has singular values s_1 >= s_2 >= ..., and each rank of it takes ``rows + cols``
numbers.  Left out, a value adds s^2 to the squared error of the whole.  Values are kept in order of
``s^2 / (rows + cols)``, so no other choice of at most as many numbers has a smaller error (the
continuous knapsack; an error between two steps of that order is met by the larger one, and what
a size leaves between them goes to the next values that fit).  The order does not depend on the
budget: ranks for a larger error are nowhere larger.

The first value of every target is kept whatever it is: nobody reads factors of rank 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from loramix.tensors import F64

_LEVELS = 1 << 20
"""Steps of an octave that are told apart; what is closer together is equal but for rounding."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Singular values of a target.

    Attributes
    ----------
    values : (k,) float64, largest first, k >= 1.
    cost : numbers that one rank takes, rows + cols.
    """

    values: F64 = field(repr=False)
    cost: int


def for_error(spectra: Sequence[Spectrum], error: float) -> tuple[int, ...]:
    """Ranks of at most this error, with as few numbers as there are.

    Parameters
    ----------
    error : root of the sum of the squares of all values left out, over that of all there are;
        [0, 1).

    Returns
    -------
    One rank of at least 1 for each spectrum; more than that only for values other than 0.

    Notes
    -----
    Exact up to one step of the order.  Cost: one sort of all values.
    """
    steps = _steps(spectra)
    total = math.fsum(float((one.values**2).sum()) for one in spectra)
    left = np.concatenate([steps.energy[::-1].cumsum()[::-1], [0.0]])
    enough = np.flatnonzero(left[steps.ends] <= error**2 * total)
    return steps.ranks(int(steps.ends[enough[0]]))


def for_size(spectra: Sequence[Spectrum], numbers: int) -> tuple[int, ...]:
    """Ranks that take at most so many numbers, with as small an error as there is.

    Parameters
    ----------
    numbers : at least those of rank 1 everywhere, `least`.

    Returns
    -------
    As `for_error`; there is no room for another value of any target.

    Notes
    -----
    More numbers never have a larger error: what a step that does not fit would have brought is more
    than all that goes into its room instead.
    """
    steps = _steps(spectra)
    taken = np.concatenate([[0], steps.cost.cumsum()]) + least(spectra)
    fitting = np.flatnonzero(taken[steps.ends] <= numbers)
    kept = int(steps.ends[fitting[-1]]) if len(fitting) else 0
    return _filled(steps, kept, numbers - int(taken[kept]))


def _filled(steps: "_Steps", kept: int, room: int) -> tuple[int, ...]:
    """Ranks where so many steps are kept, and of the others what still has room, in their order."""
    ranks = list(steps.ranks(kept))
    full: set[int] = set()
    rows = zip(steps.target[kept:].tolist(), steps.cost[kept:].tolist(), strict=True)
    for target, cost in rows:
        if len(full) == steps.count:
            break
        if target in full or cost > room:
            full.add(target)  # its values are kept in their order
        else:
            ranks[target] += 1
            room -= cost
    return tuple(ranks)


def least(spectra: Sequence[Spectrum]) -> int:
    """Numbers that rank 1 everywhere takes."""
    return sum(one.cost for one in spectra)


def error_of(spectra: Sequence[Spectrum], ranks: Sequence[int]) -> float:
    """The relative error of the whole at these ranks; 0 where there is nothing."""
    pairs = list(zip(spectra, ranks, strict=True))
    left = math.fsum(float((one.values[rank:] ** 2).sum()) for one, rank in pairs)
    total = math.fsum(float((one.values**2).sum()) for one in spectra)
    return math.sqrt(left / total) if total > 0 else 0.0


@dataclass(frozen=True, slots=True)
class _Steps:
    """All values but the first of every target, the most worthwhile first.

    Attributes
    ----------
    target, energy, cost : of each: position of its spectrum, its square, what it takes.
    ends : where a prefix may end: equal spectra get equal ranks.
    count : number of targets.
    """

    target: np.ndarray[tuple[int], np.dtype[np.int64]]
    energy: F64
    cost: np.ndarray[tuple[int], np.dtype[np.int64]]
    ends: np.ndarray[tuple[int], np.dtype[np.int64]]
    count: int

    def ranks(self, kept: int) -> tuple[int, ...]:
        """Ranks where so many of the steps are kept."""
        found = 1 + np.bincount(self.target[:kept], minlength=self.count)
        return tuple(found.tolist())


def _steps(spectra: Sequence[Spectrum]) -> _Steps:
    rests = [one.values[1:][one.values[1:] > 0] for one in spectra]
    sizes = [len(rest) for rest in rests]
    energy = np.concatenate([np.zeros(0), *rests]) ** 2
    target = np.repeat(np.arange(len(spectra)), sizes)
    cost = np.repeat([one.cost for one in spectra], sizes).astype(np.int64)
    place = np.concatenate([np.zeros(0, dtype=np.int64), *map(np.arange, sizes)]).astype(np.int64)
    level = np.round(np.log2(np.maximum(energy, np.finfo(np.float64).tiny) / cost) * _LEVELS)
    order = np.lexsort((target, place, -level))
    level, place = level[order], place[order]
    new = (level[1:] != level[:-1]) | (place[1:] != place[:-1])
    ends = np.concatenate([[0], 1 + np.flatnonzero(new), [len(order)] * bool(len(order))])
    return _Steps(target[order], energy[order], cost[order], ends.astype(np.int64), len(spectra))
