"""Trim, elect sign, merge."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from loramix.errors import ParamError
from loramix.methods.base import Keep, Law, Program, check_shares
from loramix.methods.ties_upstream import TiesMergekit, TiesPeft, TiesPublished


@dataclass(frozen=True, slots=True)
class Ties:
    """Mean of the largest entries that have the winning sign.

    Of each delta the share ``density`` of largest magnitude is kept (in the whole delta, exactly
    ``max(1, floor(density * n))`` entries, equal ones in index order).  The weighted entries vote
    on a sign; those that agree are averaged by weight, at the strength of the heaviest:
    ``M = max|w| * sum w_i d_i / sum |w_i|`` over the winners.

    Breaks two laws: equal adapters come back trimmed, and an entry is in or out, so the result
    jumps where magnitudes or signs change places.  Where a vote cancels but for rounding, rounding
    elects: of entries made in f32 from factors, and of a sum in stack order.

    Parameters
    ----------
    density : share of entries kept, (0, 1].  Default 0.2, the published 20 %.  ``auto``: of each
        delta as few as hold the share ``energy`` of its squared norm.
    vote : ``mass``: by the sum of the weighted entries (published); ``count``: by heads, ties by
        the sum.
    energy : share of the squared norm under ``density=auto``, (0, 1].

    References
    ----------
    Yadav et al. 2023, arXiv:2306.01708, section 3.
    """

    name: ClassVar[str] = "ties"
    mean: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = frozenset({"identical", "continuity"})

    density: float | Literal["auto"] = 0.2
    vote: Literal["mass", "count"] = "mass"
    energy: float = 0.95

    def __post_init__(self) -> None:
        if self.density != "auto":
            check_shares(self.name, {"density": self.density}, word="auto")
        check_shares(self.name, {"energy": self.energy})
        if self.vote not in ("mass", "count"):
            message = f"ties: vote = {self.vote!r}: mass or count"
            raise ParamError(message)

    @staticmethod
    def peft(density: float = 0.2, vote: Literal["total", "frequency"] = "total") -> TiesPeft:
        """TIES as PEFT understands it."""
        return TiesPeft(density, vote)

    @staticmethod
    def mergekit(density: float = 0.2, *, normalize: bool = True) -> TiesMergekit:
        """TIES as mergekit understands it."""
        return TiesMergekit(density, normalize)

    @staticmethod
    def published(
        density: float = 0.5, vote: Literal["total", "frequency"] = "frequency"
    ) -> TiesPublished:
        """TIES as the published adaptive composition understands it."""
        return TiesPublished(density, vote)

    def program(self) -> Program:
        """Keep the largest, elect, average."""
        auto = self.density == "auto"
        keep = Keep("energy", self.energy) if auto else Keep("largest", float(self.density))
        return Program(keep, vote=self.vote, reduce="mean")
