"""From numbers to a verdict: the same, the same but for rounding or a factor, or different."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from loramix.diffing.measuring import Only, Pair, TargetPair
from loramix.types import Adapter

Verdict: TypeAlias = Literal["same", "rounding", "factor", "factors", "different"]

FLOOR = 4e-6
"""Relative difference below which deltas are equal: that of products in f32."""
# Both factors are rounded, by half a unit in the last place at most.
_ROUNDING: Mapping[str, float] = {
    "F64": 2.0**-52, "F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7,
    "F8_E4M3": 2.0**-3, "F8_E5M2": 2.0**-2,
}  # fmt: skip


def tolerance_of(a: Adapter, b: Adapter) -> float:
    """What rounding to the narrowest type of two adapters takes, relative to a delta."""
    return max(FLOOR, *(_ROUNDING[dtype] for one in (a, b) for dtype in types_of(one)))


def types_of(adapter: Adapter) -> list[str]:
    """Types of its tensors."""
    found = {t.dtype for factors in adapter.targets.values() for t in factors.stored}
    return sorted(found)


def judge(
    adapters: tuple[Adapter, Adapter],
    total: Pair,
    targets: Sequence[TargetPair],
    only: Only,
    limit: float,
    *,
    given: bool,
) -> tuple[Verdict, str]:
    """The verdict, and a sentence that says it.

    Parameters
    ----------
    total, targets, only : see `loramix.Difference`.
    limit : largest relative difference of a target that is none.
    given : whether the user gave that.
    """
    a, b = adapters
    if a.architecture and b.architecture and a.architecture != b.architecture:
        return "different", f"for different base models: {a.architecture} and {b.architecture}"
    if any(only) or not targets:
        counts = " and ".join(
            f"{len(keys)} targets only in {'the first' if i == 0 else 'the second'}"
            for i, keys in enumerate(only) if keys
        )  # fmt: skip
        return "different", f"different: {counts or 'no targets in common'}"
    worst = max(one.pair.difference for one in targets)
    if worst <= min(FLOOR, limit):
        return "same", "the same deltas"
    if worst <= limit:
        within = f"within {limit:.2g}" if given else f"up to rounding to {_narrowest(a, b)}"
        return (
            "rounding",
            f"the same deltas {within}; the largest relative difference is {worst:.2g}",
        )
    factors = [one for one in targets if one.pair.norms != (0.0, 0.0)]
    if all(one.pair.apart <= max(limit, FLOOR) for one in factors):
        return _up_to_factors(total, factors, limit)
    far = sum(one.pair.difference > limit for one in targets)
    return "different", (
        f"different in {far} of {len(targets)} targets; what differs has "
        f"{100 * total.difference:.3g} % of the larger norm"
    )


def _up_to_factors(total: Pair, targets: Sequence[TargetPair], limit: float) -> tuple[Verdict, str]:
    """Where every target is the other's times a number: one number, or several."""
    ratios = [one.pair.ratio or 0.0 for one in targets]
    by_scale = all(
        math.isclose(one.pair.ratio or 0.0, one.scales[0] / one.scales[1], rel_tol=max(limit, 1e-3))
        for one in targets
        if one.scales[1] != 0
    )
    why = "; their scales (alpha / rank) differ by just that" if by_scale else ""
    ratio = total.ratio or 0.0
    if all(abs(own - ratio) <= max(limit, FLOOR) * abs(ratio) for own in ratios):
        return "factor", f"the same up to a factor: the first is {ratio:.4g} x the second{why}"
    return "factors", (
        f"the same up to factors that differ by target: the first is {min(ratios):.4g} to "
        f"{max(ratios):.4g} x the second{why}"
    )


def _narrowest(a: Adapter, b: Adapter) -> str:
    return max((*types_of(a), *types_of(b)), key=lambda dtype: _ROUNDING[dtype]).lower()
