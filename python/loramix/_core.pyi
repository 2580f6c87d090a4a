"""Kernels of loramix."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from loramix.types import RawGroup, RawProgram, RawStep

__all__ = [
    "VERSION", "CoreError", "condense", "dense_combine", "dense_gram", "difference", "expand",
    "gram", "read_header", "recompress", "run_program", "sketch",
]  # fmt: skip

VERSION: str

class CoreError(ValueError):
    """Refusal of a kernel: kind, message, group, member, side (the last three may be None)."""

def read_header(
    file: Any,
) -> tuple[list[tuple[str, str, list[int], int, int]], list[tuple[str, str]]]:
    """Tensors (name, dtype, shape, start, end) and metadata of a safetensors file."""

def gram(groups: Sequence[RawGroup], *, threads: int | None = None) -> list[list[float]]:
    """Inner products of every group's deltas, row-major lists of N * N."""

def recompress(
    groups: Sequence[RawGroup],
    out: NDArray[Any],
    offsets: Sequence[int],
    *,
    dtype: str,
    rank: int | None = None,
    energy: float | None = None,
    max_error: float | None = None,
    alpha: float | None = None,
    threads: int | None = None,
) -> list[tuple[int, float, float, float]]:
    """New factors of every group into its range of `out`.

    Returns (rank, norm, rounding, relative error) of each.
    """

def expand(
    group: RawGroup, start: int, stop: int, out: NDArray[Any], *, threads: int | None = None
) -> None:
    """Rows `start..stop` of a group's dense delta into `out` (f32, row-major)."""

def difference(
    meant: Sequence[RawGroup],
    written: Sequence[RawGroup],
    *,
    seed: int = 0,
    threads: int | None = None,
) -> list[tuple[float, float]]:
    """Estimated norms of (meant - written, meant) for every pair of groups."""

def dense_gram(
    deltas: Sequence[tuple[str, NDArray[Any]]], *, threads: int | None = None
) -> list[float]:
    """Inner products of dense deltas (dtype, bytes), a row-major list of N * N."""

def dense_combine(
    deltas: Sequence[tuple[str, NDArray[Any]]],
    coefficients: Sequence[float],
    out: NDArray[Any],
    *,
    dtype: str,
    threads: int | None = None,
) -> None:
    """Linear combination of dense deltas into `out`, encoded as `dtype`."""

def run_program(
    deltas: Sequence[tuple[str, NDArray[Any]]],
    rows: int,
    cols: int,
    weights: Sequence[float],
    program: RawProgram,
    out: NDArray[Any],
    *,
    target: int = 0,
    threads: int | None = None,
) -> None:
    """Runs a program on dense deltas (dtype, bytes) of `rows x cols` into `out` (f32)."""

def condense(
    steps: Sequence[RawStep],
    program: RawProgram,
    out: NDArray[Any],
    offsets: Sequence[int],
    *,
    dtype: str,
    rank: int | None = None,
    energy: float | None = None,
    max_error: float | None = None,
    alpha: float | None = None,
    threads: int | None = None,
) -> list[tuple[int, float, float, float, list[float]]]:
    """Factors of an elementwise result of every step, into its range of `out`.

    Returns (rank, norm, rounding, relative error, sketch) of each.  There is one dense result per
    thread at a time.
    """

def sketch(
    groups: Sequence[RawGroup], keys: Sequence[int], *, threads: int | None = None
) -> list[list[float]]:
    """Sixty-four numbers for each group's delta, to compare with those of `condense`."""
