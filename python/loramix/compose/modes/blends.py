"""How the predictions of a step become one: a single one, sums by weights, sums by pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from loramix.compose.functional.arrays import Array, library_of
from loramix.compose.functional.blending import aggregate
from loramix.compose.functional.masking import inside
from loramix.compose.functional.parts import Part
from loramix.compose.functional.patches import How, Patch, upsample
from loramix.compose.functional.weighting import restrict
from loramix.compose.modes.base import Moment, Pass, Seen, shares


@dataclass(frozen=True, slots=True)
class Only:
    """A single pass as it is, bit for bit."""

    pointwise: ClassVar[bool] = True
    reads_base: ClassVar[bool] = False
    weights: ClassVar[tuple[Array, ...]] = ()

    used: tuple[Pass, ...]
    table: Array

    def combine(self, members: Sequence[Array], base: Array | None, part: Part) -> Array:  # noqa: ARG002
        """The first one."""
        return members[0]

    def take(self, rows: Sequence[int], weights: tuple[Array, ...]) -> "Only":  # noqa: ARG002
        """It is one."""
        return self


@dataclass(frozen=True, slots=True)
class Weighted:
    """A sum, every adapter with one weight for all pixels.

    Attributes
    ----------
    weights : (m, batch), of the used passes.
    count : adapters in all.
    """

    pointwise: ClassVar[bool] = True
    reads_base: ClassVar[bool] = False

    used: tuple[Pass, ...]
    weights: tuple[Array]
    count: int

    @property
    def table(self) -> Array:
        """Of all adapters."""
        return spread(self.weights[0], alone_in(self.used), self.count)

    def combine(self, members: Sequence[Array], base: Array | None, part: Part) -> Array:  # noqa: ARG002
        """The sum."""
        return aggregate(members, self.weights[0])

    def take(self, rows: Sequence[int], weights: tuple[Array, ...]) -> "Weighted":
        """Of some."""
        return Weighted(tuple(self.used[n] for n in rows), (weights[0],), self.count)


@dataclass(frozen=True, slots=True)
class Spread:
    """A sum by weights of patches, inside masks if there are any.

    Weights are made as large as pixels for one part at a time: those of eight adapters are as many
    numbers as two predictions of four channels.

    Attributes
    ----------
    weights : (m, batch, *grid), of the used passes.
    patch, how : see `upsample`.
    count : adapters in all.
    masks : (m, *space), of the used passes; what is outside of them is the base's.
    """

    pointwise: ClassVar[bool] = True

    used: tuple[Pass, ...]
    weights: tuple[Array]
    count: int
    patch: Patch
    how: How = "nearest"
    masks: Array | None = None

    @property
    def table(self) -> Array:
        """Inside the masks, if there are any."""
        masks, own = self.masks, self.weights[0]
        if masks is not None:
            own = inside(own, masks, patch=self.patch, how=self.how)
        return spread(own, alone_in(self.used), self.count)

    @property
    def reads_base(self) -> bool:
        """Outside the masks."""
        return self.masks is not None

    def combine(self, members: Sequence[Array], base: Array | None, part: Part) -> Array:
        """The sum, and the base's part if there is one."""
        pixels = upsample(self.weights[0], part.space, patch=self.patch, how=self.how, part=part)
        if self.masks is None:
            return aggregate(members, pixels)
        return aggregate(members, restrict(pixels, part.of(self.masks, before=1)), base)

    def take(self, rows: Sequence[int], weights: tuple[Array, ...]) -> "Spread":
        """Of some, inside their masks."""
        masks = None if self.masks is None else self.masks[list(rows)]
        used = tuple(self.used[n] for n in rows)
        return replace(self, used=used, weights=(weights[0],), masks=masks)


def alone_in(passes: Sequence[Pass]) -> list[int]:
    """The adapter of every pass that has one."""
    return [one.active[0] for one in passes]


def spread(values: Array, rows: Sequence[int], total: int) -> Array:
    """Values of some adapters as those of all, nothing for the others."""
    found = library_of(values).concatenate([values[:1]] * total, axis=0)
    found[:] = 0
    found[list(rows)] = values
    return found


def single(moment: Moment, seen: Seen, active: Sequence[int]) -> Only:
    """The blend of a step that has one pass."""
    return Only(seen.passes, shares(moment, seen.members[0], active))
