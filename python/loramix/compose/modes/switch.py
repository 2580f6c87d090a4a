"""One adapter at a time, in turn."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.compose.functional.checks import check_count
from loramix.compose.guidance import Cfg, Guidance
from loramix.compose.modes.base import Blend, Model, Moment, Pass, Seen, alone
from loramix.compose.modes.blends import single


@dataclass(frozen=True, slots=True)
class Switch:
    """Adapter ``(step // every) mod n``, so the order of the adapters matters.

    Adapters of prior 0 are left out; other priors are not looked at (`WSwitch` does).

    Parameters
    ----------
    every : steps before the next one's turn, at least 1.  Default 5, as published.

    Notes
    -----
    Forwards per step: 2 with classifier-free guidance, 1 without.

    References
    ----------
    Zhong et al. 2024, arXiv:2402.16843 (LoRA Switch).
    """

    name: ClassVar[str] = "switch"
    per_pixel: ClassVar[bool] = False
    in_place_of_priors: ClassVar[str | None] = "w-switch"
    settled: ClassVar[str | None] = (
        "one adapter acts at a time, by the number of the step; for turns of 3 steps write "
        "switch:every=3"
    )
    guidance: ClassVar[Guidance] = Cfg()

    every: int = 5

    def __post_init__(self) -> None:
        check_count(self.name, "every", self.every)

    def prepare(self, model: Model) -> object:  # noqa: ARG002 - the protocol's
        """Nothing."""
        return None

    def passes(self, moment: Moment, memory: object) -> tuple[Pass, ...]:  # noqa: ARG002
        """The one whose turn it is."""
        taking = moment.taking
        return alone([taking[moment.step // self.every % len(taking)]])

    def weigh(self, moment: Moment, seen: Seen, memory: object) -> tuple[Blend, object]:
        """As it is."""
        return single(moment, seen, seen.passes[0].active), memory
