"""The kernels of the package itself: all cores of a CPU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from loramix import _core
from loramix.arrays import bytes_of, from_f32, matrix_shape
from loramix.backends.base import Cores, Factored, Job, Mixed
from loramix.methods.base import Program
from loramix.methods.composite import Space
from loramix.raw import RawFactored, RawGroup, RawStep, Site
from loramix.tensors import F32, F64


@dataclass(frozen=True, slots=True)
class RustBackend:
    """See `Backend`.

    Attributes
    ----------
    scratch : memory for dense results, which goes with the backend.
    """

    name: ClassVar[str] = "rust"
    scratch: _core.Scratch = field(default_factory=_core.Scratch, repr=False, compare=False)

    def gram(self, groups: Sequence[RawGroup], *, threads: int | None) -> list[F64]:
        """Exact to about 1e-7; 2 (rows + cols) R^2 flops and one read of the factors."""
        flat = _core.gram(groups, threads=threads)
        return [np.array(k).reshape(len(g[2]), -1) for k, g in zip(flat, groups, strict=True)]

    def cores(
        self, groups: Sequence[RawGroup], weights: Sequence[F64], *, threads: int | None
    ) -> list[Cores]:
        """From f64 Gram matrices of the factors; O(R^3) beside them."""
        ranks = [sum(member[4] for member in group[2]) for group in groups]
        rooms = [
            rank * rank * (2 + len(group[2])) for rank, group in zip(ranks, groups, strict=True)
        ]
        offsets = np.cumsum([0, *rooms]).tolist()
        out = np.empty(offsets[-1])
        each = [list(w) for w in weights]
        sizes = _core.cores(groups, each, out, offsets, threads=threads)
        found = []
        for (p, q), rank, start, group in zip(sizes, ranks, offsets[:-1], groups, strict=True):
            own = out[start:]
            left, right = own[: rank * p], own[rank * p : rank * (p + q)]
            n = len(group[2])
            cores = own[rank * (p + q) :][: n * p * q].reshape(n, p, q)  # p may be 0
            found.append(Cores(left.reshape(rank, p), right.reshape(rank, q), cores))
        return found

    def kept(
        self, steps: Sequence[RawStep], program: Program, space: Space, *, threads: int | None
    ) -> list[list[F64]]:
        """Two passes over the entries: one to decide, one to sum."""
        found = _core.kept(steps, program, space, threads=threads)
        return [[_square(gram) for gram in step] for step in found]

    def condense(
        self, steps: Sequence[RawStep], program: Program, space: Space, job: Job
    ) -> list[Factored]:
        """One dense result per thread in the space of weights, none in the others."""
        if space == "weight":
            return _factored(_core.condense(steps, program, job, self.scratch))
        return _factored(_core.project(steps, program, space, job))

    def dense(self, steps: Sequence[RawStep], program: Program, job: Job) -> list[Factored]:
        """One f32 result per thread; 2 rows cols (R + 8) flops for the account of it."""
        return _factored(_core.whole(steps, program, job, self.scratch))

    def approximate(
        self, steps: Sequence[RawStep], results: Sequence[F32], job: Job
    ) -> list[Factored]:
        """As `condense` does it with the results of programs."""
        return _factored(_core.approximate(steps, _contiguous(results), job))

    def store(self, steps: Sequence[RawStep], results: Sequence[F32], job: Job) -> list[Factored]:
        """As `dense` does it with the results of programs."""
        return _factored(_core.store(steps, _contiguous(results), job))

    def recompress(
        self,
        groups: Sequence[RawGroup],
        job: Job,
        mixed: Sequence[Mixed] | None = None,
    ) -> list[Factored]:
        """Through the Gram matrices of the stacks, see `DESIGN.md`."""
        if mixed is None:
            return _factored(_core.recompress(groups, job))
        pairs = [(np.ascontiguousarray(m.left), np.ascontiguousarray(m.right)) for m in mixed]
        return _factored(_core.recompress_mixed(groups, pairs, [m.key for m in mixed], job))

    def run(
        self,
        deltas: Sequence[Any],
        weights: Sequence[float],
        program: Program,
        site: Site,
        *,
        mix: Callable[[F64, F64], F64] | None = None,
        threads: int | None,
    ) -> Any:  # noqa: ANN401 - see `Backend`
        """Two reads of the deltas, one write; another read for each of mix and clean."""
        views = [bytes_of(delta) for delta in deltas]
        rows, cols = matrix_shape(deltas[0])
        sizes = [float(w) for w in weights]
        if mix is not None:
            flat = _core.program_gram(views, rows, cols, sizes, program, site, threads=threads)
            turn = mix(_square(flat), np.array(site.seen(sizes)))
            site = replace(site, mix=turn.ravel().tolist())
        out = np.empty((rows, cols), dtype=np.float32)
        _core.run_program(views, rows, cols, sizes, program, site, out, threads=threads)
        return from_f32(out.reshape(tuple(deltas[0].shape)), deltas[0])


def _factored(found: Sequence[RawFactored]) -> list[Factored]:
    return [Factored(*row[:4], _square(row[4]), np.array(row[5]), tuple(row[6])) for row in found]


def _contiguous(results: Sequence[F32]) -> list[F32]:
    return [np.ascontiguousarray(one, dtype=np.float32) for one in results]


def _square(flat: Sequence[float]) -> F64:
    n = round(len(flat) ** 0.5)
    return np.array(flat).reshape(n, n)
