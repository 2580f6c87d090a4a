"""Who takes part in a group: the key filters, and which side of a conflict each one gives."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from loramix.analysis.statistics import GroupStatistics, PairStatistics
from loramix.policies.base import Side, Stack
from loramix.tensors import F64

KeyFilter: TypeAlias = Literal["all", "shared_only", "unique_only"]
ConflictMode: TypeAlias = Literal["all", "low", "high"]


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """One group after the key filters.

    Attributes
    ----------
    group : its statistics.
    weights : (n,) the users' weights; 0 for a member that is filtered out.
    count : members of a weight other than 0, before the filters.
    """

    group: GroupStatistics
    weights: F64
    count: int

    @property
    def contributors(self) -> int:
        """Members that take part."""
        return int(np.count_nonzero(self.weights))

    @property
    def owners(self) -> list[int]:
        """Positions in the stack of the adapters that take part."""
        owned = zip(self.group.owners, self.weights, strict=True)
        return [owner for owner, weight in owned if weight != 0]

    @property
    def pairs(self) -> Iterator[tuple[tuple[int, int], PairStatistics]]:
        """Pairs of those that take part, by their adapters, with the signs of the weights."""
        for pair in self.group.pairs:
            first, second = self.weights[pair.first], self.weights[pair.second]
            if first != 0 and second != 0:
                owners = (self.group.owners[pair.first], self.group.owners[pair.second])
                yield owners, pair if (first > 0) == (second > 0) else pair.flipped()

    @property
    def norms(self) -> F64:
        """Norms of those that take part, without their weights; 0 for the others."""
        norms: F64 = np.sqrt(np.maximum(np.diag(self.group.gram), 0))
        return np.where(self.weights != 0, norms, 0.0)

    @property
    def magnitudes(self) -> list[F64]:
        """Samples of the weighted deltas that take part, one array for each."""
        each = zip(self.group.deltas, np.abs(self.weights), strict=True)
        return [np.array(delta.magnitudes) * size for delta, size in each if size > 0]


def members_of(stack: Stack, filters: Sequence[KeyFilter]) -> tuple[Members, ...]:
    """Apply the key filters.

    Members of weight 0 count nowhere.  A stack of one active adapter takes no notice of the
    filters: a flaw of the publication's implementation, where such a stack is loaded as it is.
    """
    rows = [(group, np.array(weights, dtype=np.float64)) for group, weights in stack.groups]
    active = {owner for group, w in rows for owner in np.array(group.owners)[w != 0].tolist()}
    heard = filters if len(active) > 1 else ()
    return tuple(_members(group, weights, heard) for group, weights in rows)


def _members(group: GroupStatistics, weights: F64, filters: Sequence[KeyFilter]) -> Members:
    count = int(np.count_nonzero(weights))
    if filters:
        unwanted: KeyFilter = "unique_only" if count > 1 else "shared_only"
        out = [filters[owner] == unwanted for owner in group.owners]
        weights = np.where(out, 0.0, weights)
    return Members(group, weights, count)


def sides_of(members: Members, modes: Sequence[ConflictMode]) -> tuple[Side, ...]:
    """Which entries each member gives; empty where all give all, or only one gives anything."""
    if not modes or members.contributors < 2:
        return ()
    each = zip(members.group.owners, members.weights, strict=True)
    sides: tuple[Side, ...] = tuple(modes[owner] if w != 0 else "all" for owner, w in each)
    return sides if any(side != "all" for side in sides) else ()
