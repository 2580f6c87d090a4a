"""What is written is what was meant: the identity law, sums, ranks, bits and measured errors.

Every result is read back by an independent reader and compared with dense float64 arithmetic on
the values that the sources hold.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from helpers import (
    DIALECTS,
    DTYPES,
    F64,
    MODULES,
    ROUNDING,
    DialectName,
    Pair,
    Stack,
    delta_of,
    distance,
    pair,
    pairs,
    relative,
    truth,
    write_adapter,
)

from loramix import METHODS, Output, load, merge, resize

OutDtype = Literal["f32", "f16", "bf16"]
CODES: Mapping[OutDtype, str] = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
BOUNDS: Mapping[OutDtype, float] = {"f32": 1e-6, "bf16": 2.0**-8, "f16": 2.0**-10}
TEXT = {"text_encoder.layers.0.q_proj": (16, 12), "text_encoder.layers.1.fc1": (20, 16)}
BOTH = {**MODULES, **TEXT}


def place(folder: Path, dialect: DialectName, name: str = "merged") -> Path:
    """Where a result of this dialect goes."""
    return folder / (name if dialect == "peft" else f"{name}.safetensors")


def svd_of(delta: F64) -> F64:
    """Singular values."""
    return np.asarray(np.linalg.svd(delta, compute_uv=False), dtype=np.float64)


# The identity law.


@pytest.mark.parametrize("weight", [1.0, 0.7, -1.3, 0.0])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_one_adapter_is_written_times_its_weight(
    dialect: DialectName, dtype: OutDtype, weight: float, tmp_path: Path
) -> None:
    alpha = 3.0 if dialect == "kohya" else None
    members = pairs(1, 4, dtype=CODES[dtype], alpha=alpha)
    source = write_adapter(tmp_path / "a.safetensors", members, dialect)
    path = place(tmp_path, dialect)
    merge([source], weights=[weight], path=path, output=Output(dtype=dtype))
    expected = {key: weight * delta for key, delta in truth(members, dialect).items()}
    assert distance(delta_of(path), expected) <= BOUNDS[dtype]


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("weight", [1.0, -1.3])
def test_every_method_keeps_one_adapter(method: str, weight: float, tmp_path: Path) -> None:
    members = pairs(2, 3)
    source = write_adapter(tmp_path / "a.safetensors", members)
    merged = merge([source], method, weights=[weight])
    expected = {key: weight * delta for key, delta in truth(members).items()}
    assert distance(delta_of(merged.adapter), expected) <= 1e-6


@pytest.mark.parametrize("alpha", [None, 4.0, 1.0, 16.0])
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_weight_one_and_the_same_type_change_no_bit_of_the_delta(
    dialect: DialectName, dtype: OutDtype, alpha: float | None, tmp_path: Path
) -> None:
    members = pairs(3, 4, dtype=CODES[dtype], alpha=alpha)
    source = write_adapter(tmp_path / "a.safetensors", members, dialect)
    path = place(tmp_path, dialect)
    merge([source], path=path)
    written, expected = delta_of(path), truth(members, dialect)
    assert written.keys() == expected.keys()
    for key, delta in expected.items():
        assert np.array_equal(written[key], delta)


# Sums.


@pytest.mark.parametrize("dialect", DIALECTS)
def test_linear_is_the_sum_of_mixed_ranks_types_and_modules(
    dialect: DialectName, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, dialect)
    alpha = 2.0 if dialect == "kohya" else None
    names = list(MODULES)
    for index, dtype in enumerate(DTYPES):
        kept = {name: MODULES[name] for name in names if name != names[index % len(names)]}
        stack.add(pairs(index, 1 + 2 * index, dtype=dtype, alpha=alpha, modules=kept))
    weights = [1.0, -0.5, 0.3, 2.0, 0.7, -1.1]
    path = place(tmp_path, dialect)
    merged = merge(stack.paths, weights=weights, path=path)
    assert merged.plan.dtype == "f32"
    assert distance(delta_of(path), stack.sum(weights)) <= 2e-6
    assert {row.members for row in merged.log} == {4, 5}


def test_summing_one_after_the_other_is_summing_at_once(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for seed in range(3):
        stack.add(pairs(seed, 3))
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    merge(stack.paths[:2], weights=[0.7, -0.4], path=first)
    merge([first, stack.paths[2]], weights=[1.0, 0.9], path=second)
    assert distance(delta_of(second), stack.sum([0.7, -0.4, 0.9])) <= 2e-6


def test_convolutions_keep_their_axes(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "a.safetensors", pairs(4, 3))
    adapter = merge([source], weights=[0.5]).adapter
    for target, factors in adapter.targets.items():
        shape = MODULES[target.key]
        assert factors.down.shape == (3, *shape[1:])
        assert factors.up.shape == (shape[0], 3, *(1,) * (len(shape) - 2))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_an_adapter_twice_needs_its_rank_once(dtype: OutDtype, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    members = pairs(5, 4, dtype=CODES[dtype])
    stack.add(members)
    stack.add(members)
    merged = merge(stack.paths, weights=[0.8, 0.5])
    assert {row.rank for row in merged.log} == {4}
    assert distance(delta_of(merged.adapter), stack.sum([0.8, 0.5])) <= BOUNDS[dtype]


@pytest.mark.parametrize("weight", [1.0, 0.7])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_an_adapter_minus_itself_is_nothing(dtype: str, weight: float, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    members = pairs(6, 4, dtype=dtype)
    stack.add(members)
    stack.add(members)
    merged = merge(stack.paths, weights=[weight, -weight])
    for key, delta in delta_of(merged.adapter).items():
        assert np.linalg.norm(delta) <= 1e-7 * np.linalg.norm(stack.deltas[0][key])
    assert {row.rank for row in merged.log} == {1}
    assert all(row.error <= 1 for row in merged.log)


def test_what_remains_of_a_near_cancellation_is_right(tmp_path: Path) -> None:
    first = pairs(7, 4)
    rest = pairs(8, 2)
    second = {
        name: replace(
            one,
            up=np.concatenate([one.up, 2.0**-10 * rest[name].up], axis=1),
            down=np.concatenate([one.down, rest[name].down], axis=0),
        )
        for name, one in first.items()
    }
    stack = Stack(tmp_path)
    stack.add(first)
    stack.add(second)
    merged = merge(stack.paths, weights=[-1.0, 1.0])
    assert {row.rank for row in merged.log} == {2}
    assert distance(delta_of(merged.adapter), stack.sum([-1.0, 1.0])) <= 1e-4


# Ranks.


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
    merged = merge(decaying.paths, output=Output(rank=rank))
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
    merged = merge(decaying.paths, output=output)
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
    merged = merge(decaying.paths, output=output)
    assert distance(delta_of(merged.adapter), decaying.sum([1.0] * 3)) <= 1e-6


@pytest.mark.parametrize("limit", [0.2, 0.01, 1.5e-3, 9e-4, 1e-4])
def test_small_errors_of_large_targets_are_exact_too(limit: float, tmp_path: Path) -> None:
    members = pairs(19, 24, modules={"unet.blocks.0.wide": (600, 400)})
    slope = 1.6 ** -np.arange(24.0)
    stack = Stack(tmp_path)
    for name, one in members.items():
        stack.add({name: replace(one, up=one.up * slope)})
        stack.add({name: replace(one, up=one.up[::-1] * slope, down=one.down[:, ::-1])})
    merged = merge(stack.paths, output=Output(max_error=limit))
    (row,) = merged.log
    ((key, delta),) = stack.sum([1.0, 1.0]).items()
    values = svd_of(delta)
    norm, best = np.linalg.norm(values), np.linalg.norm(values[row.rank :])
    assert best <= limit * norm < np.linalg.norm(values[row.rank - 1 :])
    assert abs(row.cut * norm - best) <= 1e-6 * norm
    assert abs(np.linalg.norm(delta_of(merged.adapter)[key] - delta) - best) <= 1e-6 * norm


def test_a_rank_bounds_a_rule(decaying: Stack) -> None:
    merged = merge(decaying.paths, output=Output(rank=2, max_error=0.001))
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
    merged = merge([source], path=path)
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


# Bits.


@pytest.mark.parametrize("output", [Output(), Output(rank=3, dtype="bf16")], ids=str)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_bytes_do_not_depend_on_threads_or_repetition(
    dialect: DialectName, output: Output, tmp_path: Path
) -> None:
    stack = Stack(tmp_path, dialect)
    big = {**MODULES, "unet.blocks.2.wide": (600, 4300)}
    for seed in range(3):
        stack.add(pairs(seed, 4, modules=big))
    found = set()
    for index, threads in enumerate((1, 2, 7, 1, None)):
        path = place(tmp_path, dialect, f"merged-{index}")
        merge(
            stack.paths, "slerp", weights=[1.0, 0.5, -0.3], path=path, output=output,
            threads=threads, auto_strength=True,
        )  # fmt: skip
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found.add(b"".join(file.read_bytes() for file in files))
    assert len(found) == 1


@pytest.mark.parametrize("method", [n for n in METHODS if "permutation" not in METHODS[n].breaks])
def test_the_order_of_files_does_not_matter(method: str, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for seed in range(3):
        stack.add(pairs(seed, 2 + seed))
    weights = [1.0, 0.6, -0.5]
    plain = delta_of(merge(stack.paths, method, weights=weights).adapter)
    other = delta_of(merge(stack.paths[::-1], method, weights=weights[::-1]).adapter)
    for key, delta in plain.items():
        size = sum(np.linalg.norm(deltas[key]) for deltas in stack.deltas)
        assert np.linalg.norm(delta - other[key]) <= 2e-6 * size


# Scales.

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
    merge([source], path=path)
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
    merge([folder], path=tmp_path / "merged")
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
    merge([source], path=tmp_path / "merged.safetensors")
    assert distance(delta_of(tmp_path / "merged.safetensors"), expected) <= 1e-6


# Measured errors.


@pytest.mark.parametrize(
    "output",
    [Output(rank=3), Output(rank=3, dtype="bf16"), Output(dtype="bf16"), Output(dtype="f16")],
    ids=str,
)
def test_reported_errors_are_the_true_ones(output: Output, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    big = {name: (4 * shape[0], 3 * shape[1], *shape[2:]) for name, shape in MODULES.items()}
    for seed in range(3):
        stack.add(pairs(seed, 4, modules=big))
    weights = [1.0, 0.7, -0.4]
    merged = merge(stack.paths, weights=weights, output=output)
    written, meant = delta_of(merged.adapter), stack.sum(weights)
    for row in merged.log:
        true = relative(written[row.target], meant[row.target])
        assert row.error == pytest.approx(true, rel=0.3)
    gap = math.sqrt(sum(np.linalg.norm(written[key] - meant[key]) ** 2 for key in meant))
    norm = math.sqrt(sum(np.linalg.norm(delta) ** 2 for delta in meant.values()))
    assert merged.error == pytest.approx(gap / norm, rel=0.3)


def test_rounding_bounds_are_those_of_the_types(tmp_path: Path) -> None:
    members = pairs(15, 4)
    source = write_adapter(tmp_path / "a.safetensors", members)
    for dtype in CODES:
        error = merge([source], weights=[0.7], output=Output(dtype=dtype)).error
        assert ROUNDING[dtype] / 8 < error < 3 * ROUNDING[dtype]


# Strength and weights.


def leaning(cosine: float, seed: int) -> tuple[dict[str, Pair], dict[str, Pair]]:
    """Two adapters of rank one whose deltas have this cosine in every module."""
    rng = np.random.default_rng(seed)
    first, second = {}, {}
    for name, shape in BOTH.items():
        one = pair(rng, shape, 1)
        other = rng.normal(size=one.up.shape)
        other -= one.up * (one.up.T @ other) / (one.up.T @ one.up)
        other *= np.linalg.norm(one.up) / np.linalg.norm(other)
        up = cosine * one.up + math.sqrt(1 - cosine**2) * other
        first[name] = replace(one, dtype="F64")
        second[name] = replace(one, up=1.5 * up, dtype="F64")
    return first, second


@pytest.mark.parametrize("method", ["linear", "slerp"])
@pytest.mark.parametrize("weights", [[1.0, 1.0], [0.5, 1.4], [1.0, -0.8], [-1.0, -1.0]])
@pytest.mark.parametrize("cosine", [1.0, 0.5, 0.0, -0.5])
def test_automatic_strength_follows_the_dense_energies(
    cosine: float, weights: list[float], method: str, tmp_path: Path
) -> None:
    stack = Stack(tmp_path)
    for members in leaning(cosine, 16):
        stack.add(members)
    free = merge(stack.paths, method, weights=weights)
    bound = merge(stack.paths, method, weights=weights, auto_strength=True)
    before, after = delta_of(free.adapter), delta_of(bound.adapter)
    for branch, names in (("model", list(MODULES)), ("text_encoder", list(TEXT))):
        reference = max(
            abs(weight) * norm_of(deltas, names)
            for weight, deltas in zip(weights, stack.deltas, strict=True)
        )
        scale = min(reference / norm_of(before, names), 1.0)
        strength = bound.plan.strengths[branch]
        assert strength.scale == pytest.approx(scale, rel=1e-5)
        assert strength.norm == pytest.approx(norm_of(before, names), rel=1e-5)
        assert strength.reference == pytest.approx(reference, rel=1e-5)
        assert strength.cosine == pytest.approx(cosine, abs=1e-5)
        for name in names:
            assert relative(after[name], scale * before[name]) < 1e-5
        assert norm_of(after, names) <= reference * (1 + 1e-5)


def norm_of(deltas: Mapping[str, F64], names: list[str]) -> float:
    """Norm of a branch."""
    return math.sqrt(sum(float(np.linalg.norm(deltas[name])) ** 2 for name in names))


def test_the_text_encoder_is_scaled_apart(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    aligned, turned = leaning(1.0, 17), leaning(-0.9, 17)
    for same, apart in zip(aligned, turned, strict=True):
        stack.add({name: (same if name in TEXT else apart)[name] for name in BOTH})
    strengths = merge(stack.paths, auto_strength=True).plan.strengths
    assert strengths["model"].scale == 1.0
    assert strengths["text_encoder"].scale == pytest.approx(1.5 / 2.5, rel=1e-6)


@pytest.mark.parametrize(("cosine", "applies"), [(0.0, True), (0.05, True), (0.5, False)])
def test_a_floor_holds_for_independent_adapters_only(
    tmp_path: Path, *, cosine: float, applies: bool
) -> None:
    stack = Stack(tmp_path)
    for members in leaning(cosine, 18):
        stack.add(members)
    free = merge(stack.paths, auto_strength=True).plan.strengths["model"].scale
    assert free < 0.95
    bound = merge(stack.paths, auto_strength=True, floor=0.95).plan.strengths["model"].scale
    assert bound == pytest.approx(0.95 if applies else free)
    low = merge(stack.paths, auto_strength=True, floor=0.1).plan.strengths["model"].scale
    assert low == pytest.approx(free)


def test_weights_by_glob_take_the_first_match(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for seed in range(2):
        stack.add(pairs(seed, 3, modules=BOTH))
    globs = {"text_encoder*": 0.5, "*.conv": -2.0, "unet.blocks.1.*": 0.25}
    merged = merge(stack.paths, weights=[globs, 0.75])
    written = delta_of(merged.adapter)
    for key in BOTH:
        own = next((weight for glob, weight in globs.items() if fnmatchcase(key, glob)), 1.0)
        expected = own * stack.deltas[0][key] + 0.75 * stack.deltas[1][key]
        assert relative(written[key], expected) < 1e-6


def test_the_text_encoder_of_an_unknown_kohya_model_is_its_own_branch(tmp_path: Path) -> None:
    stack = Stack(tmp_path, "kohya")
    for seed in range(2):
        stack.add(pairs(seed, 3, modules=BOTH))
    assert set(merge(stack.paths, auto_strength=True).plan.strengths) == {"model", "text_encoder"}
