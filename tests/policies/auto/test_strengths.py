"""How long results are, by the strength that was asked for."""

import math

import numpy as np
import pytest
from policies.auto.planted import REGIMES, Planted, planted
from policies.auto.stacks import adapter, decision, stack_of
from policies.statistics import group_statistics

from loramix import combine
from loramix.analysis.statistics import GroupStatistics
from loramix.methods import Composite
from loramix.policies.auto import Auto
from loramix.policies.base import Verdict

DRAWS = range(8)
VOTES = "conflicted"
FREE = 1e9
"""A strength that holds nothing back."""


def norm(truth: Planted, strength: float = FREE) -> float:
    made = decision(truth.group, truth.weights, Auto(strength=strength))
    method = made.method.inner if isinstance(made.method, Composite) else made.method
    merged = combine(truth.deltas, method, weights=list(made.weights))
    return float(np.linalg.norm(merged))


def sizes(truth: Planted) -> list[float]:
    pairs = zip(truth.weights, truth.deltas, strict=True)
    return [abs(w) * float(np.linalg.norm(delta)) for w, delta in pairs]


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("regime", REGIMES)
def test_a_branch_has_at_most_the_energy_that_was_asked_for(regime: str, strength: float) -> None:
    for seed in DRAWS:
        truth = planted(regime, seed)
        most = math.sqrt(strength) * max(sizes(truth))
        free, held = norm(truth), norm(truth, strength)
        assert held <= most * (1 + 1e-6)
        if regime != VOTES:
            assert held == pytest.approx(min(free, most), rel=1e-9)


@pytest.mark.parametrize("regime", REGIMES)
def test_a_result_is_no_longer_than_independent_adapters_are(regime: str) -> None:
    for seed in DRAWS:
        truth = planted(regime, seed)
        most = float(np.linalg.norm(sizes(truth)))
        # Cosines within their bound go unnoticed: 6 pairs of 0.05 in a stack of four at most.
        slack = 0.08 if regime != VOTES else 0.0
        assert norm(truth) <= most * (1 + slack)


def test_votes_get_a_gain_and_say_so() -> None:
    gains = []
    for seed in DRAWS:
        truth = planted(VOTES, seed)
        made = decision(truth.group, truth.weights, Auto(strength=FREE))
        gain = made.numbers["gain"]
        shares = np.divide(made.weights, truth.weights)
        # `Retain` says how much of whom before, at most all of it.
        assert 0 < shares.min() <= shares.max() <= gain * (1 + 1e-9)
        gains.append(gain)
    assert 0.5 < min(gains) < max(gains) <= 1


def apart(count: int, *, key: str = "unet.a", scale: float = 1.0) -> GroupStatistics:
    """Orthogonal members of one norm."""
    deltas = [np.zeros((8, 8)) for _ in range(count)]
    for i, delta in enumerate(deltas):
        delta[i, i] = scale
    return group_statistics(deltas, [1] * count, key=key)


def verdict(groups: list[GroupStatistics], weights: list[float], policy: Auto) -> Verdict:
    return policy.decide(stack_of(groups, [weights] * len(groups)))


def test_two_are_as_loading_both_and_eight_are_halved() -> None:
    two, eight = ([1.0] * count for count in (2, 8))
    made = verdict([apart(2)], two, Auto())
    assert (made.decisions[0].weights, made.strengths) == ((1.0, 1.0), {})
    made = verdict([apart(8)], eight, Auto())
    assert made.decisions[0].weights == pytest.approx([0.5] * 8)
    assert made.strengths["model"].scale == pytest.approx(0.5)
    assert made.strengths["model"].norm == pytest.approx(math.sqrt(8))


def test_all_groups_of_a_branch_have_one_scale() -> None:
    groups = [apart(3), apart(3, key="unet.b", scale=5.0)]
    first, second = verdict(groups, [1.0, 1.0, -0.5], Auto(strength=1)).decisions
    assert first.weights == second.weights
    assert first.weights == pytest.approx([2 / 3, 2 / 3, -1 / 3])


def test_what_goes_around_is_neither_counted_nor_scaled() -> None:
    adapters = [adapter("a"), adapter("lcm-lora"), adapter("b"), adapter("c")]
    stack = stack_of([apart(4)], [[1.0, 3.0, 1.0, 1.0]], adapters)
    (made,) = Auto(strength=1).decide(stack).decisions
    assert made.weights == pytest.approx([3**-0.5, 3.0, 3**-0.5, 3**-0.5])


def of_lengths(lengths: list[float], weights: list[float], balance: float) -> list[float]:
    """Lengths of what becomes of orthogonal adapters of these lengths."""
    deltas = [np.zeros((8, 8)) for _ in lengths]
    for i, (delta, length) in enumerate(zip(deltas, lengths, strict=True)):
        delta[i, i] = length
    group = group_statistics(deltas, [1] * len(lengths))
    made = decision(group, weights, Auto(strength=FREE, balance=balance))
    return [w * length for w, length in zip(made.weights, lengths, strict=True)]


def test_balanced_adapters_are_as_long_as_the_longest_by_their_weights() -> None:
    assert of_lengths([1, 1.5, 2], [1, -1, 1], 0) == pytest.approx([1, -1.5, 2])
    assert of_lengths([1, 1.5, 2], [1, -1, 1], 1) == pytest.approx([2, -2, 2])
    assert of_lengths([1, 1.5, 2], [1, 0.5, 0.25], 1) == pytest.approx([2, 1, 0.5])
    assert of_lengths([1, 1.5, 2], [1, 1, 1], 0.5)[0] == pytest.approx(2**0.5)
    assert of_lengths([0.1, 2], [1, 1], 1) == pytest.approx([0.2, 2])  # at most twice as long


def test_what_goes_around_is_not_balanced() -> None:
    adapters = [adapter("a"), adapter("lcm-lora"), adapter("b")]
    deltas = [np.diag([1.0, 0, 0]), np.diag([0, 9.0, 0]), np.diag([0, 0, 2.0])]
    stack = stack_of([group_statistics(deltas, [1] * 3)], [[1.0, 1.0, 1.0]], adapters)
    (made,) = Auto(balance=1).decide(stack).decisions
    assert made.weights == pytest.approx([2.0, 1.0, 1.0])
