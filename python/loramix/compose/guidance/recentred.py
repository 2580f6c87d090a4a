"""The unconditional prediction pulled to the base's."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.compose.functional.arrays import Array
from loramix.compose.functional.blending import recentre
from loramix.compose.functional.checks import check_number
from loramix.compose.guidance.base import Side


@dataclass(frozen=True, slots=True)
class Recentred:
    """Unconditional predictions as ``lambda base + (1 - lambda) composed``.

    Models without an unconditional prediction (FLUX.1 as it is usually called) have nothing to
    re-centre; the account of the run says so.

    Parameters
    ----------
    lambda_ : [0, 1].  0: off, and the base's unconditional prediction is not asked for; 1: the
        base's.  Default 0.5, the published value.  Which of the two the factor is of at other
        values is our reading.

    References
    ----------
    Foteinopoulou et al. 2025, arXiv:2508.11624.
    """

    name: ClassVar[str] = "recentred"

    lambda_: float = 0.5

    def __post_init__(self) -> None:
        check_number(self.name, "lambda", self.lambda_, high=1)

    def reads(self, side: Side) -> bool:
        """For what is re-centred."""
        return side == "unconditional" and self.lambda_ > 0

    def apply(self, side: Side, base: Array | None, composed: Array) -> Array:
        """Re-centred, if it is the unconditional one."""
        if side == "conditional" or base is None:
            return composed
        return recentre(base, composed, self.lambda_)
