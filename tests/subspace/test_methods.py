"""What each method on cores is for, and what it refuses."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
from oracles_subspace import F64, lego
from subspace.cores import (
    WEIGHTS,
    Method,
    bases,
    dense,
    diagonal,
    draw,
    gap,
    merged,
    on,
    orthogonal,
    size_of,
)

from loramix.errors import ParamError
from loramix.methods.base import Subspace
from loramix.methods.iso import IsoC, IsoCts
from loramix.methods.lego import Lego
from loramix.methods.svc import Svc
from loramix.methods.tsv import Tsv


def total_of(deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    return np.asarray(np.einsum("i,ijk->jk", np.array(weights), np.stack(deltas)))


def test_flattened_fully_all_singular_values_are_their_mean() -> None:
    deltas = dense(draw(20, (9, 8), (2, 3)))
    total = np.linalg.svd(deltas[0] + deltas[1], compute_uv=False)
    got = np.linalg.svd(on(IsoC(flatten=1.0), deltas, [1.0, 1.0]), compute_uv=False)
    assert np.allclose(got[:5], total.sum() / 5)
    assert np.allclose(got[5:], 0)


def test_without_flattening_the_sum_is_the_sum_to_the_bit() -> None:
    deltas = dense(draw(21, (9, 8), (2, 3)))
    core = IsoC(flatten=0.0).merge(np.stack(deltas), np.array([1.0, -0.5]))
    assert np.array_equal(core, 1.0 * deltas[0] + -0.5 * deltas[1])


def test_without_own_directions_iso_cts_is_iso_c() -> None:
    deltas = dense(draw(22, (9, 8), (2, 3, 2)))
    weights = [1.0, -0.5, 0.7]
    one, two = on(IsoCts(common=1.0), deltas, weights), on(IsoC(), deltas, weights)
    assert gap(one, two, size_of(deltas, weights)) < 1e-12


def test_iso_cts_keeps_the_directions_of_a_light_adapter() -> None:
    light, heavy = diagonal(0.05, 0, 0, 0), diagonal(0, 1.0, 0.9, 0.8)
    got = on(IsoCts(common=0.5, flatten=1.0), [light, heavy], [1.0, 1.0])
    mean = (1.0 + 0.9 + 0.8 + 0.05) / 4
    assert np.allclose(got, mean * np.eye(4))


def test_iso_cts_takes_no_own_direction_from_rounding() -> None:
    """The third adapter lies in the common direction but for rounding."""
    deltas = [diagonal(0.05, 0, 0, 0), diagonal(0, 1.0, 0.9, 0.8), diagonal(0, 1.0, 0, 0)]
    left, right = orthogonal(35, 4), orthogonal(36, 4)
    turned = [left @ delta @ right.T for delta in deltas]
    got = left.T @ on(IsoCts(common=0.25, flatten=1.0), turned, [1.0] * 3) @ right
    assert np.allclose(got, (2.0 + 0.9 + 0.05) / 3 * diagonal(1, 1, 1, 0))


@pytest.mark.parametrize("method", [Tsv(), Svc(), Svc(by="heads"), Svc(floor=1.0)], ids=repr)
def test_orthogonal_deltas_come_out_as_their_sum(method: Method) -> None:
    basis = orthogonal(23, 8)
    one = basis[:, :2] @ diagonal(3.0, 1.0) @ basis[:, 2:4].T
    two = basis[:, 4:6] @ diagonal(2.0, 0.5) @ basis[:, 6:].T
    got = on(method, [one, two], [1.0, -0.8])
    assert gap(got, one - 0.8 * two, size_of([one, two], [1.0, 0.8])) < 1e-12


def test_svc_by_energy_hears_a_faint_copy_less_than_by_heads() -> None:
    (delta,) = dense(draw(24, (9, 8), (4,)))
    size, weights = float(np.linalg.norm(delta)), [1.0, 0.1]
    energy = on(Svc(), [delta, delta], weights)
    heads = on(Svc(by="heads"), [delta, delta], weights)
    assert gap(energy, 1.01 / 1.1 * delta, size) < 1e-12
    assert gap(heads, 2 / 11 * delta, size) < 1e-12


def test_svc_by_energy_and_by_heads_agree_on_equally_loud_answers() -> None:
    one, two = diagonal(1.0, 1.0, 0.0), diagonal(1.0, -1.0, 0.0)
    one[2, 2], two[2, 2] = 0.5, 0.5
    energy, heads = (on(method, [one, two], [1.0, 1.0]) for method in (Svc(), Svc(by="heads")))
    assert np.allclose(energy, heads)
    assert np.allclose(np.diag(energy), [1.0, 0.0, 0.5])


@pytest.mark.parametrize("by", ["energy", "heads"])
def test_svc_scales_down_only_unless_the_floor_is_lower(by: Any) -> None:
    deltas = dense(draw(25, (9, 8), (3, 3, 3)))
    weights = [1.0, 0.8, 1.2]
    plain = np.linalg.svd(total_of(deltas, weights), compute_uv=False)
    u, _, vt = np.linalg.svd(total_of(deltas, weights))
    count = len(plain)
    down = np.diag(u.T @ on(Svc(by=by), deltas, weights) @ vt.T)[:count]
    both = np.diag(u.T @ on(Svc(by=by, floor=0.2), deltas, weights) @ vt.T)[:count]
    assert (down <= plain + 1e-12).all()
    assert (down < 0.95 * plain).any()
    assert (both > 1.05 * plain).any()
    assert (both <= 5 * plain + 1e-12).all()
    off = on(Svc(by=by, strength=0.0), deltas, weights)
    assert gap(off, total_of(deltas, weights), size_of(deltas, weights)) < 1e-15


def test_lego_with_a_cluster_for_each_unit_is_the_sum() -> None:
    deltas = dense(draw(26, (9, 8), (2, 3)))
    for k in (5, 6, 2**40):
        got = on(Lego(k=k), deltas, [1.0, -0.5])
        assert gap(got, deltas[0] - 0.5 * deltas[1], size_of(deltas, [1.0, 0.5])) < 1e-12


@pytest.mark.parametrize(("k", "rank"), [(0, 4), (1, 1), (3, 3), (6, 6)])
def test_lego_has_the_rank_asked_for(k: int, rank: int) -> None:
    deltas = dense(draw(27, (12, 11), (4, 2, 3)))
    got = on(Lego(k=k), deltas, [1.0, 0.5, 0.8])
    assert np.linalg.matrix_rank(got) == rank


def test_lego_of_one_cluster_is_the_best_rank_one_of_the_sum() -> None:
    deltas = dense(draw(28, (9, 8), (2, 3)))
    u, s, vt = np.linalg.svd(deltas[0] + deltas[1])
    got = on(Lego(k=1), deltas, [1.0, 1.0])
    assert np.allclose(got, s[0] * np.outer(u[:, 0], vt[0]))


def test_lego_does_not_let_rounding_decide_between_orthogonal_units() -> None:
    """Most units are orthogonal to, and so equally far from, several first centres."""
    deltas = dense(draw(32, (14, 13), (6, 6)))
    plain = on(Lego(k=3), deltas, [1.0, 1.0])
    for seed in range(30):
        left, right = orthogonal(seed, 14), orthogonal(seed + 100, 13)
        turned = merged(Lego(k=3), deltas, [1.0, 1.0], left, right)
        assert gap(turned, plain, size_of(deltas, [1.0, 1.0])) < 1e-9


def test_lego_takes_the_first_of_centres_that_are_equally_near_to_nine_decimals() -> None:
    factors = draw(1000165, (9, 13), (3, 1, 4))
    deltas, weights = dense(factors), WEIGHTS[:3]
    got = merged(Lego(k=2), deltas, weights, *bases(factors))
    assert gap(got, lego(deltas, weights, k=2), size_of(deltas, weights)) < 1e-9


def test_lego_finds_planted_clusters() -> None:
    """Six adapters share three directions, up to a tilt: the clusters are those directions."""
    rng, basis = np.random.default_rng(29), orthogonal(30, 9)
    deltas = []
    for _ in range(6):
        tilted = np.linalg.qr(basis[:, :3] + 0.02 * rng.normal(size=(9, 3)))[0]
        deltas.append(tilted @ diagonal(3.0, 2.0, 1.0) @ basis[:, 3:6].T)
    got, total = on(Lego(), deltas, [1.0] * 6), total_of(deltas, [1.0] * 6)
    assert np.linalg.matrix_rank(got) == 3
    assert gap(got, total, float(np.linalg.norm(total))) < 0.02


def test_lego_is_a_function_of_its_seed() -> None:
    deltas = dense(draw(31, (20, 18), (5, 5, 5, 5), kinship=0.0))
    results = [on(Lego(seed=seed), deltas, [1.0] * 4) for seed in (0, 0, 1, 2, 3)]
    assert np.array_equal(results[0], results[1])
    assert any(not np.allclose(results[0], other) for other in results[2:])


@pytest.mark.parametrize(
    ("kind", "values", "allowed"),
    [
        (IsoC, {"flatten": 1.01}, "[0, 1]"),
        (IsoC, {"flatten": float("nan")}, "[0, 1]"),
        (IsoCts, {"common": -0.1}, "[0, 1]"),
        (IsoCts, {"flatten": 2.0}, "[0, 1]"),
        (Tsv, {"density": 0.0}, "(0, 1]"),
        (Tsv, {"density": 1.5}, "(0, 1]"),
        (Svc, {"strength": -1.0}, "[0, 1]"),
        (Svc, {"floor": 0.0}, "(0, 1]"),
        (Svc, {"by": "mass"}, "energy or heads"),
        (Lego, {"k": -1}, "[0, "),
        (Lego, {"k": 2.5}, "whole number"),
        (Lego, {"seed": -1}, "[0, "),
        (Lego, {"seed": 2**64}, "[0, "),
    ],
)
def test_parameters_outside_their_range_are_refused(
    kind: Callable[..., Method], values: dict[str, Any], allowed: str
) -> None:
    ((name, value),) = values.items()
    with pytest.raises(ParamError) as error:
        kind(**values)
    message = str(error.value)
    assert name in message
    assert str(value) in message
    assert allowed in message


class Bystander:
    """Has the name of a method, not its shape."""

    name: ClassVar[str] = "bystander"


def test_the_protocol_is_not_met_by_anything() -> None:
    assert not isinstance(Bystander(), Subspace)
