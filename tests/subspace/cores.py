"""Methods on cores, their oracles, and random factors.

The bases are made here, by QR of the stacked factors, as a caller would.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from oracles_subspace import F64

from loramix.methods.base import Subspace
from loramix.methods.iso import IsoC, IsoCts
from loramix.methods.lego import Lego
from loramix.methods.svc import Svc
from loramix.methods.tsv import Tsv

Method: TypeAlias = IsoC | IsoCts | Tsv | Svc | Lego

Factors: TypeAlias = list[tuple[F64, F64]]

WEIGHTS = [1.0, -0.6, 0.8, 1.3, -0.2, 0.5]


def draw(seed: int, shape: tuple[int, int], ranks: Sequence[int], kinship: float = 0.5) -> Factors:
    """Random factors of different sizes, whose first direction is partly shared."""
    rng = np.random.default_rng(seed)
    rows, cols = shape
    shared_up, shared_down = rng.normal(size=rows), rng.normal(size=cols)
    factors = []
    for rank in ranks:
        up, down = rng.normal(size=(rows, rank)), rng.normal(size=(rank, cols))
        up[:, 0] += kinship * shared_up
        down[0] += kinship * shared_down
        factors.append((np.exp(rng.uniform(-1, 1)) * up, down))
    return factors


def dense(factors: Factors) -> list[F64]:
    return [up @ down for up, down in factors]


def bases(factors: Factors) -> tuple[F64, F64]:
    """Orthonormal U (m x p) and V (n x q) of all columns and rows."""
    left = np.linalg.qr(np.concatenate([up for up, _ in factors], axis=1))[0]
    right = np.linalg.qr(np.concatenate([down for _, down in factors]).T)[0]
    return left, right


def merged(
    method: Subspace, deltas: Sequence[F64], weights: Sequence[float], left: F64, right: F64
) -> F64:
    """The dense result by way of cores."""
    cores = np.stack([left.T @ delta @ right for delta in deltas])
    core = method.merge(cores, np.array(weights))
    assert core.shape == cores.shape[1:]
    assert core.dtype == np.float64
    return np.asarray(left @ core @ right.T)


def on(method: Subspace, deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    """The result in the trivial bases: a delta is its own core."""
    rows, cols = deltas[0].shape
    return merged(method, deltas, weights, np.eye(rows), np.eye(cols))


def size_of(deltas: Sequence[F64], weights: Sequence[float]) -> float:
    each = zip(weights, deltas, strict=True)
    return sum(abs(weight) * float(np.linalg.norm(delta)) for weight, delta in each)


def gap(left: F64, right: F64, size: float) -> float:
    """Distance over the size of the input; NaN counts as infinitely far."""
    found = float(np.linalg.norm(left - right)) / size
    return found if np.isfinite(found) else np.inf


def orthogonal(seed: int, size: int) -> F64:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def diagonal(*values: float) -> F64:
    return np.diag(np.array(values))
