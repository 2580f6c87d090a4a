"""The mean of what all adapters predict, each alone."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.compose.functional.arrays import library_of
from loramix.compose.functional.patches import edges_of
from loramix.compose.guidance import Cfg, Guidance
from loramix.compose.modes.base import (
    BASE,
    Blend,
    Model,
    Moment,
    Pass,
    Seen,
    alone,
    shares,
)
from loramix.compose.modes.blends import Spread, Weighted

_CELL = 4
"""Edge of the patches for which the account of masks has a number, in latent pixels."""


@dataclass(frozen=True, slots=True)
class Composite:
    """Every adapter alone, conditional and unconditional predictions averaged.

    ``e = sum_i p_i e_i / sum_i p_i`` with priors p, all 1 unless given.  Inside masks, the masks
    share (see `restrict`), so this is also composition by regions.

    Notes
    -----
    Forwards per step: 2 n with classifier-free guidance, n without; one more each with masks, for
    the base where no mask is.

    References
    ----------
    Zhong et al. 2024, arXiv:2402.16843 (LoRA Composite).
    """

    name: ClassVar[str] = "composite"
    per_pixel: ClassVar[bool] = True
    in_place_of_priors: ClassVar[str | None] = None
    settled: ClassVar[str | None] = "they are your priors: give 0 to those that shall rest"
    guidance: ClassVar[Guidance] = Cfg()

    def prepare(self, model: Model) -> object:  # noqa: ARG002 - the protocol's
        """Nothing."""
        return None

    def passes(self, moment: Moment, memory: object) -> tuple[Pass, ...]:  # noqa: ARG002
        """Each alone, and the base if there are masks."""
        return (*([BASE] if moment.masked else []), *alone(moment.taking))

    def weigh(self, moment: Moment, seen: Seen, memory: object) -> tuple[Blend, object]:
        """By the priors."""
        return by_shares(moment, seen), memory


def by_shares(moment: Moment, seen: Seen) -> Blend:
    """Each member by its prior, inside the masks if there are any."""
    table = shares(moment, seen.members[0])
    rows = list(moment.taking)
    if seen.masks is None:
        return Weighted(seen.passes, (table[rows],), len(table))
    first = seen.members[0]
    edges = edges_of(first.shape, _CELL)
    grid = tuple(-(-size // edge) for size, edge in zip(first.shape[2:], edges, strict=True))
    alike = table[rows].reshape((len(rows), -1, *(1,) * len(grid)))
    alike = library_of(alike).broadcast_to(alike, (*alike.shape[:2], *grid))
    return Spread(seen.passes, (alike,), len(table), patch=_CELL, masks=seen.masks[rows])
