"""What the package asks of a device: eight verbs, on whole batches of groups.

No method and no step knows which backend carries it out.  All give equal masks and decisions for
equal float32 deltas, and values that agree to 1e-5 relative.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from loramix.methods.base import Program
from loramix.methods.composite import Space
from loramix.raw import RawGroup, RawStep, Site
from loramix.tensors import F32, F64


@dataclass(frozen=True, slots=True)
class Job:
    """Where new factors or dense results go, and by which rule.

    Attributes
    ----------
    arena : bytes that are written: up and then down of every step, or its entries row by row.
    offsets : where each step's room starts, and the end.
    dtype : element type written, as in a safetensors header.
    rank, energy, max_error : see `Output`; for factors.
    steps : of subspace iteration beyond the first, for factors of what has full rank.
    alpha : written for readers that multiply by alpha / rank; None: by one; for factors.
    threads : of the CPU; None for all cores.
    """

    arena: npt.NDArray[np.uint8]
    offsets: Sequence[int]
    dtype: str
    rank: int | None = None
    energy: float | None = None
    max_error: float | None = None
    steps: int = 0
    alpha: float | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Factored:
    """What was made of a step.

    Attributes
    ----------
    rank : of the factors; the smaller side of a dense result.
    norm : Frobenius norm of what was meant.
    rounding : norm that rounding errors are relative to.
    cut : relative error of the cut to that rank; 0 for a dense result.
    gram : (n, n) inner products of the step's members ``up @ down``, scales left out.
    along : (n,) inner products of the cut result with them.
    sketch : ``Z^T M X`` of what was meant, for the check of the file; empty for sums, which can be
        formed again.
    """

    rank: int
    norm: float
    rounding: float
    cut: float
    gram: F64
    along: F64
    sketch: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Cores:
    """A group in the joint orthonormal bases of its deltas.

    ``delta_i = (up_stack @ left) @ cores[i] @ (right.T @ down_stack)``, the members' factors
    being in the stack of the ups.

    Attributes
    ----------
    left, right : (R, p), (R, q) float64.
    cores : (n, p, q) float64.
    """

    left: F64
    right: F64
    cores: F64


@dataclass(frozen=True, slots=True)
class Mixed:
    """A result in the span of the factors of a group: ``(up_stack @ left) @ (right @ down_stack)``.

    Attributes
    ----------
    left, right : (R, p), (p, R) float64; the members' factors are in the stack of the ups.
    key : of the sketch.
    """

    left: F64
    right: F64
    key: int


class Backend(Protocol):
    """Implemented by `loramix.backends.rust` and `loramix.backends.torch`."""

    name: ClassVar[str]

    def gram(self, groups: Sequence[RawGroup], *, threads: int | None) -> list[F64]:
        """Inner products of the deltas of every group, (n, n) each."""
        ...

    def cores(
        self, groups: Sequence[RawGroup], weights: Sequence[F64], *, threads: int | None
    ) -> list[Cores]:
        """Joint bases of the weighted deltas of every group, and the deltas in them."""
        ...

    def kept(
        self, steps: Sequence[RawStep], program: Program, space: Space, *, threads: int | None
    ) -> list[list[F64]]:
        """Inner products of what a program keeps of the weighted deltas, for parts of steps.

        Of those that it sees: (n, n) for n that do not go around it.
        """
        ...

    def condense(
        self, steps: Sequence[RawStep], program: Program, space: Space, job: Job
    ) -> list[Factored]:
        """Run a program on every step and write factors of its result."""
        ...

    def dense(self, steps: Sequence[RawStep], program: Program, job: Job) -> list[Factored]:
        """Run a program on the deltas of every step and write its result, rows x cols row-major.

        Rows that no part has are zeros.
        """
        ...

    def approximate(
        self, steps: Sequence[RawStep], results: Sequence[F32], job: Job
    ) -> list[Factored]:
        """Write factors of results (rows, cols) that were made of the steps elsewhere."""
        ...

    def store(self, steps: Sequence[RawStep], results: Sequence[F32], job: Job) -> list[Factored]:
        """Write such results as they are, row-major."""
        ...

    def recompress(
        self,
        groups: Sequence[RawGroup],
        job: Job,
        mixed: Sequence[Mixed] | None = None,
    ) -> list[Factored]:
        """Write factors of the sum of every group, or of what is mixed from its stacks."""
        ...

    def run(
        self,
        deltas: Sequence[Any],
        weights: Sequence[float],
        program: Program,
        site: Site,
        *,
        mix: Callable[[F64, F64], F64] | None = None,
        threads: int | None,
    ) -> Any:  # noqa: ANN401 - NumPy or torch, as the deltas
        """Run a program on dense deltas of one shape; the same kind of array in f32.

        ``mix`` makes `Site.mix` from the inner products of what is kept, and the weights, of the
        deltas that the program sees.
        """
        ...
