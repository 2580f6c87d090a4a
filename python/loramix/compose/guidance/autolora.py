"""Guidance by the difference that adapters make."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.compose.functional.arrays import Array
from loramix.compose.functional.blending import away
from loramix.compose.functional.checks import check_number
from loramix.compose.guidance.base import Side


@dataclass(frozen=True, slots=True)
class AutoLora:
    """Both predictions as ``base + gamma (composed - base)``.

    With the pipeline's guidance g on both, that is
    ``cfg_g(base) + gamma (cfg_g(composed) - cfg_g(base))``.  The publication lets the two have
    guidance of their own; here they share the pipeline's.  Read from its abstract only.

    Parameters
    ----------
    gamma : [0, inf).  0: the base; 1: the adapters as they are; below 1 more diverse, above 1
        more of the adapters.  Default 1.5, ours.

    References
    ----------
    AutoLoRA, arXiv:2410.03941.
    """

    name: ClassVar[str] = "autolora"

    gamma: float = 1.5

    def __post_init__(self) -> None:
        check_number(self.name, "gamma", self.gamma)

    def reads(self, side: Side) -> bool:  # noqa: ARG002 - the protocol's
        """For both, unless nothing is moved."""
        return self.gamma != 1

    def apply(self, side: Side, base: Array | None, composed: Array) -> Array:  # noqa: ARG002
        """Moved."""
        return composed if base is None else away(base, composed, self.gamma)
