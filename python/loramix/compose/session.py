"""The denoiser's calls of a pipeline, each made of several forwards."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from loramix.arrays import to_numpy
from loramix.compose.accounts import Run, Step
from loramix.compose.attaching import Attached
from loramix.compose.families import Arguments, Family
from loramix.compose.functional.arrays import Array, library_of
from loramix.compose.functional.masking import fit
from loramix.compose.guidance import Guidance, Recentred, Side
from loramix.compose.modes.base import BASE, Blend, Mode, Moment, Pass, Seen
from loramix.compose.rows import repeated
from loramix.errors import ParamError

Role: TypeAlias = Literal["batch", "conditional", "unconditional", "again"]
Forward: TypeAlias = Callable[..., Any]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _State:
    """What is known in the middle of a run."""

    memory: object
    step: int = -1
    steps: int | None = None
    blend: Blend | None = None
    role: Role | None = None
    timestep: float = float("nan")
    found: list[Step] = field(default_factory=list)
    guided: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user wants, checked.

    Attributes
    ----------
    prior : (n,), at least 0.
    masks : for each adapter (rows, columns), or None for everywhere; None: no masks at all.
    max_batch : passes in one forward, at least 1.
    """

    mode: Mode
    guidance: Guidance
    prior: tuple[float, ...]
    masks: tuple[Array | None, ...] | None
    max_batch: int
    shown: tuple[str, ...]


class Session:
    """Stands between a pipeline and its denoisers.

    Parameters
    ----------
    pipe : the pipeline, which is asked whether it guides, and for how many steps.
    """

    def __init__(
        self, pipe: Any, family: Family, attached: Attached, settings: Settings  # noqa: ANN401
    ) -> None:
        self._pipe = pipe
        self._family = family
        self._attached = attached
        self._settings = settings
        self._prepared = settings.mode.prepare(attached) if settings.prior else None
        self._batch = settings.max_batch
        self._context: str | None = None
        self._masks: tuple[tuple[int, ...], Array] | None = None
        self._state: _State | None = None
        self._runs: list[Run] = []

    @property
    def runs(self) -> tuple[Run, ...]:
        """Those that are over, and the one that is not."""
        self._end()
        return tuple(self._runs)

    def begin(self) -> None:
        """Note that the pipeline starts to denoise."""
        self._end()
        self._state = _State(self._prepared, steps=getattr(self._pipe, "_num_timesteps", None))

    def enter(self, context: str | None) -> None:
        """Note what the pipeline says about its next call."""
        self._context = context

    def call(self, forward: Forward, names: Sequence[str], args: Any, kwargs: Any) -> Any:  # noqa: ANN401
        """A call of the denoiser: the passes of the mode, and one prediction.

        Parameters
        ----------
        forward : the denoiser's own.
        names : of its positional arguments.
        """
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        state = self._state = self._state or _State(self._prepared)
        role = self._role(state, arguments)
        if role in ("batch", "conditional"):
            state.step += 1
            state.timestep = _number(arguments["timestep"])
        state.role = role
        call = _Call(self, forward, arguments, role)
        if not self._settings.prior:
            self._attached.switch(BASE)
            self._count(state, role, 1, call.sides, None)
            return forward(**arguments)
        predictions = call.run(self._wanted(state, role))
        composed, template = self._composed(state, call, predictions)
        self._count(state, role, len(predictions), call.sides, state.blend)
        return _returned(template, composed)

    def _role(self, state: _State, arguments: Arguments) -> Role:
        """Which side this call is, or both."""
        if arguments.get("skip_layers") is not None:
            return "again"  # the conditional rows once more, with layers left out
        if self._family.guidance == "batch":
            state.guided = bool(getattr(self._pipe, "do_classifier_free_guidance", False))
            return "batch" if state.guided else "conditional"
        second = self._context == "uncond" or (
            self._context is None
            and state.role == "conditional"
            and _number(arguments["timestep"]) == state.timestep
        )
        state.guided |= second
        return "unconditional" if second else "conditional"

    def _wanted(self, state: _State, role: Role) -> tuple[Pass, ...]:
        """The passes of this call, the base's first."""
        settings = self._settings
        if role in ("unconditional", "again"):
            blend = _known(state.blend)
            side: Side = "unconditional" if role == "unconditional" else "conditional"
            reads = blend.reads_base or settings.guidance.reads(side)
            passes = blend.used
        else:
            passes = settings.mode.passes(self._moment(state), state.memory)
            sides: tuple[Side, ...] = ("conditional", "unconditional")
            reads = any(settings.guidance.reads(s) for s in sides[: 1 + (role == "batch")])
        return (BASE, *passes) if reads and BASE not in passes else passes

    def _moment(self, state: _State) -> Moment:
        masked = self._settings.masks is not None
        return Moment(state.step, state.steps, self._settings.prior, masked)

    def _composed(
        self, state: _State, call: "_Call", predictions: dict[Pass, Any]
    ) -> tuple[Array, Any]:
        """Weigh, if this call has conditional rows that were not weighed yet, and combine."""
        template = next(iter(predictions.values()))
        arguments, family = call.arguments, self._family
        latents = {p: family.unpacked(_tensor(v), arguments) for p, v in predictions.items()}
        if call.role in ("batch", "conditional"):
            cut = len(_tensor(template)) // call.sides * (call.sides - 1)
            seen = {p: one[cut:] for p, one in latents.items()}
            members = {p: one for p, one in seen.items() if p != BASE}
            first = next(iter(members.values()))
            given = Seen(tuple(members), tuple(members.values()), seen.get(BASE), self._fit(first))
            state.blend, state.memory = self._settings.mode.weigh(
                self._moment(state), given, state.memory
            )
        sides: tuple[Side, ...] = {
            "batch": ("unconditional", "conditional"),
            "unconditional": ("unconditional",),
        }.get(call.role, ("conditional",))  # type: ignore[assignment]
        size = len(_tensor(template)) // call.sides
        made = [
            self._side(_known(state.blend), side, {p: v[n * size : (n + 1) * size] for p, v in latents.items()})
            for n, side in enumerate(sides)
        ]
        whole = made[0] if len(made) == 1 else library_of(made[0]).concatenate(made, axis=0)
        return family.packed(whole, arguments), template

    def _side(self, blend: Blend, side: Side, latents: dict[Pass, Array]) -> Array:
        base = latents.get(BASE)
        composed = blend.combine([latents[one] for one in blend.used], base)
        guidance = self._settings.guidance
        return guidance.apply(side, base if guidance.reads(side) else None, composed)

    def _fit(self, prediction: Array) -> Array | None:
        """The masks in the size of a prediction, (n, *space)."""
        if self._settings.masks is None:
            return None
        space = tuple(prediction.shape[2:])
        if self._masks is None or self._masks[0] != space:
            plain = [
                np.ones(space[-2:]) if one is None else fit(one, *space[-2:])
                for one in self._settings.masks
            ]
            whole = np.stack([np.broadcast_to(one, space) for one in plain])
            self._masks = (space, library_of(prediction).as_tensor(whole).to(prediction.device))
        return self._masks[1]

    def _count(
        self, state: _State, role: Role, passes: int, sides: int, blend: Blend | None
    ) -> None:
        """Add to the account of the step."""
        forwards = passes * sides
        if role in ("batch", "conditional"):
            weights = np.zeros((0, 1)) if blend is None else to_numpy(blend.table)
            table = np.ascontiguousarray(weights, dtype=np.float32)
            state.found.append(Step(state.step, state.timestep, forwards, table))
        else:
            last = state.found[-1]
            state.found[-1] = Step(
                last.number, last.timestep, last.forwards + forwards, last.weights
            )

    @property
    def forwards(self) -> int:
        """Of the run that is not over."""
        return sum(step.forwards for step in self._state.found) if self._state else 0

    def note(self, text: str) -> None:
        """Tell the user something, once per run."""
        if self._state is not None and text not in self._state.notes:
            self._state.notes.append(text)
            _log.info("%s", text)

    def _end(self) -> None:
        """Close the account of the run."""
        state = self._state
        if state is None or not state.found:
            return
        settings = self._settings
        recentres = isinstance(settings.guidance, Recentred) and settings.guidance.lambda_ > 0
        if settings.prior and recentres and not state.guided:
            self.note(
                "the pipeline asked for no unconditional prediction (a guidance-distilled model, "
                "or guidance is off): nothing was re-centred"
            )
        self._runs.append(Run(settings.shown, tuple(state.found), tuple(state.notes)))
        self._state = None

    def in_turn(self, size: int) -> None:
        """Have at most so many passes in a forward from now on."""
        self._batch = size
        self.note(f"memory ran out: {size} passes in one forward from here on")

    @property
    def batch(self) -> int:
        """Passes in one forward."""
        return self._batch

    @property
    def attached(self) -> Attached:
        """The adapters."""
        return self._attached

    @property
    def family(self) -> Family:
        """The kind of pipeline."""
        return self._family


class _Call:
    """One call of the denoiser."""

    def __init__(self, session: Session, forward: Forward, arguments: Arguments, role: Role) -> None:
        self.arguments = arguments
        self.role = role
        self.sides = 2 if role == "batch" else 1
        self._session = session
        self._forward = forward
        self._rows = len(arguments[session.family.latents])
        if self._rows % self.sides:
            message = (
                f"the pipeline guides in one batch, but gives the denoiser {self._rows} rows: "
                "unconditional and conditional ones must be as many"
            )
            raise ParamError(message)

    def run(self, passes: Sequence[Pass]) -> dict[Pass, Any]:
        """What the denoiser returns for every pass."""
        found: dict[Pass, Any] = {}
        left = list(passes)
        while left:
            size = min(self._session.batch, len(left))
            several = [one for one in left[:size] if len(one.active) < 2 and one.layers is None]
            chunk = left[:size] if len(several) == size else left[:1]
            found |= self._chunk(chunk)
            left = left[len(chunk) :]
        return found

    def _chunk(self, passes: list[Pass]) -> dict[Pass, Any]:
        if len(passes) == 1:
            self._session.attached.switch(passes[0])
            return {passes[0]: self._forward(**self.arguments)}
        import torch

        try:
            return self._together(passes)
        except torch.cuda.OutOfMemoryError:
            half = (len(passes) + 1) // 2
            self._session.in_turn(half)
        torch.cuda.empty_cache()
        return {**self._chunk(passes[:half]), **self._chunk(passes[half:])}

    def _together(self, passes: list[Pass]) -> dict[Pass, Any]:
        session, times = self._session, len(passes)
        arguments = {
            name: repeated(session.family, name, value, self._rows, times)
            for name, value in self.arguments.items()
        }
        names = session.attached.names
        adapters = [names[p.active[0]] if p.active else "__base__" for p in passes]
        with session.attached.each_row([a for a in adapters for _ in range(self._rows)]):
            whole = _tensor(self._forward(**arguments))
        # A copy of each: a view would keep all of them as long as one is used.
        parts = [part.clone() for part in whole.chunk(times)]
        returns_dict = self.arguments.get("return_dict", True)
        if returns_dict:
            return {p: _Sample(part) for p, part in zip(passes, parts, strict=True)}
        return {p: (part,) for p, part in zip(passes, parts, strict=True)}


@dataclass(slots=True)
class _Sample:
    """What a denoiser returns that is not asked for a tuple."""

    sample: Any


def _tensor(returned: Any) -> Any:  # noqa: ANN401 - diffusers'
    return returned[0] if isinstance(returned, tuple) else returned.sample


def _returned(template: Any, prediction: Array) -> Any:  # noqa: ANN401 - diffusers'
    """The prediction in what the denoiser returns."""
    if isinstance(template, tuple):
        return (prediction, *template[1:])
    template.sample = prediction
    return template


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
