"""Methods on cores: against dense oracles, in any bases, and against the laws.

The bases are made here, by QR of the stacked factors, as a caller would.  A law that a method
names in ``breaks`` must really be broken.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles_subspace import F64, iso_c, iso_cts, lego, svc, tsv

from loramix.errors import ParamError
from loramix.methods.base import Law, Subspace
from loramix.methods.iso import IsoC, IsoCts
from loramix.methods.lego import Lego
from loramix.methods.svc import Svc
from loramix.methods.tsv import Tsv

Method: TypeAlias = IsoC | IsoCts | Tsv | Svc | Lego
Factors: TypeAlias = list[tuple[F64, F64]]
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
WEIGHTS = [1.0, -0.6, 0.8, 1.3, -0.2, 0.5]

steady = settings(derandomize=True, max_examples=25, deadline=None, database=None)
seeds = st.integers(0, 2**32 - 1)
shapes = st.sampled_from(SHAPES)

by_name = pytest.mark.parametrize("method", DEFAULTS, ids=lambda method: method.name)
every = pytest.mark.parametrize("method", METHODS, ids=repr)


def oracle_of(method: Method) -> Oracle:
    return partial(ORACLES[type(method)], **dataclasses.asdict(method))


def draw(seed: int, shape: tuple[int, int], ranks: Sequence[int], kinship: float = 0.5) -> Factors:
    """Random factors of different sizes, whose first direction is partly shared."""
    rng = np.random.default_rng(seed)
    rows, cols = shape
    shared_up, shared_down = rng.normal(size=rows), rng.normal(size=cols)
    factors = []
    for rank in ranks:
        up, down = rng.normal(size=(rows, rank)), rng.normal(size=(rank, cols))
        up[:, 0] += kinship * shared_up
        down[0] += kinship * shared_down
        factors.append((np.exp(rng.uniform(-1, 1)) * up, down))
    return factors


def dense(factors: Factors) -> list[F64]:
    return [up @ down for up, down in factors]


def bases(factors: Factors) -> tuple[F64, F64]:
    """Orthonormal U (m x p) and V (n x q) of all columns and rows."""
    left = np.linalg.qr(np.concatenate([up for up, _ in factors], axis=1))[0]
    right = np.linalg.qr(np.concatenate([down for _, down in factors]).T)[0]
    return left, right


def merged(
    method: Subspace, deltas: Sequence[F64], weights: Sequence[float], left: F64, right: F64
) -> F64:
    """The dense result by way of cores."""
    cores = np.stack([left.T @ delta @ right for delta in deltas])
    core = method.merge(cores, np.array(weights))
    assert core.shape == cores.shape[1:]
    assert core.dtype == np.float64
    return np.asarray(left @ core @ right.T)


def on(method: Subspace, deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    """The result in the trivial bases: a delta is its own core."""
    rows, cols = deltas[0].shape
    return merged(method, deltas, weights, np.eye(rows), np.eye(cols))


def size_of(deltas: Sequence[F64], weights: Sequence[float]) -> float:
    each = zip(weights, deltas, strict=True)
    return sum(abs(weight) * float(np.linalg.norm(delta)) for weight, delta in each)


def gap(left: F64, right: F64, size: float) -> float:
    """Distance over the size of the input; NaN counts as infinitely far."""
    found = float(np.linalg.norm(left - right)) / size
    return found if np.isfinite(found) else np.inf


def total_of(deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    return np.asarray(np.einsum("i,ijk->jk", np.array(weights), np.stack(deltas)))


def orthogonal(seed: int, size: int) -> F64:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


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


def diagonal(*values: float) -> F64:
    return np.diag(np.array(values))


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
