"""What the published tree cannot reach, on data that nobody planted anything in."""

import math
from dataclasses import replace

import numpy as np
import pytest
from policies.builders import group, low_rank, stack

from loramix.analysis.statistics import GroupStatistics
from loramix.policies.published import Published
from loramix.policies.published.presets import PRESETS

CORRELATIONS = [-0.95, -0.8, -0.71, -0.5, -0.2, 0.0, 0.2, 0.5, 0.8, 0.95]


def elliptical(correlation: float, ratio: float) -> GroupStatistics:
    """Two Gaussian deltas of this correlation and ratio of scales."""
    rng = np.random.default_rng(8)
    first, other = rng.normal(size=(2, 30, 750))
    second = ratio * (correlation * first + math.sqrt(1 - correlation**2) * other)
    return group([first, second], [30, 30])


@pytest.mark.parametrize("ratio", [1.0, 4.0])
@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_ties_is_out_of_reach_of_elliptical_data(correlation: float, ratio: float) -> None:
    # The excess takes a share of positions from a share of magnitudes.  The latter is the smaller
    # one where signs agree more often than not, and at most 0.14 larger elsewhere: never 0.25.
    made = elliptical(correlation, ratio)
    for overlap in (0.0, 0.3, 1.0):
        own = stack([replace(made, pairs=(replace(made.pairs[0], overlap=overlap),))])
        for preset in PRESETS:
            decision = Published(preset=preset).decide(own).decisions[0]
            assert decision.regime != "ties"
            excess = decision.numbers["excess_conflict"]
            assert excess < 0.15
            assert decision.numbers["effective_conflict"] <= excess
            if correlation > 0:
                assert excess == 0


def test_the_largest_excess_of_elliptical_data() -> None:
    most = Published().decide(stack([elliptical(-0.71, 1.0)])).decisions[0]
    assert most.numbers["excess_conflict"] == pytest.approx(0.14, abs=0.01)


def test_ties_is_out_of_reach_of_products_that_share_factors() -> None:
    rng = np.random.default_rng(9)
    found = []
    for _ in range(60):
        rank = int(rng.integers(1, 9))
        rows, cols = np.exp(rng.normal(size=(2, 48)))
        first = low_rank(rng, (48, 48), rank)
        shared = rng.uniform(-1, 1)
        second = rng.uniform(0.3, 3) * (shared * first + low_rank(rng, (48, 48), rank))
        deltas = [rows[:, None] * one * cols for one in (first, second)]
        found.append(group(deltas, [rank, 2 * rank], f"unet.b.{len(found)}.x"))
    decisions = Published(smoothing=0).decide(stack(found)).decisions
    assert max(decision.numbers["effective_conflict"] for decision in decisions) < 0.25
    assert {decision.regime for decision in decisions} == {"consensus", "slerp", "weighted_average"}


def test_a_cosine_of_noise_decides_between_norms_that_differ_by_the_root_of_two() -> None:
    # Independent deltas: adjacent layers go either way by the sign of what is not there.
    rng = np.random.default_rng(10)
    groups = [
        group([low_rank(rng, (64, 64), 4) for _ in range(2)], [4, 4], f"unet.b.{i}.x")
        for i in range(40)
    ]
    decisions = Published().decide(stack(groups)).decisions
    regimes = [decision.regime for decision in decisions]
    assert 8 < regimes.count("slerp") < 32
    assert regimes.count("slerp") + regimes.count("weighted_average") == 40
    for decision in decisions:
        assert (decision.regime == "slerp") == (decision.numbers["cosine"] >= 0)
