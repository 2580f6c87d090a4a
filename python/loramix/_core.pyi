"""Kernels of loramix."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, final

from numpy.typing import NDArray

from loramix.backends.base import Job
from loramix.methods.base import Program
from loramix.raw import RawBaked, RawFactored, RawGroup, RawStep, RawStrip, Site

__all__ = [
    "VERSION", "Blake3", "CoreError", "Scratch", "approximate", "bake", "checksums", "condense",
    "cores", "dense_combine", "dense_gram", "difference", "disagreement", "expand", "extract",
    "first_not_finite", "first_wrong", "give_back", "gram", "kept", "owners", "program_gram",
    "project", "read_header", "recompress", "recompress_mixed", "run_program", "sketch",
    "statistics", "store", "whole", "write_at",
]  # fmt: skip

VERSION: str

class CoreError(ValueError):
    """Refusal of a kernel: kind, message, group, member, side (the last three may be None)."""

def read_header(
    file: Any,
) -> tuple[list[tuple[str, str, list[int], int, int]], list[tuple[str, str]]]:
    """Tensors (name, dtype, shape, start, end) and metadata of a safetensors file."""

def bake(
    strips: Sequence[RawStrip],
    arena: NDArray[Any],
    offsets: Sequence[int],
    *,
    threads: int | None = None,
) -> list[RawBaked]:
    """Base plus delta of every strip, into its range of the arena, in the type of the base."""

def checksums(runs: Sequence[Any], *, threads: int | None = None) -> list[int]:
    """A checksum of every run of bytes, as `bake` gives it."""

def gram(groups: Sequence[RawGroup], *, threads: int | None = None) -> list[list[float]]:
    """Inner products of every group's deltas, row-major lists of N * N."""

def recompress(groups: Sequence[RawGroup], job: Job) -> list[RawFactored]:
    """New factors of every group into its range of the job's arena.

    Returns (rank, norm, rounding, relative error, gram, along, sketch) of each: gram are the inner
    products of its members without their factors, row-major, along those of the result (after the
    cut, before rounding) with each of them; the sketch of a sum is empty.
    """

def recompress_mixed(
    groups: Sequence[RawGroup],
    mixers: Sequence[tuple[NDArray[Any], NDArray[Any]]],
    keys: Sequence[int],
    job: Job,
) -> list[RawFactored]:
    """New factors of `(stack_up A) (B stack_down)` of every group into its range of the arena.

    `mixers` holds (A, B) of each: float64, C-contiguous, `R x p` and `p x R`; the members' factors
    are in `stack_up`; `keys` are those of the sketches.  Returns as `recompress`.
    """

def cores(
    groups: Sequence[RawGroup],
    weights: Sequence[Sequence[float]],
    out: NDArray[Any],
    offsets: Sequence[int],
    *,
    threads: int | None = None,
) -> list[tuple[int, int]]:
    """Bases that the members of every group share, and the members in them.

    Returns (p, q) of each.  Its range of `out` (float64) begins with left (`R x p`), right
    (`R x q`) and the cores (`n x p x q`), row-major: with bases `U = stack_up left` and
    `V = stack_down^T right`, member i is `U core_i V^T`.
    """

def project(steps: Sequence[RawStep], program: Program, space: str, job: Job) -> list[RawFactored]:
    """Factors of every step's elementwise result in a space ("knots", "core"), into its range.

    Returns as `recompress`.
    """

def statistics(
    groups: Sequence[RawGroup],
    keys: Sequence[int],
    out: NDArray[Any],
    offsets: Sequence[int],
    *,
    samples: int | None = None,
    threads: int | None = None,
) -> None:
    """Statistics of every group, into its range of `out` (float64).

    In it one after the other: the inner products (`n * n`); of every member stable rank, effective
    rank, participation, density and 64 magnitudes; of every pair (0, 1), (0, 2), ..., (1, 2), ...
    the numbers of positions looked at, of those where both are non-zero, and of conflicts, the sums
    dot, first2, second2, product, total, conflicting, `floor_total`, `floor_conflicting`, the
    shared directions overlap, left, right, `left_chance`, `right_chance`, and three triangles of
    covariances (21 each).
    """

def disagreement(
    deltas: Sequence[tuple[str, NDArray[Any]]], *, threads: int | None = None
) -> tuple[list[int], list[int]]:
    """Positions of dense deltas (dtype, bytes) where signs differ, and where both are non-zero.

    Two row-major lists of N * N.
    """

def owners(
    deltas: Sequence[tuple[str, NDArray[Any]]],
    weights: Sequence[float],
    lambda_: float,
    out: NDArray[Any],
    *,
    threads: int | None = None,
) -> None:
    """1 where an entry of a dense delta (dtype, bytes) is selfish, into N rows of `out`; else 0."""

def first_wrong(tensors: Sequence[tuple[str, Any, Any]]) -> tuple[int, bool] | None:
    """The first of some tensors (dtype, bytes meant, bytes found) that is not what was meant.

    Or holds NaN or infinity: its place, and whether its numbers are finite.
    """

def first_not_finite(tensors: Sequence[tuple[str, Any]]) -> int | None:
    """Place of the first of some tensors (dtype, bytes) that holds NaN or infinity."""

def write_at(path: Path, at: int, views: Sequence[Any]) -> None:
    """Write views one after the other into a file that is there, without the GIL."""

def give_back() -> None:
    """Give memory that was freed back to the system, where the allocator keeps it."""

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
    program: Program,
    site: Site,
    out: NDArray[Any],
    *,
    threads: int | None = None,
) -> None:
    """Runs a program on dense deltas (dtype, bytes) of `rows x cols` into `out` (f32)."""

def program_gram(
    deltas: Sequence[tuple[str, NDArray[Any]]],
    rows: int,
    cols: int,
    weights: Sequence[float],
    program: Program,
    site: Site,
    *,
    threads: int | None = None,
) -> list[float]:
    """Inner products of what a program keeps of dense weighted deltas, row-major N * N.

    N are those that it sees: that do not go around it.
    """

@final
class Blake3:
    """BLAKE3 of 256 bits, with the methods of `hashlib`."""

    def __new__(cls) -> Self: ...
    def update(self, data: Any) -> None:
        """More of the bytes."""

    def hexdigest(self) -> str:
        """Of all bytes so far, 64 letters."""

@final
class Scratch:
    """Memory for dense results that is used by one call after the other, by any thread."""

    def __new__(cls) -> Self: ...

def condense(
    steps: Sequence[RawStep], program: Program, job: Job, scratch: Scratch
) -> list[RawFactored]:
    """Factors of an elementwise result of every step, into its range of the job's arena.

    Returns as `recompress`.  There is one dense result per thread at a time, in `scratch`.
    """

def whole(
    steps: Sequence[RawStep], program: Program, job: Job, scratch: Scratch
) -> list[RawFactored]:
    """The elementwise result of every step, dense and row-major, into its range.

    Returns as `recompress`.  There is one f32 result per thread at a time, in `scratch`.
    """

def approximate(
    steps: Sequence[RawStep], results: Sequence[NDArray[Any]], job: Job
) -> list[RawFactored]:
    """Factors of the dense result of every step, into its range of the job's arena.

    `results` are float32, C-contiguous, `rows x cols`.  Returns as `recompress`.
    """

def extract(
    results: Sequence[NDArray[Any]],
    shapes: Sequence[tuple[int, int]],
    keys: Sequence[int],
    job: Job,
) -> list[RawFactored]:
    """Factors of dense matrices of which nothing is known, into their ranges of the job's arena.

    `results` are float32, C-contiguous; `shapes` their rows and columns; `keys` those of the
    sketches.  Returns as `recompress`, without inner products.
    """

def store(steps: Sequence[RawStep], results: Sequence[NDArray[Any]], job: Job) -> list[RawFactored]:
    """The dense result of every step itself, into its range of the job's arena.

    `results` are float32, C-contiguous, `rows x cols`.  Returns as `recompress`.
    """

def kept(
    steps: Sequence[RawStep], program: Program, space: str, *, threads: int | None = None
) -> list[list[list[float]]]:
    """Inner products of what a program keeps of the weighted members, for every part of a step.

    Of the members that it sees: those that do not go around it.
    """

def sketch(
    groups: Sequence[RawGroup], keys: Sequence[int], *, threads: int | None = None
) -> list[list[float]]:
    """Sixty-four numbers for each group's delta, to compare with those of `condense`."""
