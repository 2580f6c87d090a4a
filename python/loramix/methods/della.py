"""Drop entries at random, small ones more often."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from loramix.methods.base import Keep, Law, Program, check_shares
from loramix.methods.dare import BREAKS, Fallback, Guard, check_limit, limited


@dataclass(frozen=True, slots=True)
class Della:
    """`Dare` with a probability that follows the rank of the magnitude in its row.

    The probability falls from ``density + epsilon / 2`` to ``density - epsilon / 2`` in equal
    steps: of the n entries of a row, the j-th largest (from 0; equal ones in index order) is kept
    with ``density + epsilon (1 / 2 - (j + 1 / 2) / n)``, the middle of its step, and divided by
    that, so the sum is right on average and the mean probability is the density.  Near 0 and 1
    the spread is reduced to what fits: ``epsilon <= 2 min(density, 1 - density)``.

    Parameters
    ----------
    density : mean probability of an entry to be kept, (0, 1].
    epsilon : spread of the probabilities from the largest to the smallest entry, [0, 1).
    only, guard, fallback : see `Dare`.

    References
    ----------
    Deep et al. 2024, arXiv:2406.11617, section 3.1 (MAGPRUNE).
    """

    name: ClassVar[str] = "della"
    mean: ClassVar[bool] = False
    breaks: ClassVar[frozenset[Law]] = BREAKS

    density: float = 0.5
    epsilon: float = 0.3
    only: Literal["all", "conflicts"] = "all"
    guard: Guard = "calibrated"
    fallback: Fallback = "everywhere"

    def __post_init__(self) -> None:
        check_shares(self.name, {"density": self.density})
        check_shares(self.name, {"epsilon": self.epsilon}, zero=True)
        check_limit(self.name, self.only, self.guard, self.fallback)

    def program(self) -> Program:
        """Drop at random by rank, add."""
        return Program(_keep(self))


@dataclass(frozen=True, slots=True)
class DellaTies(Della):
    """`Della`'s random drop, then the vote and the mean of `Ties`; parameters as there."""

    name: ClassVar[str] = "della-ties"
    mean: ClassVar[bool] = True

    def program(self) -> Program:
        """Drop at random by rank, elect, average."""
        return Program(_keep(self), vote="mass", reduce="mean")


def _keep(method: Della) -> Keep:
    spread = min(method.epsilon, 2 * min(method.density, 1 - method.density))
    keep = Keep("ranked", method.density, spread=spread)
    return limited(keep, method.only, method.guard, method.fallback)
