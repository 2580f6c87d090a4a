"""What a user should know of a stack, one line each."""

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from loramix.policies.auto.recognise import Recognised
from loramix.policies.base import Stack

_PLACES = 12
"""Weights of the model that a profile needs."""
_EVEN = 1.5
"""Ratio of the 90th to the 10th percentile of the sizes per entry up to which they are alike;
adapters that learned a subject or a style change some blocks several times more than others."""
_FLAT = 0.7
"""Share of its rank that a typical delta uses: training on images uses a third of it."""

_WHAT = {
    "speed": "is for fewer steps",
    "edit": "is for editing or control",
    "preference": "is trained on preferences",
}


def remarks(
    stack: Stack,
    known: Sequence[Recognised],
    *,
    opposed: float,
    dominance: float,
    mix: bool,
) -> tuple[str, ...]:
    """Lines on adapters that go around, that look as if they should, and on pairs.

    Parameters
    ----------
    known : those that go around the others.
    opposed, dominance, mix : see `Auto`.
    """
    names = [adapter.name for adapter in stack.adapters]
    lines = [
        f"{names[one.owner]} {_WHAT[one.kind]} ({one.words!r} in its {one.where}): it is added at "
        "its weight and not mixed with the others; mix = true mixes it"
        for one in known
    ]
    around = {one.owner for one in known}
    if not mix:
        rest = [owner for owner in range(len(names)) if owner not in around]
        lines += [names[owner] + line for owner in rest if (line := _profile(stack, owner))]
    return (*lines, *_pairs(stack, around, names, opposed=opposed, dominance=dominance))


def _profile(stack: Stack, owner: int) -> str:
    """A weak hint only: nothing is decided by it."""
    sizes, flat = [], []
    for group in stack.analysis.groups:
        if owner not in group.owners or group.target.branch != "model" or not group.deltas:
            continue
        delta = group.deltas[group.owners.index(owner)]
        if delta.norm > 0:
            sizes.append(delta.norm / math.sqrt(group.target.rows * group.target.cols))
            flat.append(delta.effective_rank / delta.rank)
    if len(sizes) < _PLACES:
        return ""
    low, high = np.quantile(sizes, [0.1, 0.9])
    used = float(np.median(flat))
    if high > _EVEN * low or used < _FLAT:
        return ""
    return (
        f" changes {len(sizes)} weights nearly alike (90th to 10th percentile: {high / low:.2f}) "
        f"and uses {100 * used:.0f} % of its rank, as distilled adapters do; nothing in its name "
        "says so, and it is mixed like the others"
    )


def _pairs(
    stack: Stack, around: set[int], names: Sequence[str], *, opposed: float, dominance: float
) -> list[str]:
    energies: dict[int, float] = defaultdict(float)
    met: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for group, weights in stack.groups:
        gram = group.gram * np.outer(weights, weights)
        for i, owner in enumerate(group.owners):
            energies[owner] += float(gram[i, i])
        for i, j in combinations(range(len(group.owners)), 2):
            both = met[group.owners[i], group.owners[j]]
            for place, value in enumerate((gram[i, j], gram[i, i], gram[j, j])):
                both[place] += float(value)
    used = [owner for owner in sorted(energies) if energies[owner] > 0 and owner not in around]
    lines = []
    for first, second in combinations(used, 2):
        two = f"{names[first]} and {names[second]}"
        dot, own, other = met.get((first, second), (0.0, 0.0, 0.0))
        cosine = dot / math.sqrt(own * other) if own > 0 and other > 0 else 0.0
        if (first, second) not in met:
            lines.append(f"{two} change no weight in common: each stays as it is")
        elif cosine <= -opposed:
            lines.append(
                f"{two} oppose each other (cosine {cosine:.2f}): together they cancel; give one "
                "of them less weight, or leave it out"
            )
    return [*lines, *_dominating(energies, used, names, dominance)]


def _dominating(
    energies: dict[int, float], used: Sequence[int], names: Sequence[str], dominance: float
) -> list[str]:
    if len(used) < 2:
        return []
    largest, second = sorted(used, key=lambda owner: -energies[owner])[:2]
    ratio = math.sqrt(energies[largest] / energies[second])
    if ratio <= dominance:
        return []
    line = (
        f"{names[largest]} is {ratio:.1f} times as strong as any other: a weight {ratio:.1f} times "
        "smaller would put them level"
    )
    return [line]
