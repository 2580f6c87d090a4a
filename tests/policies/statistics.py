"""Statistics of dense deltas in float64, straight from the docstrings of `PairStatistics`.

Errors are two-way clustered (Cameron, Gelbach and Miller 2011): positions of one row depend on
each other, and so do those of one column.  Rows and columns are dealt to 16 groups each; the
variances of the jackknives over row groups and over column groups are added, that over their
cells is subtracted.

Nothing is shared with the package but the records that are filled.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from loramix.analysis.statistics import DeltaStatistics, GroupStatistics, PairStatistics
from loramix.types import Target

F64 = npt.NDArray[np.float64]
FOLDS = 16
FLOOR = 0.05


def group_statistics(
    deltas: Sequence[F64],
    ranks: Sequence[int],
    *,
    key: str = "unet.blocks.0.attn.to_q",
    owners: Sequence[int] | None = None,
) -> GroupStatistics:
    """All of one group, of all entries."""
    gram = np.array([[np.sum(a * b) for b in deltas] for a in deltas])
    return GroupStatistics(
        Target(key, deltas[0].shape),
        tuple(owners if owners is not None else range(len(deltas))),
        gram,
        tuple(delta_statistics(d, r) for d, r in zip(deltas, ranks, strict=True)),
        tuple(pair_statistics(deltas, i, j) for i, j in combinations(range(len(deltas)), 2)),
    )


def delta_statistics(delta: F64, rank: int) -> DeltaStatistics:
    """One delta."""
    smaller = delta if delta.shape[0] <= delta.shape[1] else delta.T
    energy = np.maximum(np.linalg.eigvalsh(smaller @ smaller.T), 0)
    total = energy.sum()
    if total == 0:
        return DeltaStatistics(rank, 0.0, 0.0, 0.0, 0.0, 0.0, (0.0,) * 64)
    shares = energy[energy > 1e-14 * energy.max()] / total
    squares = np.sort(np.square(delta).ravel())[::-1]
    held = np.searchsorted(np.cumsum(squares), 0.95 * squares.sum()) + 1
    drawn = np.sort(np.random.default_rng(0).choice(np.abs(delta).ravel(), 1000))
    return DeltaStatistics(
        rank=rank,
        norm=float(np.sqrt(total)),
        stable_rank=float(total / energy.max()),
        effective_rank=float(np.exp(-np.sum(shares * np.log(shares)))),
        participation=float(total**2 / np.sum(energy**2)),
        density=float(held / delta.size),
        magnitudes=tuple(float(x) for x in drawn[np.linspace(0, 999, 64).astype(int)]),
    )


def pair_statistics(deltas: Sequence[F64], first: int, second: int) -> PairStatistics:
    """Two deltas, of all entries."""
    a, b = deltas[first], deltas[second]
    both = (a != 0) & (b != 0)
    differ = both & ((a > 0) != (b > 0))
    least = np.where(both, np.minimum(np.abs(a), np.abs(b)), 0.0)
    x, y = np.where(both, a, 0.0), np.where(both, b, 0.0)
    count = max(int(both.sum()), 1)
    floor = FLOOR * np.sqrt(max(np.sum(x * x), np.sum(y * y)) / count)
    loud = (np.abs(x) > floor) & (np.abs(y) > floor)
    loud = loud if loud.any() else both
    sums = _cells([x * y, x * x, y * y, np.abs(x * y), least, np.where(differ, least, 0.0)])
    excess_error, loss_error = _errors(sums)
    dot, first2, second2, product, total, conflicting = sums.sum(axis=(0, 1))
    return PairStatistics(
        first=first,
        second=second,
        looked=a.size,
        positions=int(both.sum()),
        conflicts=int(differ.sum()),
        dot=float(dot),
        first2=float(first2),
        second2=float(second2),
        product=float(product),
        total=float(total),
        conflicting=float(conflicting),
        floor_total=float(least[loud].sum()),
        floor_conflicting=float(least[loud & differ].sum()),
        excess_error=excess_error,
        loss_error=loss_error,
        **_subspaces(a, b),
    )


def _cells(entries: Sequence[F64]) -> F64:
    """(16, 16, kinds) sums over the groups of rows and columns."""
    rows, cols = entries[0].shape
    row = np.eye(FOLDS)[:, np.arange(rows) % FOLDS]
    col = np.eye(FOLDS)[np.arange(cols) % FOLDS]
    return np.stack([row @ kind @ col for kind in entries], axis=-1)


def _errors(sums: F64) -> tuple[float, float]:
    whole = sums.sum(axis=(0, 1))
    if whole[4] <= 0:
        return 0.0, 0.0
    parts = (sums.sum(axis=1), sums.sum(axis=0), sums.reshape(-1, sums.shape[-1]))
    rows, cols, cells = (_jackknife(whole - part) for part in parts)
    excess, loss = np.sqrt(np.maximum(rows + cols - cells, np.maximum(rows, cols)))
    return float(excess), float(loss)


def _jackknife(left: F64) -> F64:
    """Variances of excess and lost excess from sums that leave one group out each."""
    dot, first2, second2, product, total, conflicting = left.T
    rho = np.clip(dot / np.sqrt(first2 * second2), -1, 1)
    k = np.sqrt(second2 / first2)
    theta = np.arccos(rho)
    here, there = _corner(theta, k), _corner(np.pi - theta, k)
    excess = conflicting / total - here / (here + there)
    lost = 2 * k / (1 + k * k) * (np.sin(theta) - theta * np.cos(theta)) / np.pi
    loss = (product - dot) / (first2 + second2) - lost
    n = len(left)
    return np.array([(n - 1) * np.var(found) for found in (excess, loss)])


def _corner(t: F64, k: F64) -> Any:
    u = np.arctan2(k * np.sin(t), 1 + k * np.cos(t))
    return (1 - np.cos(u)) + k * (1 - np.cos(t - u))


def _subspaces(a: F64, b: F64) -> dict[str, float]:
    shared: dict[str, float] = {}
    for name, x, y in (("left", a, b), ("right", a.T, b.T)):
        own, other = x @ x.T, y @ y.T
        size = float(np.linalg.norm(own) * np.linalg.norm(other))
        chance = float(np.trace(own) * np.trace(other) / len(own))
        shared[name] = float(np.sum(own * other)) / size if size > 0 else 0.0
        shared[f"{name}_chance"] = chance / size if size > 0 else 0.0
    return {"overlap": (shared["left"] + shared["right"]) / 2, **shared}
