"""The kernels of the package itself: all cores of a CPU."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from loramix import _core
from loramix.arrays import bytes_of, from_f32, matrix_shape
from loramix.backends.base import Cores, Factored, Job, Mixed
from loramix.methods.base import Program
from loramix.methods.composite import Space
from loramix.types import F32, F64, RawGroup, RawStep, Site


@dataclass(frozen=True, slots=True)
class RustBackend:
    """See `Backend`."""

    name: ClassVar[str] = "rust"

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
            found = _core.condense(steps, program, job.arena, job.offsets, **_rule(job))
        else:
            found = _core.project(steps, program, space, job.arena, job.offsets, **_rule(job))
        return [_sketched(one) for one in found]

    def approximate(
        self, steps: Sequence[RawStep], results: Sequence[F32], job: Job
    ) -> list[Factored]:
        """As `condense` does it with the results of programs."""
        dense = [np.ascontiguousarray(one, dtype=np.float32) for one in results]
        found = _core.approximate(steps, dense, job.arena, job.offsets, **_rule(job))
        return [_sketched(one) for one in found]

    def recompress(
        self,
        groups: Sequence[RawGroup],
        job: Job,
        mixed: Sequence[Mixed] | None = None,
    ) -> list[Factored]:
        """Through the Gram matrices of the stacks, see `DESIGN.md`."""
        rule = _rule(job)
        if mixed is None:
            plain = _core.recompress(groups, job.arena, job.offsets, **rule)
            return [Factored(*f[:4], _square(f[4]), np.array(f[5])) for f in plain]
        pairs = [(np.ascontiguousarray(m.left), np.ascontiguousarray(m.right)) for m in mixed]
        keys = [m.key for m in mixed]
        found = _core.recompress_mixed(groups, pairs, keys, job.arena, job.offsets, **rule)
        return [_sketched(one) for one in found]

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
            turn = mix(_square(flat), np.array(sizes))
            site = replace(site, mix=turn.ravel().tolist())
        out = np.empty((rows, cols), dtype=np.float32)
        _core.run_program(views, rows, cols, sizes, program, site, out, threads=threads)
        return from_f32(out.reshape(tuple(deltas[0].shape)), deltas[0])


def _rule(job: Job) -> Mapping[str, Any]:
    return {
        "dtype": job.dtype,
        "rank": job.rank,
        "energy": job.energy,
        "max_error": job.max_error,
        "alpha": job.alpha,
        "threads": job.threads,
    }


def _sketched(
    found: tuple[int, float, float, float, list[float], list[float], list[float]],
) -> Factored:
    rank, norm, rounding, cut, sketch, gram, along = found
    return Factored(rank, norm, rounding, cut, _square(gram), np.array(along), tuple(sketch))


def _square(flat: Sequence[float]) -> F64:
    n = round(len(flat) ** 0.5)
    return np.array(flat).reshape(n, n)
