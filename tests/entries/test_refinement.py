"""Refinement: deltas bend little and stay as large; what belongs to one goes around the rest."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from entries.cases import MIXED, POSITIVE, draw, norm
from oracles import F64
from oracles_entries import set_aside

from loramix import combine
from loramix.backends import backend_of
from loramix.methods.base import Program
from loramix.methods.ortho import orthogonalised
from loramix.raw import Site


@pytest.mark.parametrize("cosine", [-0.99999, -0.9, 0.0, 0.5, 0.9, 0.999, 0.9999999, 1.0])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_orthogonalised_pairs_keep_their_direction(cosine: float, size: float) -> None:
    gram = np.array([[1.0, cosine * size], [cosine * size, size**2]])
    assert_kept(gram)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-6, 1e-3, 0.05, 0.5, 3.0])
def test_orthogonalised_near_copies_keep_their_direction(count: int, noise: float) -> None:
    rng = np.random.default_rng(44)
    common = rng.normal(size=400)
    sizes = np.exp(rng.uniform(-2, 2, size=count)) * rng.choice([-1.0, 1.0], size=count)
    vectors = np.stack([s * (common + noise * rng.normal(size=400)) for s in sizes])
    assert_kept(vectors @ vectors.T)


def assert_kept(gram: F64) -> None:
    """Item 13: at the norm it had, no new vector has a cosine below 0.5 with its own."""
    turn = orthogonalised(gram)
    norms = np.sqrt(np.diag(gram))
    news = np.sqrt(np.maximum(np.diag(turn @ gram @ turn.T), 0))
    along = np.diag(turn @ gram)
    assert np.allclose(along, norms**2, rtol=1e-7, atol=0)  # its own component is kept in full
    assert (along / (norms * news) >= 0.5).all()


def test_orthogonalised_is_what_it_says() -> None:
    vectors = np.stack([d.ravel() for d in draw(45, 4)])
    turn = orthogonalised(vectors @ vectors.T)
    turned = turn @ vectors
    before, after = (
        np.abs(np.asarray(np.corrcoef(v))[np.triu_indices(4, 1)]) for v in (vectors, turned)
    )
    assert (after < before).all()
    far = np.linalg.svd(np.random.default_rng(46).normal(size=(3, 50)), full_matrices=False)[2]
    assert np.allclose(orthogonalised(far @ far.T), np.eye(3), atol=1e-12)
    assert not orthogonalised(np.zeros((2, 2))).any()
    assert np.allclose(orthogonalised(np.diag([4.0, 0.0])), np.diag([1.0, 0.0]))


@pytest.mark.parametrize("ratio", [1.0, 1e-3, 1e6])
def test_what_has_nothing_in_common_is_not_mixed_even_by_rounding(ratio: float) -> None:
    # Two pairs and one alone: an entry of 1e-17 would count among the winners of a vote.
    first = np.array([[4.0, 1.0], [1.0, 2.0]])
    second = ratio * np.array([[3.0, -0.7], [-0.7, 1.0]])
    gram = np.zeros((5, 5))
    gram[np.ix_([0, 3], [0, 3])], gram[np.ix_([1, 4], [1, 4])] = first, second
    gram[2, 2] = 0.3
    turn = orthogonalised(gram)
    linked = gram != 0
    assert np.array_equal(turn != 0, linked)
    assert np.allclose(turn[np.ix_([0, 3], [0, 3])], orthogonalised(first), rtol=1e-9)
    assert np.allclose(turn[np.ix_([1, 4], [1, 4])], orthogonalised(second), rtol=1e-9)


@pytest.mark.parametrize("backend", ["rust", "torch:cpu"])
def test_entries_that_cancel_have_no_vote(backend: str) -> None:
    """A delta that orthogonalisation takes away leaves rounding, with a sign."""
    first = np.random.default_rng(49).normal(size=(7, 90)).astype(np.float32)
    second = first / np.float32(0.3)
    rest = np.float32(0.1) * first - np.float32(0.03) * second
    assert np.count_nonzero(np.sign(rest) == np.sign(first)) > 50
    program = Program(vote="mass", reduce="mean")
    site = Site(mix=[1.0, 0.0, 0.1, -0.03])
    got = backend_of(backend).run([first, second], [1.0, 1.0], program, site, threads=1)
    assert np.array_equal(got, first)  # and not half of it


def structured(kind: str, seed: int, count: int) -> list[Any]:
    """Deltas as trainings leave them, and worse."""
    rng, shape = np.random.default_rng(seed), (96, 80)
    common = rng.normal(size=shape)

    def one(index: int) -> F64:
        own = rng.normal(size=shape)
        columns = np.arange(shape[1]) % count == index
        made: Mapping[str, Callable[[], Any]] = {
            "random": lambda: own * np.exp(rng.uniform(-1, 1)),
            "kin": lambda: common + own,
            "near-copies": lambda: common + 0.05 * own,
            "low rank": lambda: own[:, :4] @ rng.normal(size=(4, shape[1])),
            "heavy tails": lambda: rng.standard_t(2.5, size=shape),
            "rows": lambda: own * np.exp(1.5 * rng.normal(size=(shape[0], 1))),
            "disjoint": lambda: own * columns,
        }
        return np.asarray(made[kind](), dtype=np.float32)

    return [one(index) for index in range(count)]


KINDS = ["random", "kin", "near-copies", "low rank", "heavy tails", "rows", "disjoint"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3, 4, 6])
@pytest.mark.parametrize("method", ["average", "slerp", "karcher", "consensus", "tall", "ties"])
def test_refined_means_are_as_large_as_a_slerp(method: str, kind: str, count: int) -> None:
    # Item 14; where weights oppose near-copies a slerp itself gives up its norm.
    deltas = structured(kind, 47, count)
    for weights in (POSITIVE[:count], MIXED[:count]):
        refined = norm(combine(deltas, method, weights=weights, refine="refine"))
        sizes = [abs(w) for w in weights]
        mean = (
            max(sizes) * sum(s * norm(d) for s, d in zip(sizes, deltas, strict=True)) / sum(sizes)
        )
        assert refined <= mean * (1 + 1e-5)
        if weights[1] > 0 or kind != "near-copies":
            slerp = norm(combine(deltas, "slerp", weights=weights))
            assert 0.9 * slerp <= refined <= 1.1 * slerp


def test_selfish_entries_go_around_the_mean() -> None:
    first, second = np.array([[8.0, 2.0, 1.0, -3.0]]), np.array([[1.0, -1.0, 3.0, 1.0]])
    got = combine([first, second], "tall")
    assert np.array_equal(got, [[8.0 + 0.5, 0.5, 3.0 + 0.5, -3.0 + 0.5]])
    # At the strength of the heaviest, with the sign of its weight.
    got = combine([first, second], "tall", weights=[-2.0, 0.1])
    assert got[0, 0] == pytest.approx(-16.0 + 2 / 2.1 * 0.1)
    aside, rest = set_aside([first, second], [1.0, 1.0], 3.0, level=True)
    assert np.array_equal(aside, [[8.0, 0.0, 3.0, -3.0]])
    assert np.array_equal(rest[0], [[0.0, 2.0, 1.0, 0.0]])
