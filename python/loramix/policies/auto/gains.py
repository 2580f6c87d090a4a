"""How long adapters and results may be: in a branch of the model, and after a vote."""

import math
from collections.abc import Sequence, Set

import numpy as np

from loramix.analysis.strengths import Strength, energy_of, strengths
from loramix.methods import Coefficients, apply
from loramix.policies.auto.evidence import Evidence
from loramix.policies.base import Decision, Stack
from loramix.tensors import F64

MOST = 2.0
"""The largest gain of an adapter by `balanced`."""


def balanced(stack: Stack, power: float, around: Set[int]) -> tuple[tuple[float, ...], ...]:
    """The users' weights, times ``(longest / own)^power`` in every branch, at most `MOST`.

    Lengths are norms of the branch without weights: a weight stays what the user makes of it.

    Parameters
    ----------
    power : 0: as they are; 1: adapters of one weight become as long as the longest of them.
    around : adapters that are left as they are, and not counted.
    """
    lengths = {
        "model": np.zeros(len(stack.adapters)),
        "text_encoder": np.zeros(len(stack.adapters)),
    }
    for group, _ in stack.groups:
        lengths[group.target.branch][list(group.owners)] += np.diag(group.gram)
    gains = {}
    for branch, squared in lengths.items():
        squared[list(around)] = 0
        ratio = np.divide(squared.max(), squared, out=np.ones_like(squared), where=squared > 0)
        gains[branch] = np.minimum(ratio ** (power / 2), MOST)
    return tuple(
        tuple(
            w * float(gains[group.target.branch][i]) for w, i in zip(own, group.owners, strict=True)
        )
        for group, own in stack.groups
    )


def held(stack: Stack, decisions: Sequence[Decision], most: float) -> dict[str, Strength]:
    """By branch, what has to shrink so that it has no more energy than so many of its strongest.

    Adapters that go around the others are neither counted nor to be scaled.  A vote counts as
    unrelated members together, which it is not longer than.

    Parameters
    ----------
    decisions : of the stack's groups.
    most : the energy allowed, in squared norms of the strongest member of the branch.

    Returns
    -------
    Empty where nothing shrinks.
    """
    weights: list[list[float]] = []
    energies = []
    for (group, own), made in zip(stack.groups, decisions, strict=True):
        inside = np.array([side != "around" for side in made.sides or ("all",) * len(own)])
        users = np.where(inside, own, 0.0)
        weights.append(users.tolist())
        if isinstance(made.method, Coefficients):
            factors = apply(made.method, group.gram, np.where(inside, made.weights, 0.0))
            energies.append(energy_of(group.gram, factors))
        else:
            energies.append(float(users**2 @ np.diag(group.gram)))
    found = strengths(stack.analysis.groups, weights, energies, most=most)
    return found if any(one.scale < 1 for one in found.values()) else {}


def scaled(decision: Decision, strength: Strength | None) -> tuple[float, ...]:
    """The weights of a decision in a branch that shrinks, those around the others as they are."""
    if strength is None:
        return decision.weights
    sides = decision.sides or ("all",) * len(decision.weights)
    return tuple(
        weight if side == "around" else strength.scale * weight
        for weight, side in zip(decision.weights, sides, strict=True)
    )


def norm_of_election(sizes: F64, pairs: Sequence[Evidence]) -> float:
    """At most that long is the sum of what wins the votes (`Elect`), judged by the sample.

    ``|M|^2 <= sum n_i^2 + sum over pairs of 2 sum |a b| where signs agree``: where they do not,
    nothing is added.

    Parameters
    ----------
    sizes : norms of the weighted deltas.
    """
    total = float(sizes @ sizes)
    total += sum(pair.agreeing * sizes[pair.first] * sizes[pair.second] for pair in pairs)
    return math.sqrt(total)
