"""The tensors of an output: computed batch by batch, copied where nothing changes, written.

Resident at a time: the factors of one batch of steps, two output buffers of a batch, and what
the threads decode; independent of the size of the model.
"""

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import Protocol

import numpy as np
import numpy.typing as npt

from loramix import _core
from loramix.backends.base import Backend, Job
from loramix.batching import DENSE_BYTES, READ_BYTES, WRITE_BYTES, batches, bytes_of
from loramix.errors import OutputError
from loramix.executing import copying
from loramix.executing.making import make
from loramix.executing.verifying import Done, release
from loramix.io.safetensors import SafetensorsFile
from loramix.io.writing import Named
from loramix.planning.output import CODES
from loramix.planning.steps import Plan, Step
from loramix.refusals import with_names
from loramix.tensors import ITEM_BYTES


class Writer(Protocol):
    """Where tensors go; see `SafetensorsWriter`."""

    def add(self, tensors: Iterable[Named]) -> None:
        """Append tensors."""

    def written(self, names: Iterable[str]) -> list[memoryview]:
        """Bytes of tensors that were added, as they are now."""

    def finish(self, metadata: Mapping[str, str]) -> SafetensorsFile:
        """Complete the file, still hidden."""


def write(
    plan: Plan,
    writer: Writer,
    backend: Backend,
    threads: int | None,
    step: Callable[[int], None],
) -> list[Done]:
    """Compute a batch while the one before is written."""
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

    if plan.alpha is not None:
        # First in the file: readers want four-byte numbers at multiples of four.
        alpha = np.frombuffer(struct.pack("<f", plan.alpha), dtype=np.uint8)
        pairs = (one for one in plan.steps if one.kind != "dense")
        writer.add((one.stem + ".alpha", "F32", (), alpha) for one in pairs)
    done = _copy(plan, writer, step)
    copied = {item.step.target for item in done}
    rest = [one for one in plan.steps if one.target not in copied]
    arenas = [np.empty(0, dtype=np.uint8)] * 2
    with ThreadPoolExecutor(1) as background:
        pending: Future[None] | None = None
        for index, batch in enumerate(_batches(rest, capacity)):
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


def _copy(plan: Plan, writer: Writer, step: Callable[[int], None]) -> list[Done]:
    """Write the pairs that nothing changes; the file is compared while the next are written."""
    copies = [
        copying.trimmed(plan, one) for one in plan.steps if copying.factor_of(plan, one) is not None
    ]
    with ThreadPoolExecutor(1) as checking:
        pending: Future[None] | None = None
        for batch in batches(copies, lambda one: bytes_of(one.group()), WRITE_BYTES):
            added = list(_copies(plan, batch))
            writer.add(added)
            if pending is not None:
                pending.result()
            pending = checking.submit(_check_copies, plan, writer, batch, added)
            step(len(batch))
        if pending is not None:
            pending.result()
    return [Done(one, copying.unmeasured(one), copied=True) for one in copies]


def _copies(plan: Plan, batch: Sequence[Step]) -> Iterator[Named]:
    """Both sides of every pair."""
    code = CODES[plan.dtype]
    for one in batch:
        rank, kernel = one.pieces[0].factors.rank, one.target.shape[1:]
        ones = (1,) * (len(kernel) - 1)
        shapes = (one.target.rows, rank, *ones), (rank, *kernel)
        names, sides = one.tensors(plan.dialect), copying.sides(plan, one)
        for name, shape, side in zip(names, shapes, sides, strict=True):
            yield name, code, shape, side


def _check_copies(
    plan: Plan, writer: Writer, batch: Sequence[Step], added: Sequence[Named]
) -> None:
    """Compare the file with what was to be in it, byte by byte; nobody else looks for NaN."""
    bad = _core.first_not_finite([(code, data) for _, code, _, data in added])
    if bad is not None:
        copying.refuse_not_finite(batch[bad // 2], bad % 2)
    names = [name for name, _, _, _ in added]
    meant = [data for _, _, _, data in added]
    place = _core.first_unequal(list(zip(writer.written(names), meant, strict=True)))
    if place is not None:
        message = f"{names[place]}: the file does not hold the bytes just written; nothing was kept"
        raise OutputError(message)
    release(plan)


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
