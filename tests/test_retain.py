"""What `Retain` promises beyond the laws of the common suite."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loramix import ParamError, combine
from loramix.methods import Retain

steady = settings(derandomize=True, max_examples=200, deadline=None, database=None)
shapes = st.tuples(st.integers(2, 9), st.integers(1, 12), st.sampled_from([0.0, 0.5, 3.0]))


@steady
@given(seed=st.integers(0, 2**32 - 1), shape=shapes)
def test_never_longer_than_orthogonal_members(seed: int, shape: tuple[int, int, float]) -> None:
    vectors = _vectors(seed, shape)
    merged = combine(list(vectors), Retain())
    assert merged @ merged <= np.sum(vectors**2) * (1 + 1e-8)


@steady
@given(seed=st.integers(0, 2**32 - 1), shape=shapes)
def test_nothing_is_missing_of_any_where_none_are_opposed(
    seed: int, shape: tuple[int, int, float]
) -> None:
    vectors = np.abs(_vectors(seed, shape))
    merged = combine(list(vectors), Retain())
    own = np.sum(vectors**2, axis=1)
    assert (vectors @ merged >= own * (1 - 1e-7)).all()
    assert merged @ merged >= own.max() * (1 - 1e-7)


@steady
@given(seed=st.integers(0, 2**32 - 1), shape=shapes)
def test_no_member_is_amplified_or_turned(seed: int, shape: tuple[int, int, float]) -> None:
    vectors = _vectors(seed, shape)
    weights = np.random.default_rng(seed).uniform(-1, 1, len(vectors))
    factors = Retain().coefficients(vectors @ vectors.T, weights) / weights
    assert factors.min() >= 0
    assert factors.max() <= 1


def test_two_of_one_length_share_what_is_common() -> None:
    for cosine in (0.0, 0.3, 0.9, 0.999999, 1.0):
        gram = np.array([[1.0, cosine], [cosine, 1.0]])
        factors = Retain().coefficients(gram, np.ones(2))
        assert factors == pytest.approx(1 / (1 + cosine), rel=1e-9)


def test_a_pile_of_adapters_in_a_plane_is_settled() -> None:
    """The hardest kind for the pivoting: many answers that are as good, up to rounding."""
    rng = np.random.default_rng(6)
    for _ in range(300):
        vectors = rng.normal(size=(12, 2))
        vectors /= np.linalg.norm(vectors, axis=1)[:, None]
        merged = Retain().coefficients(vectors @ vectors.T, np.ones(12)) @ vectors
        lacking = np.maximum(0, 1 - vectors @ merged)
        best = merged @ merged / 2 + lacking.sum()
        for step in rng.normal(size=(20, 2)):
            for size in (1e-1, 1e-3):
                near = merged + size * step
                value = near @ near / 2 + np.maximum(0, 1 - vectors @ near).sum()
                assert value >= best - 1e-9


def test_a_share_is_between_the_sum_and_all_of_it() -> None:
    vectors = _vectors(7, (4, 6, 0.5))
    all_of_it, none = (combine(list(vectors), Retain(share)) for share in (1.0, 0.0))
    assert none == pytest.approx(vectors.sum(axis=0))
    part = combine(list(vectors), "retain:share=0.25")
    assert part == pytest.approx(0.25 * all_of_it + 0.75 * none)
    assert np.linalg.norm(all_of_it - none) > 0.1


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), True, "half"])
def test_other_shares_are_refused(share: float) -> None:
    with pytest.raises(ParamError, match=r"retain: share = .*: allowed is a number in \[0, 1\]"):
        Retain(share)


def _vectors(seed: int, shape: tuple[int, int, float]) -> np.ndarray:
    """Some of them nearly copies."""
    count, size, kinship = shape
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, size)) + kinship * rng.normal(size=size)
    vectors[-1] = vectors[0] * rng.choice([1.0, 0.5, 1 + 1e-12])
    return np.asarray(vectors)
