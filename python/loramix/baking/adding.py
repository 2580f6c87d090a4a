"""Deltas added to the weights of a base model, strip by strip, in the order of its files.

Resident at a time: one batch of strips of the base, two output buffers of a batch, and the deltas
of the batch where they are no sums of factors; independent of the size of the model.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt

from loramix import _core
from loramix.backends.base import Backend
from loramix.baking.expanding import Deltas
from loramix.baking.requantising import Rows, add
from loramix.baking.stripping import Added, Strip, Survival, samples
from loramix.batching import batches
from loramix.checkpoints.checkpoint import Shard
from loramix.checkpoints.scaling import Scaling
from loramix.errors import FormatError, LoramixError, OutputError
from loramix.io.safetensors import SafetensorsFile
from loramix.io.writing import SafetensorsWriter
from loramix.raw import RawStrip
from loramix.tensors import Tensor
from loramix.types import Adapter

_BATCH_BYTES = 48 << 20


class Adder:
    """Writes the files of a model with deltas added to its weights.

    Parameters
    ----------
    adapters : whose pages are given back.
    step : called with numbers of finished strips.
    scalings : of weights whose numbers have one, by names of `Checkpoint.tensors`.

    Attributes
    ----------
    beyond : entries so far that left the range of their type and scale.
    """

    def __init__(
        self,
        adapters: Sequence[Adapter],
        backend: Backend,
        threads: int | None,
        step: Callable[[int], None],
        scalings: Mapping[str, Scaling],
    ) -> None:
        self.beyond = 0
        self._scalings = scalings
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
            for sample in samples(name, tensor.size, changed.get(name, ())):
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
        done: list[Added] = []
        for scaled, run in groupby(changed, lambda one: self._scaling(shard, one) is not None):
            own = list(run)
            ends = offsets[len(done) : len(done) + len(own) + 1]
            try:
                done += (self._rounded if scaled else self._added)(shard, own, arena, ends)
            except _core.CoreError as error:
                raise self._refusal(shard, own, error) from error
        return done

    def _added(
        self,
        shard: Shard,
        own: Sequence[Strip],
        arena: npt.NDArray[np.uint8],
        ends: Sequence[int],
    ) -> list[Added]:
        """Weights that are numbers."""
        raw = [self._raw(shard, strip) for strip in own]
        found = _core.bake(raw, arena, ends, threads=self._threads)
        return [
            Added(strip, Survival(*sums), checksum)
            for strip, (*sums, checksum) in zip(own, found, strict=True)
        ]

    def _rounded(
        self,
        shard: Shard,
        own: Sequence[Strip],
        arena: npt.NDArray[np.uint8],
        ends: Sequence[int],
    ) -> list[Added]:
        """Weights that are numbers times scales, one after the other."""
        done = []
        for strip, (start, stop) in zip(own, pairwise(ends), strict=True):
            scaling, touch = self._scaling(shard, strip), strip.touch
            assert scaling is not None
            assert touch is not None
            dtype, data, _, group, whole, first = self._raw(shard, strip)
            where = f"{shard.path}: {strip.name}"
            rows = Rows(
                dtype, data, touch.start, touch.stop, group, whole, first, scaling, where
            )  # fmt: skip
            try:
                sums, beyond = add(rows, arena[start:stop], self._threads)
            except _core.CoreError as error:
                raise self._refusal(shard, [strip], error) from error
            (checksum,) = _core.checksums([arena[start:stop]], threads=self._threads)
            done.append(Added(strip, Survival(*sums), checksum))
            self.beyond += beyond
        return done

    def _scaling(self, shard: Shard, strip: Strip) -> Scaling | None:
        return self._scalings.get(shard.name(strip.name))

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


def _differs(name: str) -> OutputError:
    message = f"{name}: what was written differs from what was meant; nothing was kept"
    return OutputError(message)
