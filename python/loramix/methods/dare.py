"""Drop entries at random and rescale."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from loramix.errors import ParamError
from loramix.methods.base import Keep, Law, Program, check_shares

BREAKS: frozenset[Law] = frozenset({"identical", "continuity", "permutation"})
Guard = Literal["calibrated", "published", "none"]
Fallback = Literal["everywhere", "nowhere"]

_MOST: Mapping[str, float | Literal["calibrated"]] = {
    "calibrated": "calibrated", "published": 0.4, "none": 1.0,
}  # fmt: skip


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
    only : ``all`` entries, or ``conflicts``: positions where the weighted deltas disagree in
        sign; everything else stays bit for bit.
    guard : share of positions in conflict above which that limit makes no sense: ``calibrated``:
        clearly more than the cosines of the deltas let expect; ``published``: 40 %; ``none``.
    fallback : what happens above it: the rule acts ``everywhere``, or ``nowhere``.

    References
    ----------
    Yu et al. 2023, arXiv:2311.03099, section 3.
    """

    name: ClassVar[str] = "dare"
    mean: ClassVar[bool] = False
    breaks: ClassVar[frozenset[Law]] = BREAKS

    density: float = 0.5
    dampening: float = 0.0
    only: Literal["all", "conflicts"] = "all"
    guard: Guard = "calibrated"
    fallback: Fallback = "everywhere"

    def __post_init__(self) -> None:
        check_shares(self.name, {"density": self.density})
        check_shares(self.name, {"dampening": self.dampening}, zero=True)
        check_limit(self.name, self.only, self.guard, self.fallback)

    def program(self) -> Program:
        """Drop at random, add."""
        return Program(_keep(self))


@dataclass(frozen=True, slots=True)
class DareTies(Dare):
    """`Dare`'s random drop, then the vote and the mean of `Ties`; parameters as there."""

    name: ClassVar[str] = "dare-ties"
    mean: ClassVar[bool] = True

    def program(self) -> Program:
        """Drop at random, elect, average."""
        return Program(_keep(self), vote="mass", reduce="mean")


def _keep(method: Dare) -> Keep:
    divisor = method.density + method.dampening * (1 - method.density)
    keep = Keep("random", method.density, divisor=divisor)
    return limited(keep, method.only, method.guard, method.fallback)


def check_limit(owner: str, only: str, guard: str, fallback: str) -> None:
    """Refuse words that `limited` does not know.

    Raises
    ------
    ParamError : one of them is unknown.
    """
    for name, value, allowed in (
        ("only", only, ("all", "conflicts")),
        ("guard", guard, tuple(_MOST)),
        ("fallback", fallback, ("everywhere", "nowhere")),
    ):
        if value not in allowed:
            message = f"{owner}: {name} = {value!r}: allowed is {', '.join(allowed)}"
            raise ParamError(message)


def limited(keep: Keep, only: str, guard: Guard, fallback: Fallback) -> Keep:
    """A random rule, limited to conflicts where that is asked for."""
    return replace(keep, conflicts=only == "conflicts", most=_MOST[guard], fallback=fallback)
