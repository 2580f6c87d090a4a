"""The density of ties from samples of magnitudes."""

import numpy as np
import oracles_decisions as oracle
import pytest
from policies.builders import shown, single, stack

from loramix.policies.published import Published
from loramix.policies.published.presets import PRESETS
from loramix.policies.published.tree import density_of


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, -0.2], [0.01, 3.0]])
@pytest.mark.parametrize("tail", [0.5, 1.0, 3.0, 8.0])
def test_the_share_above_the_noise_is_clamped(
    tail: float, weights: list[float], preset: str
) -> None:
    rng = np.random.default_rng(7)
    samples = [np.sort(np.abs(rng.normal(size=64)) ** tail) for _ in weights]
    sized = [abs(w) * sample for w, sample in zip(weights, samples, strict=True)]
    expected = oracle.density(samples, weights, preset)
    assert density_of(sized, PRESETS[preset]) == pytest.approx(expected)


@pytest.mark.parametrize("preset", PRESETS)
def test_both_clamps_are_reached(preset: str) -> None:
    _, low, high, _, _ = oracle.CONSTANTS[preset]
    outlier = np.array([*np.full(63, 1e-6), 1.0])
    assert density_of([outlier], PRESETS[preset]) == low
    assert density_of([np.ones(64)], PRESETS[preset]) == high


def test_where_there_is_nothing_to_measure_it_is_a_half() -> None:
    for nothing in ([], [np.zeros(64)], [np.zeros(0)]):
        assert density_of(nothing, PRESETS["dit"]) == 0.5


def test_the_density_is_that_of_the_group_or_of_the_stack() -> None:
    curved = (np.linspace(0, 1, 64) ** 2).tolist()
    groups = [
        shown(-0.5, 0.3, key="unet.a.0.x", norms=(1.0, 2.0)),
        shown(-0.5, 0.3, key="unet.a.1.x", norms=(0.5, 1.0), magnitudes=curved),
        single(0.1, key="unet.a.2.x"),
    ]
    weights = [1.5, -0.5]
    samples = [
        ([np.array(delta.magnitudes) for delta in one.deltas], [weights[i] for i in one.owners])
        for one in groups
    ]
    flipped = stack(groups, weights)
    straight = stack(groups, [1.5, 0.5])
    own = Published(override="ties").decide(straight).decisions
    for decision, (sample, weight) in zip(own[:2], samples, strict=False):
        assert decision.numbers["density"] == oracle.density(sample, weight, "sd_unet")
    pooled = [values for sample, _ in samples for values in sample]
    each = [weight for _, of_group in samples for weight in of_group]
    whole = Published(mode="global").decide(straight).decisions
    for decision in whole[:2]:
        assert decision.numbers["density"] == oracle.density(pooled, each, "sd_unet")
    assert "density" not in whole[2].numbers
    assert Published(mode="global").decide(flipped).decisions[0].regime != "ties"
