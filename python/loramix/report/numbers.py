"""What the parts of an overview share: numbers that JSON can hold, and names of groups."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from loramix.analysis.statistics import GroupStatistics
from loramix.policies.base import Decision
from loramix.report import naming
from loramix.types import Target


class Chosen(Protocol):
    """What was decided for one group: a choice of a plan.

    Attributes
    ----------
    owners : for each member, the position of its adapter in the stack.
    asked : the users' weights of the members.
    """

    @property
    def target(self) -> Target:
        """What the group changes."""

    @property
    def owners(self) -> tuple[int, ...]:
        """Positions of the adapters of the members."""

    @property
    def asked(self) -> tuple[float, ...]:
        """The users' weights of the members."""

    @property
    def decision(self) -> Decision:
        """Method, weights, and why."""


@dataclass(frozen=True, slots=True)
class Names:
    """Blocks and methods of the groups.

    Attributes
    ----------
    blocks : block of every target, in the order of the network.
    order : positions of the blocks.
    methods : method of every target; empty without a plan.
    letters : of the methods, most frequent first.
    """

    blocks: Mapping[str, str]
    order: Mapping[str, int]
    methods: Mapping[str, str]
    letters: Mapping[str, str]

    @classmethod
    def of(cls, groups: Sequence[GroupStatistics], choices: Sequence[Chosen] | None) -> "Names":
        """Names for a stack and its plan."""
        blocks = naming.blocks_of(group.target.key for group in groups)
        methods = {
            choice.target.key: naming.method_name(choice.decision.method)
            for choice in choices or ()
        }
        order = {block: i for i, block in enumerate(dict.fromkeys(blocks.values()))}
        return cls(blocks, order, methods, naming.method_letters(list(methods.values())))


def finite(value: float) -> float | None:
    """A number, or None for what is none: JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def root(value: float) -> float | None:
    """The norm of an energy."""
    return math.sqrt(max(value, 0.0)) if math.isfinite(value) else None
