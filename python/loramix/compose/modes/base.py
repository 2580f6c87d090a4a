"""What a mode of composition is: which forwards a step needs, and how they become one prediction.

A mode is mathematics on predictions: it knows no pipeline, no device, no file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from loramix.compose.functional.arrays import Array, library_of, like
from loramix.compose.functional.parts import Part
from loramix.compose.guidance.base import Guidance


@dataclass(frozen=True)
class Pass:
    """One forward of the denoiser.

    Attributes
    ----------
    active : adapters that are active, by number, each at its weight; none: the base.
    layers : for layers by name, which of them are active there instead; None: the same everywhere.
    plain : whether guidance leaves its prediction as it is, whatever the user chose.
    """

    active: tuple[int, ...] = ()
    layers: Mapping[str, tuple[int, ...]] | None = None
    plain: bool = False

    def __hash__(self) -> int:
        return hash(self.active)


BASE = Pass()
HALF = 0.5
"""A departure of weights from the priors that shows: of two adapters alike, 0.75 and 0.25."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where in a run a step is.

    Attributes
    ----------
    step : from 0.
    steps : how many there will be; None where the pipeline does not say.
    prior : (n,), the users' weights of adapters in the composition, at least 0, not all 0.
    masked : whether there are masks, so that some pixels may be the base's.
    space : the sizes of predictions, behind batch and channels; empty where nobody has asked yet.
    """

    step: int
    steps: int | None
    prior: tuple[float, ...]
    masked: bool = False
    space: tuple[int, ...] = ()

    @property
    def share(self) -> float:
        """The part of the run that is over, [0, 1); 0 where its length is not known."""
        return self.step / self.steps if self.steps else 0.0

    @property
    def taking(self) -> tuple[int, ...]:
        """The adapters that have a prior."""
        return tuple(i for i, prior in enumerate(self.prior) if prior > 0)


@dataclass(frozen=True, slots=True)
class Seen:
    """The conditional predictions of a step.

    Attributes
    ----------
    passes : those that were run, without the base's.
    members : their predictions, (batch, channels, *space) each.
    base : the base's; None where it was not run.
    masks : (n, *space), in [0, 1], for all adapters; None without masks.
    """

    passes: tuple[Pass, ...]
    members: tuple[Array, ...]
    base: Array | None = None
    masks: Array | None = None


class Blend(Protocol):
    """How the predictions of a step become one, conditional and unconditional ones alike.

    Attributes
    ----------
    used : the passes whose predictions are combined.
    weights : of the used passes, (m, batch, *grid) each, before masks, with sums of 1; one for
        every band of the mode.  None at all where a single pass is taken as it is.
    table : (n, batch, *grid), the weights of all adapters inside their masks, for the account
        of the run.
    reads_base : whether a part of the result is the base's.
    pointwise : whether every place of the result depends on that place alone, so that parts can
        be combined one by one.
    """

    @property
    def used(self) -> tuple[Pass, ...]:
        """See above."""
        ...

    @property
    def weights(self) -> tuple[Array, ...]:
        """See above."""
        ...

    @property
    def table(self) -> Array:
        """See above."""
        ...

    @property
    def reads_base(self) -> bool:
        """See above."""
        ...

    @property
    def pointwise(self) -> bool:
        """See above."""
        ...

    def combine(self, members: Sequence[Array], base: Array | None, part: Part) -> Array:
        """One prediction from those of ``used``, in their order; of this part, as all of them."""
        ...

    def take(self, rows: Sequence[int], weights: tuple[Array, ...]) -> "Blend":
        """The same of some of ``used`` only, with these weights for them."""
        ...


class Model(Protocol):
    """What a mode may ask of the adapters before the first step."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the adapters."""
        ...

    @property
    def taking(self) -> tuple[int, ...]:
        """Numbers of those that take part: they have a prior, and layers in a denoiser."""
        ...

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of the denoiser that have an adapter."""
        ...

    def delta(self, layer: str, adapter: int) -> Array | None:
        """The delta of a layer at the adapter's weight, any number of axes; None: it has none."""
        ...

    def rank(self, layer: str, adapter: int) -> int:
        """The rank of a layer; 0: it has none."""
        ...


class Weigher(Protocol):
    """What a session asks in every step: which forwards, and how they become one prediction.

    What it remembers from step to step is the ``memory`` that it returns, and gets back.
    """

    def prepare(self, model: Model) -> object:
        """The memory before the first step.

        Raises
        ------
        ParamError : the mode is not for these adapters.
        """
        ...

    def passes(self, moment: Moment, memory: object) -> tuple[Pass, ...]:
        """The forwards that this step needs, the base's first if it is among them.

        Raises
        ------
        ParamError : the mode is not for predictions of this size.
        """
        ...

    def weigh(self, moment: Moment, seen: Seen, memory: object) -> tuple[Blend, object]:
        """The blend of this step, from conditional predictions, and what to remember."""
        ...


class Mode(Weigher, Protocol):
    """A rule of composition: a frozen dataclass of its parameters.

    Attributes
    ----------
    name : as users write it.
    per_pixel : whether masks can be obeyed.
    in_place_of_priors : where priors above 0 make no difference, what does: a mode, or ``weights``;
        None where they do.
    settled : where weights do not come from predictions, so that there is nothing to keep from
        step to step: what they come from, as the end of a sentence; None where they do.
    guidance : what goes with it unless the user says otherwise.
    """

    name: ClassVar[str]
    per_pixel: ClassVar[bool]
    in_place_of_priors: ClassVar[str | None]
    settled: ClassVar[str | None]
    guidance: ClassVar[Guidance]


@runtime_checkable
class Tempered(Protocol):
    """A mode whose weights may turn out to be nearly the priors, by its temperature."""

    def sharper(self, departure: float) -> str | None:
        """What to try then, as texts of modes; None: it is meant so.

        Parameters
        ----------
        departure : of the weights from the priors, above 0.
        """
        ...


def alone(adapters: Sequence[int]) -> tuple[Pass, ...]:
    """Each of these adapters in a forward of its own."""
    return tuple(Pass((i,)) for i in adapters)


def shares(moment: Moment, prediction: Array, active: Sequence[int] | None = None) -> Array:
    """(n, batch), what every adapter has of the prior; of these only, if they are named."""
    inside = range(len(moment.prior)) if active is None else active
    values = [p if i in inside else 0.0 for i, p in enumerate(moment.prior)]
    table = like(values, prediction) / sum(values)
    xp = library_of(table)
    return xp.broadcast_to(table[:, None], (len(values), prediction.shape[0]))
