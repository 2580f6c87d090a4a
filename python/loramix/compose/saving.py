"""What saves work, around any mode: a window of steps, weights that stay, adapters that rest."""

from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

from loramix.compose.functional.arrays import Array, library_of, like, wide
from loramix.compose.functional.checks import check_count, check_number, number_of
from loramix.compose.modes.base import BASE, Blend, Mode, Model, Moment, Pass, Seen, Weigher
from loramix.compose.modes.blends import single
from loramix.errors import ParamError

_WHOLE = (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """Fewer forwards than a mode would ask for.

    Parameters
    ----------
    every : steps from one evaluation of the weights to the next, at least 1; between them the
        weights stay, and only what they need is run.
    skip : [0, 1]: an adapter whose mean weight in an image is below it, in every band where the
        mode has bands, takes no part in that image until the next evaluation, and leaves its
        weight to the others; it is not run where that is so in all images of the batch.  Of every
        image the heaviest adapter stays.  Needs ``every`` of 2 or more.
    window : the part of the run in which the mode composes, [start, end) with
        0 <= start < end <= 1.  Outside, all adapters with a prior act at once at their weights,
        without masks and guidance of ours: 2 forwards, 1 without classifier-free guidance.  A
        denoiser that is called by itself, by no pipeline, is always at the start of a run.

    Notes
    -----
    A window is for every mode.  ``every`` and ``skip`` are about weights that come from
    predictions: `Mode.settled` says where a mode has them from otherwise.
    """

    name: ClassVar[str] = "saving"

    every: int = 1
    skip: float = 0.0
    window: tuple[float, float] = _WHOLE

    def __post_init__(self) -> None:
        check_count(self.name, "every", self.every)
        skip = check_number(self.name, "skip", number_of(self.skip), high=1)
        object.__setattr__(self, "skip", skip)
        object.__setattr__(self, "window", _window_of(self.window))
        if self.skip and self.every == 1:
            message = (
                f"saving: skip = {self.skip}: adapters rest from one evaluation of the weights to "
                "the next, and every = 1 leaves no step between: give every of 2 or more"
            )
            raise ParamError(message)

    def around(self, mode: Mode) -> Weigher:
        """The mode, as far as it is asked.

        Raises
        ------
        ParamError : weights are to stay that do not come from predictions.
        """
        if self.every > 1 and mode.settled is not None:
            message = (
                f"saving: every and skip are about weights that come from predictions; with mode "
                f"{mode.name} {mode.settled}"
            )
            raise ParamError(message)
        return mode if self == Saving() else _Saved(mode, self)


def _window_of(given: Any) -> tuple[float, float]:  # noqa: ANN401 - what is not refused
    """[start, end) inside the run, of Python's numbers or of others.

    Raises
    ------
    ParamError : it is not.
    """
    ends = tuple(map(number_of, given)) if hasattr(given, "__len__") else ()
    if len(ends) == 2 and all(isinstance(one, Real) for one in ends):
        start, end = (float(one) for one in ends)  # type: ignore[arg-type]
        if 0 <= start < end <= 1:
            return start, end
    message = f"saving: window = {given}: allowed is 0 <= start < end <= 1"
    raise ParamError(message)


@dataclass(frozen=True, slots=True)
class _Memory:
    """What the mode remembers, and the blend that stays until the next evaluation."""

    own: object = None
    blend: Blend | None = None


@dataclass(frozen=True, slots=True)
class _Saved:
    """A mode that is asked in some steps only."""

    mode: Mode
    saving: Saving

    def prepare(self, model: Model) -> object:
        """Of the mode."""
        return _Memory(self.mode.prepare(model))

    def passes(self, moment: Moment, memory: object) -> tuple[Pass, ...]:
        """Those of the mode, of the blend that stays, or all adapters at once."""
        known = memory if isinstance(memory, _Memory) else _Memory()
        asked = self.mode.passes(moment, known.own)  # also refuses what does not fit, at once
        if not self._inside(moment):
            return (Pass(moment.taking, plain=True),)
        blend = self._staying(moment, known)
        if blend is None:
            return asked
        return (*([BASE] if blend.reads_base else []), *blend.used)

    def weigh(self, moment: Moment, seen: Seen, memory: object) -> tuple[Blend, object]:
        """The blend of the mode, or the one that stays."""
        known = memory if isinstance(memory, _Memory) else _Memory()
        if not self._inside(moment):
            return single(moment, seen, moment.taking), known
        blend = self._staying(moment, known)
        if blend is not None:
            return blend, known
        blend, own = self.mode.weigh(moment, seen, known.own)
        stays = rested(blend, self.saving.skip) if self.saving.every > 1 else None
        return blend, _Memory(own, stays)

    def _inside(self, moment: Moment) -> bool:
        return self.saving.window[0] <= moment.share < self.saving.window[1]

    def _staying(self, moment: Moment, known: _Memory) -> Blend | None:
        """The blend of a step between two evaluations."""
        return None if moment.step % self.saving.every == 0 else known.blend


def rested(blend: Blend, skip: float) -> Blend:
    """A blend without the adapters that are too light, image by image; see `Saving`.

    Parameters
    ----------
    skip : [0, 1].
    """
    bands = [wide(one) for one in blend.weights]
    if not bands:
        return blend
    xp = library_of(bands[0])
    means = xp.stack([one.reshape((*one.shape[:2], -1)).mean(-1) for one in bands])
    means = xp.amax(means, axis=0)
    # Under masks one without weight may be the only one that its pixels allow.
    kept = (means >= skip) & ((means > 0) | blend.reads_base)
    rows = like(range(len(means)), means)[:, None]
    kept = kept | (rows == xp.argmax(means, axis=0))
    if bool(kept.all()):
        return blend
    left = [n for n in range(len(means)) if bool(kept[n].any())]
    return blend.take(left, tuple(_shared(one, kept)[left] for one in bands))


def _shared(weights: Array, kept: Array) -> Array:
    """Weights of which those that rest leave theirs to the others.

    Parameters
    ----------
    weights : (m, batch, *grid), sums over m are 1.
    kept : bool, (m, batch), in every image one or more.
    """
    xp = library_of(weights)
    own = wide(kept).reshape((*kept.shape, *(1,) * (weights.ndim - 2)))
    found = weights * own
    total = xp.sum(found, axis=0, keepdims=True)
    # Where the others had no weight, evenly.
    even = xp.broadcast_to(own / xp.sum(own, axis=0, keepdims=True), tuple(found.shape))
    return xp.where(total == 0, even, found / xp.where(total == 0, xp.ones_like(total), total))
