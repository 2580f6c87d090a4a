"""Slow float64 truth of every statistic of pass 1, on dense deltas, from the definitions.

Nothing here is shared with the package: spectra and subspaces come from singular value
decompositions of dense matrices, sums from masks over arrays, standard errors from numerical
derivatives, the sampling from the written specification in ``rust/src/statistics/block.rs``.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from oracles import philox

F64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CLUSTERS = 16


@dataclass(frozen=True)
class Sample:
    """Rows and columns that are looked at, rising."""

    rows: Ints
    cols: Ints

    def of(self, delta: F64) -> F64:
        return delta[np.ix_(self.rows, self.cols)]


def lines(length: int, count: int, key: int, purpose: int) -> Ints:
    """One line from each of ``count`` strata of ``length`` lines; all if there are no more."""
    if count >= length:
        return np.arange(length)
    found = []
    for i, word in enumerate(philox(0, key, purpose, count).tolist()):
        start, stop = i * length // count, (i + 1) * length // count
        found.append(start + word * (stop - start) // 2**32)
    return np.array(found)


def sample(shape: tuple[int, int], count: int, key: int) -> Sample:
    return Sample(lines(shape[0], count, key, 0), lines(shape[1], count, key, 1))


@dataclass(frozen=True)
class Delta:
    """See `loramix.analysis.statistics.DeltaStatistics`."""

    norm: float
    stable_rank: float
    effective_rank: float
    participation: float
    density: float
    magnitudes: list[float]


def delta_statistics(delta: F64, key: int, samples: int) -> Delta:
    """Spectrum of a whole delta, magnitudes of a block of it."""
    block = sample(delta.shape, samples, key).of(delta)
    squares = np.linalg.svd(delta, compute_uv=False) ** 2
    total = squares.sum()
    stable = effective = participation = 0.0
    if total > 0:
        shares = squares[squares > 0] / total
        stable = total / squares.max()
        effective = math.exp(-(shares * np.log(shares)).sum())
        participation = total**2 / (squares**2).sum()
    norm = math.sqrt((delta**2).sum())
    return Delta(norm, stable, effective, participation, density(block), orders(block, key))


def density(block: F64) -> float:
    energies = np.sort(block.ravel() ** 2)[::-1]
    if energies.sum() == 0:
        return 0.0
    held = np.cumsum(energies)
    return (int(np.argmax(held >= 0.95 * held[-1])) + 1) / block.size


def orders(block: F64, key: int) -> list[float]:
    flat = np.abs(block.ravel())
    if flat.size > 1000:
        words = philox(0, key, 2, 1000).astype(object)
        flat = flat[[int(word) * flat.size // 2**32 for word in words]]
    flat = np.sort(flat)
    return [float(flat[math.ceil(j * flat.size / 64) - 1]) for j in range(1, 65)]


PARTS = ("conflicting", "total", "dot", "first2", "second2", "product")


def pair_sums(a: F64, b: F64) -> dict[str, float]:
    """Sums over the positions of two blocks where both are non-zero."""
    both = (a != 0) & (b != 0)
    x, y = a[both], b[both]
    differ = np.sign(x) != np.sign(y)
    least = np.minimum(np.abs(x), np.abs(y))
    found: dict[str, float] = {
        "looked": a.size,
        "positions": int(both.sum()),
        "conflicts": int(differ.sum()),
        "dot": (x * y).sum(),
        "first2": (x * x).sum(),
        "second2": (y * y).sum(),
        "product": np.abs(x * y).sum(),
        "total": least.sum(),
        "conflicting": least[differ].sum(),
    }
    floor = 0.0
    if x.size:
        floor = 0.05 * max(math.sqrt((x * x).mean()), math.sqrt((y * y).mean()))
    above = (np.abs(x) > floor) & (np.abs(y) > floor)
    if not above.any():
        above[:] = True
    found["floor_total"] = least[above].sum()
    found["floor_conflicting"] = least[above & differ].sum()
    return found


def excess(sums: F64) -> float:
    """Weighted conflict beyond that of an elliptical pair, by the formula of the reference."""
    conflicting, total, dot, first2, second2, _ = sums
    theta = math.acos(max(-1.0, min(1.0, dot / math.sqrt(first2 * second2))))
    k = math.sqrt(second2 / first2)

    def corner(t: float) -> float:
        u = math.atan2(k * math.sin(t), 1 + k * math.cos(t))
        return (1 - math.cos(u)) + k * (1 - math.cos(t - u))

    return conflicting / total - corner(theta) / (corner(theta) + corner(math.pi - theta))


def lost_excess(sums: F64) -> float:
    """Lost energy beyond that of an elliptical pair."""
    _, _, dot, first2, second2, product = sums
    rho = max(-1.0, min(1.0, dot / math.sqrt(first2 * second2)))
    theta = math.acos(rho)
    expected = 2 * math.sqrt(first2 * second2) / (first2 + second2)
    expected *= (math.sin(theta) - theta * rho) / math.pi
    return (product - dot) / (first2 + second2) - expected


def standard_error(a: F64, b: F64, statistic: Callable[[F64], float]) -> float:
    """Two-way clustered standard error, by numerical derivatives of the statistic."""
    size = max(np.abs(a).max(), np.abs(b).max()) or 1.0
    a, b = a / size, b / size  # the statistics do not depend on it
    least = np.where((a != 0) & (b != 0), np.minimum(np.abs(a), np.abs(b)), 0.0)
    squares = [np.where(least > 0, x * x, 0.0) for x in (a, b)]
    values = [least * (a * b < 0), least, a * b, *squares, np.abs(a * b)]
    rows, cols = (
        np.arange(length)[:, None] % CLUSTERS == np.arange(min(CLUSTERS, length))
        for length in a.shape
    )
    cells = np.stack([rows.T @ value @ cols for value in values], axis=2)
    total = cells.sum(axis=(0, 1))
    if min(total[1], total[3], total[4]) == 0:
        return 0.0
    slopes = np.zeros(len(PARTS))
    for part, value in enumerate(total):
        step = 1e-5 * max(abs(value), 1e-3 * math.sqrt(total[3] * total[4]))
        up, down = total.copy(), total.copy()
        up[part] += step
        down[part] -= step
        slopes[part] = (statistic(up) - statistic(down)) / (2 * step)

    def variance(clusters: F64) -> float:
        if len(clusters) < 2:
            return 0.0
        return len(clusters) * float(np.var(clusters @ slopes, ddof=1))

    by_rows, by_cols = variance(cells.sum(axis=1)), variance(cells.sum(axis=0))
    both = by_rows + by_cols - variance(cells.reshape(-1, len(PARTS)))
    return math.sqrt(max(by_rows, by_cols, both))


def overlap(ups: Sequence[F64], downs: Sequence[F64]) -> float:
    """The published overlap: mean of both sides, bases by singular value decompositions."""
    return (_aligned(ups[0], ups[1]) + _aligned(downs[0].T, downs[1].T)) / 2


def _aligned(a: F64, b: F64) -> float:
    bases = []
    for matrix in (a, b):
        u, s, _ = np.linalg.svd(matrix, full_matrices=False)
        bases.append(u[:, s > 1e-5 * s[0]] if s.size and s[0] > 0 else u[:, :0])
    least = min(basis.shape[1] for basis in bases)
    return float((np.abs(bases[0].T @ bases[1]) ** 2).sum() / least) if least else 0.0


def weighted_overlap(a: F64, b: F64) -> float:
    """``<a a^T, b b^T>`` over the product of their norms."""
    size = math.sqrt(_squares(a, a)) * math.sqrt(_squares(b, b))
    return _squares(a, b) / size if size > 0 else 0.0


def _squares(a: F64, b: F64) -> float:
    """``<a a^T, b b^T>``."""
    if a.shape[0] > a.shape[1]:  # the same trace, of a smaller matrix
        return float(((a.T @ b) ** 2).sum())
    return float(((a @ a.T) * (b @ b.T)).sum())


def chance(a: F64, b: F64, dim: int) -> float:
    """Of independent deltas with these spectra: ``sqrt(p_a p_b) / dim``."""
    squares = [_squares(delta, delta) for delta in (a, b)]
    if min(squares) == 0:
        return 0.0
    first, second = (
        (delta**2).sum() / math.sqrt(square) for delta, square in zip((a, b), squares, strict=True)
    )
    return min(1.0, first * second / dim)
