"""Every patch from the adapters that have most to say about it."""

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
from loramix.compose.functional.arrays import Array, library_of, like, wide
from loramix.compose.functional.checks import check_count, check_number, check_word
from loramix.compose.functional.patches import How, Patch, edges_of
from loramix.compose.functional.weighting import Scope
from loramix.compose.guidance import Guidance, Recentred
from loramix.compose.modes.base import (
    BASE,
    Blend,
    Model,
    Moment,
    Pass,
    Seen,
    alone,
)
from loramix.compose.modes.blends import Spread, single, spread
from loramix.errors import ParamError


@dataclass(frozen=True, slots=True)
class _Memory:
    """What the last evaluation found.

    Attributes
    ----------
    weights : (n, batch, *grid), of all adapters; 0 for those that were not run.
    chosen : bool, (n, batch) or (n, batch, *grid); None without selection.
    levels : (m, batch), running mean of the divergence of the adapters with a prior.
    count : evaluations so far.
    """

    weights: Array
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
    every : steps from one evaluation of the weights to the next; between them the weights stay,
        and only what they need is run.
    window : part of the run in which this is done, [start, end) with 0 <= start < end <= 1; outside
        all adapters act at once, without masks and re-centring: 2 forwards, 1 without guidance.
    skip : adapters whose mean weight in an image is below it take no part in it until the next
        evaluation, [0, 1]; they are not run where that is so in all images of the batch.

    Notes
    -----
    Forwards per step: 2 (n + 1) with classifier-free guidance, n + 1 without, where n counts the
    adapters with a prior above 0.  Where the two sides are separate calls, the unconditional one
    runs only what has weight, and the base only if it is re-centred.

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
    every: int = 1
    window: tuple[float, float] = (0.0, 1.0)
    skip: float = 0.0

    def __post_init__(self) -> None:
        check_number(self.name, "tau", self.tau, above=True, infinite=True)
        for edge in (self.patch,) if isinstance(self.patch, int) else self.patch:
            check_count(self.name, "patch", edge)
        check_word(self.name, "how", self.how, ("nearest", "bilinear"))
        check_word(self.name, "scale", self.scale, ("none", "image", "patch"))
        check_word(self.name, "level", self.level, ("none", "adapter"))
        check_word(self.name, "scope", self.scope, ("image", "patch"))
        for name, count in (("k", self.k), ("freeze", self.freeze)):
            if count is not None:
                check_count(self.name, name, count)
        check_number(self.name, "hysteresis", self.hysteresis)
        check_count(self.name, "every", self.every)
        check_number(self.name, "skip", self.skip, high=1)
        if len(self.window) != 2 or not 0 <= self.window[0] < self.window[1] <= 1:
            message = f"loratorio: window = {self.window}: allowed is 0 <= start < end <= 1"
            raise ParamError(message)
        if self.k is None and (self.hysteresis or self.freeze is not None):
            message = "loratorio: hysteresis and freeze are about the choice of k adapters: give k"
            raise ParamError(message)

    def prepare(self, model: Model) -> object:  # noqa: ARG002 - the protocol's
        """Nothing."""
        return None

    def passes(self, moment: Moment, memory: object) -> tuple[Pass, ...]:
        """The base and each alone; fewer between evaluations."""
        if moment.space:
            edges_of((1, 1, *moment.space), self.patch)  # refuses what does not fit
        if not self._inside(moment):
            return (Pass(moment.taking, plain=True),)
        known = memory if isinstance(memory, _Memory) else None
        if known is None or moment.step % self.every == 0:
            return (BASE, *alone(self._candidates(moment, known)))
        rest = [BASE] if moment.masked else []
        kept = self._kept(moment, known.weights)
        return (*rest, *alone([i for i in moment.taking if bool(kept[i].any())]))

    def weigh(self, moment: Moment, seen: Seen, memory: object) -> tuple[Blend, object]:
        """Weights of this step, or those of the last evaluation."""
        if not self._inside(moment):
            return single(moment, seen, moment.taking), memory
        known = memory if isinstance(memory, _Memory) else None
        if known is None or moment.step % self.every == 0:
            known = self._evaluated(moment, seen, known)
            return self._blend(seen, known.weights), known
        return self._blend(seen, known.weights, self._kept(moment, known.weights)), known

    def _inside(self, moment: Moment) -> bool:
        return self.window[0] <= moment.share < self.window[1]

    def _frozen(self, moment: Moment, memory: _Memory | None) -> Array | None:
        """The choice that stays, or none where it is free."""
        if memory is None or self.freeze is None or moment.step < self.freeze:
            return None
        return memory.chosen

    def _candidates(self, moment: Moment, memory: _Memory | None) -> list[int]:
        """Those that can have weight."""
        frozen = self._frozen(moment, memory)
        return [i for i in moment.taking if frozen is None or bool(frozen[i].any())]

    def _evaluated(self, moment: Moment, seen: Seen, memory: _Memory | None) -> _Memory:
        """What this step's predictions say."""
        far = divergence(seen.base, seen.members, patch=self.patch)
        rows = [one.active[0] for one in seen.passes]
        levels, count = self._levels(far, rows, len(moment.prior), memory)
        terms = normalise(far, levels[rows]) if self.level == "adapter" else far
        chosen = self._chosen(moment, far, terms, rows, memory)
        likeness = -terms
        if self.scale != "none":
            frozen = self._frozen(moment, memory)
            likeness = _standardised(likeness, self.scale, None if frozen is None else frozen[rows])
        prior = [moment.prior[i] for i in rows]
        mask = None if chosen is None else _reach(chosen[rows], far.ndim)
        weights = softmin(likeness, tau=self.tau, prior=prior, chosen=mask)
        return _Memory(spread(weights, rows, len(moment.prior)), chosen, levels, count)

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

    def _kept(self, moment: Moment, weights: Array) -> Array:
        """Bool, (n, batch): who is not to be skipped; in every image the heaviest is among them."""
        xp = library_of(weights)
        means = weights.reshape((*weights.shape[:2], -1)).mean(-1)
        taking = like([prior > 0 for prior in moment.prior], means)[:, None] > 0
        heaviest = xp.argmax(xp.where(taking, means, means - 2), axis=0)
        # Under masks one without weight may be the only one that its pixels allow.
        kept = taking & (means >= self.skip) & ((means > 0) | moment.masked)
        return kept | (like(range(len(weights)), means)[:, None] == heaviest)

    def _blend(self, seen: Seen, weights: Array, kept: Array | None = None) -> Spread:
        """The weights of those that were run; in an image, of those that are kept for it."""
        rows = [one.active[0] for one in seen.passes]
        run = weights[rows]
        xp = library_of(run)
        own = xp.ones_like(run) if kept is None else _reach(wide(kept[rows]), run.ndim)
        run = run * own
        total = xp.sum(run, axis=0, keepdims=True)
        # What was skipped leaves its weight to the others; where they had none, evenly.
        even = xp.broadcast_to(own / xp.sum(own, axis=0, keepdims=True), tuple(run.shape))
        run = xp.where(total == 0, even, run / xp.where(total == 0, xp.ones_like(total), total))
        # See `_kept` for those without weight.
        heavy = [n for n in range(len(rows)) if bool((run[n] != 0).any())]
        taken = heavy if seen.masks is None else list(range(len(rows)))
        used = tuple(seen.passes[n] for n in taken)
        masks = None if seen.masks is None else seen.masks[[rows[n] for n in taken]]
        return Spread(used, run[taken], len(weights), self.patch, self.how, masks)


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
