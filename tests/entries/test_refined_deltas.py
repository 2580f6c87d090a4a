"""Refinement in every level on dense deltas: what `test_definitions` does not see of it.

Groups of more than 256 directions, which ``full-published`` projects; ``full`` in dense joint
bases; the laws of the split.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from entries.cases import (
    CLEANED,
    ELECTED,
    FLOAT,
    FULL,
    INNER,
    MIXED,
    POSITIVE,
    Case,
    as_type,
    distance,
    draw,
    is_defined,
    steady,
)
from helpers import F64
from hypothesis import given
from hypothesis import strategies as st
from oracles_entries import Thin, merged
from oracles_suite import in_space

from loramix import OutputError, ParamError, combine
from loramix.methods.ortho import gram_schmidt
from loramix.methods.published import take_out

BACKENDS = ["rust", "torch:cpu"]

LARGE = [(270, 263), (261, 283), (560, 135), (2, 400)]
"""Rows and columns beyond 256; only the columns of two together; too few rows."""

PROJECTED = [*FULL, *(case for case in ELECTED if case.refine == "full-published")]

projected = pytest.mark.parametrize("case", PROJECTED, ids=str)


def bound(case: Case) -> float:
    return CLEANED if case.means.clean else 3 * FLOAT


@projected
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_projected_deltas_equal_the_oracle(case: Case, count: int) -> None:
    weights = POSITIVE[:count] if case.method == "slerp" else MIXED[:count]
    for shape in LARGE[: 4 if count == 2 else 1]:
        deltas = draw(count, count, shape)
        assert is_defined(case, deltas, weights)
        got = case(as_type(deltas), weights)
        expected = merged(case.means, deltas, weights)
        assert distance(got, expected, deltas, weights) < bound(case), shape


@projected
def test_tall_groups_are_projected_on_the_other_side(case: Case) -> None:
    weights = POSITIVE[:3]
    deltas = draw(8, 3, (560, 101))
    got = case(as_type(deltas), weights)
    assert distance(got, merged(case.means, deltas, weights), deltas, weights) < bound(case)
    unprojected = replace(case, refine="refine-published")(as_type(deltas), weights)
    # A model stock of orthogonal deltas is zero: only what goes around it is left.
    seen = distance(got, unprojected.astype(np.float64), deltas, weights) > 1e-3
    assert seen == (case.method != "model-stock")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("method", ["slerp", "ties-published:density=0.6"])
def test_every_type_and_backend(method: str, dtype: str, backend: str) -> None:
    case = next(c for c in PROJECTED if c.method.startswith(method))
    weights = [1.0, 0.5, 0.25]
    tensors = [torch.from_numpy(d).to(getattr(torch, dtype)) for d in draw(9, 3, (300, 97))]
    deltas = [t.to(torch.float64).numpy() for t in tensors]
    given_ = tensors if dtype == "bfloat16" else [t.numpy() for t in tensors]
    got = case(given_, weights, backend=backend)
    assert (type(got), got.dtype) == (type(given_[0]), given_[0].dtype)
    found = got.to(torch.float64).numpy() if dtype == "bfloat16" else got
    limit = {"float16": 2e-3, "bfloat16": 1e-2}.get(dtype, bound(case))
    assert distance(found, merged(case.means, deltas, weights), deltas, weights) < limit


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (24, 17), (17, 40)], ids=str)
@pytest.mark.parametrize("name", INNER)
def test_full_is_refined_in_dense_joint_bases(
    name: str, shape: tuple[int, int], count: int
) -> None:
    what = INNER[name]
    means = replace(what, refine=True, lambda_=3.0, calibrate=what.calibrate or what.mean)
    deltas, weights = draw(60 + count, count, shape), POSITIVE[:count]

    def oracle(cores: Sequence[F64], sizes: Sequence[float]) -> F64:
        return merged(means, cores, sizes)

    got = combine(as_type(deltas), name, weights=weights, refine="full").astype(np.float64)
    size = sum(w * float(np.linalg.norm(d)) for w, d in zip(weights, deltas, strict=True))
    far = in_space("knots", oracle, deltas, weights, got)
    assert far <= (CLEANED if what.clean else 5e-6) * size


@pytest.mark.parametrize("sparsify", ["dare:density=0.4", "breadcrumbs:density=0.5"])
@pytest.mark.parametrize("name", ["linear", "slerp", "average"])
def test_full_of_sparsified_coefficients(name: str, sparsify: str) -> None:
    thin = {"d": Thin("random", 0.4), "b": Thin("largest", 0.5, outliers=0.01)}[sparsify[0]]
    what = INNER[name]
    means = replace(what, keep=thin, refine=True, lambda_=3.0, calibrate=what.mean)
    deltas, weights = draw(70, 3, (24, 31)), POSITIVE[:3]
    got = combine(as_type(deltas), name, weights=weights, refine="full", sparsify=sparsify)
    size = sum(w * float(np.linalg.norm(d)) for w, d in zip(weights, deltas, strict=True))
    far = in_space("knots", lambda d, w: merged(means, d, w), deltas, weights, got.astype(float))
    assert far <= 5e-6 * size


@steady
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 9), cols=st.integers(1, 40))
def test_of_two_entries_one_always_goes_around_the_rest(seed: int, rows: int, cols: int) -> None:
    # Odd and even numbers are never equally large, and their sums are exact.
    rng = np.random.default_rng(seed)
    first = 2.0 * rng.integers(-20, 20, size=(rows, cols)) + 1
    second = 2.0 * rng.integers(-20, 20, size=(rows, cols))
    larger = np.where(np.abs(first) > np.abs(second), first, second)
    values = np.stack([first, second]).astype(np.float32)
    assert np.array_equal(take_out(values), larger)
    assert np.array_equal(values.sum(axis=0), first + second - larger)
    assert not (values[0] * values[1]).any()
    # So what is left is orthogonal, and a mean of it is added to the larger ones.
    got = combine([first, second], "average", refine="refine-published")
    assert np.allclose(got, larger + (first + second - larger) / 2, rtol=1e-6, atol=1e-6)


@steady
@given(seed=st.integers(0, 2**32 - 1))
def test_equally_large_entries_of_two_belong_to_nobody(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(3, 8)).astype(np.float32)
    values = np.stack([first, rng.choice(np.float32([-1, 1]), size=first.shape) * first])
    before = values.copy()
    assert not take_out(values).any()
    assert np.array_equal(values, before)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_copy_adds_nothing_after_gram_schmidt(count: int) -> None:
    # The larger the stack, the more rounding is left of a copy to be blown up.
    for seed in range(20):
        deltas = [d.ravel() for d in draw(seed, count, (40, 40))]
        deltas[-1] = np.float32(0.3) * np.sum(deltas[:-1], axis=0, dtype=np.float32)
        stack = np.stack(deltas)
        turn = gram_schmidt(stack @ stack.T)
        assert not turn[-1].any()
        turned = turn @ stack
        sizes = np.linalg.norm(stack[:-1], axis=1)
        assert np.allclose(turned[:-1] @ turned[:-1].T, np.diag(sizes**2), atol=1e-6)


@pytest.mark.parametrize("shape", [(256, 300), (300, 85), (300, 128)], ids=str)
@pytest.mark.parametrize("method", [*INNER, "ties-published"])
def test_projection_on_everything_is_nothing_to_the_bit(
    method: str, shape: tuple[int, int]
) -> None:
    deltas = as_type(draw(10, 2 if shape[1] == 128 else 3, shape))
    weights = POSITIVE[: len(deltas)]
    plain, full = (
        combine(deltas, method, weights=weights, refine=level)
        for level in ("refine-published", "full-published")
    )
    assert np.array_equal(plain, full)


@projected
def test_bits_of_projected_deltas_do_not_depend_on_threads(case: Case) -> None:
    deltas = as_type(draw(11, 2, LARGE[0]))
    first, *others = (case(deltas, [1.0, 0.5], threads=t).tobytes() for t in (1, 2, 7))
    assert all(other == first for other in others)


def test_weights_beyond_float32_are_refused_or_nothing() -> None:
    deltas = as_type(draw(12, 3))
    huge = [d / np.abs(d).max() * np.float32(1e38) for d in deltas]
    with pytest.raises(ParamError, match=r"1e\+39.*at most 3.4e38"):
        combine(deltas, "ties-published", weights=[1e39, 1.0, 1.0], refine="full-published")
    with pytest.raises(OutputError, match="too large"):
        combine(huge, "ties-published", weights=[4.0, 3.0, 3.0], refine="full-published")
    got = combine(deltas, "ties-published", weights=[1e-60, 1.0, 0.5], refine="refine-published")
    assert np.isfinite(got).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "slerp", "space": "knots"}, ["weight", "knots", "refine"]),
        ({"method": "core(ties)"}, ["weight", "core", "refine"]),
        ({"method": "tall"}, ["tall", "average"]),
        ({"method": "iso-c"}, ["iso-c", "refine"]),
    ],
)
@pytest.mark.parametrize("refine", ["refine-published", "full-published"])
def test_what_does_not_go_together_is_refused_by_name(
    refine: Any, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ParamError) as caught:
        combine([np.ones((2, 2))] * 2, refine=refine, **options)
    assert all(word in str(caught.value) for word in words), caught.value
