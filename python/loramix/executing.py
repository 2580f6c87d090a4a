"""Pass 2: execute a plan, step by step, into a file that is verified before it gets its name.

Resident at a time: the factors of one batch of steps, two output buffers of a batch, and what
the threads decode; independent of the size of the model.
"""

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from loramix import _core, adapters, copying, placing
from loramix.accounting import Share, total
from loramix.backends.base import Backend, Job
from loramix.batching import DENSE_BYTES, READ_BYTES, WRITE_BYTES, batches, bytes_of
from loramix.digests import Digest, digests_of, placeholders
from loramix.errors import OutputError
from loramix.formats import metadata, scales
from loramix.io.safetensors import MemoryWriter, SafetensorsFile, header_room
from loramix.making import make
from loramix.output import CODES, Output
from loramix.recipes.provenance import provenance
from loramix.refusals import with_names
from loramix.steps import Plan, Step
from loramix.types import ITEM_BYTES, Adapter
from loramix.verifying import FLOOR, Done, Row, release, verify


@dataclass(frozen=True, slots=True)
class Merged:
    """A finished merge.

    Attributes
    ----------
    adapter : the result, opened.
    path : where it is; None if it was kept in memory.
    log : one row per target, largest first.
    plan : what was executed.
    """

    adapter: Adapter
    path: Path | None
    log: tuple[Row, ...] = field(repr=False)
    plan: Plan = field(repr=False)

    @property
    def error(self) -> float:
        """Relative error of the whole file against what was meant."""
        sizes = [(row.norm, row.error) for row in self.log if row.norm is not None]
        norm = math.fsum(size**2 for size, _ in sizes)
        gap = math.fsum((error * size) ** 2 for size, error in sizes)
        return math.sqrt(gap / norm) if norm > 0 else 0.0

    @property
    def shares(self) -> tuple[Share, ...]:
        """What became of every adapter, over all targets."""
        return total(row.shares for row in self.log)


class Writer(Protocol):
    """Where tensors go; see `SafetensorsWriter`."""

    def add(
        self, name: str, dtype: str, shape: tuple[int, ...], data: npt.NDArray[np.uint8]
    ) -> None:
        """Append one tensor."""

    def written(self, names: Iterable[str]) -> list[memoryview]:
        """Bytes of tensors that were added, as they are now."""

    def finish(self, metadata: Mapping[str, str]) -> SafetensorsFile:
        """Complete the file, still hidden."""


def execute(
    plan: Plan,
    path: Path | None,
    *,
    backend: Backend,
    threads: int | None = None,
    step: Callable[[int], None],
    digests: Future[list[Digest]] | None = None,
) -> Merged:
    """Execute a plan.

    Parameters
    ----------
    path : output file, or folder for the PEFT dialect; None keeps the result in memory.
    backend : carries out the arithmetic.
    step : called with numbers of finished steps, twice for each: written, verified.
    digests : of the plan's adapters, where somebody is at them already.

    Raises
    ------
    OutputError : the result does not fit its type, or is not what was meant when read back.
    OSError : the file cannot be written.  In every case nothing is left behind and a file that
        was there before is untouched.
    """
    with ExitStack() as stack:
        hashing = stack.enter_context(ThreadPoolExecutor(1))
        digests = digests or hashing.submit(digests_of, plan.adapters)
        place = None
        if path is not None:
            room = _room(plan, backend.name)
            place = stack.enter_context(placing.Place(path, plan.dialect, room))
        writer: Writer = place.writer if place else MemoryWriter()
        done = _write(plan, writer, backend, threads, step)
        ranks = [(d.step.target, d.step.stem, d.made.rank) for d in done if not d.dense]
        config = _config(plan, ranks)
        hidden = writer.finish(_strings(plan, ranks, digests.result(), backend.name))
        if place is not None:
            hidden.path = place.tensors  # what it will be called, if it is right
        result = _open(plan, hidden, config, place.name if place else "merged")
        rows = verify(plan, result, done, threads, step)
        if place is not None:
            place.commit(config)
    return Merged(result, path, rows, plan)


def _strings(
    plan: Plan, ranks: metadata.Ranks, digests: Sequence[Digest], backend: str
) -> dict[str, str]:
    """Header metadata of the output; `ranks` are those of the factors."""
    return metadata.header(
        plan.dialect,
        plan.architecture,
        [adapter.metadata for adapter in plan.adapters],
        provenance(plan, digests, backend),
        ranks,
        plan.alpha,
        names=[adapter.name for adapter in plan.adapters],
        dense=any(step.kind == "dense" for step in plan.steps),
        bias=_has_bias(plan),
    )


def _config(plan: Plan, ranks: metadata.Ranks) -> str | None:
    """Text of the ``adapter_config.json``, for the dialect that has one."""
    if not plan.dialect.folder:
        return None
    source = plan.adapters[0].metadata.get(scales.CONFIG)
    return metadata.peft_config(source, ranks, bias=_has_bias(plan))


def _has_bias(plan: Plan) -> bool:
    """Whether pairs have biases."""
    suffix = plan.dialect.vectors.bias
    return any(step.suffix == suffix for step in plan.steps if step.suffix)


def _room(plan: Plan, backend: str) -> int:
    """Bytes that the header may need; ranks are not known yet."""
    pairs = [step for step in plan.steps if step.kind != "dense"]
    names = [
        *(
            (name, len(step.target.shape))
            for step in plan.steps
            for name in step.tensors(plan.dialect)
        ),
        *((s.stem + ".alpha", 0) for s in pairs),
    ]
    ranks = [(s.target, s.stem, 10**9 + i) for i, s in enumerate(pairs)]
    return header_room(names, _strings(plan, ranks, placeholders(plan.adapters), backend))


def bytes_around(plan: Plan, backend: str) -> int:
    """What the file of tensors takes beside its factors: length, header, alphas.

    Parameters
    ----------
    backend : name of what will carry the plan out; the header says it.
    """
    pairs = sum(step.kind != "dense" for step in plan.steps)
    alphas = pairs * ITEM_BYTES["F32"] if plan.alpha is not None else 0
    return 8 + -(-_room(plan, backend) // 8) * 8 + alphas


def _write(
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
        alpha=plan.alpha,
        threads=threads,
    )

    def capacity(one: Step) -> int:
        return one.numbers(one.largest_rank(plan.output)) * size

    if plan.alpha is not None:
        # First in the file: readers want four-byte numbers at multiples of four.
        alpha = np.frombuffer(struct.pack("<f", plan.alpha), dtype=np.uint8)
        for one in plan.steps:
            if one.kind != "dense":
                writer.add(one.stem + ".alpha", "F32", (), alpha)
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
            finished = _compute(plan, batch, backend, job)
            release(plan)
            _core.give_back()
            if pending is not None:
                pending.result()
            pending = background.submit(_append, plan, writer, finished, arena, offsets)
            done += finished
            step(len(batch))
        if pending is not None:
            pending.result()
    return done


def _copy(plan: Plan, writer: Writer, step: Callable[[int], None]) -> list[Done]:
    """Write the pairs that nothing changes; the file is compared while the next are written."""
    copies = [one for one in plan.steps if copying.factor_of(plan, one) is not None]
    with ThreadPoolExecutor(1) as checking:
        pending: Future[None] | None = None
        for batch in batches(copies, lambda one: bytes_of(one.group()), READ_BYTES):
            added = _append_copies(plan, writer, batch)
            if pending is not None:
                pending.result()
            pending = checking.submit(_check_copies, plan, writer, added)
            step(len(batch))
        if pending is not None:
            pending.result()
    return [Done(one, copying.unmeasured(one), copied=True) for one in copies]


def _append_copies(
    plan: Plan, writer: Writer, batch: Sequence[Step]
) -> dict[str, npt.NDArray[np.uint8]]:
    """What was added, by name."""
    code = CODES[plan.dtype]
    added = {}
    for one in batch:
        rank, kernel = one.pieces[0].factors.rank, one.target.shape[1:]
        ones = (1,) * (len(kernel) - 1)
        shapes = (one.target.rows, rank, *ones), (rank, *kernel)
        for name, shape, side in zip(
            one.tensors(plan.dialect), shapes, copying.sides(plan, one), strict=True
        ):
            writer.add(name, code, shape, side)
            added[name] = side
    return added


def _check_copies(plan: Plan, writer: Writer, added: Mapping[str, npt.NDArray[np.uint8]]) -> None:
    """Compare the file with what was to be in it, byte by byte."""
    for (name, data), found in zip(added.items(), writer.written(added), strict=True):
        if not copying.equal(found, data):
            message = f"{name}: the file does not hold the bytes just written; nothing was kept"
            raise OutputError(message)
    release(plan)


def _batches(steps: Sequence[Step], capacity: Callable[[Step], int]) -> Iterator[list[Step]]:
    """Steps that are made alike together."""
    for (kind, _, _), alike in groupby(steps, key=lambda s: (s.kind, s.method, s.rank)):
        limit = DENSE_BYTES if kind == "dense" else WRITE_BYTES

        def size(one: Step, limit: int = limit) -> int:
            return max(capacity(one), one.made * limit // READ_BYTES)

        yield from batches(alike, size, limit)


def _compute(plan: Plan, batch: Sequence[Step], backend: Backend, job: Job) -> list[Done]:
    work = partial(make, batch, backend, job)
    made = with_names([one.group() for one in batch], work)
    done = [Done(one, result) for one, result in zip(batch, made, strict=True)]
    for item in done:
        _check_budget(plan.output, item)
    return done


def _check_budget(rule: Output, item: Done) -> None:
    """An elementwise result has full rank: an error budget may be out of reach."""
    made = item.made
    if rule.max_error is not None and rule.rank is None and made.cut > rule.max_error + FLOOR:
        message = (
            f"{item.step.target.key}: the best of rank {made.rank} leaves a relative error of "
            f"{made.cut:.3g}, more than max_error = {rule.max_error}; entry by entry methods "
            "have full rank: give a larger --rank, or a larger error"
        )
        raise OutputError(message)


def _append(
    plan: Plan,
    writer: Writer,
    batch: Sequence[Done],
    arena: npt.NDArray[np.uint8],
    offsets: Sequence[int],
) -> None:
    """Write the dense difference, or up and down, of every step of a batch."""
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
            writer.add(names[0], code, first[::-1], _transposed(data, *first))
            shape = (rank, target.cols)
            writer.add(names[1], code, shape[::-1], _transposed(arena[split:end], *shape))
            continue
        writer.add(names[0], code, first, data)
        if not item.dense:
            writer.add(names[1], code, (rank, *target.shape[1:]), arena[split:end])


def _transposed(data: npt.NDArray[np.uint8], rows: int, cols: int) -> npt.NDArray[np.uint8]:
    return data.reshape(rows, cols, -1).swapaxes(0, 1).reshape(-1)


def _open(plan: Plan, file: SafetensorsFile, config: str | None, name: str) -> Adapter:
    """Read the result with the reader that everyone uses."""
    strings = {**file.metadata, **({scales.CONFIG: config} if config else {})}
    return adapters.read(file, name, strings, architecture=plan.architecture)
