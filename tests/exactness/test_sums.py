"""What is written is what was meant: the identity law, sums, bits and measured errors.

Every result is read back by an independent reader and compared with dense float64 arithmetic on
the values that the sources hold.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from exactness.places import place
from helpers import (
    DIALECTS,
    DTYPES,
    MODULES,
    ROUNDING,
    DialectName,
    Stack,
    delta_of,
    distance,
    pairs,
    relative,
    truth,
    write_adapter,
)

from loramix import METHODS, Output, merge

OutDtype = Literal["f32", "f16", "bf16"]

CODES: Mapping[OutDtype, str] = {"f32": "F32", "f16": "F16", "bf16": "BF16"}

BOUNDS: Mapping[OutDtype, float] = {"f32": 1e-6, "bf16": 2.0**-8, "f16": 2.0**-10}


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
    merge([source], "linear", weights=[weight], path=path, output=Output(dtype=dtype))
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
    merge([source], "linear", path=path)
    written, expected = delta_of(path), truth(members, dialect)
    assert written.keys() == expected.keys()
    for key, delta in expected.items():
        assert np.array_equal(written[key], delta)


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
    merged = merge(stack.paths, "linear", weights=weights, path=path)
    assert merged.plan.dtype == "f32"
    assert distance(delta_of(path), stack.sum(weights)) <= 2e-6
    assert {row.members for row in merged.log} == {4, 5}


def test_summing_one_after_the_other_is_summing_at_once(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for seed in range(3):
        stack.add(pairs(seed, 3))
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    merge(stack.paths[:2], "linear", weights=[0.7, -0.4], path=first)
    merge([first, stack.paths[2]], "linear", weights=[1.0, 0.9], path=second)
    assert distance(delta_of(second), stack.sum([0.7, -0.4, 0.9])) <= 2e-6


def test_convolutions_keep_their_axes(tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "a.safetensors", pairs(4, 3))
    adapter = merge([source], "linear", weights=[0.5]).adapter
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
    merged = merge(stack.paths, "linear", weights=[0.8, 0.5])
    assert {row.rank for row in merged.log} == {4}
    assert distance(delta_of(merged.adapter), stack.sum([0.8, 0.5])) <= BOUNDS[dtype]


@pytest.mark.parametrize("weight", [1.0, 0.7])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_an_adapter_minus_itself_is_nothing(dtype: str, weight: float, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    members = pairs(6, 4, dtype=dtype)
    stack.add(members)
    stack.add(members)
    merged = merge(stack.paths, "linear", weights=[weight, -weight])
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
    merged = merge(stack.paths, "linear", weights=[-1.0, 1.0])
    assert {row.rank for row in merged.log} == {2}
    assert distance(delta_of(merged.adapter), stack.sum([-1.0, 1.0])) <= 1e-4


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
    merged = merge(stack.paths, "linear", weights=weights, output=output)
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
        error = merge([source], "linear", weights=[0.7], output=Output(dtype=dtype)).error
        assert ROUNDING[dtype] / 8 < error < 3 * ROUNDING[dtype]
