"""The tensors of a model's files in strips: what is written at a time, and what became of it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from loramix.baking.fitting import Touch
from loramix.checkpoints.checkpoint import Shard
from loramix.tensors import Tensor

STRIP_BYTES = 16 << 20
"""Largest strip of a weight; a multiple of the rows that a kernel takes at a time."""
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
    """

    delta: float = 0.0
    moved: float = 0.0
    along: float = 0.0

    @property
    def share(self) -> float:
        """How much of the delta's energy survives the rounding: 1 is all, 0 or less is nothing.

        ``1 - |moved - delta|^2 / |delta|^2``.
        """
        return min(1.0, (2 * self.along - self.moved) / self.delta) if self.delta > 0 else 1.0

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


def samples(name: str, size: int, changed: Sequence[Strip]) -> Iterator[Strip]:
    """What to look at of what was copied: its begin, its end, and now and then between.

    Parameters
    ----------
    changed : strips of the tensor that were not.
    """
    at = 0
    for start, stop in [*((s.start, s.stop) for s in changed), (size, size)]:
        if at < start:
            for place in (*range(at, start - _SAMPLE, STRIP_BYTES), max(at, start - _SAMPLE)):
                yield Strip(name, place, min(place + _SAMPLE, size))
        at = stop
