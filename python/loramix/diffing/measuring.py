"""Two adapters target by target: norms, angles, differences; exact, and without cancellation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from loramix import _core
from loramix.backends import backend_of
from loramix.batching import READ_BYTES, batches, bytes_of
from loramix.groups import align
from loramix.refusals import with_names
from loramix.types import Adapter, Group

Sizes: TypeAlias = tuple[float, float]
Squares: TypeAlias = tuple[float, float, float, float]
"""|a|^2, |b|^2, <a, b>, |a - b|^2."""
Only: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]

_TILE = 1 << 20
"""Entries that are multiplied out at a time, where factors are as large as the weight."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two deltas of one target, or of all targets together.

    Attributes
    ----------
    norms : Frobenius norms of the first and the second.
    difference : ``|first - second|`` over the larger norm, [0, 2]; 0 where both are zero.
    cosine : of the angle between them, [-1, 1]; None where one is zero.
    ratio : the number c for which ``c * second`` is next to the first; None where one is zero.
    apart : ``|first - c * second| / |first|``, [0, 1]: what no factor explains; 1 where one is
        zero and the other is not.
    """

    norms: Sizes
    difference: float
    cosine: float | None
    ratio: float | None
    apart: float


@dataclass(frozen=True, slots=True)
class TargetPair:
    """One target that both adapters change.

    Attributes
    ----------
    target : its key.
    ranks : of the first and the second.
    scales : likewise, alpha / rank.
    """

    target: str
    ranks: tuple[int, int]
    scales: Sizes
    pair: Pair


def compare(
    a: Adapter, b: Adapter, threads: int | None
) -> tuple[list[Squares], list[TargetPair], Only]:
    """All groups: their squares, what is known of shared ones, and keys of the others."""
    groups = _groups(a, b)
    sums: list[Squares] = []
    targets: list[TargetPair] = []
    only: tuple[list[str], list[str]] = ([], [])
    for group, squares in zip(groups, _squares(groups, (a, b), threads), strict=True):
        sums.append(squares)
        if len(group.owners) == 2:
            x, y = group.members
            key, ranks, scales = group.target.key, (x.rank, y.rank), (x.scale, y.scale)
            targets.append(TargetPair(key, ranks, scales, pair_of(*squares)))
        elif max(squares) > 0:  # a delta of zero is as good as none
            only[group.owners[0]].append(group.target.key)
    return sums, targets, (tuple(only[0]), tuple(only[1]))


def _groups(a: Adapter, b: Adapter) -> list[Group]:
    """Targets side by side; what has two shapes, or two base models, has no counterpart."""
    if a.architecture and b.architecture and a.architecture != b.architecture:
        return [*align([a], split=False), *(_second(g) for g in align([b], split=False))]
    shapes = {target.key: target.shape for target in b}
    clash = {t.key for t in a if shapes.get(t.key, t.shape) != t.shape}
    alike = [_without(one, clash) for one in (a, b)]
    others = [_without(one, {t.key for t in one} - clash) for one in (a, b)]
    return [
        *align(alike, split=False),
        *align(others[:1], split=False),
        *(_second(group) for group in align(others[1:], split=False)),
    ]


def _without(adapter: Adapter, keys: set[str]) -> Adapter:
    left = {target: f for target, f in adapter.targets.items() if target.key not in keys}
    return replace(adapter, targets=MappingProxyType(left))


def _second(group: Group) -> Group:
    return replace(group, owners=(1,))


def _squares(
    groups: Sequence[Group], adapters: Sequence[Adapter], threads: int | None
) -> list[Squares]:
    found: list[Squares] = []
    for dense, alike in groupby(groups, key=_is_large):
        for batch in batches(alike, bytes_of, READ_BYTES):
            work = _by_entries if dense else _in_bases
            found += with_names(batch, partial(work, batch, threads))
            for adapter in adapters:
                adapter.release()
    return found


def _is_large(group: Group) -> bool:
    """Whether joint bases would be no smaller than the weight."""
    rank = sum(member.rank for member in group.members)
    return rank >= min(group.target.rows, group.target.cols)


def _in_bases(batch: Sequence[Group], threads: int | None) -> list[Squares]:
    weights = [np.ones(len(group.members)) for group in batch]
    bases = backend_of("rust").cores([group.raw() for group in batch], weights, threads=threads)
    found = []
    for group, one in zip(batch, bases, strict=True):
        cores = dict(zip(group.owners, one.cores, strict=True))
        nothing = np.zeros(one.cores.shape[1:])
        x, y = cores.get(0, nothing), cores.get(1, nothing)
        gap = x - y
        sums = ((x * x).sum(), (y * y).sum(), (x * y).sum(), (gap * gap).sum())
        found.append(_floats(*map(float, sums)))
    return found


def _by_entries(batch: Sequence[Group], threads: int | None) -> list[Squares]:
    return [_multiplied_out(group, threads) for group in batch]


def _multiplied_out(group: Group, threads: int | None) -> Squares:
    rows, cols = group.target.rows, group.target.cols
    height = max(1, min(rows, _TILE // cols))
    total = np.zeros(4)
    for start in range(0, rows, height):
        stop = min(rows, start + height)
        tiles = [np.zeros((stop - start, cols), dtype=np.float32) for _ in range(2)]
        for owner, member in zip(group.owners, group.members, strict=True):
            raw = (rows, cols, [member.raw()])
            _core.expand(raw, start, stop, tiles[owner], threads=threads)
        x, y = (tile.astype(np.float64) for tile in tiles)
        gap = x - y
        total += ((x * x).sum(), (y * y).sum(), (x * y).sum(), (gap * gap).sum())
    if not np.isfinite(total).all():
        _core.gram([group.raw()], threads=threads)  # which refuses it by name
    return _floats(*total.tolist())


def _floats(a: float, b: float, inner: float, gap: float) -> Squares:
    return a, b, inner, gap


def pair_of(a: float, b: float, inner: float, gap: float) -> Pair:
    """The numbers of a pair from its squares; see `Squares`."""
    norms = math.sqrt(a), math.sqrt(b)
    larger = max(norms)
    difference = math.sqrt(gap) / larger if larger > 0 else 0.0
    if min(norms) == 0:
        return Pair(norms, difference, None, None, float(larger > 0))
    cosine = min(1.0, max(-1.0, inner / norms[0] / norms[1]))
    ratio = inner / b
    # |a - c b|^2 = |a - b|^2 - (c - 1)^2 |b|^2: no digits are lost where c is near 1.
    rest = gap - (ratio - 1) ** 2 * b
    return Pair(norms, difference, cosine, ratio, math.sqrt(max(rest, 0.0) / a))
