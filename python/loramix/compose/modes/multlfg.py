"""Every wavelet band from the adapters that have most to say about it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from loramix.compose.functional import Bands, combine_bands, haar, select, softmin, unhaar
from loramix.compose.functional.arrays import Array, cast_like, library_of
from loramix.compose.functional.checks import check_count, check_number, check_word
from loramix.compose.functional.parts import Part
from loramix.compose.guidance import Cfg, Guidance
from loramix.compose.modes.base import (
    BASE,
    HALF,
    Blend,
    Model,
    Moment,
    Pass,
    Seen,
    alone,
    shares,
)
from loramix.compose.modes.blends import Weighted, alone_in, spread


@dataclass(frozen=True, slots=True)
class _Banded:
    """A weighted sum for every band.

    Attributes
    ----------
    weights : for every part of the bands (m, batch), of the used passes.
    sizes : the share of the numbers that every part has.
    count : adapters in all.
    """

    pointwise: ClassVar[bool] = False
    reads_base: ClassVar[bool] = False

    used: tuple[Pass, ...]
    weights: tuple[Array, ...]
    sizes: tuple[float, ...]
    levels: int
    count: int

    @property
    def table(self) -> Array:
        """Means over the bands by their size."""
        parts = [one * size for one, size in zip(self.weights, self.sizes, strict=True)]
        mean = library_of(parts[0]).stack(parts).sum(0)
        return spread(mean, alone_in(self.used), self.count)

    def combine(self, members: Sequence[Array], base: Array | None, part: Part) -> Array:  # noqa: ARG002
        """Split, sum, join."""
        stack = (haar(one, self.levels) for one in members)
        return cast_like(unhaar(combine_bands(stack, self.weights)), members[0])

    def take(self, rows: Sequence[int], weights: tuple[Array, ...]) -> "_Banded":
        """Of some."""
        return replace(self, used=tuple(self.used[n] for n in rows), weights=weights)


@dataclass(frozen=True, slots=True)
class _Memory:
    """Bands of the evaluation before, by adapter."""

    bands: dict[int, Bands]


@dataclass(frozen=True, slots=True)
class MultLfg:
    """Predictions split into Haar bands; in each band the most relevant adapters, by relevance.

    The score of adapter i in band b is the norm of what it changes there, over the mean score of
    all adapters in b; the k highest share by ``softmax(score / tau)``.

    Parameters
    ----------
    levels : halvings of the resolution, at least 1: 1 + 3 levels bands.
    k : adapters per band, at least 1; None: all.
    score : ``change``: against the adapter's own prediction when weights were evaluated before,
        one step ago unless `Saving` says otherwise (the first evaluation is the mean); ``base``:
        against the base's in this step.
    tau : temperature of the weights, (0, inf].  Infinite and k None: `Composite`.

    Notes
    -----
    Forwards per step: 2 n with classifier-free guidance, n without; with score ``base`` one more
    each (the unconditional one only where both sides are one call).  The bands of the evaluation
    before are n conditional predictions in float32, more memory than the other modes need; with
    score ``base`` those of two are there at a time.

    Known to us from its abstract and a summary, which says that text and algorithm disagree about
    the latents compared; scores, tau and k are ours.  The account shows weights averaged over
    bands by their size.

    References
    ----------
    MultLFG, arXiv:2505.20525.
    """

    name: ClassVar[str] = "multlfg"
    per_pixel: ClassVar[bool] = False
    in_place_of_priors: ClassVar[str | None] = None
    settled: ClassVar[str | None] = None
    guidance: ClassVar[Guidance] = Cfg()

    levels: int = 2
    k: int | None = None
    score: Literal["change", "base"] = "change"
    tau: float = 0.2

    def __post_init__(self) -> None:
        check_count(self.name, "levels", self.levels)
        if self.k is not None:
            check_count(self.name, "k", self.k)
        check_word(self.name, "score", self.score, ("change", "base"))
        check_number(self.name, "tau", self.tau, above=True, infinite=True)

    def prepare(self, model: Model) -> object:  # noqa: ARG002 - the protocol's
        """No bands yet."""
        return _Memory({})

    def sharper(self, departure: float) -> str | None:
        """The temperature that makes of a small departure one of a half."""
        if math.isinf(self.tau):
            return None
        return f"multlfg:tau={self.tau * departure / HALF:.1g}"

    def passes(self, moment: Moment, memory: object) -> tuple[Pass, ...]:  # noqa: ARG002
        """Each alone, and the base if it is compared with."""
        return (*([BASE] if self.score == "base" else []), *alone(moment.taking))

    def weigh(self, moment: Moment, seen: Seen, memory: object) -> tuple[Blend, object]:
        """Weights of every band."""
        rows, count = alone_in(seen.passes), len(moment.prior)
        distances, now = self._compared(seen, memory, rows)
        if not distances:
            alike = shares(moment, seen.members[0])[rows]
            return Weighted(seen.passes, (alike,), count), now
        prior = [moment.prior[i] for i in rows]
        weights = tuple(self._weights(list(band), prior) for band in zip(*distances, strict=True))
        sizes = _sizes(seen.members[0].shape, self.levels)
        return _Banded(seen.passes, weights, sizes, self.levels, count), now

    def _compared(
        self, seen: Seen, memory: object, rows: list[int]
    ) -> tuple[list[list[Array]], _Memory]:
        """The distance of every member in every band, and what to remember.

        One member at a time, since its bands are as many numbers as its prediction; those of the
        evaluation before are forgotten as they are compared.
        """
        base = haar(seen.base, self.levels) if self.score == "base" else None
        before = memory.bands if isinstance(memory, _Memory) else {}
        complete = base is not None or all(i in before for i in rows)
        distances, now = [], _Memory({})
        for i, member in zip(rows, seen.members, strict=True):
            own = haar(member, self.levels)
            other = before.pop(i, None) if base is None else base
            if complete and other is not None:
                distances.append([_distance(own, other, b) for b in range(len(own.parts))])
            if base is None:
                now.bands[i] = own
        return distances, now

    def _weights(self, distances: list[Array], prior: list[float]) -> Array:
        """(m, batch) from m distances."""
        xp = library_of(distances[0])
        scores = xp.stack(distances)
        mean = xp.mean(scores, axis=0, keepdims=True)
        scores = scores / xp.where(mean == 0, xp.ones_like(mean), mean)
        chosen = None if self.k is None else select(scores, self.k)
        return softmin(-scores, tau=self.tau, prior=prior, chosen=chosen)


def _sizes(shape: Sequence[int], levels: int) -> tuple[float, ...]:
    """The share of the coefficients that every part of the bands has, see `haar`."""
    height, width = shape[-2:]
    found: list[int] = []
    for _ in range(levels):
        height, width = -(-height // 2), -(-width // 2)
        found[:0] = [height * width] * 3
    found[:0] = [height * width]
    return tuple(size / sum(found) for size in found)


def _distance(one: Bands, other: Bands, part: int) -> Array:
    """(batch,), norm of the difference in a band."""
    moved = one.parts[part] - other.parts[part]
    xp = library_of(moved)
    return xp.sqrt(xp.sum(moved**2, axis=tuple(range(1, moved.ndim))))
