"""Methods in joint bases (`knots`, `core`) against dense bases by SVD, and against the laws.

Signs of basis vectors are free.  A method that takes a draw of votes as positive sees them, so
those that are not odd are equal to their oracle up to signs, and keep fewer laws.  Bases adapt to
the deltas: those of equal ones make their core diagonal, and few entries are many there.
"""

import numpy as np
import pytest
from oracles import F64
from oracles_suite import ORACLES, in_space
from test_combine import SIZES, WEIGHTS, draw, size_of

from loramix import METHODS, combine
from loramix.methods import Elementwise, Space, method_of

SPACES: list[Space] = ["knots", "core"]
ALL = sorted(name for name in METHODS if isinstance(METHODS[name](), Elementwise))
CASES = [(name, space) for name in ALL for space in SPACES]
SHAPE = (9, 14)
every_case = pytest.mark.parametrize(("name", "space"), CASES)


def keeping(law: str) -> list[tuple[str, Space]]:
    """Cases that say they keep a law."""
    return [(n, s) for n, s in CASES if law not in method_of(n, space=s).breaks]


def breaking(law: str) -> list[tuple[str, Space]]:
    """Cases that say they break a law."""
    return [(n, s) for n, s in CASES if law in method_of(n, space=s).breaks]


def bound_of(name: str) -> float:
    return 2e-5 if name in ("consensus", "ties-mergekit") else 2e-6


def gap(left: F64, right: F64, deltas: list[F64], weights: list[float]) -> float:
    return float(np.linalg.norm(left - right)) / size_of(deltas, weights)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
@every_case
def test_equal_to_the_oracle_in_dense_bases(name: str, space: Space, count: int) -> None:
    weights = WEIGHTS[:count]
    for shape in SIZES:
        deltas = draw(count * 100 + shape[0], count, shape)
        got = combine(deltas, name, weights=weights, space=space)
        far = in_space(space, ORACLES[name], deltas, weights, got)
        assert far <= bound_of(name) * size_of(deltas, weights), shape


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@every_case
def test_equal_to_the_oracle_in_every_type(name: str, space: Space, dtype: str) -> None:
    deltas, weights = draw(5, 3, SHAPE, dtype), WEIGHTS[:3]
    got = combine([d.astype(dtype) for d in deltas], name, weights=weights, space=space)
    assert got.dtype == np.dtype(dtype)
    far = in_space(space, ORACLES[name], deltas, weights, got.astype(np.float64))
    room = {"float32": 2.0**-24, "float16": 2.0**-11}[dtype] * float(np.linalg.norm(got))
    assert far <= bound_of(name) * size_of(deltas, weights) + room


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3), (0, 0)], ids=str)
@every_case
def test_nothing_in_nothing_out(name: str, space: Space, shape: tuple[int, ...]) -> None:
    got = combine([np.ones(shape), np.ones(shape)], name, space=space)
    assert (got.shape, got.dtype) == (shape, np.float64)


@every_case
def test_zero_in_zero_out(name: str, space: Space) -> None:
    (delta,) = draw(1, 1, SHAPE)
    assert not combine([np.zeros(SHAPE)] * 3, name, space=space).any()
    assert not combine([delta, delta], name, weights=[0.0, 0.0], space=space).any()


@pytest.mark.parametrize("factor", [1e-3, 7.0])
@pytest.mark.parametrize(("name", "space"), keeping("homogeneous"))
def test_homogeneous(name: str, space: Space, factor: float) -> None:
    deltas, weights = draw(2, 3, SHAPE), WEIGHTS[:3]
    plain = combine(deltas, name, weights=weights, space=space)
    heavier = combine(deltas, name, weights=[factor * w for w in weights], space=space)
    assert gap(heavier / factor, plain, deltas, weights) < bound_of(name)
    larger = combine([factor * delta for delta in deltas], name, weights=weights, space=space)
    assert gap(larger / factor, plain, deltas, weights) < bound_of(name)


@pytest.mark.parametrize("space", SPACES)
def test_weights_cancel_where_the_method_says_so(space: Space) -> None:
    deltas, weights = draw(2, 3, SHAPE), WEIGHTS[:3]
    plain = combine(deltas, "ties-mergekit", weights=weights, space=space)
    heavier = combine(deltas, "ties-mergekit", weights=[2 * w for w in weights], space=space)
    assert gap(heavier / 2, plain, deltas, weights) > 1e-2


@pytest.mark.parametrize(("name", "space"), keeping("odd"))
def test_odd(name: str, space: Space) -> None:
    deltas, weights = draw(3, 4, SHAPE), WEIGHTS[:4]
    plain = combine(deltas, name, weights=weights, space=space)
    by_weight = combine(deltas, name, weights=[-w for w in weights], space=space)
    by_delta = combine([-d for d in deltas], name, weights=weights, space=space)
    one = combine([-deltas[0], *deltas[1:]], name, weights=[-weights[0], *weights[1:]], space=space)
    assert gap(by_weight, -plain, deltas, weights) < bound_of(name)
    assert gap(by_delta, -plain, deltas, weights) < bound_of(name)
    assert gap(one, plain, deltas, weights) < bound_of(name)


@pytest.mark.parametrize("name", [name for name, space in breaking("odd") if space == "knots"])
def test_draws_of_votes_show_the_signs_of_bases(name: str) -> None:
    # In the joint left basis a draw is positive; in both, the bases turn with the first adapter.
    (delta,) = draw(4, 1, SHAPE)
    both, size = [delta, delta], [1.0, 1.0]
    plain, swapped = (
        combine(pair, name, space="knots") for pair in ([delta, -delta], [-delta, delta])
    )
    assert gap(swapped, -plain, both, size) > 1e-2
    plain, swapped = (
        combine(pair, name, space="core") for pair in ([delta, -delta], [-delta, delta])
    )
    assert gap(swapped, plain, both, size) > 1e-2
    for space in SPACES:
        assert {"odd", "homogeneous", "permutation"} <= method_of(name, space=space).breaks


@pytest.mark.parametrize(("name", "space"), keeping("permutation"))
def test_the_order_of_adapters_does_not_matter(name: str, space: Space) -> None:
    deltas, weights = draw(5, 4, SHAPE), WEIGHTS[:4]
    plain = combine(deltas, name, weights=weights, space=space)
    other = combine(deltas[::-1], name, weights=weights[::-1], space=space)
    assert gap(other, plain, deltas, weights) < bound_of(name)


@pytest.mark.parametrize(
    ("name", "space"), [case for case in breaking("permutation") if case in keeping("odd")]
)
def test_order_really_matters_where_the_method_says_so(name: str, space: Space) -> None:
    deltas, weights = draw(5, 4, SHAPE), WEIGHTS[:4]
    plain = combine(deltas, name, weights=weights, space=space)
    other = combine(deltas[::-1], name, weights=weights[::-1], space=space)
    assert gap(other, plain, deltas, weights) > 1e-2


@pytest.mark.parametrize("weight", [1.0, -1.3, 0.0])
@every_case
def test_one_adapter_is_itself_times_its_weight(name: str, space: Space, weight: float) -> None:
    first, second = draw(6, 2, SHAPE)
    assert np.array_equal(combine([first], name, weights=[weight], space=space), weight * first)
    beside = combine([first, second], name, weights=[weight, 0.0], space=space)
    assert np.array_equal(beside, weight * first)


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize(
    # Half of the entries of a diagonal core are all that are not zero, whatever its size.
    ("name", "space"),
    [case for case in CASES if case != ("ties-published", "core")],
)
def test_identical_adapters(name: str, space: Space, count: int) -> None:
    method, kept = method_of(name, space=space), set()
    for shape in [(4, 14), (13, 14)]:
        (delta,) = draw(7, 1, shape)
        got = combine([delta] * count, name, weights=[0.7] * count, space=space)
        expected = (0.7 if method.mean else 0.7 * count) * delta
        kept.add(gap(got, expected, [delta], [0.7 * count]) < bound_of(name))
    assert (kept == {True}) == ("identical" not in method.breaks)


@every_case
def test_bits_do_not_depend_on_threads(name: str, space: Space) -> None:
    deltas = draw(8, 3, (40, 70))
    first, *others = (
        combine(deltas, name, weights=WEIGHTS[:3], space=space, threads=n) for n in (1, 2, 7)
    )
    assert all(first.tobytes() == other.tobytes() for other in others)


@pytest.mark.parametrize("rotated", ["left", "right"])
@pytest.mark.parametrize("name", [n for n in ALL if "odd" not in METHODS[n].breaks])
def test_the_result_turns_with_the_deltas(name: str, rotated: str) -> None:
    # What the entries of a weight do not: the bases turn with the adapters.
    deltas, weights = draw(9, 3, SHAPE), WEIGHTS[:3]
    side = SHAPE[0] if rotated == "left" else SHAPE[1]
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(side, side)))[0]

    def turned(delta: F64) -> F64:
        return turn @ delta if rotated == "left" else delta @ turn

    plain = combine(deltas, name, weights=weights, space="core")
    got = combine([turned(delta) for delta in deltas], name, weights=weights, space="core")
    assert gap(got, turned(plain), deltas, weights) < bound_of(name)
