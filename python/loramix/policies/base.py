"""What a policy is: the statistics of a whole stack in, one decision for every group out.

A policy is mathematics and words: it reads no tensor, knows no file, and decides nothing about
ranks, names or devices.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from loramix.analysis.statistics import Analysis, GroupStatistics
from loramix.analysis.strengths import Strength
from loramix.methods import Method
from loramix.raw import Side
from loramix.types import Adapter

Reads: TypeAlias = Literal["nothing", "products", "statistics"]
"""What a policy needs of pass 1: nothing, inner products, or all statistics."""

__all__ = ["Decision", "Policy", "Side", "Stack", "Verdict"]


@dataclass(frozen=True, slots=True)
class Stack:
    """What a policy sees.

    Attributes
    ----------
    adapters : in the user's order.
    analysis : statistics of every group.
    weights : for every group, the users' weights of its members, any sign.
    architecture : the base model, if it is known.
    """

    adapters: tuple[Adapter, ...]
    analysis: Analysis
    weights: tuple[tuple[float, ...], ...]
    architecture: str | None

    @property
    def groups(self) -> Iterator[tuple[GroupStatistics, tuple[float, ...]]]:
        """Statistics and weights of every group."""
        return zip(self.analysis.groups, self.weights, strict=True)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done with one group, and why.

    Attributes
    ----------
    method : what the members become one by.
    weights : what the method gets, for every member; 0 leaves it out.
    regime : one word for what the members do to each other, such as ``aligned``.
    why : a sentence with the numbers that decided.
    numbers : the statistics that decided, by name.
    sides : for every member; empty: all.
    published_sides : whether draws of the vote of sides are positive, see `Site`.
    """

    method: Method
    weights: tuple[float, ...]
    regime: str
    why: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    sides: tuple[Side, ...] = ()
    published_sides: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy says of a stack.

    Attributes
    ----------
    decisions : one for each group, in their order.
    strengths : energy normalisation that is in the weights, by branch; empty if there is none.
    notes : one line for everything a user should know.
    suggested : largest strength at which the result should be applied, if the policy has a view.
    """

    decisions: tuple[Decision, ...]
    strengths: Mapping[str, Strength] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    suggested: float | None = None


@runtime_checkable
class Policy(Protocol):
    """Chooses methods.

    Attributes
    ----------
    name : as users write it.
    reads : which statistics it needs.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    @property
    def reads(self) -> Reads:
        """See above."""
        ...

    def describe(self) -> dict[str, object]:
        """Name and parameters, for recipes and reports."""
        ...

    def decide(self, stack: Stack) -> Verdict:
        """One decision for every group."""
        ...
