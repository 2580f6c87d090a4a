"""Deltas added to the weights of a base model, strip by strip, in the order of its files.

Resident at a time: one batch of strips of the base, two output buffers of a batch, and the deltas
of the batch where they are no sums of factors; independent of the size of the model.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from loramix import _core
from loramix.backends.base import Backend
from loramix.baking.expanding import Deltas
from loramix.baking.fitting import Touch
from loramix.batching import batches
from loramix.checkpoints.checkpoint import Shard
from loramix.errors import FormatError, LoramixError, OutputError
from loramix.io.safetensors import SafetensorsFile
from loramix.io.writing import SafetensorsWriter
from loramix.raw import RawStrip
from loramix.tensors import Tensor
from loramix.types import Adapter

STRIP_BYTES = 16 << 20
"""Largest strip of a weight; a multiple of the rows that a kernel takes at a time."""
_BATCH_BYTES = 48 << 20
_TILE = 128
_SAMPLE = 4096


@dataclass(frozen=True, slots=True)
class Strip:
    """Consecutive bytes of a stored tensor that are written at a time.

    Attributes
    ----------
    name : of the tensor in its file.
    start, stop : half-open bytes of it.
    touch : what changes them; None: they are copied.
    """

    name: str
    start: int
    stop: int
    touch: Touch | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Survival:
    """Sums over entries, with ``moved`` what was stored minus what was there.

    Attributes
    ----------
    delta, moved : ``|delta|^2``, ``|moved|^2``.
    along : ``<moved, delta>``.
    gap : ``|moved - delta|^2``.
    """

    delta: float = 0.0
    moved: float = 0.0
    along: float = 0.0
    gap: float = 0.0

    @property
    def share(self) -> float:
        """How much of the delta's energy survives the rounding: 1 is all, 0 or less is nothing."""
        return 1 - self.gap / self.delta if self.delta > 0 else 1.0

    @property
    def cosine(self) -> float:
        """Of the delta and what the weight moved by, -1 to 1; 1 where there is no delta."""
        if self.delta <= 0:
            return 1.0
        size = math.sqrt(self.delta * self.moved)
        return min(1.0, max(-1.0, self.along / size)) if size > 0 else 0.0

    @classmethod
    def total(cls, each: Sequence["Survival"]) -> "Survival":
        """Of several weights together."""
        return cls(
            math.fsum(one.delta for one in each),
            math.fsum(one.moved for one in each),
            math.fsum(one.along for one in each),
            math.fsum(one.gap for one in each),
        )


@dataclass(frozen=True, slots=True)
class Added:
    """A strip that was changed."""

    strip: Strip
    sums: Survival
    checksum: int


def strips(name: str, tensor: Tensor, own: Sequence[Touch]) -> Iterator[Strip]:
    """A stored tensor in strips, those between the touches as they are."""
    rows = tensor.shape[0] if tensor.shape else 1
    pitch = tensor.size // max(rows, 1)
    at = 0
    for touch in own:
        yield from _copied(name, at, touch.start * pitch)
        height = max(STRIP_BYTES // max(pitch, 1) // _TILE, 1) * _TILE
        for start in range(touch.start, touch.stop, height):
            stop = min(start + height, touch.stop)
            part = Touch(touch.step, start, stop, touch.first + start - touch.start)
            yield Strip(name, start * pitch, stop * pitch, part)
        at = touch.stop * pitch
    yield from _copied(name, at, tensor.size, always=not own)


def strips_of(shard: Shard, found: Mapping[str, Sequence[Touch]]) -> list[Strip]:
    """All strips of a file, in its order.

    Parameters
    ----------
    found : see `touches`.
    """
    return [
        strip
        for name, tensor in shard.file.tensors.items()
        for strip in strips(name, tensor, found.get(shard.name(name), ()))
    ]


def _copied(name: str, start: int, stop: int, *, always: bool = False) -> Iterator[Strip]:
    """Strips that are copied; one of no bytes for an empty tensor."""
    if always and start == stop:
        yield Strip(name, start, stop)
    for at in range(start, stop, STRIP_BYTES):
        yield Strip(name, at, min(at + STRIP_BYTES, stop))


class Adder:
    """Writes the files of a model with deltas added to its weights.

    Parameters
    ----------
    adapters : whose pages are given back.
    step : called with numbers of finished strips.
    """

    def __init__(
        self,
        adapters: Sequence[Adapter],
        backend: Backend,
        threads: int | None,
        step: Callable[[int], None],
    ) -> None:
        self._adapters = adapters
        self._threads = threads
        self._step = step
        self._deltas = Deltas(backend, threads)

    def write(self, shard: Shard, items: Sequence[Strip], writer: SafetensorsWriter) -> list[Added]:
        """Write the strips of one file: a batch is computed while the one before is written."""
        tensors = shard.file.tensors
        done: list[Added] = []
        arenas = [np.empty(0, dtype=np.uint8)] * 2
        with ThreadPoolExecutor(1) as background:
            pending: Future[None] | None = None
            for index, batch in enumerate(batches(items, lambda one: one.size, _BATCH_BYTES)):
                changed = [strip for strip in batch if strip.touch is not None]
                offsets = np.cumsum([0, *(strip.size for strip in changed)]).tolist()
                if len(arenas[index % 2]) < offsets[-1]:
                    arenas[index % 2] = np.empty(offsets[-1], dtype=np.uint8)
                arena = arenas[index % 2]
                done += self._add(shard, changed, arena, offsets)
                if pending is not None:
                    pending.result()
                self._release(shard)
                rooms = [arena[a:b] for a, b in pairwise(offsets)]
                pending = background.submit(_append, writer, tensors, batch, rooms)
                self._step(len(batch))
            if pending is not None:
                pending.result()
        self._deltas.prepare([])
        return done

    def verify(self, shard: Shard, hidden: SafetensorsFile, done: Sequence[Added]) -> None:
        """Compare a file just written with what was meant.

        What was changed is compared by its checksum, all of it; of what was copied samples.

        Raises
        ------
        OutputError : it differs.
        """
        meant = [(n, t.dtype, t.shape) for n, t in shard.file.tensors.items()]
        there = [(n, t.dtype, t.shape) for n, t in hidden.tensors.items()]
        if sorted(meant) != sorted(there):
            message = f"{shard.path.name}: its copy has other tensors; nothing was kept"
            raise OutputError(message)
        for batch in batches(done, lambda one: one.strip.size, _BATCH_BYTES):
            runs = [_bytes(hidden, one.strip) for one in batch]
            sums = _core.checksums(runs, threads=self._threads)
            for one, found in zip(batch, sums, strict=True):
                if found != one.checksum:
                    raise _differs(one.strip.name)
            del runs
            hidden.release()
        changed: dict[str, list[Strip]] = {}
        for one in done:
            changed.setdefault(one.strip.name, []).append(one.strip)
        for name, tensor in shard.file.tensors.items():
            for at in _samples(tensor.size, changed.get(name, ())):
                sample = Strip(name, at, min(at + _SAMPLE, tensor.size))
                if bytes(_bytes(hidden, sample)) != bytes(_bytes(shard.file, sample)):
                    raise _differs(name)
        hidden.release()
        self._release(shard)

    def _release(self, shard: Shard) -> None:
        shard.file.release()
        for adapter in self._adapters:
            adapter.release()
        _core.give_back()

    def _add(
        self,
        shard: Shard,
        changed: Sequence[Strip],
        arena: npt.NDArray[np.uint8],
        offsets: Sequence[int],
    ) -> list[Added]:
        if not changed:
            return []
        self._deltas.prepare([strip.touch.step for strip in changed if strip.touch is not None])
        raw = [self._raw(shard, strip) for strip in changed]
        try:
            found = _core.bake(raw, arena, offsets, threads=self._threads)
        except _core.CoreError as error:
            raise self._refusal(shard, changed, error) from error
        return [
            Added(strip, Survival(*sums), checksum)
            for strip, (*sums, checksum) in zip(changed, found, strict=True)
        ]

    def _raw(self, shard: Shard, strip: Strip) -> RawStrip:
        touch = strip.touch
        assert touch is not None
        delta = self._deltas[touch.step.target.key]
        rows, data = touch.stop - touch.start, _bytes(shard.file, strip)
        dtype = shard.file.tensors[strip.name].dtype
        return (dtype, data, rows, delta.group, delta.whole, touch.first)

    def _refusal(
        self, shard: Shard, changed: Sequence[Strip], error: _core.CoreError
    ) -> LoramixError:
        """What the kernel refused, with the names that users know."""
        kind, text, number, member, side = error.args
        if number is None or changed[number].touch is None:
            return OutputError(text)
        strip = changed[number]
        step = strip.touch.step if strip.touch is not None else None
        assert step is not None
        where = f"{shard.path}: {strip.name}"
        delta = self._deltas[step.target.key]
        if kind == "non_finite" and side != "base":
            owners = delta.entries if side == "dense" else delta.factors
            if member < len(owners):
                factors = owners[member]
                where = f"{factors.file}: {factors.keys[0 if side == 'up' else 1]}"
        if kind == "non_finite":
            message = f"{where} holds NaN or infinity; get another copy of the file"
            return FormatError(message)
        message = (
            f"{where}: {text} ({step.target.key}); lower the weights, or bake into a base of "
            "type bf16 or f32"
        )
        return OutputError(message)


def _append(
    writer: SafetensorsWriter,
    tensors: Mapping[str, Tensor],
    batch: Sequence[Strip],
    rooms: Sequence[npt.NDArray[np.uint8]],
) -> None:
    """Write a batch: what was changed from its rooms, the rest from the base."""
    changed = iter(rooms)
    for strip in batch:
        tensor = tensors[strip.name]
        if strip.start == 0:
            writer.begin(strip.name, tensor.dtype, tensor.shape, tensor.size)
        own = next(changed) if strip.touch is not None else None
        writer.append(tensor.data[strip.start : strip.stop] if own is None else own)


def _bytes(file: SafetensorsFile, strip: Strip) -> memoryview:
    return file.tensors[strip.name].data[strip.start : strip.stop]


def _samples(size: int, changed: Sequence[Strip]) -> Iterator[int]:
    """Where to look at what was copied: at its begin, its end, and now and then between."""
    at = 0
    for start, stop in [*((s.start, s.stop) for s in changed), (size, size)]:
        if at < start:
            yield from range(at, start - _SAMPLE, STRIP_BYTES)
            yield max(at, start - _SAMPLE)
        at = stop


def _differs(name: str) -> OutputError:
    message = f"{name}: what was written differs from what was meant; nothing was kept"
    return OutputError(message)
