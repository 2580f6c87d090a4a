"""The regime is named rightly where it was planted."""

from collections import Counter

import numpy as np
import pytest
from policies.auto.planted import REGIMES, mixed, planted, product
from policies.auto.stacks import decision
from policies.statistics import pair_statistics

DRAWS = 200


@pytest.mark.parametrize("regime", REGIMES)
def test_planted_regimes_are_found(regime: str) -> None:
    found: Counter[str] = Counter()
    for seed in range(DRAWS):
        truth = planted(regime, seed)
        found[decision(truth.group, truth.weights).regime] += 1
    assert found[regime] >= 0.95 * DRAWS, found


@pytest.mark.parametrize("rank", [1, 2, 4, 16])
def test_products_lose_no_more_than_their_angle_says(rank: int) -> None:
    """What the margin is for: low rank alone is far from a clash, at every cosine."""
    rng = np.random.default_rng(rank)
    for cosine in (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9):
        first, second = (product(rng, (400, 320), rank) for _ in range(2))
        pair = pair_statistics([first, mixed(first, second, cosine)], 0, 1)
        assert pair.lost_excess < 0.005
        assert pair.loss_error < 0.02
