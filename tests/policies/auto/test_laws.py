"""What holds for the result of every decision, whatever the adapters do to each other."""

import dataclasses
from collections.abc import Sequence
from functools import cache
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pytest
from policies.auto.planted import REGIMES, Planted, mixed, planted, product
from policies.auto.stacks import decision, made_of
from policies.statistics import group_statistics

from loramix import combine
from loramix.methods import Composite, Elect, Linear, Retain
from loramix.policies.auto import Auto
from loramix.policies.base import Decision

F64 = npt.NDArray[np.float64]
SHAPE = (64, 48)
DRAWS = range(6)
STRENGTHS = (1.0, 2.0, 1e9)
EXACT, FLOAT = 1e-12, 1e-5
"""Coefficients are f64; entries and joint bases f32."""


def result(truth: Planted, weights: Sequence[float] | None = None) -> F64:
    """What is made of a draw, by other weights or its own."""
    return made_of(truth.deltas, truth.ranks, weights or truth.weights, truth.group)


def size(truth: Planted) -> float:
    """Sum of the norms that go in."""
    pairs = zip(truth.weights, truth.deltas, strict=True)
    return sum(abs(w) * float(np.linalg.norm(delta)) for w, delta in pairs)


def bound(regime: str) -> float:
    return FLOAT if regime == "conflicted" else EXACT


@cache
def draws(regime: str) -> list[Planted]:
    return [planted(regime, seed) for seed in DRAWS]


@pytest.mark.parametrize("factor", [1e-3, 0.3, 7.0])
@pytest.mark.parametrize("regime", REGIMES)
def test_homogeneous_in_weights(regime: str, factor: float) -> None:
    for truth in draws(regime):
        scaled = result(truth, [factor * w for w in truth.weights]) / factor
        assert np.linalg.norm(scaled - result(truth)) < bound(regime) * size(truth)


@pytest.mark.parametrize("regime", REGIMES)
def test_odd_in_weights_and_in_a_delta_with_its_weight(regime: str) -> None:
    for truth in draws(regime):
        plain = result(truth)
        negated = result(truth, [-w for w in truth.weights])
        assert np.linalg.norm(negated + plain) < bound(regime) * size(truth)
        turned = made_of(
            [-truth.deltas[0], *truth.deltas[1:]],
            truth.ranks,
            [-truth.weights[0], *truth.weights[1:]],
        )
        assert np.linalg.norm(turned - plain) < bound(regime) * size(truth)


@pytest.mark.parametrize("regime", REGIMES)
def test_the_order_of_the_stack_does_not_matter(regime: str) -> None:
    for truth in draws(regime):
        back = [list(reversed(each)) for each in (truth.deltas, truth.ranks, truth.weights)]
        assert np.linalg.norm(made_of(*back) - result(truth)) < bound(regime) * size(truth)


@pytest.mark.parametrize("regime", REGIMES)
def test_a_member_of_weight_zero_is_as_if_absent(regime: str) -> None:
    for truth in draws(regime):
        rest = made_of(truth.deltas[1:], truth.ranks[1:], truth.weights[1:])
        present = result(truth, [0.0, *truth.weights[1:]])
        assert np.linalg.norm(present - rest) < bound(regime) * size(truth)


@pytest.mark.parametrize("regime", REGIMES)
def test_a_weight_near_zero_changes_little(regime: str) -> None:
    for truth in draws(regime):
        for small in (1e-9, -1e-9, 1e-4):
            near = result(truth, [small, *truth.weights[1:]])
            at = result(truth, [0.0, *truth.weights[1:]])
            gap = float(np.linalg.norm(near - at))
            assert gap < (30 * abs(small) + bound(regime)) * size(truth)


@pytest.mark.parametrize("weight", [1.0, -0.6])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_equal_adapters_come_back(count: int, weight: float) -> None:
    delta = product(np.random.default_rng(1), SHAPE, 8)
    got = made_of([delta] * count, [8] * count, [weight] * count)
    assert np.linalg.norm(got - weight * delta) < 1e-9
    assert (
        decision(group_statistics([delta] * count, [8] * count), [weight] * count).regime
        == "aligned"
    )


def test_two_copies_count_once_beside_a_third_that_is_independent() -> None:
    rng = np.random.default_rng(2)
    one, other = product(rng, SHAPE, 8), product(rng, SHAPE, 8)
    other = mixed(one, other, 0.0)
    got = made_of([one, other, one], [8, 16, 8], [1.0, 0.7, 1.0])
    assert np.linalg.norm(got - (one + 0.7 * other)) < 1e-9


def test_an_adapter_and_its_opposite_cancel_as_the_weights_say() -> None:
    delta = product(np.random.default_rng(3), SHAPE, 8)
    got = made_of([delta, delta], [8, 8], [1.0, -0.75])
    assert np.linalg.norm(got - 0.25 * delta) < EXACT
    assert decision(group_statistics([delta, delta], [8, 8]), [1.0, -0.75]).regime == "opposed"


def scan(cosines: Sequence[float], strength: float) -> tuple[list[float], list[Decision]]:
    """Norms of the results of two members of ratio 1 to 2 at these cosines, and the decisions."""
    rng = np.random.default_rng(4)
    first, second = product(rng, SHAPE, 16), product(rng, SHAPE, 16)
    norms, decisions = [], []
    for cosine in cosines:
        deltas = [first, 2 * mixed(first, second, cosine)]
        group = group_statistics(deltas, [16, 32])
        made = decision(group, [1.0, 0.8], Auto(strength=strength))
        assert isinstance(made.method, Linear | Retain)
        factors = made.method.coefficients(group.gram, np.array(made.weights))
        norms.append(
            float(np.linalg.norm(sum(f * d for f, d in zip(factors, deltas, strict=True))))
        )
        decisions.append(made)
    return norms, decisions


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_norm_is_continuous_across_all_gates_of_the_cosine(strength: float) -> None:
    norms, decisions = scan([float(c) for c in np.linspace(-0.9, 0.99, 946)], strength)
    steps = np.abs(np.diff(norms)) / np.maximum(norms[1:], norms[:-1])
    assert steps.max() < 0.01
    names = [name for name, _ in groupby(made.regime for made in decisions)]
    assert names == ["opposed", "partial", "independent", "partial", "aligned"]
    shares = [made.method.share for made in decisions if isinstance(made.method, Retain)]
    assert min(shares) < 0.01
    assert max(shares) == 1


def test_the_norm_does_not_notice_the_sign_of_a_cosine_that_is_nothing() -> None:
    for strength in STRENGTHS:
        (before, after), _ = scan([-1e-3, 1e-3], strength)
        assert abs(after / before - 1) < 0.01


@pytest.mark.parametrize("cosine", [-0.6, 0.04, 0.3, 0.9])
def test_the_norm_is_continuous_in_a_weight(cosine: float) -> None:
    rng = np.random.default_rng(5)
    deltas = [product(rng, SHAPE, 8) for _ in range(3)]
    deltas[1] = mixed(deltas[0], deltas[1], cosine)
    group = group_statistics(deltas, [8, 16, 8])
    norms = []
    for weight in np.linspace(-1.0, 1.0, 401):
        made = decision(group, [1.0, float(weight), 0.5])
        assert isinstance(made.method, Linear | Retain)
        factors = made.method.coefficients(group.gram, np.array(made.weights))
        norms.append(float(np.sqrt(factors @ group.gram @ factors)))
    assert (np.abs(np.diff(norms)) / norms[1:]).max() < 0.01


def test_only_a_significant_clash_leads_to_the_votes() -> None:
    """The declared gate: without its guard the same figures are no conflict."""
    for truth in draws("conflicted"):
        sure = decision(truth.group, truth.weights)
        assert isinstance(sure.method, Elect | Composite)
        pairs = tuple(dataclasses.replace(pair, loss_error=1.0) for pair in truth.group.pairs)
        vague = dataclasses.replace(truth.group, pairs=pairs)
        unsure = decision(vague, truth.weights)
        assert isinstance(unsure.method, Linear | Retain)


def test_every_method_is_reached() -> None:
    seen = set()
    for regime in REGIMES:
        for truth in draws(regime):
            made = decision(truth.group, truth.weights)
            seen.add(made.why.split(":")[0])
            thin = max(truth.ranks) <= min(truth.deltas[0].shape) / 2
            if regime == "conflicted":
                assert isinstance(made.method, Composite) == thin
    assert {"linear", "retain", "elect", "core(elect)"} <= seen


def test_votes_keep_more_of_all_members_together_than_a_sum() -> None:
    for truth in draws("conflicted"):
        made = decision(truth.group, truth.weights, Auto(strength=1e9))
        assert made.numbers["lost_excess"] > made.numbers["lost_excess_bound"]
        voted = combine(truth.deltas, Elect(), weights=list(made.weights))
        added = combine(truth.deltas, Linear(), weights=list(made.weights))
        members = [w * d for w, d in zip(truth.weights, truth.deltas, strict=True)]
        before, after = (sum(float(np.sum(m * d)) for d in members) for m in (added, voted))
        assert after > 1.03 * before
