"""Rank-one units of all adapters, clustered."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from loramix.errors import ParamError
from loramix.methods.base import Law
from loramix.methods.spectra import Spectrum, spectrum
from loramix.tensors import F64

_I64 = npt.NDArray[np.int64]
_STARTS = 8
_ROUNDS = 100
_DIGITS = 9
"""Decimals of squared distances that are compared."""
_SAME = 1e-12
"""Squared distance (of at most 2) under which two units are one."""


@dataclass(frozen=True, slots=True)
class Lego:
    """Rank-one units of the weighted deltas in k clusters, one direction for each.

    The units of an adapter are its singular triples s u v^T, which do not depend on how its
    factors were rotated.  Two are close if the lines through the matrices u v^T are: their squared
    distance is ``2 - 2 ((u^T u') (v^T v'))^2``, in which no sign shows, neither the free one of u
    and v nor that of the weight, so opposed units meet in a cluster and cancel.  They are grouped
    by k-means with masses s (k-means++, the best of eight starts), and each cluster gives the
    best rank-one approximation of the sum of its units.  The result has rank k.

    With ``k`` at its default equal adapters come back as their sum.  Of unlike units in one
    cluster only the heaviest direction stays.

    Ours are the canonical units (published: columns and rows as the trainer left them), the
    distance, the masses, and the approximation.  The published centroids average both sides
    apart, which shrinks their product; two heuristics ("dual reweighting") restore the size.
    The best approximation does not shrink what agrees, so nothing is restored: what was cut
    must not come back as more of what was kept.

    Breaks one law: a unit is in one cluster or in another, so the result jumps where it changes
    over.  Units that tie in everything (mass and likeness to all) without being equal are drawn
    in the adapters' order.

    Parameters
    ----------
    k : number of clusters, at least 0.  0, the default: the number of units of the adapter that
        has most.  With as many clusters as units the result is the plain sum.
    seed : of the starts, [0, 2^64).

    Notes
    -----
    A unit has a singular value above 1e-7 of the largest of its delta.
    Cost, with R units: n + k singular value decompositions of (p, q), and 8 k-means on an R x R
    matrix, R^2 k each round, at most 100 rounds.

    References
    ----------
    Zhao et al. 2024, arXiv:2409.16167.  Arthur and Vassilvitskii 2007 (k-means++).
    """

    name: ClassVar[str] = "lego"
    mean: ClassVar[bool] = False
    breaks: ClassVar[frozenset[Law]] = frozenset({"continuity"})

    k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, most in (("k", self.k, 2**63), ("seed", self.seed, 2**64)):
            if not isinstance(value, int) or not 0 <= value < most:
                message = f"lego: {name} = {value}: a whole number of [0, {most})"
                raise ParamError(message)

    def merge(self, cores: F64, weights: F64) -> F64:
        """Cluster the units, one direction for each cluster."""
        parts = [spectrum(weight * core) for weight, core in zip(weights, cores, strict=True)]
        count = self.k or max(part.values.size for part in parts)
        result = np.zeros(cores.shape[1:])
        units, alike = _canonical(parts)
        if units.values.size == 0:
            return result
        home = _clusters(alike, units.values, count, self.seed)
        for cluster in np.unique(home):
            at = home == cluster
            total = (units.left[:, at] * units.values[at]) @ units.right[at]
            left, values, right = spectrum(total).head(1)
            result += (left * values) @ right
        return result


def _canonical(parts: list[Spectrum]) -> tuple[Spectrum, F64]:
    """All units, and their likeness, in an order that is not that of the adapters.

    By mass, then by likeness to all; units that still tie are, but for accidents, equal.
    """
    left = np.concatenate([part.left for part in parts], axis=1)
    values = np.concatenate([part.values for part in parts])
    right = np.concatenate([part.right for part in parts])
    alike = np.square((left.T @ left) * (right @ right.T))
    order = np.lexsort((-(alike @ values), -values))
    units = Spectrum(left[:, order], values[order], right[order])
    return units, alike[np.ix_(order, order)]


def _clusters(alike: F64, mass: F64, count: int, seed: int) -> _I64:
    """The cluster of each unit: the best of several k-means.

    Parameters
    ----------
    alike : (R, R) squared cosines of units: inner products of points of length one.
    mass : (R,) positive.
    count : clusters wanted; there are fewer if there are fewer different units.
    """
    draws = np.random.Philox(key=seed)
    best, least = np.arange(mass.size), np.inf
    if count >= mass.size:
        return best
    for _ in range(_STARTS):
        home, cost = _settle(alike, mass, _starts(alike, mass, count, draws))
        if cost < least:
            best, least = home, cost
    return best


def _starts(alike: F64, mass: F64, count: int, draws: np.random.Philox) -> F64:
    """Squared distances (R, c) to the c <= count first centres, drawn by k-means++.

    One word of the generator per centre, as a fraction of 53 bits: the first is drawn by mass,
    the others by mass times squared distance to the nearest.
    """
    words = draws.random_raw(count) >> np.uint64(11)
    far: list[F64] = []
    chance = mass
    for word in words:
        ends = np.cumsum(chance)
        if ends[-1] <= 0:
            break
        level = float(word) * 2.0**-53 * ends[-1]
        at = int(np.searchsorted(ends[:-1], level, side="right"))
        far.append(2 - 2 * alike[:, at])
        nearest = np.min(far, axis=0)
        chance = np.where(nearest > _SAME, mass * nearest, 0.0)
    return np.stack(far, axis=1)


def _nearest(far: F64) -> _I64:
    """The nearest centre of each unit; of those equally near, the one drawn first.

    Units of one adapter are orthogonal, so equally far from all centres that are other units of
    it, and those of unlike adapters almost are: rounding must not decide.
    """
    return np.asarray(np.argmin(np.round(far, _DIGITS), axis=1))


def _settle(alike: F64, mass: F64, far: F64) -> tuple[_I64, float]:
    """Lloyd's rounds from given distances: the cluster of each unit, and what they cost.

    Centres are means by mass, known through inner products only.  A cluster that loses all its
    units is out.
    """
    home = _nearest(far)
    for _ in range(_ROUNDS):
        share = np.where(home[:, None] == np.unique(home), mass[:, None], 0.0)
        share /= share.sum(axis=0)
        reach = alike @ share
        far = 1 - 2 * reach + (share * reach).sum(axis=0)
        last, home = home, _nearest(far)
        if np.array_equal(np.unique(last, return_inverse=True)[1], home):
            break
    return home, float(mass @ far.min(axis=1))
