"""The regime is named rightly where it was planted."""

from collections import Counter

import pytest
from policies.auto.planted import REGIMES, planted
from policies.auto.stacks import decision

DRAWS = 200


@pytest.mark.parametrize("regime", REGIMES)
def test_planted_regimes_are_found(regime: str) -> None:
    found: Counter[str] = Counter()
    for seed in range(DRAWS):
        truth = planted(regime, seed)
        found[decision(truth.group, truth.weights).regime] += 1
    assert found[regime] >= 0.95 * DRAWS, found
