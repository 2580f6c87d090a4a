"""What a merge method is: mathematics only, no files, no devices, no decisions about rank.

Two shapes: coefficients from inner products, and programs on entries.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from loramix.errors import ParamError
from loramix.types import F64, RawProgram

Law = Literal["permutation", "identical", "continuity"]


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
    rule : ``all``; ``largest``: the share ``density`` of largest magnitude in the whole delta,
        after the share ``outliers`` of the very largest; ``random``: each with probability
        ``density``, divided by ``divisor``.
    """

    rule: Literal["all", "largest", "random"] = "all"
    density: float = 1.0
    outliers: float = 0.0
    divisor: float = 1.0


@dataclass(frozen=True, slots=True)
class Program:
    """An elementwise method as data: keep, vote, reduce.

    Attributes
    ----------
    keep : which entries of each delta take part.
    vote : ``none``: all that are kept count; ``mass``: those with the sign of the sum; ``count``:
        those with the sign of the majority (of the sum where there is none).
    reduce : ``sum`` of those that count, or their ``mean`` by weight times the largest weight.
    """

    keep: Keep = Keep()
    vote: Literal["none", "mass", "count"] = "none"
    reduce: Literal["sum", "mean"] = "sum"

    def raw(self, seed: int) -> RawProgram:
        """What the kernels take."""
        keep = self.keep
        second = keep.outliers if keep.rule == "largest" else keep.divisor
        return (keep.rule, keep.density, second, self.vote, self.reduce, seed)


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


def check_shares(owner: str, shares: Mapping[str, float], *, zero: bool = False) -> None:
    """Refuse shares outside (0, 1], or outside [0, 1) if zero is allowed.

    Raises
    ------
    ParamError : one of them is.
    """
    for name, value in shares.items():
        good = 0 <= value < 1 if zero else 0 < value <= 1
        if not good:
            message = f"{owner}: {name} = {value}: allowed is {'[0, 1)' if zero else '(0, 1]'}"
            raise ParamError(message)
