"""How much is in memory at a time."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from loramix.types import Group

_T = TypeVar("_T")

READ_BYTES = 64 << 20
"""Bytes of factors that a batch of a reading pass touches: what is resident at a time."""
WRITE_BYTES = 24 << 20
"""Bytes of new factors that a batch of the writing pass makes; two such buffers are held."""
DENSE_BYTES = 64 << 20
"""The same for dense results, of which one alone may have 26 MB: all threads need work."""


def batches(items: Iterable[_T], size: Callable[[_T], int], limit: int) -> Iterator[list[_T]]:
    """Consecutive items of at most ``limit`` together, at least one."""
    batch: list[_T] = []
    total = 0
    for item in items:
        if batch and total + size(item) > limit:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch


def bytes_of(group: Group) -> int:
    """Bytes of the factors of a group."""
    return sum(t.size for member in group.members for t in member.sides)
