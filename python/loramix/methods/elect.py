"""Sum without what loses where signs clash."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.methods.base import Law, Program


@dataclass(frozen=True, slots=True)
class Elect:
    """Sum of the entries that have the winning sign.

    The weighted entries vote by their sum; those that agree are added, each at its own weight,
    and the others are left out: ``M = sum of w_i d_i over the winners``.  Where no signs differ
    this is `Linear`.  `Ties` takes a mean instead, at the strength of the heaviest: a light
    adapter then comes out at full strength wherever it is alone; here it never does.

    Breaks continuity: the sign of an entry is won or lost.  Where a vote cancels but for rounding,
    rounding elects, as in `Ties`.

    References
    ----------
    Yadav et al. 2023, arXiv:2306.01708, section 3, without trimming, and with the disjoint sum.
    """

    name: ClassVar[str] = "elect"
    mean: ClassVar[bool] = False
    breaks: ClassVar[frozenset[Law]] = frozenset({"continuity"})

    def program(self) -> Program:
        """Elect, add."""
        return Program(vote="mass")
