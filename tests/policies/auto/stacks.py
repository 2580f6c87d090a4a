"""Dense deltas as stacks that a policy sees, and what its decisions make of them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

import numpy as np
import numpy.typing as npt
from policies.statistics import group_statistics

from loramix import combine
from loramix.analysis.statistics import Analysis, GroupStatistics
from loramix.policies.auto import Auto
from loramix.policies.base import Decision, Stack
from loramix.types import Adapter, Coverage, Source

F64 = npt.NDArray[np.float64]


def adapter(name: str, metadata: Mapping[str, str] | None = None) -> Adapter:
    """One that has a name and strings; a policy reads no more."""
    return Adapter(
        name=name,
        dialect="kohya",
        architecture=None,
        candidates=(),
        match=0.0,
        targets=MappingProxyType({}),
        metadata=MappingProxyType(dict(metadata or {})),
        coverage=Coverage(0, (), ()),
        source=cast("Source", None),
    )


def stack_of(
    groups: Sequence[GroupStatistics],
    weights: Sequence[Sequence[float]],
    adapters: Sequence[Adapter] | None = None,
) -> Stack:
    """Groups with the weights of their members; adapters are named a, b, c unless given."""
    count = 1 + max(owner for group in groups for owner in group.owners)
    named = adapters or [adapter("abcdefgh"[i]) for i in range(count)]
    rows = tuple(tuple(row) for row in weights)
    return Stack(tuple(named), Analysis(tuple(groups), None, "key"), rows, None)


def decision(
    group: GroupStatistics,
    weights: Sequence[float],
    policy: Auto | None = None,
    adapters: Sequence[Adapter] | None = None,
) -> Decision:
    """What the policy says of one group."""
    return (policy or Auto()).decide(stack_of([group], [weights], adapters)).decisions[0]


def made_of(
    deltas: Sequence[F64],
    ranks: Sequence[int],
    weights: Sequence[float],
    group: GroupStatistics | None = None,
) -> F64:
    """The result of the decision on one group."""
    made = decision(group or group_statistics(deltas, ranks), weights)
    return np.asarray(combine(list(deltas), made.method, weights=list(made.weights)))
