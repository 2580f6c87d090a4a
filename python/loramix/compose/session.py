"""The denoiser's calls of a pipeline, each made of several forwards."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from loramix.arrays import to_numpy
from loramix.compose.accounts import Run, Step
from loramix.compose.attaching import Attached
from loramix.compose.calls import Arguments, Forward, Forwards
from loramix.compose.families import Family
from loramix.compose.functional.arrays import Array, library_of
from loramix.compose.guidance import Guidance, Recentred, Side
from loramix.compose.joining import Joining
from loramix.compose.modes.base import BASE, Blend, Moment, Pass, Weigher
from loramix.compose.recording import Record
from loramix.errors import ParamError

Role: TypeAlias = Literal["batch", "conditional", "unconditional", "again"]
"""Which rows a call has: unconditional, then conditional ones; one kind; conditional ones again."""
_SIDES: tuple[Side, Side] = ("unconditional", "conditional")


@dataclass(slots=True)
class _State:
    """What is known in the middle of a run."""

    memory: object
    record: Record
    prior: tuple[float, ...] = ()
    step: int = -1
    steps: int | None = None
    blend: Blend | None = None
    role: Role | None = None
    timestep: float = float("nan")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user wants, checked.

    Attributes
    ----------
    mode : with what saves work around it.
    prior : (n,), at least 0; not above 0 for adapters that no denoiser has.
    masks : for each adapter (rows, columns), or None for everywhere; None: no masks at all.
    max_batch : passes in one forward, at least 1.
    sharper : see `Tempered`; None: the mode has no temperature.
    shown : names of the adapters, for the account.
    notes : what is to be known before the first step.
    """

    mode: Weigher
    guidance: Guidance
    prior: tuple[float, ...]
    masks: tuple[Array | None, ...] | None
    max_batch: int
    shown: tuple[str, ...]
    notes: tuple[str, ...] = ()
    sharper: Callable[[float], str | None] | None = None


class Session:
    """Stands between a pipeline and its denoisers.

    Parameters
    ----------
    pipe : the pipeline, which is asked whether it guides, and for how many steps.
    """

    def __init__(
        self,
        pipe: Any,  # noqa: ANN401 - diffusers'
        family: Family,
        attached: Attached,
        settings: Settings,
    ) -> None:
        self._pipe = pipe
        self._family = family
        self._attached = attached
        self._settings = settings
        self._prepared = settings.mode.prepare(attached) if any(settings.prior) else None
        size = min(settings.max_batch, attached.room or settings.max_batch)
        self._forwards = Forwards(family, attached, size, self.note)
        self._joining = Joining(settings.mode, settings.guidance, settings.masks)
        self._context: str | None = None
        self._state: _State | None = None
        self._runs: list[Run] = []

    @property
    def runs(self) -> tuple[Run, ...]:
        """Those that are over, and the one that is not."""
        state = self._state
        now = [self._account(state.record)] if state is not None and state.record.steps else []
        return (*self._runs, *now)

    def begin(self) -> None:
        """Note that the pipeline starts to denoise."""
        self._runs = list(self.runs)
        self._state = self._fresh(getattr(self._pipe, "_num_timesteps", None))

    def _fresh(self, steps: int | None = None) -> _State:
        record = Record(self._settings.shown, self._attached.swaps)
        return _State(self._prepared, record, steps=steps)

    def enter(self, context: str | None) -> None:
        """Note what the pipeline says about its next call."""
        self._context = context

    def call(
        self,
        denoiser: Any,  # noqa: ANN401 - torch's
        forward: Forward,
        names: Sequence[str],
        args: Any,  # noqa: ANN401 - the denoiser's
        kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """A call of a denoiser: the passes of the mode, and one prediction.

        Parameters
        ----------
        forward : the denoiser's own.
        names : of its positional arguments.

        Raises
        ------
        ParamError : adapters that somebody else has changed.
        """
        self._attached.check()
        try:
            arguments = {**dict(zip(names, args, strict=False)), **kwargs}
            return self._answer(denoiser, forward, arguments)
        finally:
            self._attached.settle()

    def _answer(self, denoiser: Any, forward: Forward, arguments: Arguments) -> Any:  # noqa: ANN401
        """`call`, with all arguments by name."""
        state = self._state = self._state or self._fresh()
        role = self._role(state, arguments)
        if role in ("batch", "conditional"):
            state.step += 1
            state.blend = None  # of the step before
            state.timestep = _number(arguments["timestep"])
        if role in ("batch", "unconditional"):
            state.record.guided.add(state.step)
        state.role = role
        sides, rows = (2 if role == "batch" else 1), len(arguments[self._family.latents])
        if rows % sides:
            message = (
                f"the pipeline guides in one batch, but gives the denoiser {rows} rows: "
                "unconditional and conditional ones must be as many"
            )
            raise ParamError(message)
        prior = self._attached.priors_in(denoiser, self._settings.prior)
        if prior != state.prior:  # another model with other adapters: of those nothing is known
            state.prior, state.memory = prior, self._prepared
        if not any(prior):
            self._attached.switch(BASE)
            self._count(state, role, sides, np.zeros((len(prior), rows // sides)))
            return forward(**arguments)
        passes = self._wanted(state, role, self._family.space(arguments))
        latents, wrap = self._forwards.run(forward, arguments, passes)
        state.record.look(state.step, latents)
        composed = self._composed(state, role, latents)
        self._count(state, role, len(latents) * sides, _known(state.blend).table)
        return wrap(self._family.packed(composed, arguments))

    def _role(self, state: _State, arguments: Arguments) -> Role:
        """Which side this call is, or both."""
        if arguments.get("skip_layers") is not None:
            return "again"  # the conditional rows once more, with layers left out
        if self._family.guidance == "batch":
            guided = getattr(self._pipe, "do_classifier_free_guidance", False)
            return "batch" if guided else "conditional"
        second = self._context == "uncond" or (
            self._context is None
            and state.role == "conditional"
            and _number(arguments["timestep"]) == state.timestep
        )
        return "unconditional" if second else "conditional"

    def _wanted(self, state: _State, role: Role, space: tuple[int, ...]) -> tuple[Pass, ...]:
        """The passes of this call, the base's first."""
        settings = self._settings
        if role in ("unconditional", "again"):
            blend = _known(state.blend)
            own: Side = "unconditional" if role == "unconditional" else "conditional"
            reads = blend.reads_base or self._joining.guidance(blend.used).reads(own)
            passes = blend.used
        else:
            passes = settings.mode.passes(self._moment(state, space), state.memory)
            sides = _SIDES if role == "batch" else _SIDES[1:]
            if all(one.plain for one in passes):
                state.record.plain.add(state.step)
            reads = any(self._joining.guidance(passes).reads(side) for side in sides)
        return (BASE, *passes) if reads and BASE not in passes else passes

    def _moment(self, state: _State, space: tuple[int, ...]) -> Moment:
        masked = self._settings.masks is not None
        return Moment(state.step, state.steps, state.prior, masked, space)

    def _composed(self, state: _State, role: Role, latents: Mapping[Pass, Array]) -> Array:
        """Weigh, if there are conditional rows that were not weighed yet, and combine.

        The result is written over the first prediction, so that no more than those of the passes
        are ever held.
        """
        first = next(iter(latents.values()))
        into = library_of(first).empty_like(first) if first.requires_grad else first
        if role == "batch":
            half = len(first) // 2
            sides = [
                {one: value[rows] for one, value in latents.items()}
                for rows in (slice(half), slice(half, None))
            ]
            blend = self._weighed(state, sides[1])
            self._joining.combine(blend, "unconditional", sides[0], into[:half])
            self._joining.combine(blend, "conditional", sides[1], into[half:])
            return into
        blend = self._weighed(state, latents) if role == "conditional" else _known(state.blend)
        side: Side = "unconditional" if role == "unconditional" else "conditional"
        self._joining.combine(blend, side, latents, into)
        return into

    def _weighed(self, state: _State, latents: Mapping[Pass, Array]) -> Blend:
        """The blend of this step, from conditional predictions."""
        space = tuple(next(iter(latents.values())).shape[2:])
        moment = self._moment(state, space)
        state.blend, state.memory = self._joining.weigh(moment, latents, state.memory)
        if self._settings.sharper is not None:
            state.record.depart(state.blend, state.prior)
        return state.blend

    def _count(self, state: _State, role: Role, forwards: int, weights: Array) -> None:
        """Add to the account of the step."""
        if role in ("batch", "conditional"):
            table = np.ascontiguousarray(to_numpy(weights), dtype=np.float32)
            state.record.add(Step(state.step, state.timestep, forwards, table))
        else:
            state.record.add_forwards(forwards)

    @property
    def forwards(self) -> int:
        """Of the run that is not over."""
        return sum(step.forwards for step in self._state.record.steps) if self._state else 0

    def note(self, text: str) -> None:
        """Tell the user something, once per run."""
        if self._state is not None:
            self._state.record.note(text)

    def _account(self, record: Record) -> Run:
        """What is known of a run."""
        guidance = self._settings.guidance
        recentres = isinstance(guidance, Recentred) and guidance.lambda_ > 0
        return record.account(
            self._settings.notes,
            self._attached.swaps,
            recentres=recentres and any(self._settings.prior),
            sharper=self._settings.sharper,
        )


def _known(blend: Blend | None) -> Blend:
    """The blend of the conditional call before this one.

    Raises
    ------
    ParamError : there was none.
    """
    if blend is None:
        message = "the pipeline asked for an unconditional prediction before any conditional one"
        raise ParamError(message)
    return blend


def _number(timestep: Any) -> float:  # noqa: ANN401 - a number or a tensor
    """The timestep of the first row."""
    return float(timestep.reshape(-1)[0]) if hasattr(timestep, "reshape") else float(timestep)
