"""The judge and the figures."""

import numpy as np
import pytest
import torch

from loramix_testbed.judging.intervals import interval, interval_over
from loramix_testbed.judging.judge import judge
from loramix_testbed.judging.metrics import TRUE, measure, true_pictures
from loramix_testbed.training.judge import drawn
from loramix_testbed.world.styles import STYLES
from loramix_testbed.world.symbols import SYMBOLS


def test_the_judge_names_fresh_true_pictures() -> None:
    true, symbol, style = drawn(1000, torch.Generator().manual_seed(77))
    seen = judge()(true)
    assert (seen.symbol.argmax(1) == symbol).float().mean() > 0.97
    assert (seen.style.argmax(1) == style).float().mean() > 0.99


def test_the_truth_is_near_itself_and_noise_is_far() -> None:
    true = measure(true_pictures("&", "ember", 1), "&", "ember")
    noise = measure(torch.randn(TRUE, 3, 24, 24), "&", "ember")
    assert true.content.mean() > 0.95
    assert true.style.mean() > 0.95
    assert true.distance.max() < noise.distance.min()
    assert true.kid < noise.kid / 10
    assert abs(true.energy.mean() - 1) < 0.1
    assert true.beyond.max() == 0
    assert 0.8 < true.diversity < 1.2


@pytest.mark.parametrize(("symbol", "style"), [("?", "ember"), ("&", "gold")])
def test_the_wrong_symbol_or_style_is_found_out(symbol: str, style: str) -> None:
    found = measure(true_pictures(symbol, style, 1), "&", "ember")
    right = measure(true_pictures("&", "ember", 1), "&", "ember")
    assert (found.content & found.style).mean() < 0.05
    assert found.distance.mean() > right.distance.mean()
    assert found.kid > right.kid


def test_the_judge_has_a_class_for_everything() -> None:
    seen = judge()(torch.zeros(1, 3, 24, 24))
    assert seen.symbol.shape == (1, len(SYMBOLS))
    assert seen.style.shape == (1, len(STYLES))


def test_an_interval_of_one_value_is_that_value() -> None:
    found = interval([np.full(5, 0.25), np.full(9, 0.25)])
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(3)
    held = 0
    for trial in range(200):
        levels = random.normal(0.5, 0.1, 30)
        found = interval([random.normal(level, 0.3, 8) for level in levels], seed=trial)
        held += found.low <= 0.5 <= found.high
    assert held >= 180  # of 200: 95 % less four standard errors


def test_prompts_count_the_same_however_many_seeds_they_have() -> None:
    assert interval([np.zeros(2), np.ones(50)]).mean == 0.5


def test_groups_count_the_same_however_many_prompts_they_have() -> None:
    random = np.random.default_rng(5)
    few, many = (
        [random.normal(level, 0.3, 8) for level in random.normal(mean, 0.1, count)]
        for mean, count in ((0.2, 4), (0.8, 60))
    )
    found = interval_over([few, many])
    assert found.mean == pytest.approx((interval(few).mean + interval(many).mean) / 2)
    assert interval_over([few]) == interval(few)
    # Means of independent groups: variances add, a quarter of each.
    widths = [one.high - one.low for one in (found, interval(few), interval(many))]
    assert widths[0] == pytest.approx(np.hypot(widths[1], widths[2]) / 2, rel=0.1)
