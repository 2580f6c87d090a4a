"""All adapters, one of them dominant in turn, those of high frequencies first."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from loramix.arrays import to_numpy
from loramix.compose.functional import high_share
from loramix.compose.functional.arrays import like
from loramix.compose.functional.checks import check_count, check_number
from loramix.compose.guidance import Cfg, Guidance
from loramix.compose.modes.base import BASE, Blend, Model, Moment, Pass, Seen, alone
from loramix.compose.modes.blends import Weighted
from loramix.tensors import F64


@dataclass(frozen=True, slots=True)
class _Memory:
    """Summed shares of high frequencies, of how many steps, and the first step of all.

    Attributes
    ----------
    scores : (n, batch), or (n, 1) before anything was measured.
    first : None before it.
    """

    scores: F64
    measured: int = 0
    first: int | None = None


@dataclass(frozen=True, slots=True)
class Cm:
    """Mean of all adapters in which a dominant one counts more, by turns.

    With n adapters, ``c = n - 0.5`` and ``w = n / (c + n - 1)``: the dominant prediction weighs
    ``c w / n``, the others ``w / n`` each, in all 1.  Dominance moves on every second step in the
    first 37.5 % of the run, every third until 87.5 %, every second after that, in the order of
    falling shares of high frequencies in ``e_i - e_base`` (`high_share`), measured in the first
    steps, for every image by itself.

    Parameters
    ----------
    measure : of the steps that are weighed so many, the first ones, have the base run and
        frequencies measured, at least 1.
    cut : where high frequencies begin, in cycles per latent pixel, [0, 0.7072].

    Notes
    -----
    Forwards per step: 2 n with classifier-free guidance, n without; one more each in the first
    ``measure`` steps.  Priors of 0 leave adapters out; other priors are not looked at.

    Differs from the publication: its adapters come in two lists by hand, high and low; the score is
    ours.  It reuses deep features of the denoiser for adapters that are not dominant, which
    saves time and is not done here.

    References
    ----------
    CMLoRA, arXiv:2502.04923; weights and schedule as in its code.
    """

    name: ClassVar[str] = "cm"
    per_pixel: ClassVar[bool] = False
    in_place_of_priors: ClassVar[str | None] = "w-composite"
    settled: ClassVar[str | None] = None
    guidance: ClassVar[Guidance] = Cfg()

    measure: int = 3
    cut: float = 0.25

    def __post_init__(self) -> None:
        check_count(self.name, "measure", self.measure)
        check_number(self.name, "cut", self.cut, high=0.7072)

    def prepare(self, model: Model) -> object:
        """No scores."""
        return _nothing(len(model.names))

    def passes(self, moment: Moment, memory: object) -> tuple[Pass, ...]:
        """Each alone, and the base while frequencies are measured."""
        measured = memory.measured if isinstance(memory, _Memory) else 0
        return (*([BASE] if measured < self.measure else []), *alone(moment.taking))

    def weigh(self, moment: Moment, seen: Seen, memory: object) -> tuple[Blend, object]:
        """Rotate, if it is time, and weigh."""
        if not isinstance(memory, _Memory):
            memory = _nothing(len(moment.prior))
        taking, first = list(moment.taking), seen.members[0]
        n, batch = len(taking), first.shape[0]
        scores = np.broadcast_to(memory.scores, (len(moment.prior), batch)).copy()
        measures = memory.measured < self.measure
        if measures:
            for i, member in zip(taking, seen.members, strict=True):
                scores[i] += to_numpy(high_share(member, seen.base, cut=self.cut))
        begun = moment.step if memory.first is None else memory.first
        turns = sum(moves_on(moment, step) for step in range(begun + 1, moment.step + 1))
        order = np.argsort(-scores[taking], axis=0, kind="stable")
        c = n - 0.5
        values = np.full((n, batch), 1 / (c + n - 1))
        values[order[turns % n], np.arange(batch)] *= c
        weights = like(values, first)
        now = _Memory(scores, memory.measured + measures, begun)
        return Weighted(seen.passes, (weights,), len(moment.prior)), now


def _nothing(count: int) -> _Memory:
    """Before the first step."""
    return _Memory(np.zeros((count, 1)))


def moves_on(moment: Moment, step: int) -> bool:
    """Whether another adapter becomes dominant in a step of the run that the moment is of."""
    middle = 0.375 <= replace(moment, step=step).share < 0.875
    return step % (3 if middle else 2) == 0
