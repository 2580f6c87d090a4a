"""Methods that decide entry by entry: which entries they keep, who wins, what is written.

Deltas hold float32 values, so that the oracle ranks what the package ranks.  Random data has no
near ties; ties are made by hand from integers and powers of two.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from formats.builders import Built, diffusers, kohya
from helpers import F64, MODULES, Pair, Stack, delta_of, pair, pairs, read_safetensors, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import breadcrumbs, dare, dare_ties, keep_largest, keep_random, linear, philox, ties

from loramix import (
    METHODS,
    FormatError,
    LoramixError,
    Output,
    OutputError,
    ParamError,
    combine,
    load,
    merge,
)
from loramix.formats.layout import Module, load_layout

ENTRYWISE = sorted(name for name in METHODS if hasattr(METHODS[name], "program"))
DENSITIES = [0.05, 0.2, 0.5, 0.9, 1.0]
FLOAT = 3e-6
"""Of a few sums and products in f32, relative to what goes in."""

steady = settings(derandomize=True, max_examples=30, deadline=None, database=None)
Truth = Callable[[Sequence[F64], Sequence[float], int], F64]

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
ONE_OF_EACH = ["ties:density=0.3", "dare:density=0.3", "dare-ties:density=0.6", "breadcrumbs"]
MEANINGS: Mapping[str, Truth] = {
    "ties:density=0.3": lambda d, w, _: ties(d, w, 0.3),
    "ties:density=0.3,vote=count": lambda d, w, _: ties(d, w, 0.3, "count"),
    "dare:density=0.3": lambda d, w, t: dare(d, w, 0.3, target=t),
    "dare-ties:density=0.6": lambda d, w, t: dare_ties(d, w, 0.6, target=t),
    "breadcrumbs": lambda d, w, _: breadcrumbs(d, w),
}
WEIGHTS = [0.9, -0.6, 1.3, 0.4, -1.1, 0.7]


def draw(seed: int, count: int, shape: tuple[int, ...], dtype: str = "float32") -> list[F64]:
    """Random deltas of different norms that share a part, rounded to a type."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=shape)
    sizes = np.exp(rng.uniform(-1, 1, size=count))
    found = [size * (0.7 * common + rng.normal(size=shape)) for size in sizes]
    return [delta.astype(dtype).astype(np.float64) for delta in found]


def as_type(deltas: Sequence[F64], dtype: str = "float32") -> list[Any]:
    return [delta.astype(dtype) for delta in deltas]


def distance(got: Any, expected: F64, deltas: Sequence[F64], weights: Sequence[float]) -> float:
    """Largest difference of an entry over the largest that goes in."""
    if expected.size == 0:
        return 0.0
    size = sum(abs(w) * float(np.abs(d).max()) for w, d in zip(weights, deltas, strict=True))
    worst = float(np.abs(got.astype(np.float64) - expected).max()) / (size or 1.0)
    return worst if math.isfinite(worst) else math.inf


def hash_of(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def test_the_random_words_are_those_of_the_specification() -> None:
    found = [philox(0, 0, 0, 6)[0], philox(0, 0, 0, 6)[5], philox(1, 2, 3, 5)[4]]
    assert [f"{word:08x}" for word in found] == ["6627e8d5", "5cb200db", "21260774"]


# Equal to the definition.


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


# Which entries are kept.


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


# Random drops.


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


# Laws.


@pytest.mark.parametrize("vote", ["mass", "count"])
def test_ties_of_agreeing_signs_is_the_weighted_mean(vote: str) -> None:
    sign = np.sign(draw(12, 1, (30, 20))[0])
    deltas = [sign * np.abs(delta) for delta in draw(13, 3, (30, 20))]
    weights = [0.5, 1.0, 0.25]
    got = combine(as_type(deltas), f"ties:density=1,vote={vote}", weights=weights)
    assert distance(got, linear(deltas, weights) / 1.75, deltas, weights) < FLOAT


def test_breadcrumbs_and_dare_of_everything_are_the_sum() -> None:
    deltas, weights = draw(14, 3, (30, 20)), [0.5, -1.0, 0.25]
    for method in ("breadcrumbs:density=1,outliers=0", "dare:density=1"):
        got = combine(as_type(deltas), method, weights=weights)
        assert distance(got, linear(deltas, weights), deltas, weights) < FLOAT


@pytest.mark.parametrize("vote", ["mass", "count"])
@pytest.mark.parametrize("density", [0.2, 1.0])
def test_no_sign_is_preferred(density: float, vote: str) -> None:
    # The flaw of a published implementation: zero counts as positive where heads are even.
    rng = np.random.default_rng(15)
    deltas = [rng.normal(size=(400, 300)).astype(np.float32) for _ in range(2)]
    got = combine(deltas, f"ties:density={density},vote={vote}").astype(np.float64)
    assert abs(got.mean()) < 0.02 * got.std()
    positive, negative = np.count_nonzero(got > 0), np.count_nonzero(got < 0)
    assert abs(positive - negative) < 4 * math.sqrt(positive + negative)


def test_even_heads_follow_the_mass() -> None:
    first, second = np.array([[3.0, -3.0, 1.0, 2.0]]), np.array([[-1.0, 1.0, -3.0, -2.0]])
    got = combine(as_type([first, second]), "ties:density=1,vote=count")
    assert np.array_equal(got, [[3.0, -3.0, -3.0, 0.0]])


def test_many_light_heads_outvote_one_heavy_one() -> None:
    deltas = as_type([np.full((1, 2), 5.0), np.full((1, 2), -1.0), np.full((1, 2), -1.0)])
    assert np.array_equal(combine(deltas, "ties:density=1,vote=mass"), [[5.0, 5.0]])
    assert np.array_equal(combine(deltas, "ties:density=1,vote=count"), [[-1.0, -1.0]])


# Refusals.


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("ties:densty=0.3", ["ties", "densty", "density", "vote"]),
        ("ties:density=x", ["ties", "density", "x", "number"]),
        ("ties:density=", ["ties", "density"]),
        ("ties:density=0", ["ties", "density", "(0, 1]"]),
        ("ties:density=1.01", ["ties", "density", "(0, 1]"]),
        ("ties:density=-0.1", ["ties", "density", "(0, 1]"]),
        ("ties:density=nan", ["ties", "density", "(0, 1]"]),
        ("ties:density=inf", ["ties", "density", "(0, 1]"]),
        ("dare:density=0", ["dare", "density"]),
        ("dare:dampening=1", ["dare", "dampening", "[0, 1)"]),
        ("dare:dampening=-0.5", ["dare", "dampening", "[0, 1)"]),
        ("dare:vote=count", ["dare", "vote", "density, dampening"]),
        ("dare-ties:dampening=nan", ["dare-ties", "dampening"]),
        ("breadcrumbs:outliers=1", ["breadcrumbs", "outliers", "[0, 1)"]),
        ("breadcrumbs:density=0.9,outliers=0.2", ["breadcrumbs", "0.9", "0.2"]),
        ("linear:density=1", ["linear", "density", "none"]),
        ("tie", ["tie", "ties"]),
        ("tie:density=0.3", ["tie", "ties"]),
    ],
)
def test_bad_parameters_are_refused_by_name(method: str, words: list[str]) -> None:
    with pytest.raises(ParamError) as caught:
        combine([np.ones((2, 2))], method)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("text", ["foo", "none", "", "Mass"])
@pytest.mark.parametrize("count", [1, 2])
def test_an_unknown_vote_is_refused(count: int, text: str) -> None:
    with pytest.raises(ParamError, match=r"vote.*mass.*count"):
        combine([np.ones((2, 2))] * count, f"ties:vote={text}")


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ParamError, match="seed"):
        combine([np.ones((2, 2))] * 2, "dare", seed=seed)


@pytest.mark.parametrize("method", ["ties:density=0.3,vote=count", "ties:vote=count,density=0.3"])
def test_parameters_in_any_order(method: str) -> None:
    deltas = as_type(draw(16, 3, (9, 8)))
    got = combine(deltas, method)
    wide = [delta.astype(np.float64) for delta in deltas]
    assert relative(got.astype(np.float64), ties(wide, [1.0] * 3, 0.3, "count")) < FLOAT


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("name", ENTRYWISE)
def test_what_is_not_a_number_is_refused(name: str, dtype: str, value: float) -> None:
    deltas = as_type(draw(17, 3, (9, 8)), dtype)
    deltas[2][4, 5] = value
    with pytest.raises(FormatError, match="delta 2 holds"):
        combine(deltas, name)


@pytest.mark.parametrize("name", ["linear", *ENTRYWISE])
def test_refusals_count_members_of_weight_zero_too(name: str) -> None:
    deltas = as_type(draw(17, 3, (9, 8)))
    deltas[2][4, 5] = np.nan
    with pytest.raises(FormatError, match="delta 2 holds"):
        combine(deltas, name, weights=[0.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("dtype", "value", "weight"),
    [
        ("float16", 6e4, 1.0),
        ("float32", 3e38, 1.0),
        ("float64", 1e160, 1.0),
        ("float32", 1.0, 1e39),
        ("float32", 1e30, 1e10),
    ],
)
@pytest.mark.parametrize("name", ["linear", "dare:density=1", "breadcrumbs", "ties:density=1"])
def test_results_are_finite_or_refused(name: str, dtype: str, value: float, weight: float) -> None:
    deltas = [np.full((2, 2), value, dtype=dtype)] * 2
    try:
        with np.errstate(all="ignore"):
            got = combine(deltas, name, weights=[weight, weight])
    except LoramixError:
        return
    assert np.isfinite(got).all()


# Files.


def truth_of(stack: Stack, weights: Sequence[float], method: str) -> dict[str, F64]:
    """The oracle on dense deltas of every target."""
    keys = sorted({key for deltas in stack.deltas for key in deltas})
    found = {}
    for key in keys:
        own = [(d[key], w) for d, w in zip(stack.deltas, weights, strict=True) if key in d]
        found[key] = MEANINGS[method]([d for d, _ in own], [w for _, w in own], hash_of(key))
    return found


def best(delta: F64, rank: int) -> float:
    """Relative error of the best approximation."""
    values = np.linalg.svd(delta, compute_uv=False)
    return float(np.linalg.norm(values[rank:]) / np.linalg.norm(values))


def decaying(seed: int, rank: int, shape: tuple[int, ...], decay: float) -> Pair:
    """Factors whose directions get weaker, as training leaves them."""
    one = pair(np.random.default_rng(seed), shape, rank)
    sizes = decay ** np.arange(rank, dtype=np.float64)
    down = (sizes[:, None] * one.down).astype(np.float32).astype(np.float64)
    return replace(one, down=down)


FULL = Output(rank=10**6, dtype="f32")


@pytest.fixture
def three(tmp_path: Path) -> Stack:
    stack = Stack(tmp_path)
    for seed in range(3):
        stack.add(pairs(seed, 2 + seed))
    return stack


@pytest.mark.parametrize("method", MEANINGS)
def test_files_of_full_rank_equal_the_oracle(method: str, three: Stack) -> None:
    weights = [1.0, -0.6, 0.8]
    merged = merge(three.paths, method, weights=weights, output=FULL)
    written = delta_of(merged.adapter)
    for key, expected in truth_of(three, weights, method).items():
        assert relative(written[key], expected) < 1e-4
    assert all(row.error < 1e-3 for row in merged.log)


@pytest.mark.parametrize("rank", [1, 3, 9, 12])
@pytest.mark.parametrize("method", MEANINGS)
def test_the_cut_is_the_true_error(method: str, rank: int, three: Stack) -> None:
    weights = [1.0, -0.6, 0.8]
    merged = merge(three.paths, method, weights=weights, output=Output(rank=rank, dtype="f32"))
    written, meant = delta_of(merged.adapter), truth_of(three, weights, method)
    for row in merged.log:
        expected = meant[row.target]
        assert row.rank == min(rank, *expected.shape)
        assert row.norm == pytest.approx(np.linalg.norm(expected), rel=1e-5)
        found, least = relative(written[row.target], expected), best(expected, row.rank)
        # How true it is of small errors: `test_the_cut_is_true_where_nothing_is_cut`.
        assert row.cut == pytest.approx(found, rel=0.02, abs=4e-4)
        assert found >= least * (1 - 1e-5) - 1e-6


@pytest.mark.parametrize("method", MEANINGS)
def test_the_sum_of_the_ranks_is_cut_near_the_best(method: str, three: Stack) -> None:
    weights = [1.0, -0.6, 0.8]
    merged = merge(three.paths, method, weights=weights, output=Output(dtype="f32"))
    written, meant = delta_of(merged.adapter), truth_of(three, weights, method)
    for row in merged.log:
        assert row.rank == 9
        least = best(meant[row.target], 9)
        assert relative(written[row.target], meant[row.target]) <= 1.1 * least


@pytest.mark.parametrize("decay", [0.5, 0.1])
@pytest.mark.parametrize("method", MEANINGS)
def test_decaying_adapters_are_cut_near_the_best_too(
    method: str, decay: float, tmp_path: Path
) -> None:
    stack = Stack(tmp_path)
    for seed in range(2):
        stack.add({"unet.proj": decaying(seed, 6, (60, 44), decay)})
    weights = [1.0, -0.7]
    merged = merge(stack.paths, method, weights=weights, output=Output(rank=12, dtype="f32"))
    (expected,) = truth_of(stack, weights, method).values()
    (written,) = delta_of(merged.adapter).values()
    found = relative(written, expected)
    assert merged.log[0].cut == pytest.approx(found, rel=0.02)
    assert found <= 1.1 * best(expected, 12)


@pytest.mark.parametrize("rank", [10, 12, 30, 44, None])
@pytest.mark.parametrize("decay", [1.0, 0.5, 0.1, 0.01])
def test_what_has_low_rank_is_written_whole(decay: float, rank: int | None, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for seed in range(2):
        stack.add({"unet.proj": decaying(10 + seed, 5, (60, 44), decay)})
    weights = [1.0, -0.7]
    output = Output(rank=rank, dtype="f32")
    merged = merge(stack.paths, "dare:density=1", weights=weights, output=output)
    (written,) = delta_of(merged.adapter).values()
    found = relative(written, stack.sum(weights)["unet.proj"])
    assert found < 1e-5
    assert merged.log[0].rank <= 10


@pytest.mark.parametrize("rank", [10, 12, 30, 44, None])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_the_cut_is_true_where_nothing_is_cut(
    decay: float, rank: int | None, tmp_path: Path
) -> None:
    stack = Stack(tmp_path)
    for seed in range(2):
        stack.add({"unet.proj": decaying(20 + seed, 5, (60, 44), decay)})
    output = Output(rank=rank, dtype="f32")
    merged = merge(stack.paths, "dare:density=1", weights=[1.0, -0.7], output=output)
    (written,) = delta_of(merged.adapter).values()
    found = relative(written, stack.sum([1.0, -0.7])["unet.proj"])
    assert abs(merged.log[0].cut - found) < 1e-5


@pytest.mark.parametrize("method", MEANINGS)
def test_targets_of_one_adapter_are_exact(method: str, tmp_path: Path) -> None:
    stack, names = Stack(tmp_path), list(MODULES)
    stack.add(pairs(1, 3))
    stack.add(pairs(2, 3, modules={names[0]: MODULES[names[0]]}))
    merged = merge(stack.paths, method, weights=[0.7, -0.5], output=Output(dtype="f32"))
    written = delta_of(merged.adapter)
    for name in names[1:]:
        assert relative(written[name], 0.7 * stack.deltas[0][name]) < 1e-6
    ranks = {row.target: (row.members, row.rank) for row in merged.log}
    assert all(ranks[name] == (1, 3) for name in names[1:])
    # And where the other has no weight.
    alone = delta_of(merge(stack.paths, method, weights=[0.7, 0.0]).adapter)
    assert relative(alone[names[0]], 0.7 * stack.deltas[0][names[0]]) < 1e-6


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_an_energy_gives_the_smallest_rank_that_keeps_it(
    method: str, energy: float, three: Stack
) -> None:
    output = Output(rank=100, energy=energy, dtype="f32")
    merged = merge(three.paths, method, output=output)
    meant, written = truth_of(three, [1.0] * 3, method), delta_of(merged.adapter)
    for row in merged.log:
        limit = math.sqrt(1 - energy)
        assert relative(written[row.target], meant[row.target]) <= limit * 1.001
        assert best(meant[row.target], row.rank - 1) > limit * 0.999


@pytest.mark.parametrize("limit", [0.5, 0.2, 0.05, 1e-3, 1e-4])
@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_a_largest_error_gives_the_smallest_rank(method: str, limit: float, three: Stack) -> None:
    merged = merge(three.paths, method, output=Output(rank=100, max_error=limit, dtype="f32"))
    meant, written = truth_of(three, [1.0] * 3, method), delta_of(merged.adapter)
    for row in merged.log:
        assert relative(written[row.target], meant[row.target]) <= limit * 1.001
        assert best(meant[row.target], row.rank - 1) > limit * 0.999


def test_an_error_out_of_reach_is_refused(three: Stack) -> None:
    path = three.folder / "merged.safetensors"
    with pytest.raises(OutputError, match="max_error"):
        merge(three.paths, "dare:density=0.3", output=Output(max_error=0.01), path=path)
    assert not path.exists()


def test_an_error_within_reach_is_not_refused(three: Stack) -> None:
    output = Output(max_error=1e-5, dtype="f32")
    merged = merge(three.paths, "dare:density=1", output=output)
    assert all(row.rank <= 9 for row in merged.log)


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_bytes_of_files_do_not_depend_on_threads(method: str, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for seed in range(3):
        stack.add(pairs(seed, 70, modules={**MODULES, "unet.wide": (300, 700)}))
    found = set()
    for index, threads in enumerate((1, 2, 7, 1, None)):
        path = tmp_path / f"merged-{index}.safetensors"
        merge(stack.paths, method, path=path, threads=threads, output=Output(rank=220))
        found.add(path.read_bytes())
    assert len(found) == 1


def test_seed_and_parameters_are_in_the_file(three: Stack) -> None:
    path = three.folder / "merged.safetensors"
    merged = merge(three.paths, "dare:density=0.3,dampening=0.25", seed=2**64 - 1, path=path)
    text = json.dumps(read_safetensors(path)[1])
    found = merged.plan.provenance(["0"] * 3)
    assert found["seed"] == 2**64 - 1
    limit = {"only": "all", "guard": "calibrated", "fallback": "everywhere"}
    assert found["method"] == {"name": "dare", "density": 0.3, "dampening": 0.25, **limit}
    assert all(word in text for word in ("18446744073709551615", "dampening", "0.25", "0.3"))


def test_plans_of_different_seeds_have_different_digests(three: Stack) -> None:
    first = merge(three.paths, "dare", seed=1)
    second = merge(three.paths, "dare", seed=2)
    same = [np.array_equal(a, b) for a, b in _both(first.adapter, second.adapter)]
    assert not any(same)
    assert first.plan.digest() != second.plan.digest()
    assert merge(three.paths, "dare", seed=1).plan.digest() == first.plan.digest()


def _both(first: Any, second: Any) -> list[tuple[F64, F64]]:
    left, right = delta_of(first), delta_of(second)
    return [(left[key], right[key]) for key in left]


@pytest.mark.parametrize("method", ["linear", *ONE_OF_EACH])
def test_a_file_with_nan_is_named_whatever_the_weights(method: str, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for seed in range(3):
        members = pairs(seed, 3)
        if seed == 2:
            members = {n: replace(p, up=np.full_like(p.up, np.nan)) for n, p in members.items()}
        stack.add(members)
    with pytest.raises(FormatError, match="source-2"):
        merge(stack.paths, method, weights=[0.0, 1.0, 1.0])


@pytest.mark.parametrize("method", ["average", "ties:density=1"])
def test_automatic_strength_leaves_a_mean_of_equals_alone(method: str, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for _ in range(3):
        stack.add(pairs(0, 3))
    merged = merge(stack.paths, method, auto_strength=True, output=Output(dtype="f32"))
    for key, got in delta_of(merged.adapter).items():
        assert relative(got, stack.deltas[0][key]) < 1e-5


# The fused weights of FLUX.

WIDE = 3072
CORNER = (8, 9)
"""Rows and columns of each part that are not zero: small enough for a dense truth."""
KEPT = 30


def flux(folder: Path, name: str, build: Callable[..., Built], seed: int, only: str = "") -> Path:
    """An adapter of one attention whose parts touch a corner of their weights."""
    layout = load_layout("flux1")

    def choose(module: Module) -> bool:
        names = [f"transformer_blocks.0.attn.{x}" for x in ("to_q", "to_k", "to_v")]
        return module.name in names and module.name.endswith(only)

    built = build(layout, choose, 4, seed)
    for tensor in built.tensors.values():
        if tensor.ndim == 2:
            is_up = tensor.shape[1] == 4
            mask = np.zeros_like(tensor)
            rows = [start + i for start in range(0, len(tensor), WIDE) for i in range(CORNER[0])]
            mask[rows if is_up else slice(None), slice(None) if is_up else slice(CORNER[1])] = 1
            tensor *= mask
    return built.save(folder / name)


def corners(source: Any) -> dict[str, F64]:
    """The corners of every part, by the last word of its name."""
    found = {}
    for target, one in source.targets.items():
        up = np.frombuffer(one.up.data, np.float32).reshape(target.rows, -1).astype(np.float64)
        down = np.frombuffer(one.down.data, np.float32).reshape(-1, WIDE)[:, : CORNER[1]]
        dense = one.scale * up @ down
        names = ["to_q", "to_k", "to_v"] if target.rows > WIDE else [target.key[-4:]]
        for index, name in enumerate(names):
            found[name] = dense[index * WIDE :][: CORNER[0]]
    return found


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
@pytest.mark.parametrize("second", ["kohya", "diffusers", "diffusers, q only"])
def test_fused_weights_are_decided_part_by_part(second: str, dialect: str, tmp_path: Path) -> None:
    first = flux(tmp_path, "a.safetensors", kohya, 1)
    build = kohya if second == "kohya" else diffusers
    other = flux(tmp_path, "b.safetensors", build, 60, "to_q" if "only" in second else "")
    density = (KEPT + 0.5) / WIDE**2
    merged = merge(
        [first, other], f"ties:density={density!r}", weights=[1.0, 0.5], architecture="flux1",
        output=Output(rank=32, dtype="f32", dialect=dialect),
    )  # fmt: skip
    sources = [corners(load(path, architecture="flux1")) for path in (first, other)]
    for name, got in corners(merged.adapter).items():
        own = [(s[name], w) for s, w in zip(sources, [1.0, 0.5], strict=True) if name in s]
        share = (KEPT + 0.5) / math.prod(CORNER)
        expected = ties([d for d, _ in own], [w for _, w in own], share)
        assert relative(got, expected) < 1e-3, name
