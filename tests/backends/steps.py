"""Small groups, steps and jobs, their dense truths, and a torch backend on the CPU."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from helpers import F64, decode, encode

from loramix import _core
from loramix.backends.base import Factored, Job
from loramix.backends.torch import TorchBackend
from loramix.methods.base import Keep, Program, Selfish
from loramix.raw import RawGroup, RawStep, Site

CPU = torch.device("cpu")

BACKEND = TorchBackend("cpu")

WEIGHTS = [0.9, -0.6, 1.3, 0.4, -1.1, 0.7]

TIES = Program(Keep("largest", 0.3), vote="mass", reduce="mean")

HERE, ELSEWHERE = Site(5, 6), Site(7, 3)

CODES = {"float64": "F64", "float32": "F32", "float16": "F16"}


def from_rust(deltas: Sequence[Any], weights: Sequence[float], program: Program, site: Site) -> Any:
    rows, cols = deltas[0].shape
    out = np.empty((rows, cols), dtype=np.float32)
    raw = [
        (CODES[str(d.dtype)], np.ascontiguousarray(d).reshape(-1).view(np.uint8)) for d in deltas
    ]
    _core.run_program(raw, rows, cols, weights, program, site, out, threads=1)
    return out


def draw(seed: int, count: int, shape: tuple[int, ...], dtype: str = "float32") -> list[Any]:
    """Deltas that share a part; every other entry of some of them is small or zero."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=shape)
    found = []
    for i in range(count):
        delta = 0.7 * common + rng.normal(size=shape)
        found.append((delta * (rng.random(shape) < (0.6 if i % 3 == 2 else 1))).astype(dtype))
    return found


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


def check_account(made: Factored, group: RawGroup, written: F64) -> None:
    stored = delta_of(group, factors=False)
    gram = inner(stored)
    assert np.abs(made.gram - gram).max() < 1e-9 * np.abs(gram).max()
    along = np.array([np.sum(written * d) for d in stored])
    assert np.abs(made.along - along).max() < 1e-5 * math.sqrt(
        np.diag(gram).max()
    ) * np.linalg.norm(written)
