"""Deltas added to weights that are stored as small numbers times scales.

The numbers are multiplied out, the delta is added, and the sum becomes the nearest number again,
by the scale that was there: a new one would round what no adapter changes a second time.  What
leaves the range of the type stays at its end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loramix import _core
from loramix.checkpoints.scaling import Scaling
from loramix.raw import RawGroup, RawWhole
from loramix.tensors import F32

_ENTRIES = 1 << 18
"""Numbers that are worked on at a time: 1 MB in f32."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a stored weight, and what is added to them.

    Attributes
    ----------
    dtype, data : their type and their bytes.
    start, stop : which rows of the stored weight they are, half open.
    group, whole, first : the delta, and its row that belongs to the first of them.
    scaling : what their numbers are multiplied by.
    where : the weight, for messages.
    """

    dtype: str
    data: memoryview
    start: int
    stop: int
    group: RawGroup
    whole: list[RawWhole]
    first: int
    scaling: Scaling
    where: str


def add(rows: Rows, out: npt.NDArray[np.uint8], threads: int | None) -> tuple[list[float], int]:
    """Add, round, measure.

    Parameters
    ----------
    out : bytes, as many as ``rows.data``.

    Returns
    -------
    The sums of `Survival`, and how many entries were beyond the range.

    Raises
    ------
    CoreError : NaN or infinity in what is added.
    FormatError : NaN or infinity in the weight.

    Notes
    -----
    Cost: 2 R flops per entry and some passes over it, on one thread.  Resident: a dozen MB, or a
    dozen rows where they are longer.
    """
    cols = rows.group[1]
    sums = np.zeros(3)
    beyond = 0
    for start, stop in _pieces(rows, cols):
        span = slice((start - rows.start) * cols, (stop - rows.start) * cols)
        delta = _delta(rows, start, stop, threads)
        shape = delta.shape
        weight = rows.scaling.expand(rows.dtype, rows.data[span], start, shape, rows.where)
        numbers, lost = rows.scaling.round(rows.dtype, weight + delta, start)
        out[span] = numbers
        there = rows.scaling.expand(rows.dtype, numbers.data, start, shape, rows.where)
        moved = there.astype(np.float64) - weight
        wide = delta.astype(np.float64)
        sums += [(wide**2).sum(), (moved**2).sum(), (moved * wide).sum()]
        beyond += lost
    return sums.tolist(), beyond


def _pieces(rows: Rows, cols: int) -> Iterator[tuple[int, int]]:
    """Half-open rows that are worked on at a time."""
    height = max(_ENTRIES // max(cols, 1), 1)
    for start in range(rows.start, rows.stop, height):
        yield start, min(start + height, rows.stop)


def _delta(rows: Rows, start: int, stop: int, threads: int | None) -> F32:
    """Rows of the delta: what is added to zeros."""
    cols = rows.group[1]
    zeros = np.zeros((stop - start) * cols, dtype="<f4").view(np.uint8)
    out = np.empty_like(zeros)
    first = rows.first + start - rows.start
    strip = ("F32", zeros.data, stop - start, rows.group, rows.whole, first)
    _core.bake([strip], out, [0, out.size], threads=threads)
    return out.view("<f4").reshape(stop - start, cols)
