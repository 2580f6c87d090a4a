"""Files of methods on entries: the cut is near the best, and its error is true."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from entries.basic import MEANINGS, ONE_OF_EACH
from helpers import F64, MODULES, Pair, Stack, delta_of, pair, pairs, read_safetensors, relative

from loramix import FormatError, Output, merge
from loramix.digests import Digest
from loramix.recipes.provenance import provenance


def hash_of(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def truth_of(stack: Stack, weights: Sequence[float], method: str) -> dict[str, F64]:
    """The oracle on dense deltas of every target."""
    keys = sorted({key for deltas in stack.deltas for key in deltas})
    found = {}
    for key in keys:
        own = [(d[key], w) for d, w in zip(stack.deltas, weights, strict=True) if key in d]
        found[key] = MEANINGS[method]([d for d, _ in own], [w for _, w in own], hash_of(key))
    return found


def best(delta: F64, rank: int) -> float:
    """Relative error of the best approximation."""
    values = np.linalg.svd(delta, compute_uv=False)
    return float(np.linalg.norm(values[rank:]) / np.linalg.norm(values))


def decaying(seed: int, rank: int, shape: tuple[int, ...], decay: float) -> Pair:
    """Factors whose directions get weaker, as training leaves them."""
    one = pair(np.random.default_rng(seed), shape, rank)
    sizes = decay ** np.arange(rank, dtype=np.float64)
    down = (sizes[:, None] * one.down).astype(np.float32).astype(np.float64)
    return replace(one, down=down)


F32 = Output(dtype="f32")
FULL = Output(rank=10**6, dtype="f32")


@pytest.fixture
def three(tmp_path: Path) -> Stack:
    stack = Stack(tmp_path)
    for seed in range(3):
        stack.add(pairs(seed, 2 + seed))
    return stack


@pytest.mark.parametrize("method", MEANINGS)
def test_files_of_full_rank_equal_the_oracle(method: str, three: Stack) -> None:
    weights = [1.0, -0.6, 0.8]
    merged = merge(three.paths, method, weights=weights, output=FULL)
    written = delta_of(merged.adapter)
    for key, expected in truth_of(three, weights, method).items():
        assert relative(written[key], expected) < 1e-4
    assert all(row.error < 1e-3 for row in merged.log)


@pytest.mark.parametrize("rank", [1, 3, 9, 12])
@pytest.mark.parametrize("method", MEANINGS)
def test_the_cut_is_the_true_error(method: str, rank: int, three: Stack) -> None:
    weights = [1.0, -0.6, 0.8]
    merged = merge(three.paths, method, weights=weights, output=Output(rank=rank, dtype="f32"))
    written, meant = delta_of(merged.adapter), truth_of(three, weights, method)
    for row in merged.log:
        expected = meant[row.target]
        assert row.rank == min(rank, *expected.shape)
        assert row.norm == pytest.approx(np.linalg.norm(expected), rel=1e-5)
        found, least = relative(written[row.target], expected), best(expected, row.rank)
        # How true it is of small errors: `test_the_cut_is_true_where_nothing_is_cut`.
        assert row.cut == pytest.approx(found, rel=0.02, abs=4e-4)
        assert found >= least * (1 - 1e-5) - 1e-6


@pytest.mark.parametrize("method", MEANINGS)
def test_the_sum_of_the_ranks_is_cut_near_the_best(method: str, three: Stack) -> None:
    weights = [1.0, -0.6, 0.8]
    merged = merge(three.paths, method, weights=weights, output=Output(dtype="f32"))
    written, meant = delta_of(merged.adapter), truth_of(three, weights, method)
    for row in merged.log:
        assert row.rank == 9
        least = best(meant[row.target], 9)
        assert relative(written[row.target], meant[row.target]) <= 1.1 * least


@pytest.mark.parametrize("decay", [0.5, 0.1])
@pytest.mark.parametrize("method", MEANINGS)
def test_decaying_adapters_are_cut_near_the_best_too(
    method: str, decay: float, tmp_path: Path
) -> None:
    stack = Stack(tmp_path)
    for seed in range(2):
        stack.add({"unet.proj": decaying(seed, 6, (60, 44), decay)})
    weights = [1.0, -0.7]
    merged = merge(stack.paths, method, weights=weights, output=Output(rank=12, dtype="f32"))
    (expected,) = truth_of(stack, weights, method).values()
    (written,) = delta_of(merged.adapter).values()
    found = relative(written, expected)
    assert merged.log[0].cut == pytest.approx(found, rel=0.02)
    assert found <= 1.1 * best(expected, 12)


@pytest.mark.parametrize("rank", [10, 12, 30, 44, None])
@pytest.mark.parametrize("decay", [1.0, 0.5, 0.1, 0.01])
def test_what_has_low_rank_is_written_whole(decay: float, rank: int | None, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for seed in range(2):
        stack.add({"unet.proj": decaying(10 + seed, 5, (60, 44), decay)})
    weights = [1.0, -0.7]
    output = Output(rank=rank, dtype="f32")
    merged = merge(stack.paths, "dare:density=1", weights=weights, output=output)
    (written,) = delta_of(merged.adapter).values()
    found = relative(written, stack.sum(weights)["unet.proj"])
    assert found < 1e-5
    assert merged.log[0].rank <= 10


@pytest.mark.parametrize("small", [1e-4, 1e-5, 3e-6])
@pytest.mark.parametrize("shape", [(60, 44), (44, 60), (600, 500)], ids=str)
def test_directions_that_are_small_beside_others_are_written_too(
    shape: tuple[int, int], small: float, tmp_path: Path
) -> None:
    stack = Stack(tmp_path)
    for seed in range(2):
        stack.add({"unet.proj": pair(np.random.default_rng(seed), shape, 5)})
    merged = merge(stack.paths, "dare:density=1", weights=[1.0, small], output=F32)
    (written,) = delta_of(merged.adapter).values()
    meant = stack.sum([1.0, small])["unet.proj"]
    assert merged.log[0].rank == 10
    assert relative(written, meant) < 5e-7


@pytest.mark.parametrize("rank", [10, 12, 30, 44, None])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_the_cut_is_true_where_nothing_is_cut(
    decay: float, rank: int | None, tmp_path: Path
) -> None:
    stack = Stack(tmp_path)
    for seed in range(2):
        stack.add({"unet.proj": decaying(20 + seed, 5, (60, 44), decay)})
    output = Output(rank=rank, dtype="f32")
    merged = merge(stack.paths, "dare:density=1", weights=[1.0, -0.7], output=output)
    (written,) = delta_of(merged.adapter).values()
    found = relative(written, stack.sum([1.0, -0.7])["unet.proj"])
    assert abs(merged.log[0].cut - found) < 1e-5


@pytest.mark.parametrize("method", MEANINGS)
def test_targets_of_one_adapter_are_exact(method: str, tmp_path: Path) -> None:
    stack, names = Stack(tmp_path), list(MODULES)
    stack.add(pairs(1, 3))
    stack.add(pairs(2, 3, modules={names[0]: MODULES[names[0]]}))
    merged = merge(stack.paths, method, weights=[0.7, -0.5], output=Output(dtype="f32"))
    written = delta_of(merged.adapter)
    for name in names[1:]:
        assert relative(written[name], 0.7 * stack.deltas[0][name]) < 1e-6
    ranks = {row.target: (row.members, row.rank) for row in merged.log}
    assert all(ranks[name] == (1, 3) for name in names[1:])
    # And where the other has no weight.
    alone = delta_of(merge(stack.paths, method, weights=[0.7, 0.0]).adapter)
    assert relative(alone[names[0]], 0.7 * stack.deltas[0][names[0]]) < 1e-6


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_an_energy_gives_the_smallest_rank_that_keeps_it(
    method: str, energy: float, three: Stack
) -> None:
    output = Output(rank=100, energy=energy, dtype="f32")
    merged = merge(three.paths, method, output=output)
    meant, written = truth_of(three, [1.0] * 3, method), delta_of(merged.adapter)
    for row in merged.log:
        limit = math.sqrt(1 - energy)
        assert relative(written[row.target], meant[row.target]) <= limit * 1.001
        assert best(meant[row.target], row.rank - 1) > limit * 0.999


@pytest.mark.parametrize("limit", [0.5, 0.2, 0.05, 1e-3, 1e-4])
@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_a_largest_error_gives_the_smallest_rank(method: str, limit: float, three: Stack) -> None:
    merged = merge(three.paths, method, output=Output(rank=100, max_error=limit, dtype="f32"))
    meant, written = truth_of(three, [1.0] * 3, method), delta_of(merged.adapter)
    for row in merged.log:
        assert relative(written[row.target], meant[row.target]) <= limit * 1.001
        assert best(meant[row.target], row.rank - 1) > limit * 0.999


def test_an_error_within_reach_is_not_refused(three: Stack) -> None:
    output = Output(max_error=1e-5, dtype="f32")
    merged = merge(three.paths, "dare:density=1", output=output)
    assert all(row.rank <= 9 for row in merged.log)


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_bytes_of_files_do_not_depend_on_threads(method: str, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for seed in range(3):
        stack.add(pairs(seed, 70, modules={**MODULES, "unet.wide": (300, 700)}))
    found = set()
    for index, threads in enumerate((1, 2, 7, 1, None)):
        path = tmp_path / f"merged-{index}.safetensors"
        merge(stack.paths, method, path=path, threads=threads, output=Output(rank=220))
        found.add(path.read_bytes())
    assert len(found) == 1


def test_seed_and_parameters_are_in_the_file(three: Stack) -> None:
    path = three.folder / "merged.safetensors"
    merged = merge(three.paths, "dare:density=0.3,dampening=0.25", seed=2**64 - 1, path=path)
    text = json.dumps(read_safetensors(path)[1])
    found = provenance(merged.plan, [Digest("0")] * 3, "rust")
    assert found["seed"] == 2**64 - 1
    limit = {"only": "all", "guard": "calibrated", "fallback": "everywhere"}
    assert found["method"] == {"name": "dare", "density": 0.3, "dampening": 0.25, **limit}
    assert all(word in text for word in ("18446744073709551615", "dampening", "0.25", "0.3"))


def test_plans_of_different_seeds_have_different_digests(three: Stack) -> None:
    first = merge(three.paths, "dare", seed=1)
    second = merge(three.paths, "dare", seed=2)
    same = [np.array_equal(a, b) for a, b in _both(first.adapter, second.adapter)]
    assert not any(same)
    assert first.plan.digest() != second.plan.digest()
    assert merge(three.paths, "dare", seed=1).plan.digest() == first.plan.digest()


def _both(first: Any, second: Any) -> list[tuple[F64, F64]]:
    left, right = delta_of(first), delta_of(second)
    return [(left[key], right[key]) for key in left]


@pytest.mark.parametrize("method", ["linear", *ONE_OF_EACH])
def test_a_file_with_nan_is_named_whatever_the_weights(method: str, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for seed in range(3):
        members = pairs(seed, 3)
        if seed == 2:
            members = {n: replace(p, up=np.full_like(p.up, np.nan)) for n, p in members.items()}
        stack.add(members)
    with pytest.raises(FormatError, match="source-2"):
        merge(stack.paths, method, weights=[0.0, 1.0, 1.0])


@pytest.mark.parametrize("method", ["average", "ties:density=1"])
def test_automatic_strength_leaves_a_mean_of_equals_alone(method: str, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for _ in range(3):
        stack.add(pairs(0, 3))
    merged = merge(stack.paths, method, auto_strength=True, output=Output(dtype="f32"))
    for key, got in delta_of(merged.adapter).items():
        assert relative(got, stack.deltas[0][key]) < 1e-5
