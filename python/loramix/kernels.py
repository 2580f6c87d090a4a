"""The Rust kernels with names put to their refusals."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from loramix import _core
from loramix.errors import FormatError, LoramixError, OutputError, ParamError, ShapeError
from loramix.types import F64, Factors, Group, Target

_T = TypeVar("_T")
_CLASSES: dict[str, type[LoramixError]] = {
    "shape": ShapeError,
    "dtype": FormatError,
    "param": ParamError,
    "non_finite": FormatError,
    "overflow": OutputError,
    "format": FormatError,
}

READ_BYTES = 64 << 20
"""Bytes of factors that a batch of a reading pass touches: what is resident at a time."""
WRITE_BYTES = 24 << 20
"""Bytes of new factors that a batch of the writing pass makes; two such buffers are held."""


def expand(target: Target, members: Sequence[Factors]) -> npt.NDArray[np.float32]:
    """Dense sum of factored deltas, ``(rows, cols)`` f32.

    Cost: 2 * (sum of ranks) flops per entry.

    Examples
    --------
    >>> adapter = load("style.safetensors")                            # doctest: +SKIP
    >>> expand(*next(iter(adapter.targets.items())))                   # doctest: +SKIP
    """
    out = np.empty((target.rows, target.cols), dtype=np.float32)
    group = Group(target, tuple(members), tuple(range(len(members))))
    with_names([group], lambda: _core.expand(group.raw(), 0, target.rows, out))
    return out


def gram(groups: Sequence[Group], *, threads: int | None = None) -> list[F64]:
    """Inner products of the deltas of every group, from their factors.

    Returns
    -------
    For each group (n, n) float64, ``[i, j] = <delta_i, delta_j>``; exact to about 1e-7.

    Cost: 2 * (rows + cols) * R^2 flops per group, R the sum of its ranks; one read of the factors.
    """
    raw = [group.raw() for group in groups]
    flat = with_names(groups, lambda: _core.gram(raw, threads=threads))
    return [np.array(k).reshape(len(g.members), -1) for k, g in zip(flat, groups, strict=True)]


def with_names(groups: Sequence[Group], call: Callable[[], _T]) -> _T:
    """Call a kernel; its refusals get the names of file, tensor and target."""
    try:
        return call()
    except _core.CoreError as error:
        kind, text, number, member, side = error.args
        where = ""
        if number is not None:
            group = groups[number]
            where = f"{group.target.key}: "
            if member is not None:
                factors = group.members[member]
                key = factors.keys[0 if side == "up" else 1]
                where, text = f"{factors.file}: ", f"{key} holds NaN or infinity"
        message = f"{where}{text}{_ADVICE.get(kind, '')}"
        raise _CLASSES[kind](message) from error


_ADVICE = {
    "non_finite": "; the file is damaged or its training diverged: get another copy",
    "overflow": "; write a wider type with --dtype bf16 or f32",
}


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
    return sum(len(m.up.data) + len(m.down.data) for m in group.members)
