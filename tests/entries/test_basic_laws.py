"""Laws of ties, dare and breadcrumbs, and what they refuse."""

import math

import numpy as np
import pytest
from entries.basic import ENTRYWISE, FLOAT, draw
from entries.cases import as_type, distance
from helpers import relative
from oracles import linear, ties

from loramix import FormatError, LoramixError, ParamError, combine


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


@pytest.mark.parametrize("method", ["dare", "dare-ties", "della", "della-ties"])
def test_one_more_at_the_end_changes_no_draw_of_the_others(method: str) -> None:
    deltas = list(np.random.default_rng(5).standard_normal((2, 40, 33)).astype(np.float32))
    two = combine(deltas, method, seed=9)
    more = combine([*deltas, np.zeros_like(deltas[0])], method, seed=9)
    front = combine([np.zeros_like(deltas[0]), *deltas], method, seed=9)
    assert np.array_equal(two, more)
    assert not np.array_equal(two, front)
