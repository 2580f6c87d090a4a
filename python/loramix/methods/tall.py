"""Entries that belong to one adapter keep their full strength in a mean."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.errors import ParamError
from loramix.methods.base import Law, Program, Selfish


@dataclass(frozen=True, slots=True)
class Tall:
    """Weighted mean, except where one adapter's entry is far larger than all others'.

    Where ``|w_i d_i| >= lambda * max_j |w_j d_j|`` over all others, the entry is *selfish*: it is
    taken out, the mean of what is left is formed, and it is added back at the
    strength of the heaviest (``max|w| * sign(w_i) d_i``), not diluted.

    Breaks continuity: an entry is selfish or not.

    Parameters
    ----------
    lambda_ : how many times larger, at least 1.  The published rule compares with the sum of the
        others at 1, where almost every entry of two adapters is selfish.

    References
    ----------
    Wang et al. 2024, arXiv:2405.07813 (TALL masks), section 3.
    """

    name: ClassVar[str] = "tall"
    mean: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = frozenset({"continuity"})

    lambda_: float = 3.0

    def __post_init__(self) -> None:
        number = isinstance(self.lambda_, int | float) and not isinstance(self.lambda_, bool)
        if not (number and 1 <= self.lambda_ < float("inf")):
            message = f"tall: lambda = {self.lambda_}: a finite number of at least 1"
            raise ParamError(message)

    def program(self) -> Program:
        """Set aside, average, add back."""
        return Program(selfish=Selfish(self.lambda_, level=True), reduce="average")
