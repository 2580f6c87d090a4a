"""What is written down while a pipeline runs, and the account that it becomes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from loramix.arrays import to_numpy
from loramix.compose.accounts import Run, Step
from loramix.compose.functional.arrays import Array, library_of
from loramix.compose.modes.base import Pass

_log = logging.getLogger(__name__)


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
    """

    shown: tuple[str, ...]
    swaps: int
    steps: list[Step] = field(default_factory=list)
    guided: set[int] = field(default_factory=set)
    plain: set[int] = field(default_factory=set)
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

    def account(self, notes: Sequence[str], swaps: int, *, recentres: bool) -> Run:
        """What is known of the run.

        Parameters
        ----------
        notes : of before the first step.
        swaps : so far, of all runs.
        recentres : whether guidance is to re-centre unconditional predictions.
        """
        found = [*notes, *self._notes]
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
