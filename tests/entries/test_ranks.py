"""Ranks of results of full rank, larger than what is decomposed whole: near the best there are."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from entries.basic import MEANINGS
from entries.test_written import hash_of
from helpers import F64, Stack, delta_of, pairs, relative

from loramix import Output, ParamError, merge
from loramix.cli.app import main

TARGET = "unet.wide"
BACKENDS = ["rust", "torch"]
TIES = "ties:density=0.3"
METHODS = [TIES, "dare:density=0.3"]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """Adapters of rank 20, 24 and 28 of one large target."""
    found = Stack(tmp_path_factory.mktemp("ranks"))
    for seed, rank in enumerate((20, 24, 28)):
        found.add(pairs(seed, rank, modules={TARGET: (640, 480)}))
    return found


@pytest.fixture(scope="module")
def sigmas(stack: Stack) -> dict[str, F64]:
    """Singular values of the true results."""
    deltas = [deltas[TARGET] for deltas in stack.deltas]
    meant = {name: MEANINGS[name](deltas, [1.0] * 3, hash_of(TARGET)) for name in METHODS}
    return {name: np.linalg.svd(one, compute_uv=False) for name, one in meant.items()}


def best(sigmas: F64, rank: int) -> float:
    return float(np.linalg.norm(sigmas[rank:]) / np.linalg.norm(sigmas))


def row_of(stack: Stack, method: str, backend: str, **wish: Any) -> Any:
    output = Output(**wish, dtype="f32")
    (row,) = merge(stack.paths, method, output=output, backend=backend).log
    return row


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wish", [{"energy": e} for e in (0.5, 0.9, 0.99, 1.0)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_an_energy_is_kept_whatever_the_rank(
    method: str, wish: dict[str, float], backend: str, stack: Stack, sigmas: dict[str, F64]
) -> None:
    row, limit = row_of(stack, method, backend, **wish), math.sqrt(1 - wish["energy"])
    assert row.cut <= limit + 1e-5
    assert best(sigmas[method], math.floor(row.rank / 1.07) - 1) > limit


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("limit", [0.5, 0.3, 0.1, 0.01])
@pytest.mark.parametrize("method", METHODS)
def test_a_largest_error_is_kept_whatever_the_rank(
    method: str, limit: float, backend: str, stack: Stack, sigmas: dict[str, F64]
) -> None:
    row = row_of(stack, method, backend, max_error=limit)
    assert row.cut <= limit
    assert best(sigmas[method], math.floor(row.rank / 1.07) - 1) > limit


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rank_beside_it_is_a_limit(backend: str, stack: Stack) -> None:
    assert row_of(stack, TIES, backend, rank=300, max_error=0.4).rank < 200
    held = row_of(stack, TIES, backend, rank=30, max_error=0.01)
    assert held.rank == 30
    assert held.cut > 0.1


@pytest.mark.parametrize(("rank", "share"), [(24, 1.01), (72, 1.03), (200, 1.04)])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", METHODS)
def test_six_passes_are_near_the_best(
    method: str, backend: str, rank: int, share: float, stack: Stack, sigmas: dict[str, F64]
) -> None:
    row = row_of(stack, method, backend, rank=rank, passes=6)
    least = best(sigmas[method], rank)
    assert least * (1 - 1e-5) <= row.cut <= least * share


@pytest.mark.parametrize("rank", [24, 72])
def test_each_pass_helps(rank: int, stack: Stack) -> None:
    cuts = [row_of(stack, TIES, "rust", rank=rank, passes=passes).cut for passes in (2, 4, 6, 12)]
    assert cuts == sorted(cuts, reverse=True)
    assert cuts[0] > cuts[-1]


def test_what_was_cut_is_the_true_error(stack: Stack) -> None:
    meant = MEANINGS[TIES]([d[TARGET] for d in stack.deltas], [1.0] * 3, hash_of(TARGET))
    for passes in (2, 6):
        output = Output(rank=72, passes=passes, dtype="f32")
        merged = merge(stack.paths, TIES, output=output)
        (row,) = merged.log
        found = relative(delta_of(merged.adapter)[TARGET], meant)
        assert row.cut == pytest.approx(found, rel=1e-4)


@pytest.mark.parametrize("passes", [-2, 0, 1, 3])
def test_passes_come_in_pairs(passes: int) -> None:
    with pytest.raises(ParamError, match=f"passes = {passes}: allowed is an even number"):
        Output(passes=passes)


def test_passes_are_in_the_recipe_of_a_file(stack: Stack, tmp_path: Path) -> None:
    files = [str(path) for path in stack.paths]
    out, again = tmp_path / "out.safetensors", tmp_path / "again.safetensors"
    rest = ["-m", TIES, "--rank", "30", "--passes", "4", "-o", str(out)]
    assert main(["merge", *files, *rest]) == 0
    assert main(["reproduce", str(out), "--sources", str(stack.folder), "-o", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()
    merge(stack.paths, TIES, output=Output(rank=30), path=again)
    assert again.read_bytes() != out.read_bytes()
