"""Trim, elect sign, merge."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from loramix.errors import ParamError
from loramix.methods.base import Keep, Law, Program, check_shares


@dataclass(frozen=True, slots=True)
class Ties:
    """Mean of the largest entries that have the winning sign.

    Of each delta the share ``density`` of largest magnitude is kept (in the whole delta, exactly
    ``max(1, floor(density * n))`` entries, equal ones in index order).  The weighted entries vote
    on a sign; those that agree are averaged by weight, at the strength of the heaviest:
    ``M = max|w| * sum w_i d_i / sum |w_i|`` over the winners.

    Breaks two laws: equal adapters come back trimmed, and an entry is in or out, so the result
    jumps where magnitudes or signs change places.

    Parameters
    ----------
    density : share of entries kept, (0, 1].  Default 0.2, the published 20 %.
    vote : ``mass``: by the sum of the weighted entries (published); ``count``: by heads, ties by
        the sum.

    References
    ----------
    Yadav et al. 2023, arXiv:2306.01708, section 3.
    """

    name: ClassVar[str] = "ties"
    mean: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = frozenset({"identical", "continuity"})

    density: float = 0.2
    vote: Literal["mass", "count"] = "mass"

    def __post_init__(self) -> None:
        check_shares(self.name, {"density": self.density})
        if self.vote not in ("mass", "count"):
            message = f"ties: vote = {self.vote!r}: mass or count"
            raise ParamError(message)

    def program(self) -> Program:
        """Keep the largest, elect, average."""
        return Program(Keep("largest", self.density), self.vote, "mean")
