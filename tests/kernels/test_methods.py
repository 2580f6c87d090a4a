"""Whole methods as verbs, how verbs agree with each other, and what they rank by."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from kernels.arrays import ON_ONE, SHAPES, TILE, WEIGHTS, assert_like, draw, made, truth
from oracles import dare_ties, ties

import loramix
from loramix import kernels


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["numpy-float32", "torch-bfloat16", "torch-float64"])
def test_whole_methods_are_those_of_combine(kind: str, shape: tuple[int, ...]) -> None:
    deltas = [made(d, kind) for d in draw(shape)]
    pairs = {
        "ties:density=0.3,vote=count": kernels.ties(deltas, 0.3, weights=WEIGHTS, vote="count"),
        "ties:density=auto": kernels.ties(deltas, "auto", weights=WEIGHTS),
        "dare-ties:density=0.6,dampening=0.5": kernels.dare_ties(
            deltas, 0.6, dampening=0.5, weights=WEIGHTS, seed=4
        ),
        "della-ties:density=0.6,epsilon=0.4": kernels.della_ties(
            deltas, 0.6, epsilon=0.4, weights=WEIGHTS, seed=4
        ),
    }
    if math.prod(shape) < 10_000:  # a singular value decomposition
        pairs["consensus"] = kernels.consensus(deltas, weights=WEIGHTS)
        pairs["consensus:clean=no"] = kernels.consensus(deltas, weights=WEIGHTS, clean=False)
    for method, got in pairs.items():
        expected = loramix.combine(deltas, method, weights=WEIGHTS, seed=4)
        assert_like(got, deltas[0])
        np.testing.assert_array_equal(truth(got), truth(expected), err_msg=method)


@pytest.mark.parametrize("shape", [(31,), (TILE + 1,), (300, 401), (6, 5, 3, 3)], ids=str)
def test_whole_methods_are_their_definitions(shape: tuple[int, ...]) -> None:
    deltas = draw(shape)
    single = [d.astype(np.float32) for d in deltas]
    near: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(
        kernels.ties(single, 0.3, weights=WEIGHTS), ties(deltas, WEIGHTS, 0.3), **near
    )
    np.testing.assert_allclose(
        kernels.dare_ties(single, 0.6, weights=WEIGHTS, seed=4),
        dare_ties(deltas, WEIGHTS, 0.6, seed=4),
        **near,
    )
    squares = [np.square(d) for d in deltas]
    above = sum(w * d * s for w, d, s in zip(WEIGHTS, deltas, squares, strict=True))
    below = sum(abs(w) * s for w, s in zip(WEIGHTS, squares, strict=True))
    point = 2.0 * above / np.where(below > 0, below, 1.0)
    lengths = [abs(w) * np.linalg.norm(d) for w, d in zip(WEIGHTS, deltas, strict=True)]
    norm = 2.0 * sum(lengths) / 3.5
    gain = min(norm / float(np.linalg.norm(point)), 2.0)
    got = kernels.consensus(single, weights=WEIGHTS, clean=False)
    np.testing.assert_allclose(got, gain * point, **near)


def test_the_verbs_agree_with_each_other() -> None:
    """Trim, elect and average by hand is ties; dare is the first of a stack."""
    deltas = [d.astype(np.float32) for d in draw((70, 90))]
    trimmed = [kernels.trim(d, 0.4) for d in deltas]
    sign = kernels.elect_sign(trimmed)
    agree = [np.where(np.sign(t) == sign, t, 0) for t in trimmed]
    heads = sum((a != 0).astype(np.float64) for a in agree)
    by_hand = sum(a.astype(np.float64) for a in agree) / np.maximum(heads, 1)
    np.testing.assert_allclose(kernels.ties(deltas, 0.4), by_hand, rtol=1e-6)
    nothing = np.zeros_like(deltas[0])
    stack = loramix.combine([deltas[0], nothing], "dare:density=0.3", seed=8)
    np.testing.assert_array_equal(kernels.dare(deltas[0], 0.3, seed=8), stack)


def test_a_key_is_a_stream_of_its_own() -> None:
    ones = np.ones(100_000, dtype=np.float32)
    kept = [kernels.dare(ones, 0.5, seed=s, key=k) != 0 for s, k in [(0, 0), (0, 1), (1, 0)]]
    for i in range(3):
        assert abs(kept[i].mean() - 0.5) < 0.01
        for j in range(i):
            assert abs((kept[i] & kept[j]).mean() - 0.25) < 0.01


@pytest.mark.parametrize("shape", [(3 * TILE,), (2 * TILE + 3,), (300, 801)], ids=str)
def test_threads_change_no_bit(shape: tuple[int, ...]) -> None:
    deltas = [d.astype(np.float32) for d in draw(shape)]
    for verb in ON_ONE:
        runs = [getattr(kernels, verb)(deltas[0], 0.4, threads=n) for n in (1, 2, 7)]
        assert runs[0].tobytes() == runs[1].tobytes() == runs[2].tobytes()
    for verb in (
        "gram",
        "sign_conflict",
        "elect_sign",
        "tall_masks",
        "ties",
        "dare_ties",
        "della_ties",
    ):
        runs = [getattr(kernels, verb)(deltas, threads=n) for n in (1, 2, 7)]
        assert runs[0].tobytes() == runs[1].tobytes() == runs[2].tobytes()


def test_trim_returns_float64_entries_as_they_are() -> None:
    delta = np.random.default_rng(1).normal(size=1000)
    for array in (delta, torch.from_numpy(delta.copy())):
        got = truth(kernels.trim(array, 0.25))
        assert np.count_nonzero(got) == 250
        np.testing.assert_array_equal(got[got != 0], delta[got != 0])
        assert abs(got[got != 0]).min() >= abs(delta[got == 0]).max()


@pytest.mark.parametrize("density", [1e-9, 0.01, 0.5, 0.999, 1.0])
def test_equal_magnitudes_are_kept_in_index_order(density: float) -> None:
    delta = np.where(np.arange(70_000) % 3 == 0, -1.0, 1.0).astype(np.float32)
    kept = max(1, math.floor(density * delta.size * (1 + 1e-12)))
    got = kernels.trim(delta, density)
    np.testing.assert_array_equal(got[:kept], delta[:kept])
    assert not got[kept:].any()
