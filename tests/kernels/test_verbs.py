"""Each verb against its definition, on every kind, shape and layout."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import F64
from kernels.arrays import (
    KINDS,
    ON_ONE,
    ON_SEVERAL,
    SHAPES,
    WEIGHTS,
    WHOLE,
    assert_like,
    draw,
    laid,
    made,
    truth,
)
from oracles import keep_largest, keep_random, philox, winning_sign

import loramix
from loramix import kernels

LAYOUTS = ["plain", "reversed axes", "every second"]

DIGITS = {"float64": 2e-7, "float32": 2e-7, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Of a few roundings to f32 and one to the type."""


def assert_near(result: Any, expected: F64) -> None:
    """Within the digits of the result's type, relative to each entry."""
    name = str(result.dtype).removeprefix("torch.")
    tiny = 1e-6 if name == "float16" else 0.0  # where its numbers get sparse
    np.testing.assert_allclose(truth(result), expected, rtol=DIGITS[name], atol=tiny)


def ranked(value: F64, density: float, spread: float, seed: int, key: int) -> F64:
    """DELLA on one delta, row by row."""
    wide = value.reshape(value.shape[0], -1) if value.ndim > 1 else value.reshape(1, -1)
    draws = (philox(seed, key, 0, wide.size) >> 8).reshape(wide.shape) * 2.0**-24
    spread = min(spread, 2 * min(density, 1 - density))
    result = np.zeros_like(wide)
    for row in range(wide.shape[0]):
        order = np.argsort(-np.abs(wide[row]), kind="stable")
        for place, at in enumerate(order):
            keep = density + spread * (0.5 - (place + 0.5) / len(order))
            if draws[row, at] < np.float32(keep):
                result[row, at] = wide[row, at] / keep
    return result.reshape(value.shape)


ONE: dict[str, tuple[Callable[[Any], Any], Callable[[F64], F64]]] = {
    "trim": (lambda d: kernels.trim(d, 0.3), lambda d: keep_largest(d, 0.3)),
    "trim outliers": (
        lambda d: kernels.trim(d, 0.5, outliers=0.1),
        lambda d: keep_largest(d, 0.5, 0.1),
    ),
    "trim nothing": (lambda d: kernels.trim(d, 1.0), lambda d: d),
    "dare": (
        lambda d: kernels.dare(d, 0.4, dampening=0.25, seed=5, key=9),
        lambda d: keep_random(d, 0.4, 0.55, seed=5, target=9, place=0),
    ),
    "della": (
        lambda d: kernels.della(d, 0.6, epsilon=0.5, seed=5, key=2**63),
        lambda d: ranked(d, 0.6, 0.5, 5, 2**63),
    ),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ONE)
def test_a_verb_on_one_delta(verb: str, kind: str, shape: tuple[int, ...]) -> None:
    run, oracle = ONE[verb]
    delta = made(draw(shape)[0], kind)
    before = truth(delta).copy()
    result = run(delta)
    assert_like(result, delta)
    expected = oracle(before)
    if verb.startswith("trim"):
        np.testing.assert_array_equal(truth(result), expected)
    else:
        assert_near(result, expected)
    np.testing.assert_array_equal(truth(delta), before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (31,), (33, 31), (6, 5, 3, 3)], ids=str)
def test_memory_layout_does_not_matter(kind: str, layout: str, shape: tuple[int, ...]) -> None:
    plain = [made(d, kind) for d in draw(shape)]
    moved = [laid(d, layout) for d in plain]
    for verb in ON_ONE:
        got, expected = getattr(kernels, verb)(moved[0], 0.4), getattr(kernels, verb)(plain[0], 0.4)
        np.testing.assert_array_equal(truth(got), truth(expected))
    for verb in (*ON_SEVERAL, *WHOLE):
        got, expected = getattr(kernels, verb)(moved), getattr(kernels, verb)(plain)
        np.testing.assert_array_equal(truth(got), truth(expected))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gram(kind: str, shape: tuple[int, ...]) -> None:
    deltas = [made(d, kind) for d in draw(shape, 4)]
    got = kernels.gram(deltas)
    flat = np.stack([truth(d).ravel() for d in deltas])
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float64
    scale = float(np.square(flat).sum(axis=1).max(initial=0.0))
    np.testing.assert_allclose(got, flat @ flat.T, rtol=0, atol=1e-13 * scale)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 4])
def test_sign_conflict(count: int, kind: str, shape: tuple[int, ...]) -> None:
    deltas = [made(d, kind) for d in draw(shape, count)]
    got = kernels.sign_conflict(deltas)
    signs = [np.sign(truth(d)) for d in deltas]
    expected = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            common = signs[i] * signs[j] != 0
            if common.any():
                expected[i, j] = np.mean((signs[i] != signs[j])[common])
    np.testing.assert_allclose(got, expected, rtol=1e-15)
    assert not np.diag(got).any()


def test_sign_conflict_sees_what_float32_does_not() -> None:
    tiny = np.array([1e-300, -1e-300, 5e-324, 0.0])
    np.testing.assert_array_equal(
        kernels.sign_conflict([tiny, -tiny, abs(tiny)]),
        np.array([[0, 1, 1 / 3], [1, 0, 2 / 3], [1 / 3, 2 / 3, 0]]),
    )


def test_sign_conflict_of_gaussians_is_their_angle() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 1_000_000))
    for cosine in (-0.9, 0.0, 0.5):
        other = cosine * x + math.sqrt(1 - cosine**2) * y
        share = kernels.sign_conflict([x, other])[0, 1]
        assert abs(share - math.acos(cosine) / math.pi) < 0.003


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vote", ["mass", "count"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_elect_sign(
    weights: list[float] | None, vote: Any, kind: str, shape: tuple[int, ...]
) -> None:
    deltas = [made(d, kind) for d in draw(shape)]
    got = kernels.elect_sign(deltas, weights=weights, vote=vote)
    assert_like(got, deltas[0])
    members = [w * truth(d) for w, d in zip(weights or [1, 1, 1], deltas, strict=True)]
    np.testing.assert_array_equal(truth(got), winning_sign(members, vote))


@pytest.mark.parametrize("vote", ["mass", "count"])
def test_elect_sign_of_draws_is_odd_and_has_no_order(vote: Any) -> None:
    deltas = list(np.random.default_rng(0).integers(-2, 3, size=(4, 5000)).astype(np.float64))
    got = kernels.elect_sign(deltas, vote=vote)
    np.testing.assert_array_equal(got, winning_sign(deltas, vote))
    assert (got == 0).any()
    np.testing.assert_array_equal(kernels.elect_sign([-d for d in deltas], vote=vote), -got)
    np.testing.assert_array_equal(kernels.elect_sign(deltas, vote=vote, weights=[-1] * 4), -got)
    np.testing.assert_array_equal(kernels.elect_sign(deltas[::-1], vote=vote), got)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lambda_", [1.0, 3.0])
def test_tall_masks(lambda_: float, kind: str, shape: tuple[int, ...]) -> None:
    deltas = [made(d, kind) for d in draw(shape)]
    got = kernels.tall_masks(deltas, weights=WEIGHTS, lambda_=lambda_)
    assert isinstance(got, torch.Tensor) == kind.startswith("torch")
    assert str(got.dtype).removeprefix("torch.") == "bool"
    assert tuple(got.shape) == (3, *shape)
    sizes = np.stack([abs(w) * abs(truth(d)) for w, d in zip(WEIGHTS, deltas, strict=True)])
    for i in range(3):
        others = np.delete(sizes, i, axis=0).max(axis=0)
        expected = (sizes[i] > others) & (sizes[i] >= lambda_ * others)
        np.testing.assert_array_equal(np.asarray(got)[i], expected)


def test_tall_masks_are_what_the_method_sets_aside() -> None:
    deltas, weights = draw((40, 50)), [0.75, -1.5, 0.25]
    masks = kernels.tall_masks(deltas, weights=weights)
    rest = [np.where(mask, 0.0, d) for mask, d in zip(masks, deltas, strict=True)]
    signs = [
        1.5 * np.sign(w) * np.where(m, d, 0.0)
        for m, d, w in zip(masks, deltas, weights, strict=True)
    ]
    share = 1.5 / sum(abs(w) for w in weights)
    expected = sum(w * d for w, d in zip(weights, rest, strict=True)) * share + sum(signs)
    assert 0.1 < masks.mean() < 0.3
    np.testing.assert_allclose(
        loramix.combine(deltas, "tall", weights=weights), expected, rtol=1e-5, atol=1e-6
    )
