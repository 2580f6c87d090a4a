"""Rounded products of factors count by the rank of the product, not by that of their noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import F64, delta_of, encode, relative, write_safetensors

import loramix
from loramix import FormatError, Output, combine
from loramix.methods import Space
from loramix.planning.steps import FULL
from loramix.rounding import significant

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}


def product(shape: tuple[int, int], rank: int, *, seed: int, slope: float = 0.85) -> F64:
    rng = np.random.default_rng([seed, *shape, rank])
    up = rng.normal(size=(shape[0], rank)) * slope ** np.arange(rank)
    return np.asarray(1e-2 * up @ rng.normal(size=(rank, shape[1])))


def rounded(delta: F64, dtype: str) -> F64:
    return np.asarray(torch.tensor(delta).to(DTYPES[dtype]).double().numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 48), (300, 40), (40, 300), (257, 256)], ids=str)
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_the_rank_before_rounding(shape: tuple[int, int], rank: int, dtype: str) -> None:
    exact = product(shape, rank, seed=1)
    found = significant(rounded(exact, dtype), dtype)
    assert found is not None
    up, down = found
    assert up.shape == (shape[0], rank)
    assert down.shape == (rank, shape[1])
    # Without noise outside its directions the product is nearer to the exact one.
    error = np.linalg.norm(up.astype(float) @ down - exact)
    assert error < 0.8 * np.linalg.norm(rounded(exact, dtype) - exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounded_twice(dtype: str) -> None:
    twice = rounded(0.3 * rounded(product((120, 90), 8, seed=2), dtype), dtype)
    found = significant(twice, dtype)
    assert found is not None
    assert found[0].shape == (120, 8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_full_rank_is_left_as_it_is(dtype: str) -> None:
    full = np.random.default_rng(3).normal(size=(40, 120))
    assert significant(rounded(full, dtype), dtype) is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_entries_beside_large_ones_are_no_noise(dtype: str) -> None:
    graded = np.diag(4.0 ** -np.arange(12))
    assert significant(rounded(graded, dtype), dtype) is None
    beside = np.zeros((80, 60))
    beside[:40, :30] = product((40, 30), 3, seed=4)
    beside[40:, 30:] = 1e-4 * product((40, 30), 2, seed=5)
    found = significant(rounded(beside, "BF16"), "BF16")
    assert found is not None
    assert found[0].shape == (80, 5)


@pytest.mark.parametrize("delta", [np.zeros((5, 4)), np.zeros((0, 4)), np.full((3, 3), np.nan)])
def test_nothing_to_cut(delta: F64) -> None:
    assert significant(delta, "BF16") is None


def test_finer_types_are_not_cut() -> None:
    assert significant(rounded(product((64, 48), 4, seed=6), "BF16"), "F32") is None


@pytest.mark.parametrize(
    ("method", "space"),
    [
        ("iso-c", "weight"), ("iso-cts", "weight"), ("tsv", "weight"), ("svc", "weight"),
        ("ties:density=0.5", "core"), ("consensus", "knots"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_joint_methods_see_what_was_rounded(method: str, space: Space, dtype: str) -> None:
    exact = [torch.tensor(product((96, 64), 4, seed=s)).float() for s in (7, 8, 9)]
    expected = combine(exact, method, space=space)
    got = combine([d.to(DTYPES[dtype]) for d in exact], method, space=space)
    assert got.dtype == DTYPES[dtype]
    # Three times the rounding of a result; a mask may turn at its threshold.
    room = {"BF16": 6e-3, "F16": 1e-3}[dtype] + (0.05 if space != "weight" else 0.0)
    assert float((got.float() - expected).norm() / expected.norm()) < room


def test_numbers_that_are_none_are_still_refused_by_name() -> None:
    deltas = [torch.ones(4, 3, dtype=torch.bfloat16) for _ in range(2)]
    deltas[1][2, 1] = torch.nan
    with pytest.raises(FormatError, match="1"):
        combine(deltas, "iso-c")


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F8_E4M3", "F8_E5M2"])
@pytest.mark.parametrize("method", ["iso-c", "iso-cts", "tsv"])
def test_joint_methods_see_what_was_rounded_in_files(
    method: str, dtype: str, tmp_path: Path
) -> None:
    exact = [20 * product((96, 64), 4, seed=seed) for seed in (7, 8, 9)]
    expected, got = (merged(exact, method, code, tmp_path) for code in ("F32", dtype))
    room = {"BF16": 2e-3, "F16": 3e-4, "F8_E4M3": 0.03, "F8_E5M2": 0.06}[dtype]
    assert relative(got, expected) < room


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("space", ["knots", "core"])
def test_large_differences_are_merged_in_the_space_that_was_asked_for(
    space: str, dtype: str, tmp_path: Path
) -> None:
    """From `FULL` on, entries are less work than factors; only in the space of weights."""
    exact = [product((FULL + 8, FULL), 6, seed=seed) for seed in (1, 2)]
    got = merged(exact, f"ties:density=0.5, space={space}", dtype, tmp_path)
    expected = combine([d.astype(np.float32) for d in exact], "ties:density=0.5", space=space)
    assert relative(got, expected) < {"F32": 1e-5, "BF16": 0.05}[dtype]


def merged(deltas: list[F64], method: str, dtype: str, folder: Path) -> F64:
    """By way of files of dense differences."""
    paths = [
        write_safetensors(
            folder / f"{dtype}-{index}.safetensors",
            {"lora_unet_to_q.diff": (dtype, delta.shape, encode(dtype, delta))},
        )
        for index, delta in enumerate(deltas)
    ]
    plain, _, space = method.partition(", space=")
    path, output = folder / f"{dtype}.safetensors", Output(rank=32, dtype="f32")
    loramix.merge(paths, plain, space=space or "weight", output=output, path=path)
    (found,) = delta_of(path).values()
    return found
