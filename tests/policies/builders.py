"""Statistics made by hand: from dense deltas by their definitions, or to show given figures."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, cast

import numpy as np
from helpers import F64

from loramix import Adapter
from loramix.analysis.statistics import Analysis, DeltaStatistics, GroupStatistics, PairStatistics
from loramix.policies import Stack
from loramix.types import Coverage, Target

KEY = "unet.down_blocks.1.attentions.0.proj_in"


def adapter(name: str, architecture: str | None = None) -> Adapter:
    """An adapter of which only the name and the model matter."""
    nothing = Coverage(0)
    source = cast("Any", None)
    return Adapter(name, "plain", architecture, (), 0.0, {}, {}, nothing, source)


def low_rank(rng: np.random.Generator, shape: tuple[int, int], rank: int) -> F64:
    return rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1]))


def delta(value: F64, rank: int, sample: int = 64) -> DeltaStatistics:
    """One dense delta; its magnitudes are evenly spaced order statistics of all entries."""
    s2 = np.linalg.svd(value, compute_uv=False) ** 2
    shares = s2[s2 > 0] / s2.sum()
    rising = np.sort(np.abs(value), axis=None)
    places = np.linspace(0, rising.size - 1, sample).round().astype(int)
    top = float(shares.max())
    return DeltaStatistics(
        rank=rank,
        norm=float(np.linalg.norm(value)),
        stable_rank=1 / top,
        effective_rank=math.exp(-float(shares @ np.log(shares))),
        participation=1 / float(shares @ shares),
        density=0.5,
        magnitudes=tuple(rising[places].tolist()),
    )


def pair(first: int, second: int, a: F64, b: F64, ranks: tuple[int, int]) -> PairStatistics:
    """Two dense deltas, all entries."""
    both = (a != 0) & (b != 0)
    x, y = a[both], b[both]
    differ = x * y < 0
    least = np.minimum(np.abs(x), np.abs(y))
    floor = 0.05 * max(math.sqrt(np.mean(x**2)), math.sqrt(np.mean(y**2))) if len(x) else 0.0
    loud = (np.abs(x) > floor) & (np.abs(y) > floor)
    loud = loud if loud.any() else np.ones_like(loud)
    return PairStatistics(
        first=first,
        second=second,
        looked=a.size,
        positions=len(x),
        conflicts=int(differ.sum()),
        dot=float(x @ y),
        first2=float(x @ x),
        second2=float(y @ y),
        product=float(np.abs(x) @ np.abs(y)),
        total=float(least.sum()),
        conflicting=float(least[differ].sum()),
        floor_total=float(least[loud].sum()),
        floor_conflicting=float(least[loud & differ].sum()),
        excess_error=0.0,
        loss_error=0.0,
        overlap=_overlap(a, b, ranks) if len(x) else 0.0,
        left=0.0,
        right=0.0,
        left_chance=0.0,
        right_chance=0.0,
    )


def _overlap(a: F64, b: F64, ranks: tuple[int, int]) -> float:
    sides = []
    for one, other in ((a, b), (a.T, b.T)):
        q, p = (
            np.linalg.svd(m, full_matrices=False)[0][:, :rank]
            for m, rank in zip((one, other), ranks, strict=True)
        )
        sides.append(float(np.sum((q.T @ p) ** 2)) / min(ranks))
    return float(np.mean(sides))


def group(
    deltas: Sequence[F64],
    ranks: Sequence[int],
    key: str = KEY,
    owners: Sequence[int] | None = None,
) -> GroupStatistics:
    """A group of dense deltas, all figures by their definitions."""
    flat = np.array([one.ravel() for one in deltas])
    return GroupStatistics(
        Target(key, deltas[0].shape),
        tuple(owners if owners is not None else range(len(deltas))),
        flat @ flat.T,
        tuple(delta(one, rank) for one, rank in zip(deltas, ranks, strict=True)),
        tuple(
            pair(i, j, deltas[i], deltas[j], (ranks[i], ranks[j]))
            for i, j in combinations(range(len(deltas)), 2)
        ),
    )


def shown(
    cosine: float,
    excess: float = 0.0,
    overlap: float = 0.0,
    *,
    norms: tuple[float, float] = (1.0, 1.0),
    rank: int = 8,
    key: str = KEY,
    owners: tuple[int, int] = (0, 1),
    magnitudes: Sequence[float] = tuple(np.linspace(0, 1, 64)),
) -> GroupStatistics:
    """Two deltas whose published figures are exactly these; positions count as their energies."""
    a, b = norms
    positions, expected = 1000, math.acos(cosine) / math.pi
    conflicting = expected + excess
    assert conflicting <= 1
    one = PairStatistics(
        first=0,
        second=1,
        looked=positions,
        positions=positions,
        conflicts=round(positions * expected),
        dot=cosine * a * b,
        first2=a * a,
        second2=b * b,
        product=a * b,
        total=1.0,
        conflicting=conflicting,
        floor_total=1.0,
        floor_conflicting=conflicting,
        excess_error=0.0,
        loss_error=0.0,
        overlap=overlap,
        left=0.0,
        right=0.0,
        left_chance=0.0,
        right_chance=0.0,
    )
    gram = np.array([[a * a, cosine * a * b], [cosine * a * b, b * b]])
    deltas = tuple(
        DeltaStatistics(rank, norm, 1.0, 1.0, 1.0, 0.5, tuple(norm * m for m in magnitudes))
        for norm in norms
    )
    return GroupStatistics(Target(key, (64, 64)), owners, gram, deltas, (one,))


def single(norm: float = 1.0, *, key: str = KEY, owner: int = 0, rank: int = 8) -> GroupStatistics:
    """A target that one adapter has for itself."""
    magnitudes = tuple((norm * np.linspace(0, 1, 64)).tolist())
    only = DeltaStatistics(rank, norm, 1.0, 1.0, 1.0, 0.5, magnitudes)
    return GroupStatistics(Target(key, (64, 64)), (owner,), np.array([[norm * norm]]), (only,))


def stack(
    groups: Sequence[GroupStatistics],
    weights: Sequence[float] = (1.0, 1.0),
    *,
    architecture: str | None = None,
    adapters: Sequence[Adapter] | None = None,
) -> Stack:
    """A stack of one weight per adapter."""
    named = [adapter(f"a{i}", architecture) for i in range(len(weights))]
    own = tuple(tuple(weights[owner] for owner in one.owners) for one in groups)
    analysis = Analysis(tuple(groups), samples=None, key="by hand")
    return Stack(tuple(adapters or named), analysis, own, architecture)
