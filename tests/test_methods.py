"""Every method against its oracle, and against the laws that users rely on.

The suite runs over the whole table: whoever adds a method gets all of it.  A law that a method
names in ``breaks`` is not skipped, it must really be broken, or the claim has rotted.

Methods that decide entry by entry or in joint bases work in f32; what holds only for coefficients
runs over those, what holds for entries is in ``entries``.  Arrays of every type and size
are in ``test_combine``, joint bases in ``test_spaces``, files in ``test_files``.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from helpers import MODULES, Pair, Stack, delta_of, pair, scaled
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import F64, is_determined
from oracles_suite import ORACLES

from loramix import METHODS, LoramixError, combine, merge
from loramix.methods.base import Law

SHAPE = (7, 6)
ALL = sorted(METHODS)
SUMS = [name for name in ALL if hasattr(METHODS[name], "coefficients")]
"""Methods whose result is a linear combination of the deltas."""
SMALL = 1e-6
SOFT = 1e-3
"""What a relative change of `SMALL` of all inputs may do to the result."""

steady = settings(derandomize=True, max_examples=40, deadline=None, database=None)

seeds = st.integers(0, 2**32 - 1)
weights_of = st.lists(
    st.floats(0.05, 2.0).flatmap(lambda w: st.sampled_from([w, -w])), min_size=1, max_size=5
)


def draw(seed: int, count: int, kinship: float = 0.5) -> list[F64]:
    """Random deltas of different norms that share a part."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=SHAPE)
    sizes = np.exp(rng.uniform(-1, 1, size=count))
    return [size * (kinship * common + rng.normal(size=SHAPE)) for size in sizes]


def size_of(deltas: Sequence[F64], weights: Sequence[float]) -> float:
    """What errors and changes are relative to: the sum of what goes in."""
    each = zip(weights, deltas, strict=True)
    return sum(abs(weight) * float(np.linalg.norm(delta)) for weight, delta in each)


def gap(left: F64, right: F64, size: float) -> float:
    """Distance of two results over the size of the input; NaN counts as infinitely far."""
    found = float(np.linalg.norm(left - right)) / size
    return found if np.isfinite(found) else np.inf


def exact(name: str, bound: float = 1e-9) -> float:
    """The bound for arithmetic in f64, or that of f32."""
    if name in SUMS:
        return bound
    # The noise that `consensus` cleans away is itself a small difference.
    return max(bound, 2e-5 if name == "consensus" else 2e-6)


def keeping(law: Law) -> list[str]:
    """Methods that say they keep a law."""
    return [name for name in ALL if law not in METHODS[name].breaks]


def breaking(law: Law) -> list[str]:
    """Methods that say they break a law."""
    return [name for name in ALL if law in METHODS[name].breaks]


def is_tame(name: str, weights: Sequence[float]) -> bool:
    """Whether no weights of opposite signs cancel where their signed sum is divided by."""
    sums = [sum(few) for k in range(len(weights)) for few in combinations(weights, k + 1)]
    return name != "ties-mergekit" or min(map(abs, sums)) > 0.05


def at_angle(cosine: float, norms: tuple[float, float] = (1.0, 1.0)) -> list[F64]:
    """Two deltas with a given cosine."""
    rng = np.random.default_rng(11)
    basis = np.linalg.qr(rng.normal(size=(SHAPE[0] * SHAPE[1], 2)))[0].T
    second = cosine * basis[0] + np.sqrt(max(1 - cosine**2, 0.0)) * basis[1]
    return [norms[0] * basis[0].reshape(SHAPE), norms[1] * second.reshape(SHAPE)]


def diagonal(*values: float) -> F64:
    """A delta with these entries on the diagonal."""
    result = np.zeros(SHAPE)
    np.fill_diagonal(result[: len(values), : len(values)], values)
    return result


def triple() -> list[F64]:
    """Three directions in a plane, 120 degrees apart: their mean vanishes."""
    x, y = at_angle(0.0)
    turns = 2 * np.pi / 3 * np.arange(3)
    return [np.cos(turn) * x + np.sin(turn) * y for turn in turns]


def test_every_method_has_an_oracle_and_no_oracle_is_left_over() -> None:
    assert ORACLES.keys() == METHODS.keys()


@pytest.mark.parametrize("name", ALL)
@steady
@given(seed=seeds, weights=weights_of, kinship=st.sampled_from([0.0, 0.5, 3.0]))
def test_dense_deltas_equal_the_oracle(
    name: str, seed: int, weights: list[float], kinship: float
) -> None:
    deltas = draw(seed, len(weights), kinship)
    assume(is_determined(deltas, weights) and is_tame(name, weights))
    got = combine(deltas, name, weights=weights)
    assert gap(got, ORACLES[name](deltas, weights), size_of(deltas, weights)) < exact(name)


def kin(seed: int, rank: int) -> dict[str, Pair]:
    """Adapters that share their first direction."""
    shared, own = np.random.default_rng(99), np.random.default_rng(seed)
    members = {}
    for name, shape in MODULES.items():
        one, common = pair(own, shape, rank), pair(shared, shape, 1)
        up = np.concatenate([common.up, one.up[:, 1:]], axis=1)
        down = np.concatenate([common.down, one.down[1:]], axis=0)
        members[name] = Pair(up, down, shape)
    return members


@pytest.mark.parametrize("name", keeping("homogeneous"))
@steady
@given(seed=seeds, weights=weights_of, factor=st.sampled_from([1e-3, 0.3, 7.0, 1e3]))
def test_homogeneous_in_weights(name: str, seed: int, weights: list[float], factor: float) -> None:
    deltas = draw(seed, len(weights))
    plain = combine(deltas, name, weights=weights)
    heavier = combine(deltas, name, weights=[factor * weight for weight in weights])
    assert gap(heavier / factor, plain, size_of(deltas, weights)) < exact(name)


@pytest.mark.parametrize("name", breaking("homogeneous"))
def test_twice_the_weights_are_not_twice_the_result_where_the_method_says_so(name: str) -> None:
    deltas, weights = draw(7, 3), [1.0, 0.7, 0.4]
    plain = combine(deltas, name, weights=weights)
    heavier = combine(deltas, name, weights=[2 * weight for weight in weights])
    assert gap(heavier / 2, plain, size_of(deltas, weights)) > 1e-2


@pytest.mark.parametrize("name", ALL)
@steady
@given(seed=seeds, weights=weights_of, factor=st.sampled_from([1e-3, 0.3, 7.0, 1e3]))
def test_homogeneous_in_deltas(name: str, seed: int, weights: list[float], factor: float) -> None:
    assume(is_tame(name, weights))
    deltas = draw(seed, len(weights))
    plain = combine(deltas, name, weights=weights)
    larger = combine([factor * delta for delta in deltas], name, weights=weights)
    assert gap(larger / factor, plain, size_of(deltas, weights)) < exact(name)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
@pytest.mark.parametrize("name", ALL)
def test_homogeneous_far_from_one(name: str, factor: float) -> None:
    deltas, weights = draw(1, 3), [1.0, 0.5, -0.7]
    larger = combine([factor * delta for delta in deltas], name, weights=weights)
    plain = combine(deltas, name, weights=weights)
    assert gap(larger / factor, plain, size_of(deltas, weights)) < exact(name)


@pytest.mark.parametrize("name", keeping("odd"))
@steady
@given(seed=seeds, weights=weights_of)
def test_odd_in_weights_and_in_deltas(name: str, seed: int, weights: list[float]) -> None:
    deltas = draw(seed, len(weights))
    plain = combine(deltas, name, weights=weights)
    size = size_of(deltas, weights)
    assert gap(combine(deltas, name, weights=[-w for w in weights]), -plain, size) < 1e-12
    assert gap(combine([-d for d in deltas], name, weights=weights), -plain, size) < 1e-12
    turned = combine([-deltas[0], *deltas[1:]], name, weights=[-weights[0], *weights[1:]])
    assert gap(turned, plain, size) < 1e-12


@pytest.mark.parametrize("name", breaking("odd"))
def test_a_draw_is_positive_whatever_is_negated_where_the_method_says_so(name: str) -> None:
    (delta,) = draw(7, 1)
    plain = combine([delta, -delta], name)
    turned = combine([-delta, delta], name)
    assert gap(turned, -plain, size_of([delta, delta], [1.0, 1.0])) > 1e-2


@pytest.mark.parametrize("name", keeping("permutation"))
@steady
@given(seed=seeds, weights=weights_of)
def test_the_order_of_adapters_does_not_matter(name: str, seed: int, weights: list[float]) -> None:
    assume(is_tame(name, weights))
    deltas = draw(seed, len(weights))
    places = np.random.default_rng(seed).permutation(len(weights))
    plain = combine(deltas, name, weights=weights)
    other = combine([deltas[i] for i in places], name, weights=[weights[i] for i in places])
    assert gap(other, plain, size_of(deltas, weights)) < exact(name)


@pytest.mark.parametrize("weight", [1.0, 0.7, -1.3, 0.0])
@pytest.mark.parametrize("name", ALL)
def test_one_adapter_is_itself_times_its_weight(name: str, weight: float) -> None:
    (delta,) = draw(3, 1)
    got = combine([delta], name, weights=[weight])
    assert gap(got, weight * delta, float(np.linalg.norm(delta))) < 1e-15


@pytest.mark.parametrize("weight", [1.0, -0.6])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("name", ALL)
def test_identical_adapters(name: str, count: int, weight: float) -> None:
    (delta,) = draw(4, 1)
    method = METHODS[name]
    got = combine([delta] * count, name, weights=[weight] * count)
    expected = weight * delta if method.mean else count * weight * delta
    kept = gap(got, expected, float(np.linalg.norm(expected))) < exact(name, 1e-7)
    assert kept == ("identical" not in method.breaks)


@pytest.mark.parametrize("name", [n for n in ALL if not METHODS[n].mean])
def test_identical_adapters_of_different_weights_add_up(name: str) -> None:
    (delta,) = draw(5, 1)
    got = combine([delta] * 3, name, weights=[1.0, 0.25, 0.5])
    kept = gap(got, 1.75 * delta, float(np.linalg.norm(delta))) < exact(name, 1e-7)
    assert kept == ("identical" not in METHODS[name].breaks)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("name", ALL)
def test_an_adapter_of_weight_zero_is_as_if_absent(name: str, place: int) -> None:
    deltas, weights = draw(6, 3, kinship=1.0), [0.9, -0.5, 1.2]
    weights[place] = 0.0
    rest = [i for i in range(3) if i != place]
    absent = combine([deltas[i] for i in rest], name, weights=[weights[i] for i in rest])
    present = combine(deltas, name, weights=weights)
    assert gap(present, absent, size_of(deltas, weights)) < 1e-12


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("name", ALL)
def test_a_delta_of_zero_leaves_the_direction(name: str, place: int) -> None:
    deltas, weights = draw(6, 3, kinship=1.0), [0.9, 0.5, 1.2]
    deltas[place] = np.zeros(SHAPE)
    got = combine(deltas, name, weights=weights)
    assert np.isfinite(got).all()
    assert gap(got, ORACLES[name](deltas, weights), size_of(deltas, weights)) < exact(name)


# Stacks at which a gate, a root or a quotient of some method turns.
POINTS: dict[str, tuple[list[F64], list[float]]] = {
    "ordinary": (draw(7, 3), [1.0, 0.7, -0.4]),
    "orthogonal": (at_angle(0.0), [1.0, 0.5]),
    "weight 0": (draw(8, 3, kinship=1.0), [1.0, 0.0, 0.6]),
    "weight 0 of two": (draw(8, 2, kinship=1.0), [1.0, 0.0]),
    "near-identical": (at_angle(1 - 1e-14), [0.8, 0.6]),
    "identical": (at_angle(1.0, (1.0, 3.0)), [0.8, 0.6]),
    "120 degrees": (triple(), [1.0, 1.0, 1.0]),
    "120 degrees, off balance": (triple(), [1.0, 1.02, 1.0]),
    "three, two opposed": ([*at_angle(-1.0), draw(9, 1)[0]], [1.0, 1.0, 1.0]),
    "opposed, light": (at_angle(-1.0, (1.0, 10.0)), [0.98, 0.02]),
    "almost opposed, light": (at_angle(-1 + 1e-13, (1.0, 10.0)), [0.98, 0.02]),
    "opposed by sign": (at_angle(1.0), [1.0, -0.6]),
    "an entry of its own appears": ([diagonal(1.0), diagonal(0.0, 1.0)], [1.0, 0.0]),
    "three times larger": ([diagonal(3.0, 1.0), diagonal(1.0, 1.0)], [1.0, 1.0]),
    "equal singular values, one shared": ([diagonal(1.0, 2.0), diagonal(1.0)], [1.0, 1.0]),
    "equal directions apart": ([diagonal(1.0), diagonal(0.0, 1.0)], [1.0, 1.0]),
    **{
        f"cos {cosine}": (at_angle(cosine, (1.0, 2.0)), [1.0, 0.8])
        for cosine in (-1.0, -0.99999, -0.9999, -0.999, -0.99, -0.97, -0.95, -0.9)
    },
}


def jump(name: str, deltas: Sequence[F64], weights: Sequence[float]) -> float:
    """Largest change of the result under small relative changes of everything."""
    size = size_of(deltas, weights) or 1.0
    plain = combine(deltas, name, weights=weights)
    worst = gap(plain, plain, size)
    rng = np.random.default_rng(13)
    for _ in range(6):
        moved = [
            delta + SMALL * np.linalg.norm(delta) * _unit(rng.normal(size=SHAPE))
            for delta in deltas
        ]
        turned = [
            w + SMALL * max(map(abs, weights)) * s
            for w, s in zip(weights, _signs(rng, len(weights)), strict=True)
        ]
        worst = max(worst, gap(combine(moved, name, weights=turned), plain, size))
    return worst


def _unit(delta: F64) -> F64:
    return delta / np.linalg.norm(delta)


def _signs(rng: np.random.Generator, count: int) -> list[float]:
    return [float(sign) for sign in rng.choice([-1.0, 1.0], size=count)]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", keeping("continuity"))
def test_a_small_change_changes_little(name: str, point: str) -> None:
    assert jump(name, *POINTS[point]) < SOFT


@pytest.mark.parametrize("name", keeping("continuity"))
@settings(steady, max_examples=60)
@given(
    cosine=st.sampled_from([-1.0, -1 + 1e-12, -1 + 1e-8]) | st.floats(-1.0, -0.9),
    share=st.floats(0.0, 1.0) | st.floats(0.001, 0.05),
    norm=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_a_small_change_changes_little_anywhere_near_opposition(
    name: str, cosine: float, share: float, norm: float
) -> None:
    assert jump(name, at_angle(cosine, (1.0, norm)), [1 - share, share]) < SOFT


@pytest.mark.parametrize("name", breaking("permutation"))
def test_order_really_matters_where_the_method_says_so(name: str) -> None:
    deltas, weights = draw(7, 3), [1.0, 0.7, 0.4]
    plain = combine(deltas, name, weights=weights)
    other = combine(deltas[::-1], name, weights=weights[::-1])
    assert gap(other, plain, size_of(deltas, weights)) > 1e-2


@pytest.mark.parametrize("name", breaking("continuity"))
def test_results_really_jump_where_the_method_says_so(name: str) -> None:
    assert max(jump(name, *at) for at in POINTS.values()) > 1e-2


@pytest.mark.parametrize(
    "weights", [[1.0, 1.0], [1.0, 0.1], [0.5, 0.5], [0.99, 0.01], [0.98, 0.02], [0.96, 0.04]]
)
@pytest.mark.parametrize("name", SUMS)
def test_opposed_deltas_stay_on_their_line(name: str, weights: list[float]) -> None:
    for seed in range(20):
        (delta,) = draw(seed, 1)
        deltas = [delta, -10 * delta]
        got = combine(deltas, name, weights=weights)
        size = size_of(deltas, weights)
        direction = delta / np.linalg.norm(delta)
        assert np.isfinite(got).all(), seed
        assert np.linalg.norm(got) <= 2 * size, seed
        assert np.linalg.norm(got - np.sum(got * direction) * direction) < 1e-7 * size, seed


@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.98, 0.02], [0.96, 0.04]])
@pytest.mark.parametrize("name", SUMS)
def test_opposed_files_stay_on_their_line(name: str, weights: list[float], tmp_path: Path) -> None:
    for seed in range(5):
        folder = tmp_path / str(seed)
        folder.mkdir()
        stack = Stack(folder)
        members = kin(seed, 3)
        stack.add(members)
        stack.add(scaled(members, -8.0))
        written = delta_of(merge(stack.paths, name, weights=weights).adapter)
        for key, delta in stack.deltas[0].items():
            size = size_of([one[key] for one in stack.deltas], weights)
            direction = delta / np.linalg.norm(delta)
            along = np.sum(written[key] * direction)
            assert np.linalg.norm(written[key] - along * direction) < 1e-5 * size


@pytest.mark.parametrize("name", ALL)
def test_huge_deltas_are_refused_or_right(name: str) -> None:
    deltas, weights = draw(1, 2), [1.0, 0.5]
    plain = combine(deltas, name, weights=weights)
    try:
        with np.errstate(all="ignore"):
            larger = combine([1e160 * delta for delta in deltas], name, weights=weights)
    except LoramixError:
        return
    assert gap(larger / 1e160, plain, size_of(deltas, weights)) < exact(name)


@pytest.mark.parametrize("name", ALL)
def test_nothing_at_all_gives_zero(name: str) -> None:
    zero = np.zeros(SHAPE)
    (delta,) = draw(10, 1)
    assert not combine([zero, zero], name).any()
    assert not combine([delta, delta], name, weights=[0.0, 0.0]).any()
