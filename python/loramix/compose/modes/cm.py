"""All adapters, one of them dominant in turn, those of high frequencies first."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.compose.functional import high_share
from loramix.compose.functional.arrays import library_of, like
from loramix.compose.functional.checks import check_count, check_number
from loramix.compose.guidance import Cfg, Guidance
from loramix.compose.modes.base import BASE, Blend, Model, Moment, Pass, Seen, alone
from loramix.compose.modes.blends import Weighted


@dataclass(frozen=True, slots=True)
class _Memory:
    """Summed shares of high frequencies of all adapters, and how often dominance has moved on."""

    scores: tuple[float, ...]
    turns: int


@dataclass(frozen=True, slots=True)
class Cm:
    """Mean of all adapters in which a dominant one counts more, by turns.

    With n adapters, ``c = n - 0.5`` and ``w = n / (c + n - 1)``: the dominant prediction weighs
    ``c w / n``, the others ``w / n`` each, in all 1.  Dominance moves on every second step in the
    first 37.5 % of the run, every third until 87.5 %, every second after that, in the order of
    falling shares of high frequencies in ``e_i - e_base`` (`high_share`), measured in the first
    steps.

    Parameters
    ----------
    measure : steps in which the base is run and frequencies are measured, at least 1.
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
    guidance: ClassVar[Guidance] = Cfg()

    measure: int = 3
    cut: float = 0.25

    def __post_init__(self) -> None:
        check_count(self.name, "measure", self.measure)
        check_number(self.name, "cut", self.cut, high=0.7072)

    def prepare(self, model: Model) -> object:
        """No scores, no turns."""
        return _Memory((0.0,) * len(model.names), -1)

    def passes(self, moment: Moment, memory: object) -> tuple[Pass, ...]:  # noqa: ARG002
        """Each alone, and the base while frequencies are measured."""
        base = [BASE] if moment.step < self.measure else []
        return (*base, *alone(moment.taking))

    def weigh(self, moment: Moment, seen: Seen, memory: object) -> tuple[Blend, object]:
        """Rotate, if it is time, and weigh."""
        if not isinstance(memory, _Memory):
            memory = _Memory((0.0,) * len(moment.prior), -1)
        scores = list(memory.scores)
        taking = moment.taking
        if seen.base is not None:
            for i, member in zip(taking, seen.members, strict=True):
                scores[i] += float(high_share(member, seen.base, cut=self.cut).mean())
        turns = memory.turns + (1 if moves_on(moment) else 0)
        order = sorted(taking, key=lambda i: -scores[i])
        dominant = order[turns % len(order)]
        n = len(taking)
        c = n - 0.5
        weight = n / (c + n - 1)
        values = [(c if i == dominant else 1.0) * weight / n for i in taking]
        table = [0.0] * len(moment.prior)
        for i, value in zip(taking, values, strict=True):
            table[i] = value
        first = seen.members[0]
        spread = library_of(first).broadcast_to(
            like(table, first)[:, None], (len(table), first.shape[0])
        )
        blend = Weighted(seen.passes, spread[list(taking)], spread)
        return blend, _Memory(tuple(scores), turns)


def moves_on(moment: Moment) -> bool:
    """Whether another adapter becomes dominant in this step, the first one included."""
    middle = 0.375 <= moment.share < 0.875
    return moment.step % (3 if middle else 2) == 0
