"""The tensors of an output that are computed, batch by batch, and written.

Resident at a time: the factors of one batch of steps, two output buffers of a batch, and what
the threads decode; independent of the size of the model.
"""

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import groupby

import numpy as np
import numpy.typing as npt

from loramix import _core
from loramix.backends.base import Backend, Job
from loramix.batching import DENSE_BYTES, READ_BYTES, WRITE_BYTES, batches
from loramix.executing.making import make
from loramix.executing.verifying import Done, release
from loramix.io.writing import Named, Writer
from loramix.planning.output import CODES
from loramix.planning.steps import Plan, Step
from loramix.refusals import with_names
from loramix.tensors import ITEM_BYTES


def write_alphas(plan: Plan, writer: Writer) -> None:
    """One number beside every pair, for dialects that store it.

    They go first into the file: readers want four-byte numbers at multiples of four.
    """
    if plan.alpha is not None:
        alpha = np.frombuffer(struct.pack("<f", plan.alpha), dtype=np.uint8)
        pairs = (one for one in plan.steps if one.kind != "dense")
        writer.add((one.stem + ".alpha", "F32", (), alpha) for one in pairs)


def write(
    plan: Plan,
    steps: Sequence[Step],
    writer: Writer,
    backend: Backend,
    threads: int | None,
    step: Callable[[int], None],
) -> list[Done]:
    """Compute some steps of a plan: a batch while the one before is written."""
    size = ITEM_BYTES[CODES[plan.dtype]]
    wish = plan.output
    rule = partial(
        Job,
        dtype=CODES[plan.dtype],
        energy=wish.energy,
        max_error=wish.max_error,
        steps=wish.passes // 2 - 1,
        alpha=plan.alpha,
        threads=threads,
    )

    def capacity(one: Step) -> int:
        return one.numbers(one.largest_rank(plan.output)) * size

    done: list[Done] = []
    arenas = [np.empty(0, dtype=np.uint8)] * 2
    with ThreadPoolExecutor(1) as background:
        pending: Future[None] | None = None
        for index, batch in enumerate(_batches(steps, capacity)):
            offsets = np.cumsum([0, *map(capacity, batch)]).tolist()
            if len(arenas[index % 2]) < offsets[-1]:
                arenas[index % 2] = np.empty(offsets[-1], dtype=np.uint8)
            arena = arenas[index % 2]
            job = rule(arena, offsets, rank=batch[0].rank or wish.rank)
            finished = _compute(batch, backend, job)
            release(plan)
            _core.give_back()
            if pending is not None:
                pending.result()
            pending = background.submit(writer.add, _made(plan, finished, arena, offsets))
            done += finished
            step(len(batch))
        if pending is not None:
            pending.result()
    return done


def _batches(steps: Sequence[Step], capacity: Callable[[Step], int]) -> Iterator[list[Step]]:
    """Steps that are made alike together."""
    for (kind, _, _), alike in groupby(steps, key=lambda s: (s.kind, s.method, s.rank)):
        limit = DENSE_BYTES if kind == "dense" else WRITE_BYTES

        def size(one: Step, limit: int = limit) -> int:
            return max(capacity(one), one.made * limit // READ_BYTES)

        yield from batches(alike, size, limit)


def _compute(batch: Sequence[Step], backend: Backend, job: Job) -> list[Done]:
    work = partial(make, batch, backend, job)
    made = with_names([one.group() for one in batch], work)
    return [Done(one, result) for one, result in zip(batch, made, strict=True)]


def _made(
    plan: Plan, batch: Sequence[Done], arena: npt.NDArray[np.uint8], offsets: Sequence[int]
) -> Iterator[Named]:
    """The dense difference, or up and down, of every step of a batch."""
    code = CODES[plan.dtype]
    for item, start in zip(batch, offsets[:-1], strict=True):
        step, rank = item.step, item.made.rank
        target, names = step.target, step.tensors(plan.dialect)
        ones = (1,) * (len(target.shape) - 2)
        first = target.shape if item.dense else (target.rows, rank, *ones)
        end = start + step.numbers(rank) * ITEM_BYTES[code]
        split = start + math.prod(first) * ITEM_BYTES[code]
        data = arena[start:split]
        if step.swap:
            data = np.roll(data, len(data) // 2)
        if step.embedding and not item.dense:
            yield names[0], code, first[::-1], _transposed(data, *first)
            shape = (rank, target.cols)
            yield names[1], code, shape[::-1], _transposed(arena[split:end], *shape)
            continue
        yield names[0], code, first, data
        if not item.dense:
            yield names[1], code, (rank, *target.shape[1:]), arena[split:end]


def _transposed(data: npt.NDArray[np.uint8], rows: int, cols: int) -> npt.NDArray[np.uint8]:
    return data.reshape(rows, cols, -1).swapaxes(0, 1).reshape(-1)
