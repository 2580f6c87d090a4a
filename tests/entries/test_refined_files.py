"""Refined files: factors of results that Python made, parts of fused weights, what is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import F64, Pair, Stack, delta_of, pairs
from oracles import linear
from oracles_entries import Definition, merged

from loramix import FormatError, Output, OutputError, combine, merge
from loramix._core import CoreError
from loramix.backends import backend_of
from loramix.backends.base import Factored, Job
from loramix.executing.making import make
from loramix.methods import Method, method_of
from loramix.planning.steps import Part, Step
from loramix.raw import Site
from loramix.tensors import Tensor
from loramix.types import Factors, Group, Target

BACKENDS = ["rust", "torch:cpu"]
TIES = method_of("ties")

SHAPES = {
    "unet.blocks.0.attn.to_q": (272, 60),
    "unet.blocks.0.ff.proj": (40, 20),
    "unet.blocks.1.conv": (270, 30, 3, 3),
    "unet.blocks.2.alone": (260, 270),
}


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


LEVELS: list[Any] = ["refine-published", "full-published"]

METHODS = ["average", "slerp", "ties", "ties-published", "consensus:clean=false"]

WEIGHTS = [0.9, 0.6, 1.37]


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


def part_of(
    seed: int,
    shape: tuple[int, int],
    weights: Sequence[float],
    start: int,
    method: Method = TIES,
) -> Part:
    rng = np.random.default_rng(seed)
    rows, cols = shape
    each = [(rng.normal(size=(rows, 3)), rng.normal(size=(3, cols))) for _ in weights]
    group = Group(
        Target(f"part.{seed}", shape),
        tuple(factors_of(up, down) for up, down in each),
        tuple(range(len(weights))),
    )
    sizes = tuple(weights)
    return Part(group, method, sizes, sizes, start, Site(key=seed))


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
    method = method_of("linear", refine=refine)
    parts = (
        part_of(1, (300, 280), [0.9, 0.6], 0, method),
        part_of(2, (20, 280), [-0.7], 310, method),
        part_of(3, (40, 280), [0.5, 0.8, 1.1], 330, method),
    )
    small = part_of(4, (30, 25), [1.0, 0.4], 0, method)
    steps = [
        Step(Target("fused", (380, 280)), "", (), swap=False, parts=parts, kind="entries"),
        Step(Target("small", (30, 25)), "", (), swap=False, parts=(small,), kind="entries"),
    ]
    offsets = np.cumsum([0, 4 * 660 * 280, 4 * 55 * 25]).tolist()
    job = Job(np.empty(offsets[-1], dtype=np.uint8), offsets, "F32", rank=280)
    made = make(steps, backend_of(backend), job)
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
@pytest.mark.parametrize("shape", [(31, 23), (300, 260)], ids=str)
def test_any_dense_result_is_stored_as_it_is(shape: tuple[int, int], backend: str) -> None:
    part = part_of(5, shape, [1.0, 0.5], 0)
    step = Step(Target("any", shape), "", (), swap=False, parts=(part,), kind="dense")
    result = np.random.default_rng(6).normal(size=shape).astype(np.float32)
    size = 4 * result.size
    job = Job(np.empty(size, dtype=np.uint8), [0, size], "F32")
    (made,) = backend_of(backend).store([step.raw_parts()], [result], job)
    assert np.array_equal(job.arena.view(np.float32).reshape(shape), result)
    assert (made.rank, made.cut) == (min(shape), 0.0)
    assert made.norm == pytest.approx(float(np.linalg.norm(result)), rel=1e-6)
    along = [float(np.sum(result * delta)) for delta in dense(part)]
    scale = made.norm * max(float(np.linalg.norm(delta)) for delta in dense(part))
    assert np.abs(made.along - along).max() < 1e-6 * scale


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("verb", ["approximate", "store"])
@pytest.mark.parametrize("result", [np.ones((31, 22)), np.full((31, 23), np.inf)])
def test_results_that_do_not_fit_are_refused(result: F64, verb: str, backend: str) -> None:
    part = part_of(7, (31, 23), [1.0, 0.5], 0)
    step = Step(Target("any", (31, 23)), "", (), swap=False, parts=(part,), kind="entries")
    job = Job(np.empty(4 * 31 * 23, dtype=np.uint8), [0, 4 * 31 * 23], "F32")
    with pytest.raises(CoreError) as caught:
        getattr(backend_of(backend), verb)([step.raw_parts()], [result.astype(np.float32)], job)
    assert caught.value.args[0] == ("shape" if result.shape == (31, 22) else "overflow")
    assert caught.value.args[2] == 0
