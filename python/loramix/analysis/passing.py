"""The pass over the factors."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from loramix.analysis.statistics import Analysis, GroupStatistics
from loramix.backends.base import Backend
from loramix.batching import READ_BYTES, batches, bytes_of
from loramix.refusals import with_names
from loramix.types import F64, Adapter, Group


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
            adapter.source.release()
        if step is not None:
            step(len(batch))
    return Analysis(tuple(map(GroupStatistics.of, groups, grams)))


def nothing(groups: Sequence[Group]) -> Analysis:
    """Stands in where nobody reads the inner products; whoever does gets NaN."""
    counts = [len(group.members) for group in groups]
    empty = (np.full((n, n), np.nan) for n in counts)
    return Analysis(tuple(map(GroupStatistics.of, groups, empty)))
