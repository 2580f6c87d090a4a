"""What members give to their group, where deltas are factors: every space, both backends.

Truths are those of `test_sides` on the float64 products of the factors; in joint bases, on the
coefficients of the members that are seen.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from backends.steps import delta_of, inner, job_of, read
from entries.cases import CASES, CLEANED, INNER, MIXED, POSITIVE, Case, as_type, is_defined
from helpers import F64, decode, encode, relative
from oracles import linear
from oracles_sides import given, sided
from oracles_suite import in_space

from loramix.backends import backend_of
from loramix.backends.base import Factored, Job
from loramix.executing.making import make
from loramix.methods import (
    METHODS,
    Coefficients,
    Composite,
    Method,
    Space,
    Subspace,
    method_of,
    published,
)
from loramix.methods.base import Keep, Program
from loramix.methods.composite import site_of
from loramix.planning.steps import Part, Step
from loramix.raw import RawGroup, Side, Site
from loramix.tensors import Tensor
from loramix.types import Factors, Group, Target

BACKENDS = ["rust", "torch:cpu"]
SPACES: list[Space] = ["weight", "knots", "core"]
SHAPE = (24, 31)
RANK = 3

SIDES: list[tuple[Side, ...]] = [
    ("low", "high"),
    ("high", "all"),
    ("around", "low", "all"),
    ("all", "around", "all"),
    ("high", "around", "low", "all"),
    ("around", "all", "high", "around"),
]

SEEN = [
    *(
        Case(name, INNER[name])
        for name in ("slerp", "linear", "average", "ortho", "ties:density=0.3", "consensus")
    ),
    *(
        case
        for case in CASES
        if str(case)
        in {
            "della:density=0.5,epsilon=0.3|none",
            "dare:density=0.4,only=conflicts,guard=published,fallback=nowhere|none",
            "ties:density=auto,energy=0.5,vote=count|none",
            "tall:lambda=1.5|none",
            "average||refine",
            "slerp|breadcrumbs:density=0.5,outliers=0.05|none",
            "ties:density=0.3|dare:density=0.4|refine",
        }
    ),
]

backends = pytest.mark.parametrize("backend", BACKENDS)
every = pytest.mark.parametrize("sides", SIDES, ids=" ".join)
spaces = pytest.mark.parametrize("space", SPACES)


def method_in(case: Case, space: Space) -> Method:
    """A program, also for what is a sum of whole deltas."""
    options: dict[str, Any] = {"sparsify": case.sparsify, "refine": case.refine, "space": space}
    method = method_of(case.method, **options)
    return Composite(method) if isinstance(method, Coefficients) else method


def group_of(seed: int, count: int, shape: tuple[int, int] = SHAPE) -> Group:
    """Members of rank `RANK` and scale 0.5, that share little; float32 holds their products."""
    rng = np.random.default_rng(seed)

    def side(*shape: int) -> Tensor:
        values = np.round(32 * rng.normal(size=shape)) / 32
        return Tensor("F32", shape, memoryview(encode("F32", values)))

    rows, cols = shape
    members = [
        Factors(side(rows, RANK), side(RANK, cols), 0.5, (f"up{i}", f"down{i}"), "x")
        for i in range(count)
    ]
    return Group(Target("unet.x", shape), tuple(members), tuple(range(count)))


def deltas_of(group: Group) -> list[F64]:
    each = [[decode("F32", bytes(side.data)) for side in (m.up, m.down)] for m in group.members]
    return [0.5 * up.reshape(-1, RANK) @ down.reshape(RANK, -1) for up, down in each]


def part_of(
    method: Method,
    group: Group,
    weights: Sequence[float],
    sides: Sequence[Side],
    start: int = 0,
    *,
    positive: bool = False,
) -> Part:
    gram = inner(deltas_of(group))
    site = site_of(
        method, gram, np.array(weights), key=0, seed=0, sides=sides, published_sides=positive
    )
    sizes = tuple(weights)
    return Part(group, method, sizes, sizes, start, site)


def step_of(parts: Sequence[Part], shape: tuple[int, int] = SHAPE, *, dense: bool = False) -> Step:
    joint = any(isinstance(part.method, Subspace) for part in parts)
    kind: Any = "dense" if dense else "joint" if joint else "entries"
    return Step(Target("x", shape), "", (), swap=False, parts=tuple(parts), kind=kind)


def made(step: Step, backend: str, **rule: Any) -> tuple[Factored, F64]:
    """What is written of a step, at full rank."""
    rows, cols = step.target.rows, step.target.cols
    if step.kind == "dense":
        job = Job(np.full(4 * rows * cols, 255, dtype=np.uint8), [0, 4 * rows * cols], "F32")
        (one,) = make([step], backend_of(backend), job)
        return one, decode("F32", bytes(job.arena)).reshape(rows, cols)
    full = min(rows, cols)
    job = job_of([(rows, cols, full)], rank=full, **rule)
    (one,) = make([step], backend_of(backend), job)
    return one, read(job, 0, rows, cols, one)


def size_of(deltas: Sequence[F64], weights: Sequence[float]) -> float:
    each = zip(weights, deltas, strict=True)
    return sum(abs(w) * float(np.linalg.norm(d)) for w, d in each)


def check(one: Factored, group: RawGroup, got: F64) -> None:
    """The account of a result, with Gram matrices of f32 products."""
    stored = delta_of(group, factors=False)
    norms = [float(np.linalg.norm(delta)) for delta in stored]
    gram = np.abs(one.gram - inner(stored)) / np.outer(norms, norms)
    along = np.array([np.sum(got * delta) for delta in stored])
    assert gram.max() < 1e-6
    assert (np.abs(one.along - along) / norms).max() < 1e-5 * float(np.linalg.norm(got))


@backends
@spaces
@every
@pytest.mark.parametrize("case", SEEN, ids=str)
def test_equal_to_the_oracle_in_every_space(
    case: Case, sides: tuple[Side, ...], space: Space, backend: str
) -> None:
    group, method = group_of(len(sides), len(sides)), method_in(case, space)
    weights = (POSITIVE if case.method == "slerp" else MIXED)[: len(sides)]
    part = part_of(method, group, weights, sides)
    seen, around, deltas = part.site.seen, part.site.around, deltas_of(group)
    _, got = made(step_of([part]), backend)
    beside = linear(around(deltas), around(weights)) if around(weights) else 0.0

    def oracle(own: Sequence[F64], sizes: Sequence[float]) -> F64:
        parts = given(own, sizes, seen(sides), published=False)
        assert is_defined(case, parts, sizes)
        return sided(case.means, own, sizes, seen(sides))

    if space == "weight":
        far = float(np.linalg.norm(got - beside - oracle(seen(deltas), seen(weights))))
    else:
        far = in_space(space, oracle, seen(deltas), seen(weights), got - beside)
    limit = CLEANED if case.means.clean else 1e-5
    assert far <= limit * size_of(deltas, weights)


@backends
@every
@pytest.mark.parametrize("case", SEEN, ids=str)
def test_dense_results_are_those_of_factors(
    case: Case, sides: tuple[Side, ...], backend: str
) -> None:
    group, method = group_of(9, len(sides)), method_in(case, "weight")
    part = part_of(method, group, POSITIVE[: len(sides)], sides, positive=True)
    _, factors = made(step_of([part]), backend)
    one, dense = made(step_of([part], dense=True), backend)
    assert relative(factors, dense) < (CLEANED if case.means.clean else 1e-5)
    assert one.norm == pytest.approx(np.linalg.norm(dense), rel=1e-5)


@spaces
@every
@pytest.mark.parametrize("positive", [False, True])
def test_backends_agree(positive: bool, sides: tuple[Side, ...], space: Space) -> None:
    for case in SEEN[::4]:
        method = method_in(case, space)
        part = part_of(
            method, group_of(4, len(sides)), POSITIVE[: len(sides)], sides, positive=positive
        )
        (one, ours), (two, theirs) = (made(step_of([part]), name) for name in BACKENDS)
        assert relative(ours, theirs) < (CLEANED if case.means.clean else 1e-5), case
        assert np.abs(one.along - two.along).max() <= 1e-4 * np.abs(one.along).max()
        if space == "weight":
            assert np.abs(np.subtract(one.sketch, two.sketch)).max() <= 1e-3 * one.norm


@backends
@pytest.mark.parametrize(
    ("space", "dense"), [*((space, False) for space in SPACES), ("weight", True)]
)
def test_parts_stand_where_they_belong_and_the_account_is_in_their_order(
    dense: bool,
    space: Space,
    backend: str,
) -> None:
    if dense and space != "weight":
        pytest.skip("results in joint bases are factors")
    method = method_in(Case("ties:density=0.3", INNER["ties:density=0.3"]), space)
    shape, places = (47, 31), (0, 18, 35)
    layout: list[tuple[Side, ...]] = [
        ("around", "low", "high"),
        ("all", "around"),
        ("around", "around"),
    ]
    parts = [
        part_of(method, group_of(i, len(sides), (12, 31)), MIXED[: len(sides)], sides, start)
        for i, (sides, start) in enumerate(zip(layout, places, strict=True))
    ]
    one, got = made(step_of(parts, shape, dense=dense), backend)
    expected = np.zeros(shape)
    for part in parts[1:]:
        rows = slice(part.row_start, part.row_start + 12)
        expected[rows] = linear(deltas_of(part.group), part.weights)
    first = made(step_of(parts[:1], (12, 31), dense=dense), backend)[1]
    expected[:12] = first
    assert relative(got, expected) < 1e-5
    assert np.abs(got[12:18]).max() < 1e-12
    moved = [
        (*raw[:6], part.row_start, raw[7])
        for part in parts
        for raw in part.group.raw(part.weights)[2]
    ]
    check(one, (*shape, moved), got)


ONE: list[tuple[Side, ...]] = [
    ("high", "around"),
    ("around", "around"),
    ("around", "low", "around"),
]


WHOLE = [case for case in CASES if case.refine == "full-published"]


@backends
@pytest.mark.parametrize("sides", ONE, ids=" ".join)
@pytest.mark.parametrize(
    ("case", "space"),
    [*((c, s) for c in SEEN for s in SPACES), *((c, "weight") for c in WHOLE[::4])],
    ids=str,
)
def test_one_that_is_seen_alone_is_its_delta(
    case: Case, space: Space, sides: tuple[Side, ...], backend: str
) -> None:
    method, group = method_in(case, space), group_of(5, len(sides))
    weights = MIXED[: len(sides)]
    one, got = made(step_of([part_of(method, group, weights, sides)]), backend)
    assert relative(got, linear(deltas_of(group), weights)) < 1e-6
    assert one.cut < 1e-5


@backends
@pytest.mark.parametrize("case", WHOLE[::4], ids=str)
def test_what_is_whole_goes_by_the_members_that_are_seen(case: Case, backend: str) -> None:
    """The same refinement as of what they give, which has its oracle elsewhere."""
    sides: tuple[Side, ...] = ("low", "around", "all")
    method, group, weights = method_in(case, "weight"), group_of(6, 3, (270, 263)), POSITIVE[:3]
    assert isinstance(method, Composite)
    assert method.whole(270, 263, 2)
    part, deltas = part_of(method, group, weights, sides), deltas_of(group)
    _, got = made(step_of([part], (270, 263), dense=True), backend)
    seen = part.site.seen
    parts = as_type(given(seen(deltas), seen(weights), seen(sides), published=False))
    run = partial(backend_of(backend).run, threads=None)
    site = replace(part.site, sides=())
    others = published.merged(method, parts, seen(weights), site, run).astype(np.float64)
    assert relative(got, others + weights[1] * deltas[1]) < 1e-6


SUBSPACE = sorted(name for name in METHODS if isinstance(METHODS[name](), Subspace))


@backends
@pytest.mark.parametrize("name", SUBSPACE)
@pytest.mark.parametrize(
    "sides", [s for s in [*SIDES, *ONE] if not {"low", "high"} & set(s)], ids=" ".join
)
def test_members_go_around_methods_in_joint_bases(
    sides: tuple[Side, ...], name: str, backend: str
) -> None:
    method, group, weights = method_of(name), group_of(7, len(sides)), POSITIVE[: len(sides)]
    part = part_of(method, group, weights, sides)
    seen, around = part.site.seen, part.site.around
    one, got = made(step_of([part]), backend)
    expected = linear(around(deltas_of(group)), around(weights))
    if seen(weights):
        others = replace(group, members=tuple(seen(group.members)))
        sizes = tuple(seen(weights))
        own = Part(others, method, sizes, sizes, 0, Site())
        expected = expected + made(step_of([own]), backend)[1]
    assert relative(got, expected) < 2e-6
    check(one, group.raw(), got)


@backends
@spaces
@every
def test_what_is_kept_is_that_of_the_members_that_are_seen(
    sides: tuple[Side, ...], space: Space, backend: str
) -> None:
    group, weights = group_of(8, len(sides)), MIXED[: len(sides)]
    site = Site(sides=sides)
    sizes = tuple(weights)
    part = Part(group, method_of("ties"), sizes, sizes, 0, site)
    step = step_of([part]).raw_parts()
    ((found,),) = backend_of(backend).kept([step], Program(), space, threads=None)
    own, seen = site.seen(deltas_of(group)), site.seen(weights)
    assert found.shape == (len(own), len(own))
    if space == "weight":
        parts = given(own, seen, site.seen(sides), published=False)
        truth = inner(parts) * np.outer(seen, seen)
        assert np.abs(found - truth).max() < 1e-5 * np.abs(truth).max()
    # In every space, what low and high leave of one member are the parts of a whole.
    halves: list[tuple[Side, ...]] = [("low", *sides[1:]), ("high", *sides[1:])]
    if sides[0] != "around" and all(side != "high" for side in sides[1:]):
        norms = []
        for both in (*halves, ("all", *sides[1:])):
            step = step_of([replace(part, site=replace(site, sides=both))]).raw_parts()
            ((gram,),) = backend_of(backend).kept([step], Program(), space, threads=None)
            norms.append(gram[0, 0])
        assert norms[0] + norms[1] == pytest.approx(norms[2], rel=1e-5)


@spaces
@every
@pytest.mark.parametrize("case", SEEN[::3], ids=str)
def test_bits_do_not_depend_on_threads(case: Case, sides: tuple[Side, ...], space: Space) -> None:
    method, shape = method_in(case, space), (300, 333)
    part = part_of(method, group_of(10, len(sides), shape), POSITIVE[: len(sides)], sides)
    step = step_of([part], shape)
    first, *others = (made(step, "rust", threads=n)[1].tobytes() for n in (1, 2, 7))
    assert all(other == first for other in others)


CLEAN = Program(Keep("largest", 0.6), vote="mass", reduce="mean", clean=True)


def cleaned_of(sides: Sequence[Side], shape: tuple[int, int], backend: str) -> F64:
    """A dense result with its noise taken out."""
    group = group_of(11, 3, shape)
    group = replace(group, members=group.members[: len(sides)])
    sizes = (1.0, 0.8, 0.5)[: len(sides)]
    part = Part(group, method_of("ties"), sizes, sizes, 0, Site(sides=sides))
    rows, cols = shape
    job = Job(np.empty(4 * rows * cols, dtype=np.uint8), [0, 4 * rows * cols], "F32")
    backend_of(backend).dense([step_of([part], shape).raw_parts()], CLEAN, job)
    return decode("F32", bytes(job.arena)).reshape(shape)


@backends
@pytest.mark.parametrize("shape", [(600, 500), (40, 30)], ids=str)
def test_what_goes_around_is_not_cleaned_and_lends_no_directions(
    shape: tuple[int, int], backend: str
) -> None:
    # Of large targets only some directions are looked at, those of the members that are seen.
    delta = deltas_of(group_of(11, 3, shape))[2]
    alone = cleaned_of(("low", "all"), shape, backend)
    assert (
        relative(cleaned_of(("low", "all", "around"), shape, backend), alone + 0.5 * delta) < 1e-5
    )


def test_both_backends_clean_small_targets_alike() -> None:
    one, two = (cleaned_of(("low", "high", "around"), (40, 30), name) for name in BACKENDS)
    assert relative(one, two) < CLEANED
