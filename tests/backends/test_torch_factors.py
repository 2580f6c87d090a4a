"""Inner products and joint bases of factors in torch, beside float64 truths."""

import numpy as np
import pytest
from backends.steps import BACKEND, delta_of, group_of, inner, low_rank, member
from helpers import F64, decode

from loramix import _core
from loramix.backends.base import Cores
from loramix.raw import RawGroup


def norm_scale(gram: F64) -> F64:
    return np.sqrt(np.outer(np.diag(gram), np.diag(gram)))


@pytest.mark.parametrize("code", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_gram_of_factors_of_every_type(code: str) -> None:
    rng = np.random.default_rng(15)
    shapes = [(3, 0, 30), (1, 10, 20), (5, 7, 9), (0, 0, 30)]
    members = [
        member(rng.normal(size=(h, r)), rng.normal(size=(r, 17)), f, at, code)
        for (r, at, h), f in zip(shapes, [0.5, -2.0, 1e-3, 1.0], strict=True)
    ]
    group = (30, 17, members)
    (got,) = BACKEND.gram([group], threads=None)
    expected = inner(delta_of(group))
    assert np.abs(got - expected).max() <= 1e-6 * np.abs(norm_scale(expected)).max()
    used = norm_scale(expected) > 0
    assert (np.abs(got - expected)[used] / norm_scale(expected)[used]).max() < 1e-12
    rust = np.array(_core.gram([group])[0]).reshape(4, 4)
    assert np.abs(got - rust).max() <= 1e-6 * np.abs(norm_scale(expected)).max()


def rebuilt(group: RawGroup, found: Cores) -> tuple[list[F64], F64, F64]:
    """Deltas from cores, and both bases."""
    _, cols, members = group
    up = np.concatenate(
        [m[5] * decode(m[0], bytes(m[1])).reshape(m[7], m[4]) for m in members], axis=1
    )
    down = np.concatenate([decode(m[2], bytes(m[3])).reshape(m[4], cols) for m in members])
    left, right = up @ found.left, found.right.T @ down
    return [left @ core @ right for core in found.cores], left, right


@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (5, 50), (50, 5), (1, 9), (9, 1)])
def test_cores_rebuild_the_deltas(shape: tuple[int, int]) -> None:
    pairs = [p for _, p in low_rank(16, 3, shape, 4)]
    group = group_of(pairs, [0.5, -3.0, 1e-3], *shape)
    weights = np.array([1.0, -0.5, 200.0])
    (found,) = BACKEND.cores([group], [weights], threads=None)
    deltas, left, right = rebuilt(group, found)
    for got, expected in zip(deltas, delta_of(group), strict=True):
        assert np.linalg.norm(got - expected) < 1e-7 * np.linalg.norm(expected)
    for basis, rank in ((left.T, min(12, shape[0])), (right, min(12, shape[1]))):
        assert len(basis) <= rank
        assert np.abs(basis @ basis.T - np.eye(len(basis))).max() < 1e-7
    weighted = [w * d for w, d in zip(weights, delta_of(group), strict=True)]
    square = sum(d @ d.T for d in weighted)
    turned = left.T @ square @ left
    assert np.all(np.diff(np.diag(turned)) <= 1e-9 * np.trace(turned))
    assert np.abs(turned - np.diag(np.diag(turned))).max() < 1e-7 * np.trace(turned)


def test_cores_do_not_depend_on_how_factors_share_a_delta_or_on_the_order() -> None:
    pairs = [p for _, p in low_rank(17, 2, (20, 24), 3)]
    sizes = np.array([1e-6, 1.0, 1e6], dtype=np.float32)
    moved = [(up * sizes, down / sizes[:, None]) for up, down in reversed(pairs)]
    found = BACKEND.cores(
        [group_of(pairs, [1.0, 2.0], 20, 24), group_of(moved, [2.0, 1.0], 20, 24)],
        [np.array([1.0, -1.0]), np.array([-1.0, 1.0])],
        threads=None,
    )
    # Bases may differ in sign, so compare singular values of the cores.
    for one, two in zip(found[0].cores, reversed(found[1].cores), strict=True):
        assert np.allclose(np.abs(one), np.abs(two), rtol=0, atol=1e-5 * np.abs(one).max())


def test_cores_of_dependent_and_empty_members() -> None:
    (_, (up, down)), (_, other) = low_rank(18, 2, (20, 24), 3)
    zero = (np.zeros_like(up), down)
    group = group_of([(up, down), (up, down), zero, other], [1.0, -2.0, 1.0, 1.0], 20, 24)
    (found,) = BACKEND.cores([group], [np.ones(4)], threads=None)
    assert found.cores.shape == (4, 6, 6)
    for got, expected in zip(rebuilt(group, found)[0], delta_of(group), strict=True):
        assert np.abs(got - expected).max() < 1e-7 * 50
    (nothing,) = BACKEND.cores([group_of([zero], [1.0], 20, 24)], [np.ones(1)], threads=None)
    assert (nothing.cores.shape, nothing.left.shape) == ((1, 0, 0), (3, 0))
