"""Refinement in every level: what `test_entries` does not see of it.

Groups of more than 256 directions, which ``full-published`` projects; ``full`` in dense joint
bases; factors of results that Python made; files, parts of fused weights; the laws of the split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import F64, Pair, Stack, delta_of, pairs
from hypothesis import given
from hypothesis import strategies as st
from oracles import linear
from oracles_entries import Definition, Thin, merged
from oracles_suite import in_space
from test_entries import (
    CLEANED,
    ELECTED,
    FLOAT,
    FULL,
    INNER,
    MIXED,
    POSITIVE,
    Case,
    as_type,
    distance,
    draw,
    is_defined,
    steady,
)

from loramix import FormatError, Output, OutputError, ParamError, combine, merge
from loramix._core import CoreError
from loramix.backends import backend_of
from loramix.backends.base import Factored, Job
from loramix.making import make
from loramix.methods import method_of
from loramix.methods.ortho import gram_schmidt
from loramix.methods.published import take_out
from loramix.steps import Part, Step
from loramix.types import Factors, Group, Site, Target, Tensor

LARGE = [(270, 263), (261, 283), (560, 135), (2, 400)]
"""Rows and columns beyond 256; only the columns of two together; too few rows."""
BACKENDS = ["rust", "torch:cpu"]
PROJECTED = [*FULL, *(case for case in ELECTED if case.refine == "full-published")]

projected = pytest.mark.parametrize("case", PROJECTED, ids=str)


def bound(case: Case) -> float:
    return CLEANED if case.means.clean else 3 * FLOAT


# Equal to the definition.


@projected
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_projected_deltas_equal_the_oracle(case: Case, count: int) -> None:
    weights = POSITIVE[:count] if case.method == "slerp" else MIXED[:count]
    for shape in LARGE[: 4 if count == 2 else 1]:
        deltas = draw(count, count, shape)
        assert is_defined(case, deltas, weights)
        got = case(as_type(deltas), weights)
        expected = merged(case.means, deltas, weights)
        assert distance(got, expected, deltas, weights) < bound(case), shape


@projected
def test_tall_groups_are_projected_on_the_other_side(case: Case) -> None:
    weights = POSITIVE[:3]
    deltas = draw(8, 3, (560, 101))
    got = case(as_type(deltas), weights)
    assert distance(got, merged(case.means, deltas, weights), deltas, weights) < bound(case)
    unprojected = replace(case, refine="refine-published")(as_type(deltas), weights)
    # A model stock of orthogonal deltas is zero: only what goes around it is left.
    seen = distance(got, unprojected.astype(np.float64), deltas, weights) > 1e-3
    assert seen == (case.method != "model-stock")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("method", ["slerp", "ties-published:density=0.6"])
def test_every_type_and_backend(method: str, dtype: str, backend: str) -> None:
    case = next(c for c in PROJECTED if c.method.startswith(method))
    weights = [1.0, 0.5, 0.25]
    tensors = [torch.from_numpy(d).to(getattr(torch, dtype)) for d in draw(9, 3, (300, 97))]
    deltas = [t.to(torch.float64).numpy() for t in tensors]
    given_ = tensors if dtype == "bfloat16" else [t.numpy() for t in tensors]
    got = case(given_, weights, backend=backend)
    assert (type(got), got.dtype) == (type(given_[0]), given_[0].dtype)
    found = got.to(torch.float64).numpy() if dtype == "bfloat16" else got
    limit = {"float16": 2e-3, "bfloat16": 1e-2}.get(dtype, bound(case))
    assert distance(found, merged(case.means, deltas, weights), deltas, weights) < limit


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (24, 17), (17, 40)], ids=str)
@pytest.mark.parametrize("name", INNER)
def test_full_is_refined_in_dense_joint_bases(
    name: str, shape: tuple[int, int], count: int
) -> None:
    what = INNER[name]
    means = replace(what, refine=True, lambda_=3.0, calibrate=what.calibrate or what.mean)
    deltas, weights = draw(60 + count, count, shape), POSITIVE[:count]

    def oracle(cores: Sequence[F64], sizes: Sequence[float]) -> F64:
        return merged(means, cores, sizes)

    got = combine(as_type(deltas), name, weights=weights, refine="full").astype(np.float64)
    size = sum(w * float(np.linalg.norm(d)) for w, d in zip(weights, deltas, strict=True))
    far = in_space("knots", oracle, deltas, weights, got)
    assert far <= (CLEANED if what.clean else 5e-6) * size


@pytest.mark.parametrize("sparsify", ["dare:density=0.4", "breadcrumbs:density=0.5"])
@pytest.mark.parametrize("name", ["linear", "slerp", "average"])
def test_full_of_sparsified_coefficients(name: str, sparsify: str) -> None:
    thin = {"d": Thin("random", 0.4), "b": Thin("largest", 0.5, outliers=0.01)}[sparsify[0]]
    what = INNER[name]
    means = replace(what, keep=thin, refine=True, lambda_=3.0, calibrate=what.mean)
    deltas, weights = draw(70, 3, (24, 31)), POSITIVE[:3]
    got = combine(as_type(deltas), name, weights=weights, refine="full", sparsify=sparsify)
    size = sum(w * float(np.linalg.norm(d)) for w, d in zip(weights, deltas, strict=True))
    far = in_space("knots", lambda d, w: merged(means, d, w), deltas, weights, got.astype(float))
    assert far <= 5e-6 * size


# Laws.


@steady
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 9), cols=st.integers(1, 40))
def test_of_two_entries_one_always_goes_around_the_rest(seed: int, rows: int, cols: int) -> None:
    # Odd and even numbers are never equally large, and their sums are exact.
    rng = np.random.default_rng(seed)
    first = 2.0 * rng.integers(-20, 20, size=(rows, cols)) + 1
    second = 2.0 * rng.integers(-20, 20, size=(rows, cols))
    larger = np.where(np.abs(first) > np.abs(second), first, second)
    values = np.stack([first, second]).astype(np.float32)
    assert np.array_equal(take_out(values), larger)
    assert np.array_equal(values.sum(axis=0), first + second - larger)
    assert not (values[0] * values[1]).any()
    # So what is left is orthogonal, and a mean of it is added to the larger ones.
    got = combine([first, second], "average", refine="refine-published")
    assert np.allclose(got, larger + (first + second - larger) / 2, rtol=1e-6, atol=1e-6)


@steady
@given(seed=st.integers(0, 2**32 - 1))
def test_equally_large_entries_of_two_belong_to_nobody(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(3, 8)).astype(np.float32)
    values = np.stack([first, rng.choice(np.float32([-1, 1]), size=first.shape) * first])
    before = values.copy()
    assert not take_out(values).any()
    assert np.array_equal(values, before)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_copy_adds_nothing_after_gram_schmidt(count: int) -> None:
    # The larger the stack, the more rounding is left of a copy to be blown up.
    for seed in range(20):
        deltas = [d.ravel() for d in draw(seed, count, (40, 40))]
        deltas[-1] = np.float32(0.3) * np.sum(deltas[:-1], axis=0, dtype=np.float32)
        stack = np.stack(deltas)
        turn = gram_schmidt(stack @ stack.T)
        assert not turn[-1].any()
        turned = turn @ stack
        sizes = np.linalg.norm(stack[:-1], axis=1)
        assert np.allclose(turned[:-1] @ turned[:-1].T, np.diag(sizes**2), atol=1e-6)


@pytest.mark.parametrize("shape", [(256, 300), (300, 85), (300, 128)], ids=str)
@pytest.mark.parametrize("method", [*INNER, "ties-published"])
def test_projection_on_everything_is_nothing_to_the_bit(
    method: str, shape: tuple[int, int]
) -> None:
    deltas = as_type(draw(10, 2 if shape[1] == 128 else 3, shape))
    weights = POSITIVE[: len(deltas)]
    plain, full = (
        combine(deltas, method, weights=weights, refine=level)
        for level in ("refine-published", "full-published")
    )
    assert np.array_equal(plain, full)


@projected
def test_bits_of_projected_deltas_do_not_depend_on_threads(case: Case) -> None:
    deltas = as_type(draw(11, 2, LARGE[0]))
    first, *others = (case(deltas, [1.0, 0.5], threads=t).tobytes() for t in (1, 2, 7))
    assert all(other == first for other in others)


def test_weights_beyond_float32_are_refused_or_nothing() -> None:
    deltas = as_type(draw(12, 3))
    huge = [d / np.abs(d).max() * np.float32(1e38) for d in deltas]
    for few, weights in ((deltas, [1e39, 1.0, 1.0]), (huge, [4.0, 3.0, 3.0])):
        with pytest.raises(OutputError, match="too large"):
            combine(few, "ties-published", weights=weights, refine="full-published")
    got = combine(deltas, "ties-published", weights=[1e-60, 1.0, 0.5], refine="refine-published")
    assert np.isfinite(got).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "slerp", "space": "knots"}, ["weight", "knots", "refine"]),
        ({"method": "core(ties)"}, ["weight", "core", "refine"]),
        ({"method": "tall"}, ["tall", "average"]),
        ({"method": "iso-c"}, ["iso-c", "refine"]),
    ],
)
@pytest.mark.parametrize("refine", ["refine-published", "full-published"])
def test_what_does_not_go_together_is_refused_by_name(
    refine: Any, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ParamError) as caught:
        combine([np.ones((2, 2))] * 2, refine=refine, **options)
    assert all(word in str(caught.value) for word in words), caught.value


# Results that Python made, and files.

SHAPES = {
    "unet.blocks.0.attn.to_q": (272, 60),
    "unet.blocks.0.ff.proj": (40, 20),
    "unet.blocks.1.conv": (270, 30, 3, 3),
    "unet.blocks.2.alone": (260, 270),
}
LEVELS: list[Any] = ["refine-published", "full-published"]
METHODS = ["average", "slerp", "ties", "ties-published", "consensus:clean=false"]
WEIGHTS = [0.9, 0.6, 1.37]


def members(seed: int, modules: Mapping[str, tuple[int, ...]], dtype: str) -> dict[str, Pair]:
    return pairs(seed, 2 + seed, dtype=dtype, alpha=2.0 + seed, modules=modules)


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Three adapters; one module belongs to the first alone."""
    found = Stack(tmp_path, "kohya")
    for seed in range(3):
        own = {name: s for name, s in SHAPES.items() if seed == 0 or "alone" not in name}
        found.add(members(seed, own, "BF16"))
    return found


def of_arrays(stack: Stack, method: str, **options: Any) -> dict[str, F64]:
    """What `combine` makes of the dense deltas."""
    found = {}
    for key in stack.deltas[0]:
        own = [(d[key], w) for d, w in zip(stack.deltas, WEIGHTS, strict=True) if key in d]
        deltas, weights = [d.astype(np.float32) for d, _ in own], [w for _, w in own]
        found[key] = combine(deltas, method, weights=weights, **options).astype(np.float64)
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("refine", LEVELS)
@pytest.mark.parametrize("method", METHODS)
def test_files_give_what_arrays_give(method: str, refine: Any, backend: str, stack: Stack) -> None:
    output = Output(rank=400, dtype="f32")
    merged_ = merge(
        stack.paths, method, weights=WEIGHTS, refine=refine, output=output, backend=backend
    )
    written, expected = delta_of(merged_.adapter), of_arrays(stack, method, refine=refine)
    assert written.keys() == expected.keys()
    for key, delta in expected.items():
        # A sign may differ where entries are nearly zero.
        assert float(np.linalg.norm(written[key] - delta)) <= 1e-3 * np.linalg.norm(delta), key


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", ["average", "ties-published"])
def test_a_limited_rank_is_the_best_and_shares_are_true(
    method: str, backend: str, stack: Stack
) -> None:
    merged_ = merge(
        stack.paths, method, weights=WEIGHTS, refine="full-published",
        output=Output(rank=12, dtype="f32"), backend=backend,
    )  # fmt: skip
    written, expected = delta_of(merged_.adapter), of_arrays(stack, method, refine="full-published")
    for row in merged_.log:
        key = row.target.removeprefix("model.")
        values = np.linalg.svd(expected[key], compute_uv=False)
        size = float(np.linalg.norm(values))
        gap = float(np.linalg.norm(written[key] - expected[key])) / size
        assert gap == pytest.approx(row.cut, rel=1e-3, abs=1e-4)
        assert gap <= 1.02 * float(np.linalg.norm(values[row.rank :])) / size + 1e-4
        for share in row.shares:
            delta = WEIGHTS[share.owner] * stack.deltas[share.owner][key]
            along = float(np.sum(written[key] * delta) / np.sum(delta**2))
            assert share.retention == pytest.approx(along, abs=1e-4)


@pytest.mark.parametrize("method", ["slerp", "ties-published", "consensus"])
def test_bytes_of_files_do_not_depend_on_threads(method: str, stack: Stack) -> None:
    found = set()
    for threads in (1, 2, 7):
        path = stack.folder / f"merged-{threads}.safetensors"
        merge(
            stack.paths, method, weights=WEIGHTS, refine="full-published", path=path,
            threads=threads,
        )  # fmt: skip
        found.add(path.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_a_number_is_named(backend: str, stack: Stack) -> None:
    broken = members(3, SHAPES, "F32")
    broken["unet.blocks.1.conv"].down[1, 5] = np.nan
    stack.add(broken)
    with pytest.raises(FormatError, match=r"source-3.*conv.*down.* holds NaN"):
        merge(stack.paths, "ties-published", refine="full-published", backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weights", [[1.0, 1.0], [1e39, 1.0]])
def test_what_is_too_large_is_named(weights: list[float], backend: str, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for seed in range(2):
        modules = members(seed, {"unet.blocks.0.ff.proj": (20, 15)}, "F32")
        size = 1.0 if weights[0] > 1 else 1e30
        stack.add(
            {name: replace(p, up=p.up * size, down=p.down * size) for name, p in modules.items()}
        )
    with pytest.raises(OutputError, match=r"ff\.proj.*too large"):
        merge(
            stack.paths, "ties-published", weights=weights, refine="refine-published",
            backend=backend,
        )  # fmt: skip


def factors_of(up: F64, down: F64) -> Factors:
    def tensor(side: F64) -> Tensor:
        data = np.ascontiguousarray(side, dtype=np.float32).reshape(-1).view(np.uint8)
        return Tensor("F32", side.shape, memoryview(data))

    return Factors(tensor(up), tensor(down), 1.0, ("up", "down"), "file")


def part_of(seed: int, shape: tuple[int, int], weights: Sequence[float], start: int) -> Part:
    rng = np.random.default_rng(seed)
    rows, cols = shape
    each = [(rng.normal(size=(rows, 3)), rng.normal(size=(3, cols))) for _ in weights]
    group = Group(
        Target(f"part.{seed}", shape),
        tuple(factors_of(up, down) for up, down in each),
        tuple(range(len(weights))),
    )
    return Part(group, tuple(weights), start, Site(key=seed))


def dense(part: Part) -> list[F64]:
    found = []
    for factors in part.group.members:
        up, down = (
            np.frombuffer(side.data, dtype=np.float32).reshape(side.shape).astype(np.float64)
            for side in (factors.up, factors.down)
        )
        found.append((up @ down).astype(np.float32).astype(np.float64))
    return found


def rebuilt(job: Job, index: int, made: Factored, shape: tuple[int, int]) -> F64:
    rows, cols = shape
    own = job.arena[job.offsets[index] :].view(np.float32)
    up = own[: rows * made.rank].reshape(rows, -1).astype(np.float64)
    return up @ own[rows * made.rank :][: made.rank * cols].reshape(-1, cols)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("refine", LEVELS)
def test_parts_of_fused_weights_stand_where_they_belong(refine: Any, backend: str) -> None:
    # One whole, a gap, one adapter alone, one small; and a step of small ones in the same batch.
    parts = (
        part_of(1, (300, 280), [0.9, 0.6], 0),
        part_of(2, (20, 280), [-0.7], 310),
        part_of(3, (40, 280), [0.5, 0.8, 1.1], 330),
    )
    small = part_of(4, (30, 25), [1.0, 0.4], 0)
    steps = [
        Step(Target("fused", (380, 280)), "", (), swap=False, parts=parts, kind="entries"),
        Step(Target("small", (30, 25)), "", (), swap=False, parts=(small,), kind="entries"),
    ]
    method = method_of("linear", refine=refine)
    offsets = np.cumsum([0, 4 * 660 * 280, 4 * 55 * 25]).tolist()
    job = Job(np.empty(offsets[-1], dtype=np.uint8), offsets, "F32", rank=280)
    made = make(method, steps, backend_of(backend), job)
    means = Definition(linear, mean=False, published="full" if "full" in refine else "refine")
    for index, step in enumerate(steps):
        shape = (step.target.rows, step.target.cols)
        expected = np.zeros(shape)
        for part in step.parts:
            end = part.row_start + part.group.target.rows
            expected[part.row_start : end] = merged(means, dense(part), part.weights)
        got = rebuilt(job, index, made[index], shape)
        assert float(np.linalg.norm(got - expected)) < 1e-5 * float(np.linalg.norm(expected))
        assert made[index].norm == pytest.approx(float(np.linalg.norm(expected)), rel=1e-5)
        deltas = [
            np.pad(delta, ((p.row_start, shape[0] - p.row_start - len(delta)), (0, 0)))
            for p in step.parts
            for delta in dense(p)
        ]
        along = [float(np.sum(got * delta)) for delta in deltas]
        assert np.allclose(made[index].along, along, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(31, 23), (300, 260)], ids=str)
def test_factors_of_any_dense_result(shape: tuple[int, int], backend: str) -> None:
    part = part_of(5, shape, [1.0, 0.5], 0)
    step = Step(Target("any", shape), "", (), swap=False, parts=(part,), kind="entries")
    result = np.random.default_rng(6).normal(size=shape).astype(np.float32)
    job = Job(np.empty(4 * 12 * sum(shape), dtype=np.uint8), [0, 48 * sum(shape)], "F32", rank=12)
    (made,) = backend_of(backend).approximate([step.raw_parts()], [result], job)
    values = np.linalg.svd(result.astype(np.float64), compute_uv=False)
    gap = float(np.linalg.norm(rebuilt(job, 0, made, shape) - result))
    assert made.rank == 12
    assert gap == pytest.approx(made.cut * made.norm, rel=1e-4)
    # A flat spectrum outside the known row space is the hardest there is.
    assert gap <= 1.02 * float(np.linalg.norm(values[12:]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("result", [np.ones((31, 22)), np.full((31, 23), np.inf)])
def test_results_that_do_not_fit_are_refused(result: F64, backend: str) -> None:
    part = part_of(7, (31, 23), [1.0, 0.5], 0)
    step = Step(Target("any", (31, 23)), "", (), swap=False, parts=(part,), kind="entries")
    job = Job(np.empty(4 * 54 * 6, dtype=np.uint8), [0, 4 * 54 * 6], "F32")
    with pytest.raises(CoreError) as caught:
        backend_of(backend).approximate([step.raw_parts()], [result.astype(np.float32)], job)
    assert caught.value.args[0] == ("shape" if result.shape == (31, 22) else "overflow")
    assert caught.value.args[2] == 0
