"""All adapters at once."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.compose.guidance import Cfg, Guidance
from loramix.compose.modes.base import Blend, Model, Moment, Pass, Seen
from loramix.compose.modes.blends import single
from loramix.errors import ParamError


@dataclass(frozen=True, slots=True)
class Merge:
    """One adapter of all of them.

    What `loramix.merge` makes of the files at their weights, before the first step.  With method
    ``linear`` nothing is made: the adapters act at once, which is the plain sum of their deltas,
    and those that the pipeline has loaded can take part.  Adapters of prior 0 are left out; other
    priors are not looked at.

    Parameters
    ----------
    method : of `loramix.merge`, a method or a policy, with parameters if there is one, such as
        ``ties:density=0.3``.

    Notes
    -----
    Forwards per step: 2 with classifier-free guidance, 1 without.  Merges take seconds, and a
    temporary file.
    """

    name: ClassVar[str] = "merge"
    per_pixel: ClassVar[bool] = False
    in_place_of_priors: ClassVar[str | None] = "weights"
    settled: ClassVar[str | None] = "all adapters are one, in one forward"
    guidance: ClassVar[Guidance] = Cfg()

    method: str = "auto"

    def __post_init__(self) -> None:
        if not isinstance(getattr(self.method, "name", self.method), str):
            message = f"merge: method = {self.method!r}: give a text such as ties:density=0.3"
            raise ParamError(message)

    def prepare(self, model: Model) -> object:  # noqa: ARG002 - the protocol's
        """Nothing."""
        return None

    def passes(self, moment: Moment, memory: object) -> tuple[Pass, ...]:  # noqa: ARG002
        """One, with all of them."""
        return (Pass(moment.taking),)

    def weigh(self, moment: Moment, seen: Seen, memory: object) -> tuple[Blend, object]:
        """As it is."""
        return single(moment, seen, moment.taking), memory
