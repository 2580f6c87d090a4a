"""What the parts of an overview share: numbers that JSON can hold, and names of groups."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loramix.analysis.statistics import GroupStatistics
from loramix.planning.steps import Choice
from loramix.report import naming


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
    def of(cls, groups: Sequence[GroupStatistics], choices: Sequence[Choice] | None) -> "Names":
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
