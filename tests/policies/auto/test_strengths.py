"""How long results are, by the strength that was asked for."""

import numpy as np
import pytest
from policies.auto.planted import REGIMES, Planted, planted
from policies.auto.stacks import decision

from loramix import combine
from loramix.methods import Composite
from loramix.policies.auto import Auto
from loramix.policies.auto.gains import Limit

DRAWS = range(8)
VOTES = "conflicted"


def norm(truth: Planted, strength: Limit) -> float:
    made = decision(truth.group, truth.weights, Auto(strength=strength))
    method = made.method.inner if isinstance(made.method, Composite) else made.method
    merged = combine(truth.deltas, method, weights=list(made.weights))
    return float(np.linalg.norm(merged))


def sizes(truth: Planted) -> list[float]:
    pairs = zip(truth.weights, truth.deltas, strict=True)
    return [abs(w) * float(np.linalg.norm(delta)) for w, delta in pairs]


@pytest.mark.parametrize("regime", REGIMES)
def test_strongest_is_no_longer_than_the_strongest(regime: str) -> None:
    for seed in DRAWS:
        truth = planted(regime, seed)
        free, held = norm(truth, "none"), norm(truth, "strongest")
        assert held <= max(sizes(truth)) * (1 + 1e-6)
        if regime == VOTES:
            assert held <= free
        else:
            assert held == pytest.approx(min(free, max(sizes(truth))), rel=1e-9)


@pytest.mark.parametrize("regime", REGIMES)
def test_a_pair_is_no_longer_than_two_of_the_strongest(regime: str) -> None:
    for seed in DRAWS:
        truth = planted(regime, seed)
        most = min(float(np.linalg.norm(sizes(truth))), 2**0.5 * max(sizes(truth)))
        free, held = norm(truth, "none"), norm(truth, "pair")
        assert held <= most * (1 + 1e-6)
        if regime != VOTES:
            assert held == pytest.approx(min(free, most), rel=1e-9)


@pytest.mark.parametrize("regime", REGIMES)
def test_independent_is_no_longer_than_independent_adapters_are(regime: str) -> None:
    for seed in DRAWS:
        truth = planted(regime, seed)
        most = float(np.linalg.norm(sizes(truth)))
        # Cosines within their bound go unnoticed: 6 pairs of 0.05 in a stack of four at most.
        slack = 0.08 if regime != VOTES else 0.0
        assert norm(truth, "independent") <= most * (1 + slack)


def test_votes_get_a_gain_and_say_so() -> None:
    gains = []
    for seed in DRAWS:
        truth = planted(VOTES, seed)
        plain = decision(truth.group, truth.weights, Auto(strength="none"))
        held = decision(truth.group, truth.weights)
        gain = held.numbers["gain"]
        assert held.weights == pytest.approx([gain * w for w in plain.weights])
        gains.append(gain)
    assert 0.5 < min(gains) < max(gains) <= 1


def test_nothing_else_is_scaled_by_default() -> None:
    for regime in REGIMES:
        for seed in DRAWS:
            truth = planted(regime, seed)
            if regime != VOTES:
                assert decision(truth.group, truth.weights).weights == tuple(truth.weights)
