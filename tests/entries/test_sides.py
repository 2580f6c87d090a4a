"""What members give to their group, on dense deltas: masks, methods, what goes around."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from backends.steps import KEEPS, SELFISH
from entries.cases import (
    BOTH,
    CASES,
    ELECTED,
    FLOAT,
    INNER,
    MIXED,
    POSITIVE,
    REFINED,
    Case,
    as_type,
    bound,
    distance,
    draw,
    is_defined,
)
from helpers import F64
from oracles import linear
from oracles_sides import given, sided

from loramix import ParamError, ShapeError
from loramix.backends import backend_of
from loramix.methods import Coefficients, Composite, method_of, published
from loramix.methods.base import Keep, Program, Selfish
from loramix.methods.composite import mixer_of, site_of
from loramix.raw import Side, Site
from loramix.refusals import with_names

BACKENDS = ["rust", "torch:cpu"]

SIDES: list[tuple[Side, ...]] = [
    ("low", "high"),
    ("high", "low"),
    ("low", "low"),
    ("high", "all"),
    ("around", "high"),
    ("low", "around", "high"),
    ("high", "low", "all"),
    ("low", "low", "low"),
    ("all", "around", "all", "around"),
    ("high", "around", "low", "all"),
    ("high", "high", "low", "low"),
]

RANKED = Keep("ranked", 0.6, spread=0.3)
TIES = Program(Keep("largest", 0.4), vote="count", reduce="mean")
TALL = Program(selfish=Selfish(1.5, level=True), reduce="average")

backends = pytest.mark.parametrize("backend", BACKENDS)
every = pytest.mark.parametrize("sides", SIDES, ids=" ".join)
rules = pytest.mark.parametrize("positive", [False, True], ids=["odd", "published"])


def plain(name: str) -> Case:
    return Case(name, INNER[name])


GUARDED = ("guard=published", "guard=none")
FIRST = ("tall:lambda=1.5", "breadcrumbs", "ties", "della:density=0.5", "consensus")
SEEN = [
    *[case for case in CASES if any(guard in case.method for guard in GUARDED)][::3],
    *[case for case in CASES if case.method.startswith(FIRST) and case.sparsify is None],
    *(plain(name) for name in INNER),
    *REFINED,
    *BOTH[::3],
    *ELECTED,
    *[case for case in CASES if case.refine == "refine-published" and case.sparsify is None],
]
"""Guards are calibrated to the cosines of whole deltas, which the oracle does not have."""


def run(
    case: Case,
    deltas: Sequence[F64],
    weights: Sequence[float],
    sides: Sequence[Side],
    backend: str = "rust",
    **more: Any,
) -> Any:
    """As `combine` does it, with sides."""
    options: dict[str, Any] = {"sparsify": case.sparsify, "refine": case.refine}
    method: Any = method_of(case.method, **options)
    method = Composite(method) if isinstance(method, Coefficients) else method
    flat = np.stack([d.ravel() for d in deltas])
    site = site_of(
        method, flat @ flat.T, np.array(weights), key=0, seed=0, sides=sides,
        published_sides=more.pop("published", False),
    )  # fmt: skip
    run = backend_of(backend).run
    rows, cols = deltas[0].shape
    if isinstance(method, Composite) and method.whole(rows, cols, len(site.seen(weights))):
        whole: Any = lambda *a, **k: run(*a, threads=None, **k)  # noqa: E731
        return published.merged(method, as_type(deltas), weights, site, whole)
    found: Any = run(
        as_type(deltas), weights, method.program(), site, mix=mixer_of(method),
        threads=more.get("threads"),
    )  # fmt: skip
    return found


def alone(
    deltas: Sequence[F64],
    weights: Sequence[float],
    site: Site,
    backend: str = "rust",
) -> list[F64]:
    """What each member gives, times its weight: all others times 0."""
    found = []
    for place in range(len(deltas)):
        one = np.zeros((len(deltas), len(deltas)))
        one[place, place] = 1
        own = replace(site, mix=one.ravel().tolist())
        values = backend_of(backend).run(as_type(deltas), weights, Program(), own, threads=None)
        found.append(values.astype(np.float64))
    return found


def integers(seed: int, count: int, shape: tuple[int, int] = (23, 40)) -> list[F64]:
    """Few values: zeros, draws of two against two, sums of zero."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-2, 3, size=shape).astype(np.float64) for _ in range(count)]


@backends
@rules
@every
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 2.0, -0.5]])
def test_masks_equal_the_oracle(
    weights: list[float], sides: tuple[Side, ...], positive: bool, backend: str
) -> None:
    sides = tuple(side for side in sides if side != "around")
    deltas, own = integers(len(sides), len(sides)), weights[: len(sides)]
    site = Site(sides=sides, published_sides=positive)
    parts = given(deltas, own, sides, published=positive)
    for got, weight, expected in zip(alone(deltas, own, site, backend), own, parts, strict=True):
        assert np.array_equal(got, weight * expected)


@backends
@pytest.mark.parametrize("sides", [SIDES[i] for i in (0, 3, 5, 9, 10)], ids=" ".join)
@pytest.mark.parametrize("case", SEEN, ids=str)
def test_methods_see_what_is_given(case: Case, sides: tuple[Side, ...], backend: str) -> None:
    count = len(sides)
    deltas = draw(10 + count, count, kinship=0.2)
    weights = (POSITIVE if case.method == "slerp" else MIXED)[:count]
    seen = Site(sides=sides).seen
    for positive in (False, True):
        parts = given(seen(deltas), seen(weights), seen(sides), published=positive)
        assert is_defined(case, parts, seen(weights))
        got = run(case, deltas, weights, sides, backend, published=positive)
        expected = sided(case.means, deltas, weights, sides, published=positive)
        assert distance(got, expected, deltas, weights) < 4 * bound(case)


@backends
@pytest.mark.parametrize("seed", range(3))
def test_of_two_the_published_draw_goes_to_what_is_positive(seed: int, backend: str) -> None:
    first, second = draw(seed, 2, kinship=0.3)
    weights = [0.7, -1.3]
    ballots = [0.7 * first, -1.3 * second]
    differ = ballots[0] * ballots[1] < 0
    assert 0.3 < differ.mean() < 0.7
    for side, kept in (
        ("high", [differ & (b < 0) for b in ballots]),
        ("low", [~differ | (b > 0) for b in ballots]),
    ):
        site = Site(sides=[side, side], published_sides=True)  # type: ignore[list-item]
        for got, mask in zip(alone([first, second], weights, site, backend), kept, strict=True):
            assert np.array_equal(got != 0, mask)
    # The other rule gives the draw to the larger one, whatever its sign.
    site = Site(sides=["high", "high"])
    smaller = np.abs(ballots[0]) < np.abs(ballots[1])
    got = alone([first, second], weights, site, backend)
    assert np.array_equal(got[0] != 0, differ & smaller)
    assert np.array_equal(got[1] != 0, differ & ~smaller)


@backends
@every
def test_negated_deltas_give_the_negated_result_to_the_bit(
    sides: tuple[Side, ...], backend: str
) -> None:
    deltas, weights = integers(5, len(sides)), MIXED[: len(sides)]
    turned = [-delta for delta in deltas]
    for program in (Program(), TIES, replace(TIES, keep=RANKED), TALL):
        for site in (Site(sides=sides), Site(sides=sides, norm=20.0)):
            go = backend_of(backend).run
            plain = go(as_type(deltas), weights, program, site, threads=None)
            other = go(as_type(turned), weights, program, site, threads=None)
            assert np.array_equal(other, -plain)


def test_the_published_rule_is_not_odd() -> None:
    deltas, site = integers(5, 2), Site(sides=("low", "high"), published_sides=True)
    plain, other = (alone([s * d for d in deltas], [1.0, 1.0], site) for s in (1, -1))
    assert not np.array_equal(plain[0], -other[0])
    assert not np.array_equal(plain[1], -other[1])


@pytest.mark.parametrize("value", [1.0, -2.5])
def test_where_nobody_wins_low_gives_nothing_and_high_everything(value: float) -> None:
    delta = np.full((3, 70), value)
    for sides, left in (
        (("low", "high"), [0.0, -value]),
        (("high", "low"), [value, 0.0]),
        (("all", "high"), [value, -value]),
    ):
        got = alone([delta, -delta], [1.0, 1.0], Site(sides=sides))  # type: ignore[arg-type]
        assert [(g == one).all() for g, one in zip(got, left, strict=True)] == [True, True]


@backends
def test_who_has_no_entry_has_no_vote(backend: str) -> None:
    # Two against one, but one of the two is silent in half of the positions.
    one = np.ones((4, 64))
    half = np.where(np.arange(64) < 32, 1.0, 0.0) * one
    got = alone([one, half, -3.0 * one], [1.0, 1.0, 1.0], Site(sides=["low"] * 3), backend)
    assert np.array_equal(got[0], half)  # elsewhere the larger entry wins the draw
    assert np.array_equal(got[1], half)
    assert np.array_equal(got[2], -3.0 * (one - half))


AROUND: list[tuple[Side, ...]] = [
    ("around", "all", "all"),
    ("all", "around", "all"),
    ("low", "around", "all", "around", "high"),
]


@backends
@pytest.mark.parametrize("sides", AROUND, ids=" ".join)
@pytest.mark.parametrize("case", [*SEEN, *(c for c in CASES if "calibrated" in c.method)], ids=str)
def test_around_is_the_method_of_the_others_and_a_delta_to_the_bit(
    case: Case, sides: tuple[Side, ...], backend: str
) -> None:
    deltas = draw(8, len(sides), kinship=0.2)
    weights = (POSITIVE if case.method == "slerp" else MIXED)[: len(sides)]
    site = Site(sides=sides)
    seen, around = site.seen, site.around
    expected = run(case, seen(deltas), seen(weights), seen(sides), backend)
    for weight, delta in zip(around(weights), around(deltas), strict=True):
        expected = expected + np.float32(weight) * delta.astype(np.float32)
    got = run(case, deltas, weights, sides, backend)
    assert np.array_equal(got, expected)


@backends
def test_all_may_go_around(backend: str) -> None:
    deltas, weights = draw(9, 3), MIXED[:3]
    for program in (Program(), TIES, TALL, replace(TIES, clean=True)):
        for norm in (None, 3.0):
            site = Site(sides=["around"] * 3, norm=norm)
            got = backend_of(backend).run(as_type(deltas), weights, program, site, threads=None)
            assert distance(got, linear(deltas, weights), deltas, weights) < FLOAT


@pytest.mark.parametrize("sides", SIDES[::3], ids=" ".join)
@pytest.mark.parametrize("keep", KEEPS, ids=str)
def test_both_backends_give_the_same_bits(keep: Keep, sides: tuple[Side, ...]) -> None:
    count = len(sides)
    for deltas, weights in (
        (draw(3, count, (33, 31)), MIXED[:count]),
        (integers(4, count, (9, 130)), [1.0, -0.5, 2.0, 0.25][:count]),
    ):
        for site in (
            Site(5, 11, sides=sides),
            Site(5, 11, sides=sides, published_sides=True),
            Site(5, 11, 0.2, sides=sides),
        ):
            for selfish in SELFISH[:2]:
                program = Program(keep, selfish, "count", "signed", "mean")
                one, two = (
                    backend_of(name).run(as_type(deltas), weights, program, site, threads=None)
                    for name in BACKENDS
                )
                assert np.array_equal(one, two), site


@pytest.mark.parametrize("sides", [SIDES[0], SIDES[8], SIDES[9]], ids=" ".join)
@pytest.mark.parametrize("keep", KEEPS, ids=str)
def test_bits_do_not_depend_on_threads(keep: Keep, sides: tuple[Side, ...]) -> None:
    deltas, weights = as_type(draw(11, len(sides), (400, 333))), MIXED[: len(sides)]
    program, site = replace(TIES, keep=keep), Site(7, 3, sides=sides, norm=30.0)
    first, *others = (
        backend_of("rust").run(deltas, weights, program, site, threads=threads).tobytes()
        for threads in (1, 2, 7)
    )
    assert all(other == first for other in others)


@backends
def test_sides_are_refused_by_name(backend: str) -> None:
    deltas = as_type(draw(12, 2))
    go = backend_of(backend).run

    def call(sides: Any) -> Any:
        site = Site(sides=sides)
        return with_names([], lambda: go(deltas, [1.0, 1.0], TIES, site, threads=None))

    with pytest.raises(ParamError, match=r"middle.*all low high around"):
        call(["all", "middle"])
    with pytest.raises(ShapeError, match=r"sides.*2, one for each.*got 3"):
        call(["all"] * 3)


@pytest.mark.parametrize("side", ["low", "high"])
@pytest.mark.parametrize("name", ["iso-c", "linear"])
def test_methods_without_entries_refuse_to_leave_some_out(name: str, side: Any) -> None:
    method, weights = method_of(name), np.ones(2)
    with pytest.raises(ParamError, match=rf"side = {side}: {name}"):
        site_of(method, np.eye(2), weights, key=0, seed=0, sides=("all", side))
    site = site_of(method, np.eye(2), weights, key=0, seed=0, sides=("all", "around"))
    assert site.sides == ("all", "around")


def test_a_site_is_that_of_the_members_that_take_part() -> None:
    gram = np.diag([4.0, 9.0, 16.0, 25.0])
    weights = np.array([1.0, 0.0, 0.5, 2.0])
    sides: tuple[Side, ...] = ("low", "high", "all", "around")
    site = site_of(method_of("consensus"), gram, weights, key=1, seed=2, sides=sides)
    assert site.sides == ("low", "all", "around")
    assert site.norm == pytest.approx((2.0 + 0.5 * 4.0) / 1.5)
    assert (site.seen("xyz"), site.around("xyz")) == (["x", "y"], ["z"])
    assert replace(site.alone(), key=0, seed=0) == Site(sides=("all", "all", "around"))
    assert Site(1, 2, norm=1.0, sides=("low",), mix=(1.0,)).alone() == Site(1, 2)
