"""Drop entries at random and rescale."""

from dataclasses import dataclass
from typing import ClassVar

from loramix.methods.base import Keep, Law, Program, check_shares

_BREAKS: frozenset[Law] = frozenset({"identical", "continuity", "permutation"})


def _check(method: "Dare | DareTies") -> None:
    check_shares(method.name, {"density": method.density})
    check_shares(method.name, {"dampening": method.dampening}, zero=True)


def _keep(density: float, dampening: float) -> Keep:
    return Keep("random", density, divisor=density + dampening * (1 - density))


@dataclass(frozen=True, slots=True)
class Dare:
    """Sum of the weighted deltas, of which random entries are dropped and the others scaled up.

    Each entry is kept with probability p = ``density`` and divided by
    ``q = p + dampening (1 - p)``; without dampening the sum is right on average.  The draws are a
    pure function of the seed, the target and the adapter's place in the stack (so the order
    counts).

    Parameters
    ----------
    density : probability of an entry to be kept, (0, 1].
    dampening : 0 unbiased, towards 1 less rescaling, [0, 1).

    References
    ----------
    Yu et al. 2023, arXiv:2311.03099, section 3.
    """

    name: ClassVar[str] = "dare"
    mean: ClassVar[bool] = False
    breaks: ClassVar[frozenset[Law]] = _BREAKS

    density: float = 0.5
    dampening: float = 0.0

    def __post_init__(self) -> None:
        _check(self)

    def program(self) -> Program:
        """Drop at random, add."""
        return Program(_keep(self.density, self.dampening))


@dataclass(frozen=True, slots=True)
class DareTies:
    """`Dare`'s random drop, then the vote and the mean of `Ties`.

    Parameters
    ----------
    density, dampening : see `Dare`.
    """

    name: ClassVar[str] = "dare-ties"
    mean: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = _BREAKS

    density: float = 0.5
    dampening: float = 0.0

    def __post_init__(self) -> None:
        _check(self)

    def program(self) -> Program:
        """Drop at random, elect, average."""
        return Program(_keep(self.density, self.dampening), "mass", "mean")
