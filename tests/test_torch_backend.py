"""The torch backend beside the Rust kernels (bit by bit) and beside float64 truths."""

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from helpers import F64, decode, encode
from oracles import philox, ties
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

from loramix import METHODS, _core, combine
from loramix.backends import torch_device, torch_draws, torch_factors
from loramix.backends.base import Cores, Factored, Job, Mixed
from loramix.backends.rust import RustBackend
from loramix.backends.torch import TorchBackend
from loramix.errors import FormatError, OutputError, ParamError, ShapeError
from loramix.methods.base import Keep, Program, Selfish
from loramix.refusals import with_names
from loramix.types import Factors, Group, RawGroup, RawStep, Site, Target, Tensor

CPU = torch.device("cpu")
BACKEND = TorchBackend("cpu")
WEIGHTS = [0.9, -0.6, 1.3, 0.4, -1.1, 0.7]
TIES = Program(Keep("largest", 0.3), vote="mass", reduce="mean")
HERE, ELSEWHERE = Site(5, 6), Site(7, 3)
CODES = {"float64": "F64", "float32": "F32", "float16": "F16"}


# Random words.


@pytest.mark.parametrize(
    ("seed", "target", "adapter", "element", "word"),
    [
        (0, 0, 0, 0, 0x6627E8D5),
        (0, 0, 0, 5, 0x5CB200DB),
        (1, 2, 3, 4, 0x21260774),
        (0x0123456789ABCDEF, 0xFEDCBA9876543210, 65535, 0x3FFFFFFFFFFFF, 0x75C8B351),
        (0xFFFFFFFFFFFFFFFF, 0x8000000000000000, 1, 0x400000002, 0x40653EC8),
    ],
)
def test_words_are_those_of_the_specification(
    seed: int, target: int, adapter: int, element: int, word: int
) -> None:
    assert int(torch_draws.words(seed, target, adapter, 1, CPU, element)[0]) == word


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 17), (3, 2), (4, 4), (7, 30)])
def test_words_from_any_element_on(first: int, count: int) -> None:
    expected = philox(2**64 - 3, 5, 9, first + count)[first:]
    got = torch_draws.words(2**64 - 3, 5, 9, count, CPU, first)
    assert got.tolist() == expected.tolist()


# Programs on dense deltas, bit by bit.


def from_rust(deltas: Sequence[Any], weights: Sequence[float], program: Program, site: Site) -> Any:
    rows, cols = deltas[0].shape
    out = np.empty((rows, cols), dtype=np.float32)
    raw = [
        (CODES[str(d.dtype)], np.ascontiguousarray(d).reshape(-1).view(np.uint8)) for d in deltas
    ]
    _core.run_program(raw, rows, cols, weights, program, site, out, threads=1)
    return out


def same_bits(program: Program, deltas: Sequence[Any], site: Site = ELSEWHERE) -> None:
    weights = WEIGHTS[: len(deltas)]
    expected = from_rust(deltas, weights, program, site)
    got = BACKEND.run(deltas, weights, program, site, threads=None)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.int32), expected.view(np.int32), str(program))


def draw(seed: int, count: int, shape: tuple[int, ...], dtype: str = "float32") -> list[Any]:
    """Deltas that share a part; every other entry of some of them is small or zero."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=shape)
    found = []
    for i in range(count):
        delta = 0.7 * common + rng.normal(size=shape)
        found.append((delta * (rng.random(shape) < (0.6 if i % 3 == 2 else 1))).astype(dtype))
    return found


def levels(seed: int, count: int, shape: tuple[int, ...]) -> list[Any]:
    """Integers: equal magnitudes, zeros, drawn votes."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-2, 3, size=shape).astype(np.float32) for _ in range(count)]


KEEPS = [
    Keep(),
    Keep("largest", 0.3),
    Keep("largest", 0.5, outliers=0.1),
    Keep("largest", 1.0),
    Keep("energy", 0.8),
    Keep("energy", 1.0),
    Keep("random", 0.4, divisor=0.7),
    Keep("random", 0.4, divisor=0.4, conflicts=True),
    Keep("truncated", 0.29, least=0),
    Keep("truncated", 0.001),
    Keep("random", 0.4, divisor=0.4, conflicts=True, fallback="nowhere"),
    Keep("ranked", 0.5, spread=0.3),
    Keep("ranked", 0.7, spread=0.6, conflicts=True),
]
SELFISH = [None, Selfish(3.0), Selfish(1.0, published=True), Selfish(1.5, level=True)]
VOTES = ["none", "mass", "count", "mass-or-positive", "count-or-positive"]
BALLOTS = ["weighted", "signed", "plain"]
REDUCES = ["sum", "average", "mean", "count", "signed-share", "importance"]


def test_every_word_of_a_program_is_tried() -> None:
    """A rule that only the kernels know would be carried out as another one."""
    words = get_type_hints(Program)
    for name, tried in (("vote", VOTES), ("ballot", BALLOTS), ("reduce", REDUCES)):
        assert set(get_args(words[name])) == set(tried)
    assert set(get_args(get_type_hints(Keep)["rule"])) == {keep.rule for keep in KEEPS}


@pytest.mark.parametrize(
    "options", [{}, {"refine": "refine"}, {"sparsify": "della:only=conflicts"}], ids=str
)
@pytest.mark.parametrize(
    "name", sorted(name for name, method in METHODS.items() if hasattr(method, "program"))
)
def test_every_method_of_entries(name: str, options: dict[str, Any]) -> None:
    deltas, weights = draw(21, 3, (31, 23)), [0.9, -0.6, 1.3]
    ours = combine(deltas, name, weights=weights, backend="torch:cpu", **options)
    theirs = combine(deltas, name, weights=weights, **options)
    scale = float(np.abs(theirs).max())
    if name == "consensus" or options.get("refine"):  # sums of f64 decide, in other orders
        assert np.abs(ours - theirs).max() < 1e-5 * scale
    else:
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("vote", VOTES)
@pytest.mark.parametrize("reduce", REDUCES)
def test_votes_and_reductions(vote: Any, reduce: Any) -> None:
    for ballot in BALLOTS:
        program = Program(KEEPS[1], None, vote, ballot, reduce)  # type: ignore[arg-type]
        same_bits(program, draw(1, 4, (31, 33)))
        same_bits(program, levels(2, 4, (31, 33)))


@pytest.mark.parametrize("keep", KEEPS, ids=str)
@pytest.mark.parametrize("selfish", SELFISH, ids=str)
def test_keeps_and_selfish_entries(keep: Keep, selfish: Selfish | None) -> None:
    program = Program(keep, selfish, "mass", "signed", "mean")
    mix = np.random.default_rng(0).normal(size=9).tolist()
    for most in (1.0, 0.2):
        same_bits(program, draw(3, 3, (33, 31)), Site(5, 11, most))
        same_bits(program, levels(4, 3, (33, 31)), Site(5, 11, most, 2.0, mix))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1), (1, 31), (31, 1), (257, 33)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_every_shape_and_count(shape: tuple[int, int], count: int) -> None:
    for keep in KEEPS:
        same_bits(Program(keep, None, "count", "weighted", "signed-share"), draw(5, count, shape))
    same_bits(Program(KEEPS[1], SELFISH[1]), levels(6, count, shape))


def test_all_entries_equal_or_zero() -> None:
    for value in (0.0, -0.0, 2.5, 1e-42):
        deltas = [np.full((9, 40), value, dtype=np.float32), np.full((9, 40), -value, np.float32)]
        for keep in KEEPS:
            same_bits(Program(keep, None, "mass", "weighted", "mean"), deltas)
            same_bits(Program(keep, SELFISH[1]), deltas)


def test_an_energy_counts_across_blocks_of_the_sum() -> None:
    deltas = levels(7, 2, (300, 70))
    for share in (0.01, 0.37, 0.5, 0.999):
        same_bits(Program(Keep("energy", share)), deltas)


def test_rows_of_very_different_size() -> None:
    deltas = [d * np.logspace(-30, 30, 31)[:, None].astype(np.float32) for d in draw(8, 3, (31, 8))]
    for keep in KEEPS:
        same_bits(Program(keep, SELFISH[1], reduce="importance"), deltas)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_deltas_of_other_types(dtype: str) -> None:
    for keep in KEEPS:
        same_bits(Program(keep, None, "mass", "weighted", "mean"), draw(9, 3, (31, 33), dtype))


def test_tensors_of_any_kind() -> None:
    tensors = [torch.from_numpy(d).to(torch.bfloat16).T[::2] for d in draw(10, 3, (12, 40))]
    tensors[0].requires_grad_()
    before = [t.detach().clone() for t in tensors]
    got = BACKEND.run(tensors, WEIGHTS[:3], TIES, Site(), threads=None)
    assert (got.dtype, got.shape, got.requires_grad) == (torch.float32, (20, 12), False)
    plain = [t.detach().float().numpy() for t in tensors]
    assert np.array_equal(got.numpy(), from_rust(plain, WEIGHTS[:3], TIES, Site()))
    assert all(torch.equal(t.detach(), b) for t, b in zip(tensors, before, strict=True))


def test_arrays_of_any_number_of_axes() -> None:
    flat = draw(11, 2, (1, 60))
    for shape in [(60,), (4, 3, 5), (1, 60)]:
        deltas = [d.reshape(shape).astype(">f4") for d in flat]
        got = BACKEND.run(deltas, [1.0, 0.5], TIES, Site(), threads=None)
        assert got.shape == shape
        rows = shape[0] if len(shape) > 1 else 1
        expected = from_rust([d.reshape(rows, -1) for d in flat], [1.0, 0.5], TIES, Site())
        assert np.array_equal(got.reshape(rows, -1), expected)


def test_a_mix_is_made_from_what_is_kept() -> None:
    deltas, weights = draw(12, 3, (20, 30)), np.array(WEIGHTS[:3])
    seen: list[F64] = []

    def mix(gram: F64, own: F64) -> F64:
        seen.append(gram)
        return np.diag(own)

    program = Program(Keep("largest", 0.5))
    got = BACKEND.run(deltas, WEIGHTS[:3], program, Site(), mix=mix, threads=None)
    alone = [from_rust([d], [w], program, Site()) for d, w in zip(deltas, weights, strict=True)]
    flat = np.stack([kept.ravel() for kept in alone]).astype(np.float64)
    assert np.allclose(seen[0], flat @ flat.T, rtol=1e-12)
    expected = sum(w * kept.astype(np.float64) for w, kept in zip(weights, alone, strict=True))
    assert np.abs(got - expected).max() < 1e-6


# Cleaning.


def cleaned(result: F64, deltas: Sequence[Any]) -> F64:
    """Singular values shrunk by what is outside the span of the deltas, in float64."""
    basis = np.stack([d.ravel() for d in deltas], axis=1).astype(np.float64)
    fit = basis @ np.linalg.lstsq(basis, result.ravel(), rcond=None)[0]
    variance = float(np.mean((result.ravel() - fit) ** 2))
    rows, cols = result.shape
    beta = min(rows, cols) / max(rows, cols)
    u, s, vt = np.linalg.svd(result, full_matrices=False)
    y = s / math.sqrt(variance * max(rows, cols))
    with np.errstate(invalid="ignore"):
        eta = np.where(
            y >= 1 + math.sqrt(beta), np.sqrt((y**2 - beta - 1) ** 2 - 4 * beta) / y, 0.0
        )
    assert 0 < (eta > 0).sum() < len(eta)  # or nothing is tested
    return (u * (eta * np.linalg.norm(s) / np.linalg.norm(eta))) @ vt


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (64, 64)])
def test_clean_shrinks_singular_values(shape: tuple[int, int]) -> None:
    deltas = [d for d, _ in low_rank(13, 3, shape, 3)]
    program = Program(Keep("largest", 0.6), vote="mass", reduce="mean", clean=True)
    plain = replace(program, clean=False)
    dirty = BACKEND.run(deltas, WEIGHTS[:3], plain, Site(), threads=None).astype(np.float64)
    got = BACKEND.run(deltas, WEIGHTS[:3], program, Site(), threads=None)
    expected = cleaned(dirty, deltas)
    assert np.linalg.norm(got - expected) < 1e-4 * np.linalg.norm(expected)


def test_clean_leaves_what_is_in_the_span() -> None:
    (delta,) = draw(14, 1, (20, 30))
    program = Program(reduce="importance", clean=True)
    got = BACKEND.run([delta, delta], [1.0, 0.5], program, Site(), threads=None)
    plain = BACKEND.run(
        [delta, delta], [1.0, 0.5], replace(program, clean=False), Site(), threads=1
    )
    assert np.array_equal(got, plain)


# Factors.


def low_rank(
    seed: int, count: int, shape: tuple[int, int], rank: int, decay: float = 0.0
) -> list[tuple[Any, tuple[Any, Any]]]:
    """Deltas with their f32 factors."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        sizes = np.exp(-decay * np.arange(rank) / max(rank, 1))
        up = (rng.normal(size=(shape[0], rank)) * sizes).astype(np.float32)
        down = rng.normal(size=(rank, shape[1])).astype(np.float32)
        found.append((up.astype(np.float64) @ down.astype(np.float64), (up, down)))
    return found


def member(up: Any, down: Any, factor: float = 1.0, start: int = 0, code: str = "F32") -> Any:
    sides = [memoryview(encode(code, side)) for side in (up, down)]
    return (code, sides[0], code, sides[1], up.shape[1], factor, start, up.shape[0])


def group_of(pairs: Sequence[Any], factors: Sequence[float], rows: int, cols: int) -> RawGroup:
    return rows, cols, [member(*p, f) for p, f in zip(pairs, factors, strict=True)]


def delta_of(group: RawGroup, *, factors: bool = True) -> list[F64]:
    """Dense members in float64."""
    rows, cols, members = group
    found = []
    for up_code, up, down_code, down, rank, factor, start, height in members:
        whole = np.zeros((rows, cols))
        product = decode(up_code, bytes(up)).reshape(height, rank) @ decode(
            down_code, bytes(down)
        ).reshape(rank, cols)
        whole[start : start + height] = product
        found.append(whole * (factor if factors else 1.0))
    return found


def inner(deltas: Sequence[F64]) -> F64:
    flat = np.stack([d.ravel() for d in deltas])
    return flat @ flat.T


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


# New factors.


def job_of(shapes: Sequence[tuple[int, int, int]], dtype: str = "F32", **rule: Any) -> Job:
    size = {"F32": 4, "BF16": 2, "F16": 2}[dtype]
    offsets = np.cumsum([0, *((r + c) * k * size for r, c, k in shapes)]).tolist()
    return Job(np.zeros(offsets[-1], dtype=np.uint8), offsets, dtype, **rule)


def read(job: Job, index: int, rows: int, cols: int, made: Factored) -> F64:
    size = {"F32": 4, "BF16": 2, "F16": 2}[job.dtype]
    start = job.offsets[index]
    middle = start + rows * made.rank * size
    end = middle + made.rank * cols * size
    up = decode(job.dtype, bytes(job.arena[start:middle])).reshape(rows, made.rank)
    return up @ decode(job.dtype, bytes(job.arena[middle:end])).reshape(made.rank, cols)


def tail(dense: F64, rank: int) -> float:
    squares = np.linalg.svd(dense, compute_uv=False) ** 2
    return math.sqrt(squares[rank:].sum() / squares.sum())


def step_of(
    seed: int, shape: tuple[int, int], rank: int, decay: float = 0.0, count: int = 3
) -> tuple[RawStep, RawGroup]:
    """A step whose members' factors include the weights."""
    pairs = [p for _, p in low_rank(seed, count, shape, rank, decay)]
    weights = WEIGHTS[:count]
    group = group_of(pairs, [0.3 * w for w in weights], *shape)
    return (*shape, 77, [(group, weights, HERE, 0, False)]), group


def dense_of(group: RawGroup, program: Program, site: Site = HERE) -> F64:
    """What the Rust kernels make of the deltas of a group, with weights of one file."""
    deltas = [d.astype(np.float32) for d in delta_of(group)]
    weights = WEIGHTS[: len(deltas)]
    # The weights are in the factors: divide by them first, so that the kernels put them back.
    plain = [d / np.float32(w) for d, w in zip(deltas, weights, strict=True)]
    return from_rust(plain, weights, program, site).astype(np.float64)


def check_account(made: Factored, group: RawGroup, written: F64) -> None:
    stored = delta_of(group, factors=False)
    gram = inner(stored)
    assert np.abs(made.gram - gram).max() < 1e-9 * np.abs(gram).max()
    along = np.array([np.sum(written * d) for d in stored])
    assert np.abs(made.along - along).max() < 1e-5 * math.sqrt(
        np.diag(gram).max()
    ) * np.linalg.norm(written)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (300, 400), (400, 290), (1, 9), (9, 1)])
@pytest.mark.parametrize("decay", [0.0, 3.0])
@pytest.mark.parametrize("rank", [1, 5, 15])
def test_condense_is_near_the_best_and_its_error_is_true(
    shape: tuple[int, int], decay: float, rank: int
) -> None:
    step, group = step_of(19, shape, 5, decay)
    job = job_of([(*shape, min(rank, *shape))], rank=rank)
    (made,) = BACKEND.condense([step], TIES, "weight", job)
    dense = dense_of(group, TIES)
    written = read(job, 0, *shape, made)
    error = np.linalg.norm(written - dense) / np.linalg.norm(dense)
    assert abs(made.norm / np.linalg.norm(dense) - 1) < 1e-5
    assert abs(made.cut - error) < 1e-4 * error + 2e-6
    assert made.cut <= 1.02 * tail(dense, rank) + 2e-6
    assert made.rank <= min(rank, *shape)
    check_account(made, group, written)


def test_condense_agrees_with_the_kernels() -> None:
    steps = [step_of(seed, (300, 290), 4, 1.0)[0] for seed in (20, 21)]
    jobs = [job_of([(300, 290, 12)] * 2, "BF16", rank=12) for _ in range(2)]
    ours = BACKEND.condense(steps, TIES, "weight", jobs[0])
    theirs = RustBackend().condense(steps, TIES, "weight", jobs[1])
    for one, two in zip(ours, theirs, strict=True):
        assert one.rank == two.rank
        assert abs(one.norm / two.norm - 1) < 1e-5
        assert 0.94 * two.cut < one.cut <= two.cut * (1 + 1e-5)
        assert np.abs(np.subtract(one.sketch, two.sketch)).max() < 1e-4 * one.norm


@pytest.mark.parametrize("shape", [(40, 60), (300, 290)])
def test_a_rule_is_that_of_the_result(shape: tuple[int, int]) -> None:
    step, group = step_of(22, shape, 6)
    squares = np.linalg.svd(dense_of(group, TIES), compute_uv=False) ** 2
    held = np.cumsum(squares) / squares.sum()
    (made,) = BACKEND.condense([step], TIES, "weight", job_of([(*shape, 18)], energy=0.4))
    assert made.rank == int(np.argmax(held >= 0.4)) + 1
    (made,) = BACKEND.condense([step], TIES, "weight", job_of([(*shape, 18)], max_error=0.8))
    assert made.rank == int(np.argmax(1 - held <= 0.64)) + 1
    assert made.cut <= 0.8
    (made,) = BACKEND.condense([step], TIES, "weight", job_of([(*shape, 18)], max_error=1e-3))
    assert made.rank == 18  # out of reach
    assert made.cut > 1e-3


@pytest.mark.parametrize("shape", [(40, 60), (300, 290)])
def test_what_has_low_rank_is_found_whole(shape: tuple[int, int]) -> None:
    step, group = step_of(23, shape, 3)
    job = job_of([(*shape, 20)], rank=20)
    (made,) = BACKEND.condense([step], Program(), "weight", job)
    assert made.rank == 9
    dense = sum(delta_of(group))
    assert np.linalg.norm(read(job, 0, *shape, made) - dense) < 2e-6 * np.linalg.norm(dense)
    assert made.cut < 1e-6


@pytest.mark.parametrize("space", ["weight", "knots", "core"])
def test_parts_stand_where_they_belong(space: Any) -> None:
    rng = np.random.default_rng(24)
    pair = lambda rows: (rng.normal(size=(rows, 2)), rng.normal(size=(2, 31)))  # noqa: E731
    groups = [group_of([pair(9) for _ in range(n)], WEIGHTS[:n], 9, 31) for n in (2, 1)]
    site = Site(1, 2, norm=5.0)
    parts = [(groups[0], WEIGHTS[:2], site, 2, False), (groups[1], WEIGHTS[:1], site, 15, True)]
    job = job_of([(27, 31, 6)])
    (made,) = BACKEND.condense([(27, 31, 3, parts)], Program(), space, job)
    dense = np.zeros((27, 31))
    both = sum(delta_of(groups[0]))
    dense[2:11] = both * min(5.0 / np.linalg.norm(both), 2.0)
    dense[15:24] = delta_of(groups[1])[0]
    written = read(job, 0, 27, 31, made)
    assert np.linalg.norm(written - dense) < 3e-6 * np.linalg.norm(dense)
    moved = [
        (*m[:6], m[6] + start, m[7]) for g, start in zip(groups, (2, 15), strict=True) for m in g[2]
    ]
    check_account(made, (27, 31, moved), dense)
    z, x = (
        1.0 - 2.0 * (philox(0, 3, place, n * 8) >> 31).astype(float).reshape(n, 8)
        for place, n in ((1, 27), (0, 31))
    )
    assert np.abs(np.array(made.sketch) - (z.T @ dense @ x).ravel()).max() < 1e-4


@pytest.mark.parametrize("space", ["weight", "knots", "core"])
@pytest.mark.parametrize("program", [Program(), TIES, Program(reduce="average", clean=True)])
def test_nothing_is_rank_one_of_zeros(space: Any, program: Program) -> None:
    ((_, (up, down)),) = low_rank(25, 1, (12, 10), 2)
    cancels = group_of([(up, down), (up, down)], [1.0, -1.0], 12, 10)
    nothing = group_of([(0 * up, down), (up, 0 * down)], [1.0, -1.0], 12, 10)
    for group in (cancels, nothing):
        job = job_of([(12, 10, 4)])
        job.arena[:] = 255
        step = (12, 10, 0, [(group, [1.0, -1.0], Site(), 0, False)])
        (made,) = BACKEND.condense([step], program, space, job)
        assert (made.rank, made.norm, made.cut) == (1, 0.0, 0.0)
        assert not read(job, 0, 12, 10, made).any()
        assert not made.along.any()


# Spaces.


def in_space(group: RawGroup, weights: Sequence[float], space: str, density: float) -> F64:
    """TIES on coefficients in joint singular vectors, in float64."""
    deltas = delta_of(group)
    rank = sum(m[4] for m in group[2])
    left = np.linalg.svd(np.concatenate(deltas, axis=1))[0][:, :rank]
    right = np.linalg.svd(np.concatenate(deltas))[2][:rank]
    if space == "knots":
        right = np.eye(group[1])
    small = [left.T @ d @ right.T / w for d, w in zip(deltas, weights, strict=True)]
    return left @ ties(small, weights, density) @ right


@pytest.mark.parametrize("space", ["knots", "core"])
@pytest.mark.parametrize("shape", [(60, 80), (80, 60)])
def test_programs_in_a_space_equal_the_definition(space: Any, shape: tuple[int, int]) -> None:
    step, group = step_of(26, shape, 4, 1.0)
    job = job_of([(*shape, 12)])
    (made,) = BACKEND.condense([step], TIES, space, job)
    expected = in_space(group, WEIGHTS[:3], space, 0.3)
    written = read(job, 0, *shape, made)
    assert made.rank <= 12
    assert np.linalg.norm(written - expected) < 1e-5 * np.linalg.norm(expected)
    check_account(made, group, written)
    small = job_of([(*shape, 3)], rank=3)
    (cut,) = BACKEND.condense([step], TIES, space, small)
    assert abs(cut.cut - tail(expected, 3)) < 1e-5
    check_account(cut, group, read(small, 0, *shape, cut))


@pytest.mark.parametrize("space", ["knots", "core"])
def test_a_sum_is_the_same_in_every_space(space: Any) -> None:
    step, group = step_of(27, (33, 50), 3)
    job = job_of([(33, 50, 9)])
    BACKEND.condense([step], Program(), space, job)
    (made,) = BACKEND.condense([step], Program(), space, job)
    dense = sum(delta_of(group))
    assert np.linalg.norm(read(job, 0, 33, 50, made) - dense) < 2e-6 * np.linalg.norm(dense)


@pytest.mark.parametrize("space", ["weight", "knots", "core"])
def test_clean_in_every_space(space: Any) -> None:
    step, group = step_of(28, (300, 280), 4)
    program = Program(Keep("largest", 0.3), vote="mass", reduce="mean", clean=True)
    job = job_of([(300, 280, 12)])
    (made,) = BACKEND.condense([step], program, space, job)
    plain = job_of([(300, 280, 12)])
    (dirty,) = BACKEND.condense([step], replace(program, clean=False), space, plain)
    assert abs(made.norm / dirty.norm - 1) < 1e-5
    if space == "weight":
        expected = cleaned(dense_of(group, replace(program, clean=False)), delta_of(group))
        written = read(job, 0, 300, 280, made)
        assert np.linalg.norm(written - expected) < (1e-3 + tail(expected, 12)) * made.norm
        check_account(made, group, written)


@pytest.mark.parametrize("space", ["weight", "knots", "core"])
def test_what_is_kept(space: Any) -> None:
    step, group = step_of(29, (20, 30), 3)
    (found,) = BACKEND.kept([step], Program(), space, threads=None)
    expected = inner(delta_of(group))
    assert np.abs(found[0] - expected).max() < 1e-5 * np.abs(expected).max()
    program = Program(Keep("largest", 0.25), Selfish(2.0))
    (found,) = BACKEND.kept([step], program, space, threads=None)
    assert np.trace(found[0]) < np.trace(expected)
    if space == "weight":
        kept = []
        for delta in delta_of(group):
            limit = np.sort(np.abs(delta).ravel())[-150]
            kept.append(np.where(np.abs(delta) >= limit, delta, 0.0))
        sizes = np.abs(np.stack(kept))
        largest, second = np.sort(sizes, axis=0)[::-1][:2]
        selfish = (largest >= 2 * second) & (largest > 0) & (sizes == largest)
        truth = inner([np.where(s, 0.0, k) for s, k in zip(selfish, kept, strict=True)])
        assert np.abs(found[0] - truth).max() < 1e-5 * np.abs(expected).max()


# Sums.


@pytest.mark.parametrize("shape", [(40, 60), (60, 7), (3, 50)])
def test_sums_are_cut_best(shape: tuple[int, int]) -> None:
    pairs = [p for _, p in low_rank(30, 3, shape, 4)]
    group = group_of(pairs, WEIGHTS[:3], *shape)
    dense = sum(delta_of(group))
    rank = min(5, *shape)
    job = job_of([(*shape, rank)], rank=rank)
    (made,) = BACKEND.recompress([group], job)
    written = read(job, 0, *shape, made)
    assert made.rank == rank
    assert abs(made.norm / np.linalg.norm(dense) - 1) < 1e-12
    assert abs(made.cut - tail(dense, rank)) < 1e-9
    error = np.linalg.norm(written - dense) / np.linalg.norm(dense)
    assert abs(error - made.cut) < 1e-6
    assert abs(made.rounding**2 / np.trace(inner(delta_of(group))) - 1) < 1e-12
    check_account(made, group, written)


def test_sums_that_need_no_cut_are_those_of_the_kernels() -> None:
    groups = [
        group_of([p for _, p in low_rank(s, 2, (20, 30), 3)], [1.0, 0.3], 20, 30) for s in (31, 32)
    ]
    ours, theirs = job_of([(20, 30, 6)] * 2, "BF16"), job_of([(20, 30, 6)] * 2, "BF16")
    made = BACKEND.recompress(groups, ours)
    rust = RustBackend().recompress(groups, theirs)
    assert np.array_equal(ours.arena, theirs.arena)
    for one, two, group in zip(made, rust, groups, strict=True):
        assert (one.rank, one.norm, one.rounding, one.cut) == (
            two.rank, two.norm, two.rounding, two.cut,
        )  # fmt: skip
        check_account(one, group, sum(delta_of(group)))


def test_energy_and_error_of_a_sum() -> None:
    pairs = [p for _, p in low_rank(33, 2, (50, 40), 6, 2.0)]
    group = group_of(pairs, [1.0, 1.0], 50, 40)
    squares = np.linalg.svd(sum(delta_of(group)), compute_uv=False) ** 2
    held = np.cumsum(squares) / squares.sum()
    (made,) = BACKEND.recompress([group], job_of([(50, 40, 12)], energy=0.9))
    assert made.rank == int(np.argmax(held >= 0.9)) + 1
    (made,) = BACKEND.recompress([group], job_of([(50, 40, 12)], max_error=0.1))
    assert made.rank == int(np.argmax(1 - held <= 0.01)) + 1
    (made,) = BACKEND.recompress([group], job_of([(50, 40, 12)], max_error=0.0))
    assert made.rank == 12


@pytest.mark.parametrize("rank", [None, 3])
def test_mixed_sums(rank: int | None) -> None:
    pairs = [p for _, p in low_rank(34, 2, (30, 40), 4)]
    group = group_of(pairs, [0.5, -2.0], 30, 40)
    rng = np.random.default_rng(35)
    a, b = rng.normal(size=(8, 5)), rng.normal(size=(5, 8))
    up = np.concatenate([0.5 * pairs[0][0], -2.0 * pairs[1][0]], axis=1).astype(np.float64)
    dense = up @ a @ b @ np.concatenate([p[1] for p in pairs]).astype(np.float64)
    job = job_of([(30, 40, 5)], rank=rank)
    (made,) = BACKEND.recompress([group], job, [Mixed(a, b, 0)])
    assert made.rank == (rank or 5)
    written = read(job, 0, 30, 40, made)
    error = np.linalg.norm(written - dense) / np.linalg.norm(dense)
    assert abs(made.norm / np.linalg.norm(dense) - 1) < 1e-9
    assert abs(error - tail(dense, rank or 5)) < 1e-6
    assert abs(made.cut - tail(dense, rank or 5)) < 1e-9
    check_account(made, group, written)


def test_cores_and_mixers_belong_together() -> None:
    pairs = [p for _, p in low_rank(36, 3, (30, 40), 4)]
    group = group_of(pairs, [0.5, -2.0, 0.0], 30, 40)
    (found,) = BACKEND.cores([group], [np.array([1.0, 2.0, 1.0])], threads=None)
    job = job_of([(30, 40, 12)])
    mixer = Mixed(found.left @ sum(found.cores), found.right.T, 0)
    (made,) = BACKEND.recompress([group], job, [mixer])
    dense = sum(delta_of(group))
    assert np.linalg.norm(read(job, 0, 30, 40, made) - dense) < 1e-6 * np.linalg.norm(dense)


def test_sums_that_cancel_are_zero() -> None:
    ((_, (up, down)),) = low_rank(37, 1, (12, 10), 2)
    group = group_of([(up, down), (up, down)], [1.0, -1.0], 12, 10)
    job = job_of([(12, 10, 1)], rank=1)
    (made,) = BACKEND.recompress([group], job)
    assert (made.rank, made.norm, made.cut) == (1, 0.0, 0.0)
    assert made.rounding > 1
    assert not read(job, 0, 12, 10, made).any()


def test_alpha_is_undone_by_the_reader() -> None:
    step, group = step_of(38, (30, 20), 2)
    job = job_of([(30, 20, 6)], alpha=2.0)
    (made,) = BACKEND.condense([step], Program(), "knots", job)
    dense = sum(delta_of(group))
    written = read(job, 0, 30, 20, made) * 2.0 / made.rank
    assert np.linalg.norm(written - dense) < 2e-6 * np.linalg.norm(dense)


# Refusals, devices.


def named(values: Any) -> Group:
    tensor = lambda x: Tensor("F32", x.shape, memoryview(encode("F32", x)))  # noqa: E731
    good = Factors(tensor(np.ones((4, 2))), tensor(np.ones((2, 3))), 1.0, ("u0", "d0"), "a.st")
    bad = Factors(tensor(np.ones((4, 2))), tensor(values), 1.0, ("u1", "d1"), "b.st")
    return Group(Target("unet.x", (4, 3)), (good, bad), (0, 1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_named(value: float) -> None:
    values = np.ones((2, 3))
    values[1, 2] = value
    group = named(values)
    step = (4, 3, 0, [(group.raw(), [1.0, 1.0], Site(), 0, False)])
    job = job_of([(4, 3, 3)])
    calls = [
        lambda: BACKEND.gram([group.raw()], threads=None),
        lambda: BACKEND.cores([group.raw()], [np.ones(2)], threads=None),
        lambda: BACKEND.kept([step], TIES, "weight", threads=None),
        lambda: BACKEND.condense([step], TIES, "knots", job),
        lambda: BACKEND.dense([step], TIES, job),
        lambda: BACKEND.recompress([group.raw()], job),
        lambda: _core.gram([group.raw()]),
    ]
    for call in calls:
        with pytest.raises(FormatError, match=r"b\.st: d1 holds NaN or infinity; the file is"):
            with_names([group], call)
    first, second = np.ones((2, 3), dtype=np.float32), values.astype(np.float32)
    for call in (
        lambda: BACKEND.run([first, second], [1.0, 1.0], TIES, Site(), threads=None),
        lambda: from_rust([first, second], [1.0, 1.0], TIES, Site()),
    ):
        with pytest.raises(FormatError, match="delta 1 holds NaN or infinity"):
            with_names([], call)


def test_members_are_counted_across_parts() -> None:
    group = named(np.full((2, 3), math.nan)).raw()
    good = (group[0], group[1], group[2][:1])
    parts = [(good, [1.0], Site(), 0, True), (group, [1.0, 1.0], Site(), 4, False)]
    with pytest.raises(_core.CoreError) as caught:
        BACKEND.condense([(8, 3, 0, parts)], TIES, "weight", job_of([(8, 3, 3)]))
    assert caught.value.args[2:] == (0, 2, "down")


def test_other_refusals() -> None:
    group = named(np.ones((2, 3)))
    raw, arrays = group.raw(), [np.ones((2, 3), dtype=np.float32)]
    part = (raw, [1.0, 1.0], Site(), 0, False)
    job = job_of([(4, 3, 3)])
    big = (4, 3, [(*raw[2][0][:5], 1e60, 0, 4)])

    def refused(kind: type[Exception], call: Any, match: str) -> None:
        with pytest.raises(kind, match=match):
            with_names([group], call)

    def condense(parts: Any, rule: Job = job, program: Program = TIES) -> Any:
        return lambda: BACKEND.condense([(4, 3, 0, parts)], program, "weight", rule)

    refused(ParamError, condense([part], replace(job, rank=0)), "rank = 0")
    refused(ParamError, condense([part], replace(job, energy=1.5)), "energy = 1.5")
    refused(ParamError, condense([part], replace(job, max_error=1.0)), "max_error = 1.0")
    refused(ParamError, condense([part], program=Program(Keep("largest", 2.0))), "density = 2")
    refused(ShapeError, condense([]), "parts")
    refused(ShapeError, condense([part, part]), "overlap")
    refused(ShapeError, condense([(raw, [1.0], Site(), 0, False)]), "weights")
    refused(ShapeError, condense([(raw, [1.0] * 2, Site(mix=[1.0]), 0, False)]), "mix")
    refused(OutputError, condense([(big, [1.0], Site(), 0, False)]), "too large for F32")
    half = job_of([(4, 3, 3)], "F16")
    large = (4, 3, [(*raw[2][0][:5], 1e12, 0, 4)])
    refused(OutputError, condense([(large, [1.0], Site(), 0, False)], half), "F16")
    mixer = Mixed(np.ones((4, 2)), np.ones((3, 4)), 0)
    refused(ShapeError, lambda: BACKEND.recompress([raw], job, [mixer]), "mixers")
    short = (4, 3, [(*raw[2][0][:4], 3, 1.0, 0, 4)])
    refused(ShapeError, lambda: BACKEND.gram([short], threads=None), "4 x 3 elements of F32")
    low = (4, 3, [(*raw[2][0][:6], 1, 4)])
    refused(ShapeError, lambda: BACKEND.gram([low], threads=None), "rows of up")
    no = (4, 3, [("I8", *raw[2][0][1:])])
    refused(FormatError, lambda: BACKEND.gram([no], threads=None), "dtype I8")
    odd = (4, 3, [(*raw[2][0][:5], math.inf, 0, 4)])
    refused(ParamError, lambda: BACKEND.gram([odd], threads=None), "factor = inf")
    run = BACKEND.run
    refused(ShapeError, lambda: run([], [], TIES, Site(), threads=None), "at least one delta")
    refused(ShapeError, lambda: run(arrays, [], TIES, Site(), threads=None), "0 weights")
    ints = [np.ones((2, 3), dtype=np.int32)]
    refused(FormatError, lambda: run(ints, [1.0], TIES, Site(), threads=None), "int32")
    huge = [np.full((2, 3), 1e300)]
    clean = Program(clean=True)
    refused(OutputError, lambda: run(huge, [1.0], clean, Site(), threads=None), "F32")


def test_an_unknown_device_is_refused() -> None:
    for name in ("abacus", "cuda:99"):
        with pytest.raises(ParamError, match=f"device = '{name}'"):
            TorchBackend(name)
    assert TorchBackend().device.type in ("cuda", "mps", "cpu")


def test_products_are_full_f32_and_what_was_allowed_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    step, group = step_of(39, (300, 290), 5)
    try:
        torch.set_float32_matmul_precision("medium")
        job = job_of([(300, 290, 15)])
        (made,) = BACKEND.condense([step], Program(), "weight", job)
        assert torch.get_float32_matmul_precision() == "medium"
        with pytest.raises(_core.CoreError):
            BACKEND.condense([(300, 290, 0, [])], Program(), "weight", job)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    dense = sum(delta_of(group))
    assert np.linalg.norm(read(job, 0, 300, 290, made) - dense) < 2e-6 * np.linalg.norm(dense)


class Far(torch.Tensor):
    """CPU memory that says it is on another device."""

    has_f64 = True

    @staticmethod
    def __new__(cls: Any, inner: torch.Tensor) -> "Far":
        assert cls.has_f64 or inner.dtype != torch.float64, "a device without f64"
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device="meta"
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return far_call(func, args, kwargs or {})


class FarMode(TorchDispatchMode):
    """Sees what is made without a tensor, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return far_call(func, args, kwargs or {})


def far_call(func: Any, args: Any, kwargs: Any) -> Any:
    """Carry out an operation on the CPU, as strict about devices as a GPU."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    far = [x for x in tensors if isinstance(x, Far)]
    near = [x for x in tensors if not isinstance(x, Far)]
    to = kwargs.get("device")
    name = func._schema.name
    if name not in ("aten::_to_copy", "aten::copy_"):
        assert not (far and any(x.dim() for x in near)), f"devices mixed in {name}"
    asked = {**kwargs, "device": CPU} if to is not None else kwargs
    plain = tree_map(lambda x: x.inner if isinstance(x, Far) else x, (args, asked))
    out = func(*plain[0], **plain[1])
    stays = torch.device(to).type == "meta" if to is not None else bool(far)
    if name == "aten::copy_":
        return args[0]
    same = {id(x.inner): x for x in far}
    wrap = lambda x: same[id(x)] if id(x) in same else Far(x)  # noqa: E731
    return tree_map_only(torch.Tensor, wrap, out) if stays else out


def test_the_pretended_device_is_strict() -> None:
    with FarMode():
        far = torch.zeros(3, device="meta")
        assert (far + 1).cpu().tolist() == [1.0, 1.0, 1.0]
        with pytest.raises(AssertionError, match="mixed"):
            far + torch.zeros(3)


@pytest.mark.parametrize("has_f64", [True, False])
def test_every_verb_on_a_pretended_device(
    *, has_f64: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Far, "has_f64", has_f64)
    if not has_f64:
        home = lambda device: CPU if device.type == "meta" else device  # noqa: E731
        monkeypatch.setattr(torch_device, "home_of", home)
        monkeypatch.setattr(torch_factors, "home_of", home)
    there = TorchBackend("cpu")
    there.device = torch.device("meta")

    def check(call: Callable[[TorchBackend], Any]) -> None:
        expected = call(BACKEND)
        with FarMode():
            got = call(there)
        for one, two in zip(got, expected, strict=True):
            if isinstance(one, Factored):
                assert (one.rank, one.norm, one.cut) == (two.rank, two.norm, two.cut)
                assert np.array_equal(one.along, two.along)
                assert one.sketch == two.sketch
            else:
                assert np.array_equal(one, two)

    for shape in [(40, 60), (300, 290)]:
        step, group = step_of(41, shape, 3)
        keeps = [KEEPS[i] for i in ((2, 4, 8, 9) if shape[0] < 100 else (0, 2))]
        for keep, selfish in zip(keeps, SELFISH, strict=False):
            program = Program(keep, selfish, "count", "plain", "importance", clean=keep == KEEPS[2])
            deltas = draw(42, 3, shape, "float64")
            check(lambda b: b.run(deltas, WEIGHTS[:3], program, HERE, threads=None))  # noqa: B023
            for space in ("weight", "knots", "core"):
                job = job_of([(*shape, 9)], rank=5)
                check(lambda b: b.condense([step], program, space, job))  # noqa: B023
                check(lambda b: b.kept([step], program, space, threads=None)[0])  # noqa: B023
            whole = Job(
                np.zeros(4 * math.prod(shape), dtype=np.uint8), [0, 4 * math.prod(shape)], "F32"
            )
            check(lambda b: b.dense([step], program, whole))  # noqa: B023
        result, job = draw(43, 1, shape)[0], job_of([(*shape, 9)], rank=5)
        check(lambda b: b.approximate([step], [result], job))  # noqa: B023
        check(lambda b: b.gram([group], threads=None))  # noqa: B023
        check(lambda b: b.cores([group], [np.ones(3)], threads=None)[0].cores)  # noqa: B023
        for rank in (None, 4):
            job = job_of([(*shape, 9)], rank=rank)
            check(lambda b: b.recompress([group], job))  # noqa: B023
            mixer = Mixed(np.eye(9, 6), np.eye(6, 9), 0)
            check(lambda b: b.recompress([group], job, [mixer]))  # noqa: B023
        zero = (*shape, [(*m[:5], 0.0, *m[6:]) for m in group[2]])
        step = (*shape, 1, [(zero, WEIGHTS[:3], HERE, 0, False)])
        for space in ("weight", "knots", "core"):
            job = job_of([(*shape, 9)])
            check(lambda b: b.condense([step], TIES, space, job))  # noqa: B023


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, loramix; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
