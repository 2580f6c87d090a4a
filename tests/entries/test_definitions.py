"""Methods on entries, sparsified and refined ones equal their definitions."""

import numpy as np
import pytest
from entries.cases import (
    CASES,
    MIXED,
    PLAIN,
    POSITIVE,
    SHAPE,
    Case,
    as_type,
    bound,
    distance,
    draw,
    is_defined,
    steady,
)
from hypothesis import given
from hypothesis import strategies as st
from oracles_entries import Definition, Thin, keep_energy, merged

from loramix import combine

SIZES = [3e-4, -250.0, 1.0, 17.0, -0.02, 5.0]

cases = pytest.mark.parametrize("case", CASES, ids=str)


@cases
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_equal_to_the_oracle(case: Case, count: int) -> None:
    for weights, seed in ((MIXED, 1), (POSITIVE, 2**63 + 5)):
        deltas = draw(count, count)
        assert is_defined(case, deltas, weights[:count])
        got = case(as_type(deltas), weights[:count], seed=seed)
        assert got.dtype == np.float32
        expected = merged(case.means, deltas, weights[:count], seed=seed)
        assert distance(got, expected, deltas, weights[:count]) < bound(case)


@cases
@pytest.mark.parametrize("shape", [(257, 33), (1, 40), (40, 1), (77,), (5, 4, 3, 3)], ids=str)
def test_equal_to_the_oracle_in_other_shapes(case: Case, shape: tuple[int, ...]) -> None:
    deltas, weights = draw(7, 3, shape), [1.0, 0.5, -0.3]
    assert is_defined(case, deltas, weights)
    got = case(as_type(deltas), weights)
    assert got.shape == shape
    assert distance(got, merged(case.means, deltas, weights), deltas, weights) < bound(case)


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if not (c.method == "slerp" and c.refine != "none")],
    ids=str,
)
@pytest.mark.parametrize("count", [2, 3, 6])
def test_equal_to_the_oracle_for_weights_of_all_sizes(case: Case, count: int) -> None:
    deltas, weights = draw(11, count), SIZES[:count]
    if case.method == "slerp":  # undetermined where a light one opposes a heavy one
        weights = [abs(w) for w in weights]
    assert is_defined(case, deltas, weights)
    got = case(as_type(deltas), weights)
    assert distance(got, merged(case.means, deltas, weights), deltas, weights) < bound(case)


@cases
def test_one_entry_and_none(case: Case) -> None:
    deltas, weights = [np.array([[2.0]]), np.array([[3.0]])], [1.0, 0.5]
    got = case(as_type(deltas), weights)
    assert distance(got, merged(case.means, deltas, weights), deltas, weights) < bound(case)
    for shape in ((0,), (0, 5), (5, 0), (2, 0, 3)):
        assert case([np.ones(shape), np.ones(shape)], weights).shape == shape


@cases
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_delta_of_zero_and_mostly_zero_ones(case: Case, place: int) -> None:
    weights = [0.9, 0.6, -1.1]
    whole = draw(12, 3)
    empty = [*whole[:place], np.zeros(SHAPE), *whole[place + 1 :]]
    rng = np.random.default_rng(13)
    sparse = [d * (rng.random(SHAPE) < 0.1) for d in whole]
    for deltas in (empty, sparse, [np.zeros(SHAPE)] * 3):
        if is_defined(case, deltas, weights):
            got = case(as_type(deltas), weights)
            assert distance(got, merged(case.means, deltas, weights), deltas, weights) < bound(case)


WIDE = [c for c in PLAIN if "della" in c.method or "conflicts" in c.method or "auto" in c.method]


@pytest.mark.parametrize("case", WIDE, ids=str)
@pytest.mark.parametrize("shape", [(1, 65537), (65537, 1), (255, 257)], ids=str)
def test_equal_to_the_oracle_at_the_edges_of_tiles(case: Case, shape: tuple[int, int]) -> None:
    # Weights are powers of two: equal float32 magnitudes are those of the deltas.
    deltas, weights = draw(3, 2, shape), [1.0, -0.5]
    got = case(as_type(deltas), weights)
    assert distance(got, merged(case.means, deltas, weights), deltas, weights) < bound(case)


@pytest.mark.parametrize("case", [c for c in PLAIN if c.means.keep is not None], ids=str)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_zeros_of_the_result_are_those_of_the_oracle(case: Case, count: int) -> None:
    deltas, weights = draw(19, count, (64, 48), 0.0), MIXED[:count]
    got, expected = case(as_type(deltas), weights), merged(case.means, deltas, weights)
    assert np.array_equal(got != 0, expected != 0)


@pytest.mark.parametrize("rule", ["dare:density=0.4", "della:density=0.4", "della:density=0.95"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_masks_of_every_place_are_those_of_the_oracle(rule: str, place: int) -> None:
    name, _, density = rule.partition(":density=")
    thin = Thin("random" if name == "dare" else "ranked", float(density))
    deltas = [np.zeros((40, 30))] * 3
    deltas[place] = draw(20, 1, (40, 30))[0]
    what = Definition("sum", mean=False, keep=thin)
    for seed in (0, 1, 2**64 - 1):
        got = combine(as_type(deltas), rule, seed=seed)
        expected = merged(what, deltas, [1.0] * 3, seed=seed)
        assert np.array_equal(got != 0, expected != 0)
        assert np.allclose(got, expected, rtol=1e-6, atol=0)


@steady
@given(
    seed=st.integers(0, 2**32 - 1),
    levels=st.integers(1, 4),
    energy=st.sampled_from([0.01, 0.3, 0.5, 0.75, 0.95, 0.999]),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_energy_keeps_the_fewest(
    seed: int, levels: int, energy: float, shape: tuple[int, int]
) -> None:
    # Integers: many equal magnitudes, and squares that add up exactly.
    delta = np.random.default_rng(seed).integers(-levels, levels + 1, size=shape).astype(float)
    got = combine(as_type([delta, np.zeros(shape)]), f"ties:density=auto,energy={energy}")
    kept, total = float(np.sum(got.astype(np.float64) ** 2)), float(np.sum(delta**2))
    assert np.array_equal(got, keep_energy(delta, energy))
    assert kept >= energy * total * (1 - 1e-12)
    if np.count_nonzero(got):
        assert kept - float(np.min(got[got != 0] ** 2)) < energy * total
