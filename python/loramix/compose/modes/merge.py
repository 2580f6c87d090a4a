"""All adapters at once."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.compose.guidance import Cfg, Guidance
from loramix.compose.modes.base import Blend, Model, Moment, Pass, Seen, single


@dataclass(frozen=True, slots=True)
class Merge:
    """The sum of the deltas at their weights: what `loramix.merge` with ``linear`` writes.

    For any other method merge first, and give the result as the one adapter.  Adapters of prior 0
    are left out; other priors are not looked at.

    Notes
    -----
    Forwards per step: 2 with classifier-free guidance, 1 without.
    """

    name: ClassVar[str] = "merge"
    per_pixel: ClassVar[bool] = False
    guidance: ClassVar[Guidance] = Cfg()

    def prepare(self, model: Model) -> object:  # noqa: ARG002 - the protocol's
        """Nothing."""
        return None

    def passes(self, moment: Moment, memory: object) -> tuple[Pass, ...]:  # noqa: ARG002
        """One, with all of them."""
        return (Pass(moment.taking),)

    def weigh(self, moment: Moment, seen: Seen, memory: object) -> tuple[Blend, object]:
        """As it is."""
        return single(moment, seen, moment.taking), memory
