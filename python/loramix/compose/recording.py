"""What is written down while a pipeline runs, and the account that it becomes."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from loramix.arrays import to_numpy
from loramix.compose.accounts import Run, Step
from loramix.compose.functional.arrays import Array, library_of
from loramix.compose.functional.weighting import departure
from loramix.compose.modes.base import Blend, Pass
from loramix.compose.modes.blends import alone_in, spread

_log = logging.getLogger(__name__)

_EVEN = 0.05
"""A mean departure below which a picture is that of `Composite` but for a twentieth of what tells
the adapters apart (see `departure`, and what was measured in docs/COMPOSE.md)."""
_ALIKE = 1e-5
"""What rounding of weights in float32 makes of none."""


@dataclass(slots=True)
class Record:
    """One call of a pipeline, as far as it is.

    Attributes
    ----------
    shown : names of the adapters.
    swaps : how often adapters had come back into the denoiser when it began.
    steps : those that were done.
    guided : numbers of the steps that had an unconditional prediction.
    plain : numbers of those that guidance leaves as they are.
    departures : of the weights from the priors, in the steps that have weights; see `departure`.
    """

    shown: tuple[str, ...]
    swaps: int
    steps: list[Step] = field(default_factory=list)
    guided: set[int] = field(default_factory=set)
    plain: set[int] = field(default_factory=set)
    departures: list[float] = field(default_factory=list)
    _broken: bool = False
    _notes: list[str] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """A step was done."""
        self.steps.append(step)

    def add_forwards(self, count: int) -> None:
        """More forwards of the last step."""
        last = self.steps[-1]
        self.steps[-1] = replace(last, forwards=last.forwards + count)

    def note(self, text: str) -> None:
        """Tell the user something, once."""
        if text not in self._notes:
            self._notes.append(text)
            _log.info("%s", text)

    def look(self, step: int, latents: Mapping[Pass, Array]) -> None:
        """Note the first prediction that is not all numbers; the rest follows from it."""
        if self._broken:
            return
        xp = library_of(next(iter(latents.values())))
        # Both are NaN where anything is; nothing as large as a prediction is made.
        ends = xp.stack([end(one) for one in latents.values() for end in (xp.amax, xp.amin)])
        whole = np.isfinite(to_numpy(ends)).reshape(-1, 2).all(axis=1)
        for one, fine in zip(latents, whole, strict=True):
            if not fine:
                self._broken = True
                who = " + ".join(self.shown[i] for i in one.active) or "the base"
                kind = str(ends.dtype).removeprefix("torch.")
                wider = "torch.bfloat16 or torch.float32, or " if kind == "float16" else ""
                self.note(
                    f"step {step}: the prediction of {who} has NaN or infinity in {kind}, "
                    f"and so has what follows: try {wider}smaller weights"
                )
                return

    def depart(self, blend: Blend, prior: Sequence[float]) -> None:
        """Note how far the weights of a step are from the priors."""
        if len(blend.used) == 0 or not blend.weights or sum(one > 0 for one in prior) < 2:
            return
        rows = alone_in(blend.used)
        each = [departure(spread(one, rows, len(prior)), prior) for one in blend.weights]
        self.departures.append(float(np.mean([to_numpy(one).mean() for one in each])))

    def _even(self, sharper: Callable[[float], str | None]) -> Iterator[str]:
        """A note where weights were so near to the priors that the mode was not worth its cost."""
        found = float(np.mean(self.departures)) if self.departures else 1.0
        tried = sharper(found) if found < _EVEN else None
        if tried is None:
            return
        if found < _ALIKE:
            yield "all weights are those of mode composite: the adapters predict the same"
        else:
            yield (
                f"weights differ by {100 * found:.2g} % from those of mode composite, which needs "
                f"fewer forwards and gives nearly this: use it, or try {tried}"
            )

    def account(
        self,
        notes: Sequence[str],
        swaps: int,
        *,
        recentres: bool,
        sharper: Callable[[float], str | None] | None = None,
    ) -> Run:
        """What is known of the run.

        Parameters
        ----------
        notes : of before the first step.
        swaps : so far, of all runs.
        recentres : whether guidance is to re-centre unconditional predictions.
        sharper : see `Tempered`; None: a mode without temperature.
        """
        found = [*notes, *self._notes]
        if sharper is not None:
            found.extend(self._even(sharper))
        if self.plain and len(self.plain) == len(self.steps):
            found.append(
                f"none of the {len(self.steps)} steps was inside the window: in all of them all "
                "adapters acted at once, without the mode; begin it earlier, or end it later"
            )
        composed = {step.number for step in self.steps} - self.plain
        if recentres and (missed := sorted(composed - self.guided)):
            where = "" if len(missed) == len(self.steps) else f" in {_spans(missed)}"
            found.append(
                f"no unconditional prediction was asked for{where} (a guidance-distilled model, or "
                f"guidance is off): {'they were not' if where else 'nothing was'} re-centred"
            )
        return Run(self.shown, tuple(self.steps), tuple(found), swaps - self.swaps)


def _spans(numbers: Sequence[int]) -> str:
    """Rising numbers of steps in words: ``step 3``, ``steps 1-3, 7``."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    words = ", ".join("-".join(map(str, span)) for span in spans)
    return f"{'step' if len(numbers) == 1 else 'steps'} {words}"
