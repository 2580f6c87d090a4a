"""Deltas of steps as the kernel takes them that adds them to base weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from loramix.backends.base import Backend, Job
from loramix.executing.making import make
from loramix.methods import describe
from loramix.planning.steps import Step
from loramix.raw import RawGroup, RawWhole
from loramix.refusals import with_names
from loramix.tensors import ITEM_BYTES, Tensor
from loramix.types import Factors


@dataclass(frozen=True, slots=True)
class Delta:
    """A delta as the kernel takes it.

    Attributes
    ----------
    factors, entries : members of the step's group that are given as factors, and entry by entry.
    """

    group: RawGroup
    whole: list[RawWhole] = field(default_factory=list)
    factors: tuple[Factors, ...] = ()
    entries: tuple[Factors, ...] = ()


class Deltas:
    """Those of the weights that are being written.

    A sum is what its members are; what is no sum is made, in f32, and kept as long as it is
    wanted.
    """

    def __init__(self, backend: Backend, threads: int | None) -> None:
        self._backend = backend
        self._threads = threads
        self._deltas: dict[str, Delta] = {}

    def __getitem__(self, key: str) -> Delta:
        return self._deltas[key]

    def prepare(self, steps: Sequence[Step]) -> None:
        """Deltas of these steps, and no others."""
        wanted = {step.target.key: step for step in steps}
        self._deltas = {key: d for key, d in self._deltas.items() if key in wanted}
        missing = [step for key, step in wanted.items() if key not in self._deltas]
        order = sorted(missing, key=lambda s: (s.kind, repr(s.method and describe(s.method))))
        for kind, own in groupby(order, key=lambda s: (s.kind, s.method)):
            alike = list(own)
            found = map(_summed, alike) if kind[0] == "sum" else self._made(alike)
            self._deltas |= {s.target.key: d for s, d in zip(alike, found, strict=True)}

    def _made(self, steps: Sequence[Step]) -> list[Delta]:
        """What is no sum: factors made in joint bases, or all entries; in f32."""
        size = ITEM_BYTES["F32"]
        rooms = [s.numbers(_most(s)) * size for s in steps]
        offsets = np.cumsum([0, *rooms]).tolist()
        arena = np.empty(offsets[-1], dtype=np.uint8)
        job = Job(arena, offsets, "F32", threads=self._threads)
        made = with_names([s.group() for s in steps], lambda: make(steps, self._backend, job))
        found = []
        for step, one, start in zip(steps, made, offsets[:-1], strict=True):
            rows, cols = step.target.rows, step.target.cols
            data = memoryview(arena[start:].data)
            if step.kind == "dense":
                whole: RawWhole = ("F32", data[: rows * cols * size], 1.0, 0, rows)
                found.append(Delta((rows, cols, []), [whole]))
                continue
            middle, end = rows * one.rank * size, (rows + cols) * one.rank * size
            member = ("F32", data[:middle], "F32", data[middle:end], one.rank, 1.0, 0, rows)
            found.append(Delta((rows, cols, [member])))
        return found


def _most(step: Step) -> int:
    """Bound of the rank of what is made for a step."""
    rank = sum(piece.factors.rank for piece in step.pieces)
    return max(1, min(rank, step.target.rows, step.target.cols))


def _summed(step: Step) -> Delta:
    """Members as factors, but for those that are dense differences, entry by entry."""
    low, whole = [], []
    factors: list[Factors] = []
    entries: list[Factors] = []
    for piece in step.pieces:
        own = piece.factors
        if piece.coefficient == 0:
            continue
        dense = _entries(own)
        if dense is None:
            low.append(own.raw(piece.coefficient, piece.row_start))
            factors.append(own)
        else:
            size = own.scale * piece.coefficient
            whole.append((dense.dtype, dense.data, size, piece.row_start, own.up.shape[0]))
            entries.append(own)
    group = (step.target.rows, step.target.cols, low)
    return Delta(group, whole, tuple(factors), tuple(entries))


def _entries(factors: Factors) -> Tensor | None:
    """The dense difference itself, where an identity of all its rows or columns is beside it."""
    if factors.identity == "down":
        return factors.up
    whole = factors.identity == "up" and factors.up.shape[0] == factors.rank
    return factors.down if whole else None
