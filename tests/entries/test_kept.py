"""Which entries are kept, to the last one: equal magnitudes, counts, draws."""

import math
from typing import Literal

import numpy as np
import pytest
from entries.basic import DENSITIES, FLOAT, ONE_OF_EACH, WEIGHTS, draw
from entries.cases import as_type, distance
from helpers import F64
from oracles import breadcrumbs, keep_largest, keep_random, linear, ties

from loramix import combine


def integers(seed: int, shape: tuple[int, int], levels: int) -> F64:
    """Few different magnitudes, many equal ones."""
    rng = np.random.default_rng(seed)
    return rng.integers(-levels, levels + 1, size=shape).astype(np.float64)


@pytest.mark.parametrize("levels", [1, 2, 5, 300])
@pytest.mark.parametrize("density", [*DENSITIES, 0.3, 1 / 3, 1e-9])
@pytest.mark.parametrize("outliers", [0.0, 0.07, 0.5])
@pytest.mark.parametrize("shape", [(1, 10), (10, 1), (37, 41), (100, 90)], ids=str)
def test_equal_magnitudes_are_kept_in_index_order(
    shape: tuple[int, int], outliers: float, density: float, levels: int
) -> None:
    density = min(density, 1 - outliers)
    first, second = integers(1, shape, levels), integers(2, shape, levels)
    weights = [2.0, -0.5]
    text = f"breadcrumbs:density={density!r},outliers={outliers}"
    got = combine(as_type([first, second]), text, weights=weights)
    expected = breadcrumbs([first, second], weights, density, outliers)
    assert np.array_equal(got, expected.astype(np.float32))


@pytest.mark.parametrize("vote", ["mass", "count"])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("density", DENSITIES)
def test_ties_of_votes_are_broken_as_defined(
    density: float, count: int, vote: Literal["mass", "count"]
) -> None:
    deltas = [integers(seed, (40, 50), 2) for seed in range(count)]
    weights = [1.0, 2.0, -1.0, 0.5, 4.0][:count]
    got = combine(as_type(deltas), f"ties:density={density},vote={vote}", weights=weights)
    assert distance(got, ties(deltas, weights, density, vote), deltas, weights) < FLOAT


@pytest.mark.parametrize("outliers", [0.0, 0.01, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("density", [0.05, 0.2, 0.3, 0.5])
@pytest.mark.parametrize("size", [1, 3, 10, 100, 1000, 65537])
def test_exactly_as_many_are_kept_as_asked(size: int, density: float, outliers: float) -> None:
    rng = np.random.default_rng(size)
    delta = (rng.permutation(size) + 1.0) * rng.choice([-1.0, 1.0], size)
    got = combine(
        as_type([delta, np.zeros(size)]), f"breadcrumbs:density={density},outliers={outliers}"
    )
    exact = {(p, n): round(p * 100) * n // 100 for p in (density, outliers) for n in (size,)}
    kept = max(1, exact[density, size])
    dropped = exact[outliers, size]
    assert np.count_nonzero(got) == kept
    magnitudes = np.sort(np.abs(got[got != 0]))[::-1]
    assert np.array_equal(magnitudes, size - dropped - np.arange(kept))
    assert np.array_equal(got[got != 0], delta[got != 0])


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_all_entries_equal(value: float) -> None:
    delta = np.full((70, 60), value)
    got = combine(as_type([delta, np.zeros((70, 60))]), "breadcrumbs:density=0.25,outliers=0.5")
    expected = np.zeros(4200)
    expected[2100:3150] = value
    assert np.array_equal(got.ravel(), expected)


def test_most_entries_zero() -> None:
    delta = np.zeros((300, 200))
    delta[150, 3] = 5.0
    delta[299, 199] = -7.0
    got = combine(as_type([delta, np.zeros((300, 200))]), "ties:density=0.2")
    assert np.array_equal(got, delta)


def test_rows_of_very_different_size() -> None:
    # The rows that a sample sees say nothing about the others.
    delta = draw(8, 1, (480, 20))[0]
    delta[::10] *= 2.0**40
    for text, density in (("0.05", 0.05), ("0.1", 0.1), ("0.5", 0.5)):
        got = combine(as_type([delta, np.zeros((480, 20))]), f"breadcrumbs:density={text}")
        expected = keep_largest(delta, density, 0.01)
        assert np.array_equal(got, expected.astype(np.float32))


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 + 12345, 2**64 - 1])
@pytest.mark.parametrize("density", DENSITIES)
def test_the_draws_are_those_of_the_seed(density: float, seed: int) -> None:
    shape = (301, 77)
    ones, zeros = np.ones(shape), np.zeros(shape)
    for place in (0, 1, 2):
        deltas = [ones if i == place else zeros for i in range(3)]
        got = combine(as_type(deltas), f"dare:density={density}", seed=seed)
        expected = keep_random(ones, density, density, seed=seed, target=0, place=place)
        assert np.array_equal(got != 0, expected != 0)
        assert np.allclose(got, expected, rtol=1e-6, atol=0)
        share = np.count_nonzero(got) / got.size
        assert abs(share - density) <= 4 * math.sqrt(density * (1 - density) / got.size)


@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
def test_dare_is_right_on_average(density: float) -> None:
    deltas, weights, runs = draw(9, 2, (12, 13)), [1.0, -0.7], 400
    method = f"dare:density={density}"
    total = np.zeros((12, 13))
    for seed in range(runs):
        total += combine(as_type(deltas), method, weights=weights, seed=seed)
    spread = sum((w * d) ** 2 for w, d in zip(weights, deltas, strict=True)) * (1 / density - 1)
    scores = (total / runs - linear(deltas, weights)) / np.sqrt(spread / runs)
    assert np.abs(scores).max() < 4.5
    assert abs(scores.mean()) < 4 / math.sqrt(scores.size)


@pytest.mark.parametrize("name", ["dare", "dare-ties"])
def test_a_seed_is_a_result(name: str) -> None:
    deltas = as_type(draw(10, 3, (50, 40)))
    plain = combine(deltas, name, seed=5)
    assert np.array_equal(combine(deltas, name, seed=5), plain)
    assert not np.array_equal(combine(deltas, name, seed=6), plain)
    assert not np.array_equal(combine(deltas, name, seed=5 + 2**32), plain)


@pytest.mark.parametrize("threads", [2, 7, None])
@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_bits_do_not_depend_on_threads(method: str, threads: int | None) -> None:
    deltas = as_type(draw(11, 4, (700, 333)))
    alone = combine(deltas, method, weights=WEIGHTS[:4], threads=1)
    assert (
        alone.tobytes() == combine(deltas, method, weights=WEIGHTS[:4], threads=threads).tobytes()
    )
