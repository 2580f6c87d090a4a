"""What is random: densities, ranks, expectations; limits to conflicts; votes without a bias."""

import math
from functools import reduce
from typing import Any

import numpy as np
import pytest
from entries.cases import FLOAT, MIXED, POSITIVE, as_type, distance, draw
from oracles import linear
from oracles_entries import chances, conflicts, expected_conflict, weighted

from loramix import combine
from loramix.methods import composite as package


@pytest.mark.parametrize("density", [0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 0.9, 0.95])
@pytest.mark.parametrize("name", ["dare", "della", "dare-ties", "della-ties"])
def test_the_density_is_realised(name: str, density: float) -> None:
    delta = draw(32, 1, (300, 400))[0]
    got = combine(as_type([delta, np.zeros_like(delta)]), f"{name}:density={density}")
    share = np.count_nonzero(got) / got.size
    assert abs(share - density) <= 2 * math.sqrt(density * (1 - density) / got.size)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.7, 0.9, 0.95])
@pytest.mark.parametrize("epsilon", [0.3, 0.8])
def test_larger_entries_of_a_row_are_kept_more_often(density: float, epsilon: float) -> None:
    cols, runs = 20, 4000
    row = np.random.default_rng(33).permutation(np.arange(1.0, cols + 1))
    delta = np.tile(row, (runs, 1)) * np.random.default_rng(34).choice([-1.0, 1.0], (runs, cols))
    got = combine(as_type([delta, 0 * delta]), f"della:density={density},epsilon={epsilon}")
    found = np.mean(got != 0, axis=0)[np.argsort(-row)]
    expected = chances(np.sort(row)[None, ::-1], density, epsilon)[0]
    error = np.sqrt(np.maximum(expected * (1 - expected), 1e-12) / runs)
    assert np.abs((found - expected) / error).max() < 4
    spread = min(epsilon, 2 * min(density, 1 - density))
    assert found[:5].mean() - found[-5:].mean() == pytest.approx(0.75 * spread, abs=0.03)
    assert found.mean() == pytest.approx(density, abs=4 * math.sqrt(0.25 / (runs * cols)))


@pytest.mark.parametrize(
    "text", ["dare:density=0.3", "della:density=0.5", "della:density=0.9",
             "dare:density=0.3,only=conflicts,guard=none", "della:only=conflicts,guard=none"],
)  # fmt: skip
def test_right_on_average(text: str) -> None:
    deltas, weights, runs = draw(35, 3, (12, 13)), [1.0, -0.7, 0.4], 400
    each = [combine(as_type(deltas), text, weights=weights, seed=s) for s in range(runs)]
    stack = np.stack(each).astype(np.float64)
    error = stack.std(axis=0, ddof=1) / math.sqrt(runs)
    moved = error > 0
    expected = linear(deltas, weights)
    scores = (stack.mean(axis=0) - expected)[moved] / error[moved]
    assert moved.any()
    assert np.abs(scores).max() < 5
    assert abs(scores.mean()) < 4 / math.sqrt(scores.size)
    assert np.allclose(stack[0][~moved], expected[~moved], rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", ["dare", "della"])
def test_outside_of_conflicts_every_bit_is_that_of_the_sum(name: str, count: int) -> None:
    deltas, weights = as_type(draw(36, count, (97, 53), 2.0)), POSITIVE[:count]
    values = [np.float32(w) * d for w, d in zip(weights, deltas, strict=True)]
    flags = conflicts([value.astype(np.float64) for value in values])
    total = reduce(np.add, values)
    got = combine(deltas, f"{name}:only=conflicts,guard=none", weights=weights)
    assert flags.any()
    assert not flags.all()
    assert np.array_equal(got[~flags], total[~flags])
    assert np.mean(got[flags] == total[flags]) < 0.2  # there, all were kept and none rescaled
    sparse = combine(
        deltas, "linear", weights=weights, sparsify=f"{name}:only=conflicts,guard=none"
    )
    assert np.allclose(sparse[~flags], total[~flags], rtol=1e-6, atol=0)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("name", ["dare-ties", "della-ties"])
def test_outside_of_conflicts_every_bit_is_that_of_the_mean(name: str, count: int) -> None:
    deltas, weights = as_type(draw(37, count, (97, 53), 2.0)), POSITIVE[:count]
    flags = conflicts(weighted([d.astype(np.float64) for d in deltas], weights))
    whole = combine(deltas, "ties:density=1", weights=weights)
    got = combine(deltas, f"{name}:only=conflicts,guard=none", weights=weights)
    assert np.array_equal(got[~flags], whole[~flags])
    assert not np.array_equal(got[flags], whole[flags])


@pytest.mark.parametrize("name", ["dare", "della"])
def test_guards_and_fallbacks(name: str) -> None:
    # Independent: half of the positions are in conflict, which their cosine explains and 40 % not.
    deltas = as_type(draw(38, 2, (128, 96), 0.0))
    total = reduce(np.add, deltas)
    everywhere = combine(deltas, name)
    limited = combine(deltas, f"{name}:only=conflicts,guard=none")

    def run(guard: str, fallback: str) -> Any:
        return combine(deltas, f"{name}:only=conflicts,guard={guard},fallback={fallback}")

    assert np.array_equal(run("published", "everywhere"), everywhere)
    assert np.array_equal(run("published", "nowhere"), total)
    assert np.array_equal(run("calibrated", "everywhere"), limited)
    assert np.array_equal(run("none", "nowhere"), limited)
    assert not np.array_equal(limited, everywhere)
    # A planted conflict: small entries disagree where large ones agree.
    first = deltas[0]
    second = np.where(np.abs(first) < np.quantile(np.abs(first), 0.6), -first, first)
    planted = [first, second]
    guarded = combine(planted, f"{name}:only=conflicts,guard=calibrated,fallback=nowhere")
    assert np.array_equal(guarded, first + second)


@pytest.mark.parametrize(("count", "above"), [(190, False), (200, False), (202, True)])
def test_the_calibrated_guard_leaves_two_hundredths(count: int, above: bool) -> None:
    # Cosine one, and yet `count` of ten thousand positions in conflict.
    first, second = np.ones((100, 100)), np.ones((100, 100))
    first.ravel()[:count], second.ravel()[:count] = 1e-7, -1e-7
    got = combine([first, second], "dare:only=conflicts,fallback=nowhere,density=0.5")
    assert np.array_equal(got, first + second) == above


@pytest.mark.parametrize("kinship", [0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    "weights",
    [[1.0, 0.5], [1.0, -0.5], [1.0, 1.0, 2.0], [1.0, -0.5, 2.0], MIXED[:4], MIXED[:6], [1.0] * 5],
)
def test_expected_conflict_is_that_of_normal_entries(kinship: float, weights: list[float]) -> None:
    rng = np.random.default_rng(39)
    common, n = rng.normal(size=200_000), len(weights)
    deltas = [kinship * common + rng.normal(size=200_000) for _ in range(n)]
    found = float(np.mean(conflicts(weighted(deltas, weights))))
    gram = np.array([[a @ b for a in deltas] for b in deltas])
    expected = package.expected_conflict(gram, np.array(weights))
    draws = 200_000 if n < 4 else 16_384  # for more than three it is itself a sample
    assert abs(found - expected) < 5 * 0.5 / math.sqrt(draws)
    if n < 4:
        assert expected == pytest.approx(expected_conflict(deltas, weights), abs=1e-9)


@pytest.mark.parametrize("count", [4, 5, 6])
def test_equal_adapters_have_no_conflict(count: int) -> None:
    ones = np.ones(count)
    assert package.expected_conflict(np.outer(ones, ones), ones) == 0


@pytest.mark.parametrize("method", ["ties:density=auto,energy=1", "della-ties:density=1"])
def test_agreeing_signs_give_the_weighted_mean(method: str) -> None:
    sign = np.sign(draw(41, 1)[0])
    deltas, weights = [sign * np.abs(d) for d in draw(42, 3)], [0.5, 1.0, 0.25]
    got = combine(as_type(deltas), method, weights=weights)
    assert distance(got, linear(deltas, weights) / 1.75, deltas, weights) < FLOAT


@pytest.mark.parametrize(
    "method", ["ties:density=auto", "ties:density=auto,vote=count", "della-ties", "consensus",
               "dare-ties:only=conflicts", "tall", "della-ties:only=conflicts"],
)  # fmt: skip
def test_no_sign_is_preferred(method: str) -> None:
    rng = np.random.default_rng(43)
    deltas = [rng.normal(size=(300, 200)).astype(np.float32) for _ in range(2)]
    got = combine(deltas, method).astype(np.float64)
    assert abs(got.mean()) < 4 * got.std() / math.sqrt(got.size)
    positive, negative = np.count_nonzero(got > 0), np.count_nonzero(got < 0)
    assert abs(positive - negative) < 4 * math.sqrt(positive + negative)
    opposed = combine([deltas[0], -deltas[0]], "ties:density=auto,vote=count")
    assert not opposed.any()
