"""Drop the largest outliers and the small rest."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.errors import ParamError
from loramix.methods.base import Keep, Law, Program, check_shares


@dataclass(frozen=True, slots=True)
class Breadcrumbs:
    """Sum of the middle of each delta: neither the very largest entries nor the small ones.

    By magnitude in the whole delta, the share ``outliers`` of the largest is dropped, the next
    ``density`` is kept, exactly.  Breaks the same laws as `Ties`, for the same reasons.

    Parameters
    ----------
    density : share of entries kept, (0, 1].
    outliers : share of the largest that is dropped, [0, 1); with density at most 1.

    References
    ----------
    Davari and Belilovsky 2023, arXiv:2312.06795, section 3.
    """

    name: ClassVar[str] = "breadcrumbs"
    mean: ClassVar[bool] = False
    breaks: ClassVar[frozenset[Law]] = frozenset({"identical", "continuity"})

    density: float = 0.9
    outliers: float = 0.01

    def __post_init__(self) -> None:
        check_shares(self.name, {"density": self.density})
        check_shares(self.name, {"outliers": self.outliers}, zero=True)
        if self.density + self.outliers > 1:
            message = (
                f"breadcrumbs: density {self.density} and outliers {self.outliers} are more than 1"
            )
            raise ParamError(message)

    def program(self) -> Program:
        """Keep the middle, add."""
        return Program(Keep("largest", self.density, outliers=self.outliers))
