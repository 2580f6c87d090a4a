"""Ties, dare and breadcrumbs equal their definitions on arrays of any shape and type."""

from collections.abc import Mapping

import numpy as np
import pytest
from entries.basic import DENSITIES, ENTRYWISE, FLOAT, MEANINGS, WEIGHTS, Truth, draw
from entries.cases import as_type, distance
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import breadcrumbs, dare, dare_ties, linear, philox, ties

from loramix import combine

steady = settings(derandomize=True, max_examples=30, deadline=None, database=None)

# Text of the method, and what it means: deltas, weights, hash of the target.
SPELLED: Mapping[str, Truth] = {
    **{f"ties:density={p}": lambda d, w, _, p=p: ties(d, w, p) for p in DENSITIES},
    **{
        f"ties:density={p},vote=count": lambda d, w, _, p=p: ties(d, w, p, "count")
        for p in DENSITIES
    },
    **{f"dare:density={p}": lambda d, w, t, p=p: dare(d, w, p, target=t) for p in DENSITIES},
    "dare:density=0.3,dampening=0.4": lambda d, w, t: dare(d, w, 0.3, 0.4, target=t),
    **{
        f"dare-ties:density={p}": lambda d, w, t, p=p: dare_ties(d, w, p, target=t)
        for p in DENSITIES
    },
    "dare-ties:density=0.7,dampening=0.9": lambda d, w, t: dare_ties(d, w, 0.7, 0.9, target=t),
    **{
        f"breadcrumbs:density={p},outliers={g}": lambda d, w, _, p=p, g=g: breadcrumbs(d, w, p, g)
        for p, g in [(0.05, 0.5), (0.2, 0.1), (0.5, 0.01), (0.9, 0.1), (1.0, 0.0)]
    },
}


def test_the_random_words_are_those_of_the_specification() -> None:
    found = [philox(0, 0, 0, 6)[0], philox(0, 0, 0, 6)[5], philox(1, 2, 3, 5)[4]]
    assert [f"{word:08x}" for word in found] == ["6627e8d5", "5cb200db", "21260774"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("method", SPELLED)
def test_equal_to_the_oracle(method: str, count: int) -> None:
    deltas, weights = draw(count, count, (31, 23)), WEIGHTS[:count]
    got = combine(as_type(deltas), method, weights=weights)
    assert got.dtype == np.float32
    expected = SPELLED[method](deltas, weights, 0)
    assert distance(got, expected, deltas, weights) < FLOAT * 20  # dare divides by 0.05


@pytest.mark.parametrize("method", ["ties", "ties:vote=count", "dare", "dare-ties", "breadcrumbs"])
@steady
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    weights=st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=6),
)
def test_equal_to_the_oracle_in_every_shape(
    method: str, seed: int, shape: tuple[int, int], weights: list[float]
) -> None:
    deltas = draw(seed, len(weights), shape)
    truths: Mapping[str, Truth] = {
        "ties": lambda d, w, _: ties(d, w),
        "ties:vote=count": lambda d, w, _: ties(d, w, vote="count"),
        "dare": lambda d, w, _: dare(d, w),
        "dare-ties": lambda d, w, _: dare_ties(d, w),
        "breadcrumbs": lambda d, w, _: breadcrumbs(d, w),
    }
    got = combine(as_type(deltas), method, weights=weights)
    assert distance(got, truths[method](deltas, weights, 0), deltas, weights) < FLOAT


EDGES = [
    (1, 1), (1, 7), (7, 1), (2, 2), (1, 65535), (1, 65536), (1, 65537), (65535, 1), (65536, 1),
    (65537, 1), (255, 5), (256, 5), (257, 5), (255, 257), (256, 256), (257, 255), (3, 65537),
    (31, 2), (32, 2), (33, 2), (47, 3), (48, 3), (49, 3),
]  # fmt: skip


@pytest.mark.parametrize("shape", EDGES, ids=str)
@pytest.mark.parametrize("method", MEANINGS)
def test_equal_to_the_oracle_at_the_edges_of_tiles(method: str, shape: tuple[int, int]) -> None:
    deltas, weights = draw(3, 3, shape), [1.0, -0.5, 2.0]
    got = combine(as_type(deltas), method, weights=weights)
    assert distance(got, MEANINGS[method](deltas, weights, 0), deltas, weights) < FLOAT


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3), (0, 0)], ids=str)
@pytest.mark.parametrize("name", ENTRYWISE)
def test_nothing_in_nothing_out(name: str, shape: tuple[int, ...]) -> None:
    got = combine([np.ones(shape), np.ones(shape)], name)
    assert got.shape == shape
    assert got.dtype == np.float64


@pytest.mark.parametrize("shape", [(), (1,), (77,), (4, 5, 6), (3, 2, 3, 3), (1, 1, 9)], ids=str)
@pytest.mark.parametrize("method", MEANINGS)
def test_arrays_of_any_number_of_axes(method: str, shape: tuple[int, ...]) -> None:
    deltas, weights = draw(4, 3, shape), [1.0, 0.5, -0.25]
    got = combine(as_type(deltas), method, weights=weights)
    assert got.shape == shape
    assert distance(got, MEANINGS[method](deltas, weights, 0), deltas, weights) < FLOAT


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("method", MEANINGS)
def test_arrays_of_every_type(method: str, dtype: str) -> None:
    # Values of a coarser type have equal magnitudes, so this is about ties too.
    kind = "float16" if dtype == "float16" else "float32"
    deltas, weights = draw(5, 4, (64, 48), kind), [1.0, -0.5, 0.25, 2.0]
    got = combine(as_type(deltas, dtype), method, weights=weights)
    assert got.dtype == np.dtype(dtype)
    bound = 1e-3 if dtype == "float16" else FLOAT
    assert distance(got, MEANINGS[method](deltas, weights, 0), deltas, weights) < bound


@pytest.mark.parametrize("place", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ENTRYWISE)
def test_members_of_weight_zero_are_absent(name: str, place: int) -> None:
    deltas, weights = as_type(draw(6, 4, (20, 30))), [1.0, -0.5, 0.7, 0.3]
    weights[place] = 0.0
    rest = [i for i in range(4) if i != place]
    absent = combine([deltas[i] for i in rest], name, weights=[weights[i] for i in rest])
    assert np.array_equal(combine(deltas, name, weights=weights), absent)


@pytest.mark.parametrize("weights", [[0.7, 0.0, 0.0], [0.0, 0.0, -1.3], [0.0, 1.0, 0.0]])
@pytest.mark.parametrize("name", ENTRYWISE)
def test_one_member_that_is_left_is_exact(name: str, weights: list[float]) -> None:
    deltas = draw(7, 3, (20, 30))
    got = combine(deltas, name, weights=weights)
    assert np.array_equal(got, linear(deltas, weights))
