"""What a merge method is: mathematics only, no files, no devices, no decisions about rank.

Three shapes: coefficients from inner products, programs on entries, and cores of subspaces.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from loramix.errors import ParamError
from loramix.tensors import F64

Law = Literal["homogeneous", "odd", "permutation", "identical", "continuity"]


@runtime_checkable
class Coefficients(Protocol):
    """A method whose result is a linear combination of the deltas.

    Attributes
    ----------
    name : as users write it.
    mean : whether equal adapters of weight w give w times the adapter (a mean) or the sum of
        the weights times it.
    reads_gram : whether the coefficients depend on the inner products at all; those of a method
        that says no may be anything, and are not computed.
    breaks : laws of the common suite that it does not keep; its docstring says why.
    """

    name: ClassVar[str]
    mean: ClassVar[bool]
    reads_gram: ClassVar[bool]
    breaks: ClassVar[frozenset[Law]]

    def coefficients(self, gram: F64, weights: F64) -> F64:
        """One factor per adapter.

        Parameters
        ----------
        gram : (n, n) float64, ``gram[i, j] = <delta_i, delta_j>``.
        weights : (n,) float64, the users' weights, any sign.

        Returns
        -------
        (n,) float64, in the same order.
        """
        ...


@dataclass(frozen=True, slots=True)
class Keep:
    """Which entries of each delta take part.

    Attributes
    ----------
    rule : ``all``;
        ``largest``: the share ``density`` of largest magnitude in the whole delta, after the
        share ``outliers`` of the very largest;
        ``truncated``: ``max(least, int(density * n))`` of largest magnitude, as other tools count;
        ``energy``: the fewest, by falling magnitude, that hold the share ``density`` of the
        squared norm;
        ``random``: each with probability ``density``, divided by ``divisor``;
        ``ranked``: each with a probability that falls with the rank of its magnitude in its row,
        by ``spread`` around ``density``, divided by that probability.
    conflicts : limit a random rule to positions where the weighted deltas disagree in sign.
    most : with ``conflicts``, the largest share of positions in conflict for which that makes
        sense; ``calibrated`` stands for what the cosines of the deltas let expect.
    fallback : what the rule does where more are in conflict.
    """

    rule: Literal["all", "largest", "truncated", "energy", "random", "ranked"] = "all"
    density: float = 1.0
    outliers: float = 0.0
    least: int = 1
    divisor: float = 1.0
    spread: float = 0.0
    conflicts: bool = False
    most: float | Literal["calibrated"] = 1.0
    fallback: Literal["everywhere", "nowhere"] = "everywhere"


@dataclass(frozen=True, slots=True)
class Selfish:
    """Entries that belong to one adapter: out before the vote, added back after it.

    Attributes
    ----------
    lambda_ : how many times larger than those of the others, at least 1.
    published : compare with the sum of the others, and not with the largest of them.
    level : add back at the strength of the heaviest, like a mean of one, and not as it is.
    """

    lambda_: float
    published: bool = False
    level: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """An elementwise method as data: keep, set aside, vote, reduce, finish.

    Attributes
    ----------
    keep : which entries of each delta take part.
    selfish : which of them go around the rest.
    vote : ``none``: all that are kept count; ``mass``: those with the sign of the sum; ``count``:
        those with the sign of the majority (of the sum where there is none);
        ``...-or-positive``: a draw is positive.
    ballot : what votes: the weighted entry, or without the size of the weight (``signed``), or
        without the weight (``plain``).
    reduce : ``sum`` of those that count; the same over the weights of all times the largest
        weight (``average``); their ``mean`` by weight times the largest weight; their sum over
        their ``count``; over the sum of their weights, signs included and 1 for 0
        (``signed-share``); their mean by weight and
        squared delta times the largest weight (``importance``).
    calibrate : bring the result to the norm ``max|w| * sum |w_i| |delta_i| / sum |w_i|``, growing
        at most twofold.
    clean : shrink singular values by the noise that the program added.
    """

    keep: Keep = Keep()
    selfish: Selfish | None = None
    vote: Literal["none", "mass", "count", "mass-or-positive", "count-or-positive"] = "none"
    ballot: Literal["weighted", "signed", "plain"] = "weighted"
    reduce: Literal["sum", "average", "mean", "count", "signed-share", "importance"] = "sum"
    calibrate: bool = False
    clean: bool = False


@runtime_checkable
class Elementwise(Protocol):
    """A method that decides entry by entry.

    Attributes
    ----------
    name, mean, breaks : see `Coefficients`.
    """

    name: ClassVar[str]
    mean: ClassVar[bool]
    breaks: ClassVar[frozenset[Law]]

    def program(self) -> Program:
        """What happens to the entries of the weighted deltas."""
        ...


@runtime_checkable
class Subspace(Protocol):
    """A method that works with singular values and directions.

    It sees every delta of a target in joint orthonormal bases U (m x p), V (n x q) of all of
    them, ``delta_i = U cores[i] V^T``, and must not depend on which bases these are.

    Attributes
    ----------
    name, mean, breaks : see `Coefficients`; ``breaks`` is that of the default parameters.
    """

    name: ClassVar[str]
    mean: ClassVar[bool]
    breaks: ClassVar[frozenset[Law]]

    def merge(self, cores: F64, weights: F64) -> F64:
        """The core of the result.

        Parameters
        ----------
        cores : (n, p, q) float64, n >= 2, finite: the unweighted deltas.
        weights : (n,) float64, the users' weights, any sign, none zero.

        Returns
        -------
        (p, q) float64.
        """
        ...


def check_shares(
    owner: str, shares: Mapping[str, float], *, zero: bool = False, word: str | None = None
) -> None:
    """Refuse shares outside (0, 1], or outside [0, 1) if zero is allowed.

    Parameters
    ----------
    word : what the caller takes instead of a number; named in the message.

    Raises
    ------
    ParamError : one of them is.
    """
    allowed = f"a number in {'[0, 1)' if zero else '(0, 1]'}{f', or {word}' if word else ''}"
    for name, value in shares.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        good = number and (0 <= value < 1 if zero else 0 < value <= 1)
        if not good:
            message = f"{owner}: {name} = {value}: allowed is {allowed}"
            raise ParamError(message)
