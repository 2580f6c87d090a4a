"""The passes over the factors."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from loramix import _core
from loramix.analysis.statistics import (
    Analysis,
    DeltaStatistics,
    GroupStatistics,
    PairStatistics,
)
from loramix.analysis.uncertainty import TRIANGLE, standard_errors
from loramix.backends.base import Backend
from loramix.batching import READ_BYTES, batches, bytes_of
from loramix.refusals import with_names
from loramix.tensors import F64
from loramix.types import Adapter, Group

SAMPLES = 384
"""Rows, and columns, of a sampled block."""

_OF_DELTA = 4 + 64
_SUMS, _SHARED = 11, 5
_OF_PAIR = _SUMS + _SHARED + 3 * TRIANGLE
_PARTS = (8, 7, 3, 4, 5, 6)
"""Where the sums that standard errors need are among the numbers of a pair."""


def products(
    groups: Sequence[Group],
    adapters: Sequence[Adapter],
    backend: Backend,
    *,
    threads: int | None = None,
    step: Callable[[int], None] | None = None,
) -> Analysis:
    """Inner products of all groups, batch by batch; touched pages are given back.

    Cost: one read of the inputs, 2 * (rows + cols) * R^2 flops per group.
    """
    grams: list[F64] = []
    for batch in batches(groups, bytes_of, READ_BYTES):
        work = partial(backend.gram, [group.raw() for group in batch], threads=threads)
        grams += with_names(batch, work)
        for adapter in adapters:
            adapter.release()
        if step is not None:
            step(len(batch))
    return Analysis(tuple(map(GroupStatistics.of, groups, grams)))


def nothing(groups: Sequence[Group]) -> Analysis:
    """Stands in where nobody reads the inner products; whoever does gets NaN."""
    counts = [len(group.members) for group in groups]
    empty = (np.full((n, n), np.nan) for n in counts)
    return Analysis(tuple(map(GroupStatistics.of, groups, empty)))


def analyze(
    groups: Sequence[Group],
    adapters: Sequence[Adapter],
    *,
    samples: int | None = SAMPLES,
    threads: int | None = None,
    step: Callable[[int], None] | None = None,
) -> Analysis:
    """All statistics of all groups, batch by batch; touched pages are given back.

    Cost: that of `products`; 2 R flops for every entry looked at, and about ten vector operations
    for every sixteen of them and every pair.

    Parameters
    ----------
    samples : rows, and columns, of the block that sums over entries are made of, at least 1; None
        for all entries.
    threads : default all cores.  The result does not depend on it.
    step : called with the number of groups that are done since the last call.
    """
    found: list[GroupStatistics] = []
    for batch in batches(groups, bytes_of, READ_BYTES):
        found += _statistics(batch, samples, threads)
        for adapter in adapters:
            adapter.release()
        if step is not None:
            step(len(batch))
    return Analysis(tuple(found), samples)


def _statistics(
    batch: Sequence[Group], samples: int | None, threads: int | None
) -> list[GroupStatistics]:
    counts = [len(group.members) for group in batch]
    rooms = [n * n + n * _OF_DELTA + n * (n - 1) // 2 * _OF_PAIR for n in counts]
    offsets = np.cumsum([0, *rooms]).tolist()
    out = np.empty(offsets[-1])
    raw = [group.raw() for group in batch]
    keys = [group.target.key_hash for group in batch]
    work = partial(_core.statistics, raw, keys, out, offsets, samples=samples, threads=threads)
    with_names(batch, work)

    whole = [out[start:stop] for start, stop in pairwise(offsets)]
    cuts = [(n * n, n * (n + _OF_DELTA)) for n in counts]
    rows = [own[cut[1] :].reshape(-1, _OF_PAIR) for own, cut in zip(whole, cuts, strict=True)]
    pairs = iter(_numbers(np.concatenate(rows)))
    found = []
    for group, own, (gram_end, deltas_end), n in zip(batch, whole, cuts, counts, strict=True):
        gram = own[:gram_end].reshape(n, n).copy()
        deltas = _deltas(group, gram, own[gram_end:deltas_end].reshape(n, _OF_DELTA).tolist())
        met = ((i, j) for i in range(n) for j in range(i + 1, n))
        between = tuple(_pair(place, next(pairs)) for place in met)
        found.append(GroupStatistics(group.target, group.owners, gram, deltas, between))
    return found


def _numbers(pairs: F64) -> list[list[float]]:
    """Of all pairs at once: what `PairStatistics` holds, but for the members."""
    sums, shared = pairs[:, :_SUMS], pairs[:, _SUMS : _SUMS + _SHARED]
    spread = pairs[:, _SUMS + _SHARED :].reshape(-1, 3, TRIANGLE)
    errors = np.stack(standard_errors(sums[:, _PARTS], spread), axis=1)
    numbers: list[list[float]] = np.concatenate([sums, errors, shared], axis=1).tolist()
    return numbers


def _deltas(
    group: Group, gram: F64, rows: Sequence[Sequence[float]]
) -> tuple[DeltaStatistics, ...]:
    norms = np.sqrt(np.maximum(np.diag(gram), 0)).tolist()
    found = []
    for member, norm, row in zip(group.members, norms, rows, strict=True):
        stable, effective, participation, density, *orders = row
        found.append(
            DeltaStatistics(
                member.rank, norm, stable, effective, participation, density, tuple(orders)
            )
        )
    return tuple(found)


def _pair(place: tuple[int, int], row: Sequence[float]) -> PairStatistics:
    return PairStatistics(*place, *map(int, row[:3]), *row[3:])
