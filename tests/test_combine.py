"""`combine` equals the oracles for every method, element type, number of deltas and size."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from oracles import F64, is_determined, philox
from oracles_suite import MODIFIED, ORACLES

from loramix import METHODS, combine
from loramix.methods import Subspace

ALL = sorted(METHODS)
SUMS = [name for name in ALL if hasattr(METHODS[name], "coefficients")]
JOINT = [name for name in ALL if isinstance(METHODS[name](), Subspace)]
# No few of them cancel, so that no method divides by almost nothing.
WEIGHTS = [0.9, -0.6, 1.37, 0.43, -1.1, 0.71]
SIZES = [(1, 1), (1, 9), (8, 1), (7, 13), (13, 7), (65, 33)]
DTYPES = ["float64", "float32", "float16", "bfloat16"]
STEP = {"float64": 0.0, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-9}
"""Largest relative rounding error of an element type beside that of the method."""


def draw(seed: int, count: int, shape: tuple[int, ...], dtype: str = "float32") -> list[F64]:
    """Random deltas of different norms that share a part, rounded to a type."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=shape)
    sizes = np.exp(rng.uniform(-1, 1, size=count))
    found = [size * (0.7 * common + rng.normal(size=shape)) for size in sizes]
    return [numbers(as_type(delta, dtype)) for delta in found]


def as_type(delta: F64, dtype: str) -> Any:
    """An array, or a tensor of the type that NumPy does not have."""
    if dtype == "bfloat16":
        return torch.from_numpy(np.asarray(delta)).to(torch.bfloat16)
    return delta.astype(dtype)


def numbers(array: Any) -> F64:
    if isinstance(array, torch.Tensor):
        array = array.to(torch.float64).numpy()
    return np.asarray(array, dtype=np.float64)


def size_of(deltas: Sequence[F64], weights: Sequence[float]) -> float:
    """What errors are relative to: the sum of what goes in."""
    each = zip(weights, deltas, strict=True)
    return sum(abs(weight) * float(np.linalg.norm(delta)) for weight, delta in each)


def bound_of(name: str) -> float:
    """Sums are made in f64; the last vector of Gram-Schmidt has lost half the digits."""
    if name in SUMS:
        return 1e-7 if name == "ortho-published" else 1e-12
    # Noise of the choice and signed sums of weights are small differences.
    return 1e-5 if name in ("consensus", "ties-mergekit") else 1e-6


def weights_of(name: str, deltas: Sequence[F64]) -> list[float]:
    """Weights for which a mean on the sphere is defined."""
    weights = WEIGHTS[: len(deltas)]
    return weights if is_defined(name, deltas, weights) else [abs(w) for w in weights]


def is_defined(name: str, deltas: Sequence[F64], weights: Sequence[float]) -> bool:
    return name not in ("slerp", "karcher") or is_determined(deltas, weights)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("name", ALL)
def test_equal_to_the_oracle_in_every_size(name: str, count: int) -> None:
    seen = 0
    for shape in SIZES[:5] if name == "lego" else SIZES:  # its oracle is O((rows cols)^2)
        deltas = draw(count * 100 + shape[0], count, shape)
        weights = weights_of(name, deltas)
        if not is_defined(name, deltas, weights):
            continue
        seen += 1
        got = combine(deltas, name, weights=weights)
        gap = float(np.linalg.norm(got - ORACLES[name](deltas, weights)))
        assert gap <= bound_of(name) * size_of(deltas, weights), shape
    assert seen >= 2


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3), (0, 0)], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_nothing_in_nothing_out(name: str, shape: tuple[int, ...]) -> None:
    got = combine([np.ones(shape), np.ones(shape)], name)
    assert (got.shape, got.dtype) == (shape, np.float64)


@pytest.mark.parametrize("shape", [(), (1,), (12,), (3, 2, 3, 1), (1, 1, 9)], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_arrays_of_any_number_of_axes(name: str, shape: tuple[int, ...]) -> None:
    deltas = draw(4, 3, shape)
    weights = weights_of(name, deltas)
    got = combine(deltas, name, weights=weights)
    assert got.shape == shape
    if is_defined(name, deltas, weights):
        gap = float(np.linalg.norm(got - ORACLES[name](deltas, weights)))
        assert gap <= bound_of(name) * size_of(deltas, weights)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_equal_to_the_oracle_in_every_type(name: str, dtype: str) -> None:
    # Values of a coarse type have equal magnitudes, so this is about ties too.
    deltas = draw(5, 3, (17, 11), "float32" if dtype == "float64" else dtype)
    weights = [0.75, -0.5, 1.25]
    given = [as_type(delta, dtype) for delta in deltas]
    got = combine(given, name, weights=weights)
    assert (type(got), got.dtype, tuple(got.shape)) == (type(given[0]), given[0].dtype, (17, 11))
    expected = ORACLES[name](deltas, weights)
    room = STEP[dtype] * float(np.linalg.norm(expected))
    gap = float(np.linalg.norm(numbers(got) - expected))
    assert gap <= bound_of(name) * size_of(deltas, weights) + room


@pytest.mark.parametrize("name", ALL)
def test_the_layout_in_memory_does_not_matter(name: str) -> None:
    deltas = draw(12, 2, (9, 6))
    plain = combine(deltas, name, weights=[0.5, 0.25])
    crossed = [np.asfortranarray(delta) for delta in deltas]
    assert np.array_equal(combine(crossed, name, weights=[0.5, 0.25]), plain)


@pytest.mark.parametrize("name", ALL)
def test_bits_do_not_depend_on_threads(name: str) -> None:
    shape = (40, 70) if name in JOINT else (150, 300)
    deltas = [delta.astype(np.float32) for delta in draw(14, 3, shape)]
    first, *others = (
        combine(deltas, name, weights=[1.0, 0.5, -0.2], threads=threads) for threads in (1, 2, 7)
    )
    assert all(first.tobytes() == other.tobytes() for other in others)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("case", MODIFIED)
def test_modified_methods_equal_the_oracle(case: str, count: int) -> None:
    what = MODIFIED[case]
    for shape in [(1, 9), (24, 17), (31, 40)]:
        deltas = draw(count, count, shape)
        weights = weights_of(what.method, deltas)
        got = combine(
            deltas, what.method, weights=weights, sparsify=what.sparsify, refine=what.refine
        )
        gap = float(np.linalg.norm(got - what.oracle(deltas, weights, 0)))
        assert gap <= 1e-6 * size_of(deltas, weights), shape


@pytest.mark.parametrize("seed", [0, 1, 2**63 + 5])
@pytest.mark.parametrize("method", ["dare", "della:epsilon=0"])
def test_the_masks_are_those_of_the_generator(method: str, seed: int) -> None:
    shape = (37, 21)
    for place in range(3):
        deltas = [np.full(shape, 1.0 if i == place else 0.0, np.float32) for i in range(3)]
        got = combine(deltas, method, seed=seed)
        words = philox(seed, 0, place, math.prod(shape)) >> np.uint64(8)
        assert np.array_equal(got.ravel() != 0, words * 2.0**-24 < 0.5)
