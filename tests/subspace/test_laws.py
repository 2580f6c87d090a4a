"""Methods on cores: against dense oracles, in any bases, and against the laws.

A law that a method names in ``breaks`` must really be broken.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles_subspace import F64, iso_c, iso_cts, lego, svc, tsv
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

from loramix.methods.base import Law, Subspace
from loramix.methods.iso import IsoC, IsoCts
from loramix.methods.lego import Lego
from loramix.methods.svc import Svc
from loramix.methods.tsv import Tsv

Oracle: TypeAlias = Callable[[Sequence[F64], Sequence[float]], F64]

ORACLES: dict[type[Method], Callable[..., F64]] = {
    IsoC: iso_c,
    IsoCts: iso_cts,
    Tsv: tsv,
    Svc: svc,
    Lego: lego,
}

DEFAULTS: list[Method] = [kind() for kind in ORACLES]

METHODS: list[Method] = [
    *DEFAULTS,
    IsoC(flatten=1.0),
    IsoC(flatten=0.0),
    IsoCts(common=0.5, flatten=1.0),
    IsoCts(common=0.0, flatten=0.0),
    IsoCts(common=1.0),
    Tsv(density=0.5),
    Svc(by="heads"),
    Svc(strength=0.5, floor=0.3),
    Svc(floor=0.2, by="heads"),
    Lego(k=2),
    Lego(k=5, seed=2**63 + 7),
]

SHAPES: list[tuple[tuple[int, int], tuple[int, ...]]] = [
    ((12, 10), (2, 3)),
    ((9, 13), (3, 1, 4)),
    ((11, 8), (4, 4, 4, 4)),  # more directions than columns
    ((7, 9), (2, 2, 1, 2, 3, 1)),  # more than rows
]

steady = settings(derandomize=True, max_examples=25, deadline=None, database=None)

seeds = st.integers(0, 2**32 - 1)

shapes = st.sampled_from(SHAPES)

by_name = pytest.mark.parametrize("method", DEFAULTS, ids=lambda method: method.name)

every = pytest.mark.parametrize("method", METHODS, ids=repr)


def oracle_of(method: Method) -> Oracle:
    return partial(ORACLES[type(method)], **dataclasses.asdict(method))


@every
def test_every_method_has_the_shape_of_one(method: Method) -> None:
    assert isinstance(method, Subspace)
    for field in dataclasses.fields(method):
        default: Any = field.default
        assert type(default)(str(default)) == default


@every
@steady
@given(seed=seeds, shape=shapes, kinship=st.sampled_from([0.0, 0.5, 3.0]))
def test_cores_equal_the_dense_oracle(
    method: Method, seed: int, shape: tuple[tuple[int, int], tuple[int, ...]], kinship: float
) -> None:
    factors = draw(seed, *shape, kinship)
    deltas, weights = dense(factors), WEIGHTS[: len(factors)]
    got = merged(method, deltas, weights, *bases(factors))
    assert gap(got, oracle_of(method)(deltas, weights), size_of(deltas, weights)) < 1e-9


@every
@steady
@given(seed=seeds, shape=shapes)
def test_the_bases_do_not_matter(
    method: Method, seed: int, shape: tuple[tuple[int, int], tuple[int, ...]]
) -> None:
    factors = draw(seed, *shape)
    deltas, weights = dense(factors), WEIGHTS[: len(factors)]
    left, right = bases(factors)
    plain = merged(method, deltas, weights, left, right)
    turned_left = left @ orthogonal(seed, left.shape[1])
    turned_right = right @ orthogonal(seed + 1, right.shape[1])
    turned = merged(method, deltas, weights, turned_left, turned_right)
    size = size_of(deltas, weights)
    assert gap(turned, plain, size) < 1e-9
    assert gap(on(method, deltas, weights), plain, size) < 1e-9  # bases that are larger than needed


@every
@pytest.mark.parametrize("factor", [1e-12, 0.3, 7.0, 1e12])
def test_homogeneous_in_weights_and_in_deltas(method: Method, factor: float) -> None:
    for seed, shape in enumerate(SHAPES):
        deltas = dense(draw(seed, *shape))
        weights = WEIGHTS[: len(deltas)]
        plain, size = on(method, deltas, weights), size_of(deltas, weights)
        heavier = on(method, deltas, [factor * weight for weight in weights])
        larger = on(method, [factor * delta for delta in deltas], weights)
        assert gap(heavier / factor, plain, size) < 1e-9
        assert gap(larger / factor, plain, size) < 1e-9


@every
@pytest.mark.parametrize("factor", [1e-150, 1e150])
def test_no_square_overflows(method: Method, factor: float) -> None:
    deltas = dense(draw(1, *SHAPES[1]))
    weights = WEIGHTS[:3]
    larger = on(method, [factor * delta for delta in deltas], weights)
    plain = on(method, deltas, weights)
    assert gap(larger / factor, plain, size_of(deltas, weights)) < 1e-9


@every
@steady
@given(seed=seeds, shape=shapes)
def test_odd_in_weights_and_in_deltas(
    method: Method, seed: int, shape: tuple[tuple[int, int], tuple[int, ...]]
) -> None:
    deltas = dense(draw(seed, *shape))
    weights = WEIGHTS[: len(deltas)]
    plain, size = on(method, deltas, weights), size_of(deltas, weights)
    assert gap(on(method, deltas, [-w for w in weights]), -plain, size) < 1e-12
    assert gap(on(method, [-d for d in deltas], weights), -plain, size) < 1e-12
    turned = on(method, [-deltas[0], *deltas[1:]], [-weights[0], *weights[1:]])
    assert gap(turned, plain, size) < 1e-12


@every
@steady
@given(seed=seeds, shape=shapes)
def test_the_order_of_adapters_does_not_matter(
    method: Method, seed: int, shape: tuple[tuple[int, int], tuple[int, ...]]
) -> None:
    assert "permutation" not in method.breaks
    deltas = dense(draw(seed, *shape))
    weights = WEIGHTS[: len(deltas)]
    places = np.random.default_rng(seed).permutation(len(deltas))
    other = on(method, [deltas[i] for i in places], [weights[i] for i in places])
    assert gap(other, on(method, deltas, weights), size_of(deltas, weights)) < 1e-9


@by_name
def test_the_order_does_not_matter_among_equal_and_opposed_ones(method: Method) -> None:
    one, two = dense(draw(2, (8, 7), (3, 2)))
    deltas, weights = [one, two, -one, one], [1.0, 1.0, 1.0, 1.0]
    plain, size = on(method, deltas, weights), size_of(deltas, weights)
    for places in ([2, 3, 0, 1], [3, 1, 0, 2], [1, 2, 3, 0]):
        other = on(method, [deltas[i] for i in places], weights)
        assert gap(other, plain, size) < 1e-9


@by_name
@pytest.mark.parametrize("weight", [1.0, -0.6])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_identical_adapters(method: Method, count: int, weight: float) -> None:
    factors = draw(4, (9, 8), (4,))
    (delta,) = dense(factors)
    got = merged(method, [delta] * count, [weight] * count, *bases(factors))
    expected = weight * delta if method.mean else count * weight * delta
    kept = gap(got, expected, float(np.linalg.norm(expected))) < 1e-7
    assert kept == ("identical" not in method.breaks)


@by_name
def test_identical_adapters_of_different_weights(method: Method) -> None:
    (delta,) = dense(draw(5, (9, 8), (4,)))
    weights = [1.0, 0.25, 0.5]
    got = on(method, [delta] * 3, weights)
    factor = {"tsv": 1.75 / 3, "svc": 1.3125 / 1.75, "lego": 1.75}.get(method.name)
    if factor is None:
        assert gap(got, 1.75 * delta, float(np.linalg.norm(delta))) > 1e-2
    else:
        assert gap(got, factor * delta, float(np.linalg.norm(delta))) < 1e-9


@by_name
@pytest.mark.parametrize("place", [0, 1])
def test_beside_a_delta_of_zero_one_adapter_is_itself(method: Method, place: int) -> None:
    (delta,) = dense(draw(6, (9, 8), (4,)))
    deltas = [np.zeros_like(delta), np.zeros_like(delta)]
    deltas[place] = delta
    got = on(method, deltas, [-0.7, -0.7])
    size = size_of(deltas, [-0.7, -0.7])
    assert gap(got, oracle_of(method)(deltas, [-0.7, -0.7]), size) < 1e-9
    kept = gap(got, -0.7 * delta, size) < 1e-9
    assert kept == ("identical" not in method.breaks)


SMALL, SOFT = 1e-6, 1e-3


def jump(method: Method, deltas: Sequence[F64], weights: Sequence[float]) -> float:
    """Largest change of the result under small relative changes of the deltas."""
    rng = np.random.default_rng(13)
    size, worst = size_of(deltas, weights), 0.0
    plain = on(method, deltas, weights)
    for _ in range(6):
        noise = [rng.normal(size=delta.shape) for delta in deltas]
        moved = [
            delta + SMALL * np.linalg.norm(delta) * move / np.linalg.norm(move)
            for delta, move in zip(deltas, noise, strict=True)
        ]
        worst = max(worst, gap(on(method, moved, weights), plain, size))
    return worst


POINTS: dict[str, list[F64]] = {
    "iso-c": [diagonal(1.0, 0.0), diagonal(1.0, 0.0)],  # a second direction appears
    "iso-cts": [diagonal(1.0, 0.0), diagonal(1.0, 0.0)],
    "tsv": [diagonal(1.0, 0.0), diagonal(1.0, 0.0)],  # equal ones are pushed apart
    "svc": [diagonal(1.0, 2.0), diagonal(1.0, 0.0)],  # two equal singular values, one shared
    "lego": [diagonal(1.0, 0.0), diagonal(0.0, 1.0)],  # one cluster, two equal directions
}


@by_name
def test_results_really_jump_where_the_method_says_so(method: Method) -> None:
    assert "continuity" in method.breaks
    assert jump(method, POINTS[method.name], [1.0, 1.0]) > 1e-2


@by_name
def test_at_an_ordinary_point_a_small_change_changes_little(method: Method) -> None:
    rng = np.random.default_rng(15)
    deltas = [rng.normal(size=(4, 5)) for _ in range(3)]  # full rank: nothing can appear
    assert jump(method, deltas, [1.0, 0.7, -0.4]) < SOFT


@by_name
def test_laws_are_declared(method: Method) -> None:
    expected: set[Law] = {"continuity"}
    if method.name.startswith("iso"):
        expected.add("identical")
    assert method.breaks == expected


@every
def test_nothing_at_all_gives_zero(method: Method) -> None:
    assert not on(method, [np.zeros((4, 3))] * 3, [1.0, 0.5, -2.0]).any()


@every
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_opposed_adapters_cancel(method: Method, scale: float) -> None:
    for seed in range(10):
        factors = [(scale * up, down) for up, down in draw(seed, (9, 8), (4,))]
        (delta,) = dense(factors)
        left, right = bases(factors)
        got = merged(method, [delta, -delta], [1.0, 1.0], left, right)
        assert gap(got, np.zeros_like(got), float(np.linalg.norm(delta))) < 1e-9
        thrice = merged(method, [delta, delta, delta], [1.0, -1.5, 0.5], left, right)
        assert gap(thrice, np.zeros_like(got), float(np.linalg.norm(delta))) < 1e-9


@every
def test_a_direction_of_noise_gets_no_energy(method: Method) -> None:
    """Deltas of rank 2 in bases that have room for six, with rounding noise in the cores."""
    deltas = dense(draw(16, (6, 6), (2, 2, 2), kinship=3.0))
    deltas[2] = 0.5 * deltas[0] - 2 * deltas[1]  # columns and rows of the first two
    rng = np.random.default_rng(17)
    noisy = [d + 1e-13 * np.linalg.norm(d) * rng.normal(size=d.shape) for d in deltas]
    weights = [1.0, 0.7, 0.4]
    plain = on(method, deltas, weights)
    assert gap(on(method, noisy, weights), plain, size_of(deltas, weights)) < 1e-9
    assert np.linalg.matrix_rank(plain, tol=1e-9) <= 4


@by_name
def test_nearly_cancelled_sums_are_not_blown_up(method: Method) -> None:
    """What is left of a sum after rounding is not worth a direction."""
    (delta,) = dense(draw(18, (6, 6), (3,)))
    rng = np.random.default_rng(19)
    other = -delta + 1e-14 * rng.normal(size=delta.shape)
    if method.name == "tsv":  # equal columns stay equal only up to the threshold
        other = -delta * (1 + 1e-14)
    got = on(method, [delta, other], [1.0, 1.0])
    assert np.linalg.norm(got) < 1e-9 * np.linalg.norm(delta)
