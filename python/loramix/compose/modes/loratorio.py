"""Every patch from the adapters that have most to say about it."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from loramix.compose.functional import (
    divergence,
    level,
    normalise,
    select,
    softmin,
    standardise,
)
from loramix.compose.functional.arrays import Array, library_of
from loramix.compose.functional.checks import check_count, check_number, check_word
from loramix.compose.functional.patches import How, Patch, edges_of
from loramix.compose.functional.weighting import Scope
from loramix.compose.guidance import Guidance, Recentred
from loramix.compose.modes.base import (
    BASE,
    HALF,
    Blend,
    Model,
    Moment,
    Pass,
    Seen,
    alone,
)
from loramix.compose.modes.blends import Spread, alone_in, spread
from loramix.errors import ParamError


@dataclass(frozen=True, slots=True)
class _Memory:
    """What the last evaluation found.

    Attributes
    ----------
    chosen : bool, (n, batch) or (n, batch, *grid); None without selection.
    levels : (m, batch), running mean of the divergence of the adapters with a prior.
    count : evaluations so far.
    """

    chosen: Array | None
    levels: Array
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loratorio:
    """SoftMin over the similarities of patches with the base's prediction.

    In every step the base and every adapter alone predict.  Conditional predictions are cut into
    patches; the less a patch of an adapter is like the base's, the more it weighs there:
    ``w[i, p] = softmin_i(cos(e_i, e_base) / tau)``.  Conditional and unconditional predictions are
    summed with these weights, the unconditional sum is re-centred (`Recentred`).

    Parameters
    ----------
    tau : temperature, (0, inf].  Infinite: `Composite`.  The published value is not known to us; 1
        did best on the calibration half of the testbed (docs/QUALITY.md).  There the weights are
        nearly uniform; 0.05 gives patches to single adapters.  See `softmin`.
    patch : edge of a patch in latent pixels, or one edge per axis.  Whether the publication's d is
        an edge or an area is unclear, and so is its value; 4 is ours.
    how : up-sampling of weights, ``nearest`` or ``bilinear``.
    scale : ``none``: similarities as they are; ``image`` or ``patch``: standardised over adapters
        first, see `standardise`; tau = 1 is then a good start.
    level : ``none``, or ``adapter``: the divergences of every adapter in units of its own running
        mean over the steps, so one that is too strong does not win everywhere.
    k : adapters that take part in a step, chosen anew in every step; None: all.
    scope : ``image``: by the mean divergence of the image; ``patch``: in each patch.
    hysteresis : see `select`.
    freeze : the step from which the choice stays as it is, and only those chosen are run; None:
        never.  With scope ``patch`` the patches of a choice stay as well.

    Notes
    -----
    Forwards per step: 2 (n + 1) with classifier-free guidance, n + 1 without, where n counts the
    adapters with a prior above 0.  Where the two sides are separate calls, the unconditional one
    runs only what has weight, and the base only if it is re-centred.  `Saving` asks for fewer.

    A style adapter that diverges everywhere can drown the one of a small object; masks, priors and
    ``level`` are against that.

    References
    ----------
    Foteinopoulou, Budvytis, Liwicki 2025, arXiv:2508.11624.  No code was published; rebuilt from
    the equations.
    """

    name: ClassVar[str] = "loratorio"
    per_pixel: ClassVar[bool] = True
    in_place_of_priors: ClassVar[str | None] = None
    settled: ClassVar[str | None] = None
    guidance: ClassVar[Guidance] = Recentred()

    tau: float = 1.0
    patch: Patch = 4
    how: How = "nearest"
    scale: Literal["none", "image", "patch"] = "none"
    level: Literal["none", "adapter"] = "none"
    k: int | None = None
    scope: Scope = "image"
    hysteresis: float = 0.0
    freeze: int | None = None

    def __post_init__(self) -> None:
        check_number(self.name, "tau", self.tau, above=True, infinite=True)
        for edge in self.patch if isinstance(self.patch, tuple | list) else (self.patch,):
            check_count(self.name, "patch", edge)
        check_word(self.name, "how", self.how, ("nearest", "bilinear"))
        check_word(self.name, "scale", self.scale, ("none", "image", "patch"))
        check_word(self.name, "level", self.level, ("none", "adapter"))
        check_word(self.name, "scope", self.scope, ("image", "patch"))
        for name, count in (("k", self.k), ("freeze", self.freeze)):
            if count is not None:
                check_count(self.name, name, count)
        check_number(self.name, "hysteresis", self.hysteresis)
        if self.k is None and (self.hysteresis or self.freeze is not None):
            message = "loratorio: hysteresis and freeze are about the choice of k adapters: give k"
            raise ParamError(message)

    def prepare(self, model: Model) -> object:  # noqa: ARG002 - the protocol's
        """Nothing."""
        return None

    def sharper(self, departure: float) -> str | None:
        """A scale-free mode, or the temperature that makes of a small departure one of a half."""
        if math.isinf(self.tau):
            return None
        free = "loratorio:scale=image or " if self.scale == "none" else ""
        return f"{free}loratorio:tau={self.tau * departure / HALF:.1g}"

    def passes(self, moment: Moment, memory: object) -> tuple[Pass, ...]:
        """The base, and alone each that can have weight."""
        if moment.space:
            edges_of((1, 1, *moment.space), self.patch)  # refuses what does not fit
        known = memory if isinstance(memory, _Memory) else None
        return (BASE, *alone(self._candidates(moment, known)))

    def weigh(self, moment: Moment, seen: Seen, memory: object) -> tuple[Blend, object]:
        """By what this step's predictions say."""
        weights, known = self._evaluated(
            moment, seen, memory if isinstance(memory, _Memory) else None
        )
        return self._blend(seen, weights, len(moment.prior)), known

    def _frozen(self, moment: Moment, memory: _Memory | None) -> Array | None:
        """The choice that stays, or none where it is free."""
        if memory is None or self.freeze is None or moment.step < self.freeze:
            return None
        return memory.chosen

    def _candidates(self, moment: Moment, memory: _Memory | None) -> list[int]:
        """Those that can have weight."""
        frozen = self._frozen(moment, memory)
        return [i for i in moment.taking if frozen is None or bool(frozen[i].any())]

    def _evaluated(
        self, moment: Moment, seen: Seen, memory: _Memory | None
    ) -> tuple[Array, _Memory]:
        """What this step's predictions say: (m, batch, *grid) of those that were run."""
        far = divergence(seen.base, seen.members, patch=self.patch)
        rows = alone_in(seen.passes)
        levels, count = self._levels(far, rows, len(moment.prior), memory)
        terms = normalise(far, levels[rows]) if self.level == "adapter" else far
        chosen = self._chosen(moment, far, terms, rows, memory)
        likeness = -terms
        del far, terms
        if self.scale != "none":
            frozen = self._frozen(moment, memory)
            likeness = _standardised(likeness, self.scale, None if frozen is None else frozen[rows])
        prior = [moment.prior[i] for i in rows]
        mask = None if chosen is None else _reach(chosen[rows], likeness.ndim)
        weights = softmin(likeness, tau=self.tau, prior=prior, chosen=mask)
        return weights, _Memory(chosen, levels, count)

    def _levels(
        self, far: Array, rows: list[int], total: int, memory: _Memory | None
    ) -> tuple[Array, int]:
        """Running means of all adapters, those that were not run as they were."""
        now = spread(level(far), rows, total)
        if memory is None:
            return now, 1
        mean = memory.levels + (now - memory.levels) / (memory.count + 1)
        absent = [i for i in range(total) if i not in rows]
        mean[absent] = memory.levels[absent]
        return mean, memory.count + 1

    def _chosen(
        self, moment: Moment, far: Array, terms: Array, rows: list[int], memory: _Memory | None
    ) -> Array | None:
        """The choice among all adapters, or none where all take part."""
        if self.k is None:
            return None
        frozen = self._frozen(moment, memory)
        if frozen is not None:
            return frozen
        # Divergences in units of their mean are alike in the mean: images are ranked without.
        scores = level(far) if self.scope == "image" else terms
        previous = None if memory is None or memory.chosen is None else memory.chosen[rows]
        picked = select(scores, self.k, previous=previous, hysteresis=self.hysteresis)
        return spread(picked, rows, len(moment.prior))

    def _blend(self, seen: Seen, weights: Array, count: int) -> Spread:
        """Of those that have weight; under masks of all, since one may be all that a pixel has."""
        masks = None if seen.masks is None else seen.masks[alone_in(seen.passes)]
        blend = Spread(seen.passes, (weights,), count, self.patch, self.how, masks)
        heavy = [n for n in range(len(weights)) if bool((weights[n] != 0).any())]
        if masks is not None or len(heavy) == len(weights):
            return blend
        return blend.take(heavy, (weights[heavy],))


def _standardised(likeness: Array, scope: Scope, frozen: Array | None) -> Array:
    """See `standardise`; where a choice stays, over those of each image, as if it were alone."""
    if frozen is None:
        return standardise(likeness, scope=scope)
    found = library_of(likeness).zeros_like(likeness)
    for image in range(frozen.shape[1]):
        mine = [n for n in range(len(frozen)) if bool(frozen[n, image].any())]
        found[mine, image] = standardise(likeness[mine, image : image + 1], scope=scope)[:, 0]
    return found


def _reach(chosen: Array, axes: int) -> Array:
    """What there is per image with the axes of what there is per patch."""
    return chosen.reshape((*chosen.shape, *(1,) * (axes - chosen.ndim)))
