"""Groups whose truth is known, because it was put there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from policies.statistics import group_statistics

from loramix.analysis.statistics import GroupStatistics

F64 = npt.NDArray[np.float64]
SHAPES = ((64, 56), (48, 72), (60, 60))
RANKS = (4, 8, 16, 32)


@dataclass(frozen=True)
class Planted:
    """Deltas with their ranks, their statistics, and the users' weights."""

    deltas: list[F64]
    ranks: list[int]
    weights: list[float]
    group: GroupStatistics


Plant = Callable[[np.random.Generator, tuple[int, int], int, int], list[tuple[F64, int]]]
"""Generator, shape, rank, number of members -> deltas and their ranks."""


def planted(regime: str, seed: int) -> Planted:
    """One draw: shape, rank, two to four members, weights of any sign, order.

    A member of negative weight is negated: what it does to the others is what was planted.
    """
    rng = np.random.default_rng([*regime.encode(), seed])
    shape, rank = SHAPES[rng.integers(len(SHAPES))], RANKS[rng.integers(len(RANKS))]
    members = PLANTS[regime](rng, shape, rank, int(rng.integers(2, 5)))
    order = rng.permutation(len(members))
    weights = rng.uniform(0.5, 1.2, len(order)) * rng.choice([-1.0, 1.0], len(order))
    deltas = [np.sign(w) * members[i][0] for i, w in zip(order, weights, strict=True)]
    ranks = [members[i][1] for i in order]
    return Planted(deltas, ranks, [float(w) for w in weights], group_statistics(deltas, ranks))


def product(rng: np.random.Generator, shape: tuple[int, int], rank: int) -> F64:
    """A product of normal factors, of norm 1."""
    delta = rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))
    return np.asarray(delta / np.linalg.norm(delta))


def mixed(first: F64, second: F64, cosine: float) -> F64:
    """At this cosine to the first, in the plane of both; of norm 1."""
    rest = second - np.sum(first * second) * first
    return np.asarray(cosine * first + np.sqrt(1 - cosine**2) * rest / np.linalg.norm(rest))


def _alone(
    rng: np.random.Generator, shape: tuple[int, int], rank: int, count: int
) -> list[tuple[F64, int]]:
    """The others change something else, or nothing that counts."""
    members = [(product(rng, shape, rank), rank)]
    return members + [(1e-3 * product(rng, shape, rank), rank) for _ in range(count - 1)]


def _independent(
    rng: np.random.Generator, shape: tuple[int, int], rank: int, count: int
) -> list[tuple[F64, int]]:
    return [(product(rng, shape, rank), rank) for _ in range(count)]


def _at(low: float, high: float) -> Plant:
    """The first two at a cosine from this range, the others on their own."""

    def plant(
        rng: np.random.Generator, shape: tuple[int, int], rank: int, count: int
    ) -> list[tuple[F64, int]]:
        members = _independent(rng, shape, rank, count)
        first, second = members[0][0], members[1][0]
        members[1] = (mixed(first, second, rng.uniform(low, high)), 2 * rank)
        return members

    return plant


def _partial(
    rng: np.random.Generator, shape: tuple[int, int], rank: int, count: int
) -> list[tuple[F64, int]]:
    """The first two share half of their rows' or columns' directions, or a part of themselves."""
    kind = rng.integers(3)
    if kind == 2:
        return _at(0.12, 0.4)(rng, shape, rank, count)
    members = _independent(rng, shape, rank, count)
    half = rank // 2
    common = rng.normal(size=(shape[0], half))
    for place in range(2):
        up = np.concatenate([common, rng.normal(size=(shape[0], rank - half))], axis=1)
        delta = up @ rng.normal(size=(rank, shape[1]))
        members[place] = (np.asarray(delta / np.linalg.norm(delta)), rank)
    if kind == 1:
        turned = [product(rng, shape[::-1], rank) for _ in range(count)]
        same = rng.normal(size=(shape[1], half))
        for place in range(2):
            up = np.concatenate([same, rng.normal(size=(shape[1], rank - half))], axis=1)
            delta = up @ rng.normal(size=(rank, shape[0]))
            turned[place] = np.asarray(delta / np.linalg.norm(delta))
        members = [(delta.T, rank) for delta in turned]
    return members


def _disjoint(
    rng: np.random.Generator, shape: tuple[int, int], rank: int, count: int
) -> list[tuple[F64, int]]:
    """Entries in other rows, or orthogonal directions on both sides."""
    rank = min(rank, min(shape) // count)
    if rng.integers(2):
        parts = np.array_split(rng.permutation(shape[0]), count)
        members = []
        for part in parts:
            delta = np.zeros(shape)
            delta[part] = product(rng, (len(part), shape[1]), rank)
            members.append((delta, rank))
        return members
    left, _ = np.linalg.qr(rng.normal(size=(shape[0], rank * count)))
    right, _ = np.linalg.qr(rng.normal(size=(shape[1], rank * count)))
    slices = [slice(i * rank, (i + 1) * rank) for i in range(count)]
    values = [np.exp(rng.normal(size=rank)) for _ in slices]
    return [
        ((left[:, own] * value) @ right[:, own].T / np.linalg.norm(value), rank)
        for own, value in zip(slices, values, strict=True)
    ]


def _conflicted(
    rng: np.random.Generator, shape: tuple[int, int], rank: int, count: int
) -> list[tuple[F64, int]]:
    """The second follows the first, but a share of the large entries, or of the rows, is turned."""
    members = _independent(rng, shape, rank, count)
    first, second = members[0][0], members[1][0]
    second = mixed(first, second, rng.uniform(0.5, 0.8))
    if rng.integers(2):
        rows = rng.permutation(shape[0])[: int(rng.uniform(0.3, 0.5) * shape[0])]
        second[rows] *= -1
        members[1] = (second, 2 * rank)
        return members
    large = np.abs(first) > np.quantile(np.abs(first), 1 - rng.uniform(0.1, 0.3))
    members[1] = (np.where(large & (rng.random(shape) < 0.8), -second, second), min(shape))
    return members


PLANTS: Mapping[str, Plant] = {
    "alone": _alone,
    "independent": _independent,
    "disjoint": _disjoint,
    "partial": _partial,
    "aligned": _at(0.55, 0.97),
    "opposed": _at(-0.97, -0.3),
    "conflicted": _conflicted,
}
REGIMES: Sequence[str] = tuple(PLANTS)
