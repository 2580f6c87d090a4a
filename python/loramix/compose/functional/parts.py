"""Predictions a part at a time, so that what is made on the way stays small."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from loramix.arrays import is_torch
from loramix.compose.functional.arrays import Array

_MOST = 8
"""Parts of a prediction in float32; twice as many in half precision, as what is made on the way is
float32."""
_WORTH = 1 << 18
"""Numbers that are worth a call where calls cost more than small arrays: not on a CPU."""


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring places along one axis of space.

    Attributes
    ----------
    space : the sizes of the whole.
    axis : of space, from 0.
    start, stop : places along it.
    """

    space: tuple[int, ...]
    axis: int
    start: int
    stop: int

    def of(self, array: Array, *, before: int = 2) -> Array:
        """A view of an array that has so many axes before those of space."""
        return array[(*(slice(None),) * (before + self.axis), slice(self.start, self.stop))]


def whole(array: Array) -> Part:
    """All of a prediction as one part."""
    space = tuple(array.shape[2:])
    return Part(space, 0, 0, space[0])


def parts_of(array: Array, edges: Sequence[int] | None = None) -> list[Part]:
    """Eighths along the longest axis of space, sixteenths of half precision; fewer of a short one.

    Parameters
    ----------
    array : (batch, channels, *space).
    edges : of patches, one per axis of space, none of which is cut; None: pixels.
    """
    space = tuple(int(size) for size in array.shape[2:])
    if 0 in space:
        return [whole(array)]
    axis = max(range(len(space)), key=space.__getitem__)
    edge = 1 if edges is None else edges[axis]
    patches = -(-space[axis] // edge)
    count = min(_MOST * max(1, 4 // array.itemsize), patches)
    if is_torch(array) and array.device.type != "cpu":
        count = max(1, min(count, array.numel() // _WORTH))
    places = [min(number * patches // count * edge, space[axis]) for number in range(count + 1)]
    return [Part(space, axis, *pair) for pair in pairwise(places)]
