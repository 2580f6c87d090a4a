"""One adapter at a time, as often as its importance in the prompt says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from loramix.compose.functional.checks import check_count
from loramix.compose.guidance import Cfg, Guidance
from loramix.compose.modes.base import Blend, Model, Moment, Pass, Seen, alone
from loramix.compose.modes.blends import single
from loramix.compose.modes.w_composite import checked_importance, weighed


@dataclass(frozen=True, slots=True)
class WSwitch:
    """`Switch` with shares of the turns in place of an equal number.

    Turn after turn goes to the adapter that is furthest behind its share, so that at any time
    each has had its share of turns up to one.  With equal importances this is `Switch`.

    Parameters
    ----------
    every : steps of a turn, at least 1.
    importance : one number per adapter, at least 0, as from `importance_of`; times the priors if
        there are any.  Empty: all alike.

    Notes
    -----
    Forwards per step: 2 with classifier-free guidance, 1 without.  Known to us from its abstract;
    the order of the turns is ours.

    References
    ----------
    arXiv:2606.03792 (W-Switch).
    """

    name: ClassVar[str] = "w-switch"
    per_pixel: ClassVar[bool] = False
    in_place_of_priors: ClassVar[str | None] = None
    settled: ClassVar[str | None] = (
        "one adapter acts at a time, by the number of the step; for turns of 3 steps write "
        "w-switch:every=3"
    )
    guidance: ClassVar[Guidance] = Cfg()

    every: int = 5
    importance: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_count(self.name, "every", self.every)
        object.__setattr__(self, "importance", checked_importance(self.name, self.importance))

    def prepare(self, model: Model) -> object:
        """Nothing, but the numbers must fit."""
        weighed(self.name, Moment(0, None, (1.0,) * len(model.names)), self.importance)
        return None

    def passes(self, moment: Moment, memory: object) -> tuple[Pass, ...]:  # noqa: ARG002
        """The one whose turn it is."""
        shares = weighed(self.name, moment, self.importance).prior
        return alone([turn_of(shares, moment.step // self.every)])

    def weigh(self, moment: Moment, seen: Seen, memory: object) -> tuple[Blend, object]:
        """As it is."""
        return single(moment, seen, seen.passes[0].active), memory


def turn_of(shares: Sequence[float], turn: int) -> int:
    """Whose turn it is if each has its share of all turns.

    Parameters
    ----------
    shares : at least 0, not all 0.
    turn : from 0.

    Returns
    -------
    The adapter furthest behind ``(turn + 1) * share / sum of shares``; of equal ones the first.
    """
    total = sum(shares)
    had = [0] * len(shares)
    for past in range(turn + 1):
        behind = [(past + 1) * s / total - h for s, h in zip(shares, had, strict=True)]
        # Rounded, so that equal shares take turns in their order.
        next_ = max(range(len(shares)), key=lambda i: (shares[i] > 0, round(behind[i], 9), -i))
        had[next_] += 1
    return next_
