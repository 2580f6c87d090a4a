"""The laws that methods on entries claim, and those that they say they break.

Every one of these methods says that it jumps somewhere: the last tests are where.
"""

import math
from typing import Any

import numpy as np
import pytest
from entries.cases import (
    CASES,
    CLEANED,
    FLOAT,
    MIXED,
    PLAIN,
    POSITIVE,
    REFINED,
    SPARSE,
    Case,
    as_type,
    bound,
    distance,
    draw,
    laws,
    norm,
)
from oracles import F64

from loramix import METHODS, combine


@laws
@pytest.mark.parametrize("count", [2, 3, 5])
def test_homogeneous(case: Case, count: int) -> None:
    deltas, weights = draw(21, count), MIXED[:count]
    plain = case(as_type(deltas), weights)
    for factor in (2.0, 0.125, 0.3, 2.0**20):
        heavier = case(as_type(deltas), [factor * w for w in weights])
        larger = case([(np.float32(factor) * d).astype(np.float32) for d in deltas], weights)
        for other in (heavier, larger):
            assert distance(other / factor, plain.astype(float), deltas, weights) < bound(case)
            if case.is_plain and math.log2(factor).is_integer():
                assert np.array_equal(other, np.float32(factor) * plain)


@pytest.mark.parametrize(
    ("name", "options", "factor"),
    [
        (name, options, factor)
        for name, options in [
            ("della", {}),
            ("tall", {}),
            ("consensus:clean=false", {}),
            ("ties:density=auto", {}),
            ("dare:only=conflicts", {}),
            ("consensus", {}),
            ("average", {"refine": "refine"}),
            ("slerp", {"sparsify": "dare"}),
            ("slerp", {"refine": "refine-published"}),
            ("ties-published", {"refine": "refine-published"}),
            ("consensus", {"refine": "full-published"}),
        ]
        for factor in [1e-12, 1e12, 1e-24, 1e24]
    ],
)
def test_homogeneous_far_from_one(name: str, options: dict[str, Any], factor: float) -> None:
    deltas, weights = draw(21, 3), [0.9, 0.6, 1.3]
    plain = combine(as_type(deltas), name, weights=weights, **options)
    larger = combine(as_type([factor * d for d in deltas]), name, weights=weights, **options)
    heavier = combine(as_type(deltas), name, weights=[factor * w for w in weights], **options)
    for other in (larger, heavier):
        found = other.astype(np.float64) / factor
        assert distance(found, plain.astype(np.float64), deltas, weights) < CLEANED


@laws
@pytest.mark.parametrize("count", [2, 3, 5])
def test_odd(case: Case, count: int) -> None:
    deltas, weights = draw(22, count), POSITIVE[:count]
    plain = case(as_type(deltas), weights).astype(float)
    lighter = case(as_type(deltas), [-w for w in weights])
    negative = case(as_type([-d for d in deltas]), weights)
    turned = case(as_type([-deltas[0], *deltas[1:]]), [-weights[0], *weights[1:]])
    for got, expected in ((lighter, -plain), (negative, -plain), (turned, plain)):
        assert distance(got, expected, deltas, weights) < 1e-6
        if case.is_plain:
            assert np.array_equal(got, expected)


@laws
def test_the_order_matters_only_where_the_method_says_so(case: Case) -> None:
    deltas, weights = draw(23, 4), MIXED[:4]
    plain, order = case(as_type(deltas), weights).astype(float), [2, 0, 3, 1]
    other = case(as_type([deltas[i] for i in order]), [weights[i] for i in order])
    found = distance(other, plain, deltas, weights)
    assert (found < bound(case)) == ("permutation" not in case.breaks or case.keeps_order)
    assert found < bound(case) or found > 1e-2


@laws
@pytest.mark.parametrize("weight", [1.0, -0.7, 0.0])
def test_one_adapter_is_itself_times_its_weight(case: Case, weight: float) -> None:
    (delta,) = draw(24, 1)
    for deltas, weights in (([delta], [weight]), ([delta, delta, delta], [0.0, weight, 0.0])):
        got = case(deltas, weights)
        assert np.array_equal(got, weight * delta)


@laws
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("weight", [1.0, -0.6])
def test_equal_adapters(case: Case, count: int, weight: float) -> None:
    (delta,) = draw(25, 1)
    got = case(as_type([delta] * count), [weight] * count)
    mean = METHODS[case.method.partition(":")[0]].mean
    expected = weight * delta * (1 if mean else count)
    kept = distance(got, expected, [delta], [weight]) < 1e-5
    assert kept == ("identical" not in case.breaks or case.keeps_equals)


@laws
def test_equal_adapters_of_different_weights_add_up(case: Case) -> None:
    if METHODS[case.method.partition(":")[0]].mean:
        return
    (delta,) = draw(26, 1)
    got = case(as_type([delta] * 3), [1.0, 0.25, 0.5])
    kept = distance(got, 1.75 * delta, [delta], [1.0]) < 1e-5
    assert kept == ("identical" not in case.breaks or case.keeps_equals)


@pytest.mark.parametrize("refine", ["none", "refine"])
@pytest.mark.parametrize("name", ["linear", "ortho"])
def test_twice_at_half_the_weight_is_once(name: str, refine: Any) -> None:
    first, second = draw(27, 2)
    # Of one adapter alone the result is the adapter, so this is about the pair.
    got = combine(as_type([first, first]), name, weights=[0.35, 0.35], refine=refine)
    assert distance(got, 0.7 * first, [first], [0.7]) < FLOAT
    if refine == "none" and name == "linear":
        thrice = combine(as_type([first, first, second]), name, weights=[0.35, 0.35, 1.0])
        twice = combine(as_type([first, second]), name, weights=[0.7, 1.0])
        assert distance(thrice, twice.astype(float), [first, second], [0.7, 1.0]) < FLOAT


def crossing(delta: F64, place: tuple[int, int], ratio: float) -> F64:
    """A second delta whose entry at a place is ``1 / ratio`` of the first's."""
    other = 0.9 * delta
    other[place] = delta[place] / ratio
    return other


@pytest.mark.parametrize(
    "case",
    [c for c in [*PLAIN, *REFINED] if c.means.lambda_ == 3.0 and c.means.keep is None],
    ids=str,
)
def test_an_entry_is_selfish_or_not(case: Case) -> None:
    assert "continuity" in case.breaks
    delta = draw(28, 1, (4, 5))[0]
    place = np.unravel_index(int(np.argmax(np.abs(delta))), delta.shape)
    below, above = (
        case([delta, crossing(delta, (int(place[0]), int(place[1])), ratio)], [1.0, 1.0])
        for ratio in (3 - 1e-5, 3 + 1e-5)
    )
    jump = abs(float(above[place] - below[place])) / abs(float(delta[place]))
    # A sum counts it in full either way: only what the rest is turned by changes.
    assert jump > (1e-2 if METHODS[case.method.partition(":")[0]].mean else 1e-3)


def test_della_jumps_where_magnitudes_change_places() -> None:
    below, above = np.linspace(1.0, 2.0, 10)[None], np.linspace(1.0, 2.0, 10)[None]
    below[0, 4], above[0, 4] = below[0, 5] - 1e-6, below[0, 5] + 1e-6
    zeros = np.zeros_like(below)
    changes = [
        norm(combine([below, zeros], "della", seed=s) - combine([above, zeros], "della", seed=s))
        for s in range(300)
    ]
    assert max(changes) > 1.0  # kept here, dropped there


@pytest.mark.parametrize("clean", ["true", "false"])
def test_consensus_jumps_where_an_adapter_appears(clean: str) -> None:
    deltas = [np.eye(8), np.ones((8, 8)) - np.eye(8)]
    absent = combine(deltas, f"consensus:clean={clean}", weights=[1.0, 0.0])
    present = combine(deltas, f"consensus:clean={clean}", weights=[1.0, 1e-6])
    assert norm(present - absent) > 0.1


@pytest.mark.parametrize("clean", ["true", "false"])
@pytest.mark.parametrize("kinship", [0.0, 1.0, 3.0])
def test_consensus_changes_little_elsewhere(clean: str, kinship: float) -> None:
    deltas, weights = draw(29, 3, (48, 40), kinship), [1.0, 0.6, 0.8]
    method = f"consensus:clean={clean}"
    plain = combine(deltas, method, weights=weights)
    rng = np.random.default_rng(30)
    for _ in range(4):
        moved = [d + 1e-5 * norm(d) / math.sqrt(d.size) * rng.normal(size=d.shape) for d in deltas]
        assert norm(combine(moved, method, weights=weights) - plain) < 1e-3 * norm(plain)


GATES = [
    c for c in CASES
    if str(c) in {
        "consensus|none", "consensus:clean=false|none", "tall:lambda=3|none",
        "ties:density=auto,energy=0.95,vote=mass|none",
        "dare:density=0.4,only=conflicts,guard=calibrated,fallback=everywhere|none",
        "della-ties:density=0.4,only=conflicts,guard=calibrated,fallback=nowhere|none",
    } or c in REFINED or (c in SPARSE and "dampening" not in str(c) and c.method != "model-stock")
]  # fmt: skip


@pytest.mark.parametrize("case", GATES, ids=str)
def test_the_norm_does_not_jump_at_right_angles(case: Case) -> None:
    # Item 5: a change of the cosine from -0.001 to 0.001 changes the norm by less than 1 %.
    rng = np.random.default_rng(31)
    first, second = rng.normal(size=(2, 128, 96))
    second -= np.vdot(first, second) / np.vdot(first, first) * first
    second *= norm(first) / norm(second)
    sizes = [norm(case([first, second + c * first], [1.0, 0.8])) for c in (-1e-3, 1e-3)]
    assert abs(sizes[1] / sizes[0] - 1) < 1e-2
