"""What the verbs share: checks of arguments, shapes for the kernels, the way back."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from loramix import _core, arrays
from loramix.arguments import check_threads, deltas_of
from loramix.errors import OutputError
from loramix.methods.base import Program
from loramix.raw import Site
from loramix.refusals import with_names
from loramix.tensors import F64

_WIDTHS = range(1 << 8, (1 << 16) + 1)
"""Columns with which the kernels cut a matrix into tiles of the size that they like."""


def checked(deltas: Iterable[Any], threads: int | None) -> list[Any]:
    """Arrays of one shape and type, see `deltas_of`.

    Raises
    ------
    ParamError : bad ``threads``; those of `deltas_of`.
    """
    check_threads(threads)
    return deltas_of(deltas)


def flat_shape(size: int) -> tuple[int, int]:
    """Rows and columns for a program that looks at entries only, so that tiles are small.

    Tiles are whole rows: a long vector as one row would be one tile, for one thread.  So it stays
    only where the size has no divisor that would do.
    """
    if size <= _WIDTHS[-1]:
        return 1, size
    width = next((width for width in _WIDTHS if size % width == 0), size)
    return size // width, width


def run(
    deltas: Sequence[Any],
    sizes: F64,
    program: Program,
    site: Site,
    threads: int | None,
    *,
    by_rows: bool = False,
) -> npt.NDArray[np.float32]:
    """The result of a program on weighted deltas, as a matrix of some shape.

    Parameters
    ----------
    by_rows : whether the program looks at rows, and not only at entries.

    Raises
    ------
    OutputError : a result beyond the range of f32.
    """
    first = deltas[0]
    shape = arrays.matrix_shape(first) if by_rows else flat_shape(math.prod(first.shape))
    views = [arrays.bytes_of(delta) for delta in deltas]
    out = np.empty(shape, dtype=np.float32)

    def work() -> None:
        _core.run_program(views, *shape, sizes.tolist(), program, site, out, threads=threads)

    with_names([], work)
    _check_fits(out, out, "float32, in which entries are decided")
    return out


def back(values: npt.NDArray[np.float32], delta: Any) -> Any:  # noqa: ANN401 - numpy or torch
    """Finite values in the shape, kind, type and place of a delta.

    Raises
    ------
    OutputError : the type cannot hold one of them.
    """
    shaped = values.reshape(tuple(delta.shape))
    if shaped.dtype == delta.dtype:
        return shaped
    if delta.dtype.itemsize < values.itemsize:
        _check_fits(values, delta, str(delta.dtype))
    return arrays.cast_like(arrays.from_f32(shaped, delta), delta)


def _check_fits(values: npt.NDArray[np.float32], delta: Any, where: str) -> None:  # noqa: ANN401
    """Refuse values that the type of a delta turns to NaN or infinity; two reads of them."""
    with np.errstate(over="ignore", invalid="ignore"):
        ends = np.array([values.min(initial=0), values.max(initial=0)], dtype=np.float32)
        cast = arrays.cast_like(arrays.from_f32(ends, delta), delta)
        fits = bool((cast - cast == 0).all())
    if not fits:
        message = f"a result too large for {where}"
        raise OutputError(message)
