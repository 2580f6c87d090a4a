"""Ranks by number, energy or error, and alpha in every form and place."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exactness.places import BOTH, TEXT, place
from helpers import (
    DIALECTS,
    F64,
    MODULES,
    DialectName,
    Stack,
    delta_of,
    distance,
    pair,
    pairs,
    relative,
    truth,
    write_adapter,
)

from loramix import Output, load, merge, resize


def svd_of(delta: F64) -> F64:
    """Singular values."""
    return np.asarray(np.linalg.svd(delta, compute_uv=False), dtype=np.float64)


@pytest.fixture
def decaying(tmp_path: Path) -> Stack:
    """Three adapters whose sum has a decaying spectrum."""
    stack = Stack(tmp_path)
    for seed in range(3):
        members = pairs(seed, 5)
        slope = 2.0 ** -np.arange(5)
        stack.add({name: replace(one, up=one.up * slope) for name, one in members.items()})
    return stack


@pytest.mark.parametrize("rank", [1, 2, 6, 11])
def test_a_rank_gives_the_best_approximation(decaying: Stack, rank: int) -> None:
    merged = merge(decaying.paths, "linear", output=Output(rank=rank))
    written = delta_of(merged.adapter)
    rows = {row.target: row for row in merged.log}
    for key, delta in decaying.sum([1.0] * 3).items():
        values = svd_of(delta)
        norm, best = np.linalg.norm(values), np.linalg.norm(values[rank:])
        assert rows[key].rank == min(rank, 15, *delta.shape)
        assert abs(np.linalg.norm(written[key] - delta) - best) <= 1e-6 * norm
        assert abs(rows[key].cut * norm - best) <= 1e-6 * norm
        assert rows[key].norm == pytest.approx(norm, rel=1e-6)


@pytest.mark.parametrize(
    "output",
    [Output(energy=0.5), Output(energy=0.95), Output(max_error=0.5), Output(max_error=0.01)],
    ids=str,
)
def test_a_rule_gives_the_smallest_rank_that_keeps_it(decaying: Stack, output: Output) -> None:
    merged = merge(decaying.paths, "linear", output=output)
    limit = output.max_error if output.energy is None else math.sqrt(1 - output.energy)
    assert limit is not None
    written = delta_of(merged.adapter)
    rows = {row.target: row for row in merged.log}
    for key, delta in decaying.sum([1.0] * 3).items():
        values = svd_of(delta)
        norm = np.linalg.norm(values)
        errors = [float(np.linalg.norm(values[k:]) / norm) for k in range(len(values) + 1)]
        smallest = next(k for k, error in enumerate(errors) if error <= limit)
        assert rows[key].rank == smallest
        assert relative(written[key], delta) == pytest.approx(errors[smallest], abs=1e-6)


@pytest.mark.parametrize("output", [Output(energy=1.0), Output(max_error=0.0), Output()], ids=str)
def test_without_a_limit_nothing_is_lost(decaying: Stack, output: Output) -> None:
    merged = merge(decaying.paths, "linear", output=output)
    assert distance(delta_of(merged.adapter), decaying.sum([1.0] * 3)) <= 1e-6


@pytest.mark.parametrize("limit", [0.2, 0.01, 1.5e-3, 9e-4, 1e-4])
def test_small_errors_of_large_targets_are_exact_too(limit: float, tmp_path: Path) -> None:
    members = pairs(19, 24, modules={"unet.blocks.0.wide": (600, 400)})
    slope = 1.6 ** -np.arange(24.0)
    stack = Stack(tmp_path)
    for name, one in members.items():
        stack.add({name: replace(one, up=one.up * slope)})
        stack.add({name: replace(one, up=one.up[::-1] * slope, down=one.down[:, ::-1])})
    merged = merge(stack.paths, "linear", output=Output(max_error=limit))
    (row,) = merged.log
    ((key, delta),) = stack.sum([1.0, 1.0]).items()
    values = svd_of(delta)
    norm, best = np.linalg.norm(values), np.linalg.norm(values[row.rank :])
    assert best <= limit * norm < np.linalg.norm(values[row.rank - 1 :])
    assert abs(row.cut * norm - best) <= 1e-6 * norm
    assert abs(np.linalg.norm(delta_of(merged.adapter)[key] - delta) - best) <= 1e-6 * norm


def test_a_rank_bounds_a_rule(decaying: Stack) -> None:
    merged = merge(decaying.paths, "linear", output=Output(rank=2, max_error=0.001))
    assert {row.rank for row in merged.log} == {2}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_mixed_ranks_have_their_scales_in_every_dialect(
    dialect: DialectName, tmp_path: Path
) -> None:
    members = {
        name: pair(np.random.default_rng(rank), shape, rank)
        for rank, (name, shape) in enumerate(MODULES.items(), 2)
    }
    source = write_adapter(tmp_path / "a.safetensors", members, dialect)
    path = place(tmp_path, dialect)
    merged = merge([source], "linear", path=path)
    assert {row.rank for row in merged.log} == {2, 3, 4, 5}
    assert distance(delta_of(path), truth(members, dialect)) <= 1e-6
    assert distance(delta_of(load(path)), truth(members, dialect)) <= 1e-6


def test_resize_is_a_merge_of_one(tmp_path: Path) -> None:
    members = pairs(9, 6)
    source = write_adapter(tmp_path / "a.safetensors", members)
    written = delta_of(resize(source, rank=2).adapter)
    for key, delta in truth(members).items():
        best = np.linalg.norm(svd_of(delta)[2:])
        assert np.linalg.norm(written[key] - delta) == pytest.approx(best, rel=1e-5)


ALPHAS: Mapping[str, tuple[str, tuple[int, ...], float] | None] = {
    "missing": None,
    "zero": ("F32", (), 0.0),
    "bf16": ("BF16", (), 2.5),
    "f16": ("F16", (), 2.5),
    "f64": ("F64", (), 0.1),
    "int64": ("I64", (), 8.0),
    "shape [1]": ("F32", (1,), 3.0),
    "negative": ("F32", (), -2.0),
}


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_alpha_in_every_form(dialect: DialectName, alpha: str, tmp_path: Path) -> None:
    members = {name: replace(one, alpha=ALPHAS[alpha]) for name, one in pairs(10, 4).items()}
    source = write_adapter(tmp_path / "a.safetensors", members, dialect)
    expected = truth(members, dialect)
    assert distance(delta_of(load(source)), expected) == 0
    path = place(tmp_path, dialect)
    merge([source], "linear", path=path)
    assert distance(delta_of(path), expected) <= 1e-6


@pytest.mark.parametrize("rslora", [False, True])
def test_scales_of_a_peft_config(tmp_path: Path, *, rslora: bool) -> None:
    ranks = dict(zip(MODULES, (4, 2, 4, 8), strict=True))
    rng = np.random.default_rng(12)
    members = {name: pair(rng, shape, ranks[name]) for name, shape in MODULES.items()}
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 6,
        "use_rslora": rslora,
        "rank_pattern": {"ff.proj": 2, "proj_in": 8},
        "alpha_pattern": {"ff.proj": 5, "blocks.1.conv": 3.5},
    }
    folder = write_adapter(tmp_path / "source", members, "peft", config=config)
    alphas = dict(zip(MODULES, (6, 5, 3.5, 6), strict=True))
    expected = {}
    for name, one in members.items():
        root = math.sqrt(one.rank) if rslora else one.rank
        expected[name.partition(".")[2]] = alphas[name] / root * one.up @ one.down
    assert distance(delta_of(load(folder)), expected) <= 1e-15
    merge([folder], "linear", path=tmp_path / "merged")
    assert distance(delta_of(tmp_path / "merged"), expected) <= 1e-6


@pytest.mark.parametrize("rslora", [False, True])
def test_scales_of_the_header_metadata(tmp_path: Path, *, rslora: bool) -> None:
    rng = np.random.default_rng(13)
    members = {name: pair(rng, shape, 4) for name, shape in BOTH.items()}
    config = {
        "unet.r": 4,
        "unet.lora_alpha": 6,
        "unet.use_rslora": rslora,
        "unet.alpha_pattern": {"blocks.1.conv": 3.5},
        "text_encoder.r": 4,
        "text_encoder.lora_alpha": 1,
    }
    source = write_adapter(
        tmp_path / "a.safetensors", members,
        metadata={"lora_adapter_metadata": json.dumps(config)},
    )  # fmt: skip
    expected = {}
    for name, one in members.items():
        root = 2 if rslora else 4
        scale = 1 / 4 if name in TEXT else (3.5 if name.endswith("conv") else 6) / root
        expected[name] = scale * one.up @ one.down
    assert distance(delta_of(load(source)), expected) <= 1e-15
    merge([source], "linear", path=tmp_path / "merged.safetensors")
    assert distance(delta_of(tmp_path / "merged.safetensors"), expected) <= 1e-6
