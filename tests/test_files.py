"""Every method through files: several targets, a convolution, one that a single adapter has.

The result, read by ``helpers``, is the oracle's of the dense deltas wherever the written rank can
hold it, and else the best of that rank, at the error that is reported.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from helpers import F64, MODULES, DialectName, Pair, Stack, delta_of, pairs
from oracles_suite import MODIFIED, TARGETED, Targeted, in_space, on_target

from loramix import METHODS, Merged, Output, OutputError, combine, merge
from loramix.methods import Elementwise, Space

Member: TypeAlias = tuple[list[F64], list[float]]

ALL = sorted(METHODS)
ENTRIES = [name for name in ALL if isinstance(METHODS[name](), Elementwise)]
WEIGHTS = [0.9, -0.6, 1.37]
ALONE = "unet.blocks.0.ff.proj"
KINDS: list[tuple[DialectName, str]] = [("kohya", "F32"), ("diffusers", "BF16")]
FULL = Output(rank=64, dtype="f32")
"""More than any module has rows or columns: nothing is cut."""


@pytest.fixture(params=KINDS, ids=["kohya-f32", "diffusers-bf16"])
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Stack:
    """Three adapters of different ranks; one module belongs to the first alone."""
    dialect, dtype = request.param
    found = Stack(tmp_path, dialect)
    for seed in range(3):
        modules = {name: s for name, s in MODULES.items() if seed == 0 or name != ALONE}
        found.add(members(seed, dtype, modules))
    return found


def members(seed: int, dtype: str, modules: dict[str, tuple[int, ...]]) -> dict[str, Pair]:
    return pairs(seed, 2 + seed, dtype=dtype, alpha=2.0 + 2 * seed, modules=modules)


def members_of(stack: Stack, key: str, weights: Sequence[float] = WEIGHTS) -> Member:
    """Dense deltas of one target, and their weights."""
    have = [(d[key], w) for d, w in zip(stack.deltas, weights, strict=True) if key in d]
    return [d for d, _ in have], [w for _, w in have]


def target_of(stack: Stack, key: str) -> int:
    """Hash of a target; flattened names of an unknown model have the branch in front."""
    name = f"model.{key}" if stack.dialect == "kohya" else key
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def size_of(deltas: Sequence[F64], weights: Sequence[float]) -> float:
    each = zip(weights, deltas, strict=True)
    return sum(abs(weight) * float(np.linalg.norm(delta)) for weight, delta in each)


def truth(stack: Stack, oracle: Targeted) -> dict[str, F64]:
    """Dense result for every target."""
    return {
        key: on_target(oracle, target_of(stack, key))(*members_of(stack, key))
        for key in stack.deltas[0]
    }


def cuts(stack: Stack, merged: Merged) -> dict[str, tuple[int, float]]:
    """Rank and reported relative error of the cut, by key."""
    front = "model." if stack.dialect == "kohya" else ""
    return {row.target.removeprefix(front): (row.rank, row.cut) for row in merged.log}


def check_exact(stack: Stack, merged: Merged, oracle: Targeted, bound: float = 1e-5) -> None:
    written, expected = delta_of(merged.adapter), truth(stack, oracle)
    assert written.keys() == expected.keys()
    for key, delta in expected.items():
        room = bound * size_of(*members_of(stack, key))
        assert float(np.linalg.norm(written[key] - delta)) <= room, key


@pytest.mark.parametrize("name", ALL)
def test_files_equal_the_oracle(name: str, stack: Stack) -> None:
    merged = merge(stack.paths, name, weights=WEIGHTS, output=FULL)
    check_exact(stack, merged, TARGETED[name], 5e-5 if name == "consensus" else 1e-5)
    assert max(cut for _, cut in cuts(stack, merged).values()) < 1e-5


@pytest.mark.parametrize("name", sorted(set(ALL) - set(ENTRIES)))
def test_sums_and_joint_bases_need_no_more_than_the_sum_of_the_ranks(
    name: str, stack: Stack
) -> None:
    merged = merge(stack.paths, name, weights=WEIGHTS, output=Output(dtype="f32"))
    check_exact(stack, merged, TARGETED[name])
    assert all(rank <= 9 for rank, _ in cuts(stack, merged).values())


@pytest.mark.parametrize("space", ["knots", "core"])
@pytest.mark.parametrize("name", ENTRIES)
def test_files_in_joint_bases_equal_the_oracle(name: str, space: Space, stack: Stack) -> None:
    merged = merge(stack.paths, name, weights=WEIGHTS, space=space, output=Output(dtype="f32"))
    assert all(rank <= 9 for rank, _ in cuts(stack, merged).values())
    written = delta_of(merged.adapter)
    assert written.keys() == stack.deltas[0].keys()
    for key, got in written.items():
        deltas, weights = members_of(stack, key)
        oracle = on_target(TARGETED[name], target_of(stack, key))
        far = in_space(space, oracle, deltas, weights, got)
        assert far <= 2e-5 * size_of(deltas, weights), key


@pytest.mark.parametrize("case", MODIFIED)
def test_modified_methods_equal_the_oracle(case: str, stack: Stack) -> None:
    what = MODIFIED[case]
    merged = merge(
        stack.paths, what.method, weights=WEIGHTS, sparsify=what.sparsify, refine=what.refine,
        output=FULL,
    )  # fmt: skip
    check_exact(stack, merged, what.oracle)


@pytest.mark.parametrize("space", ["knots", "core"])
@pytest.mark.parametrize(
    "case", [name for name, what in MODIFIED.items() if "published" not in what.refine]
)
def test_modified_methods_in_joint_bases_equal_the_oracle(
    case: str, space: Space, stack: Stack
) -> None:
    what = MODIFIED[case]
    merged = merge(
        stack.paths, what.method, weights=WEIGHTS, sparsify=what.sparsify, refine=what.refine,
        space=space, output=Output(dtype="f32"),
    )  # fmt: skip
    assert all(rank <= 9 for rank, _ in cuts(stack, merged).values())
    for key, got in delta_of(merged.adapter).items():
        deltas, weights = members_of(stack, key)
        oracle = on_target(what.oracle, target_of(stack, key))
        far = in_space(space, oracle, deltas, weights, got)
        assert far <= 2e-5 * size_of(deltas, weights), key


@pytest.mark.parametrize("name", ENTRIES)
def test_a_limited_rank_is_the_best_of_that_rank_at_the_reported_error(
    name: str, stack: Stack
) -> None:
    merged = merge(stack.paths, name, weights=WEIGHTS, output=Output(rank=6, dtype="f32"))
    written, expected = delta_of(merged.adapter), truth(stack, TARGETED[name])
    for key, (rank, cut) in cuts(stack, merged).items():
        norm = float(np.linalg.norm(expected[key]))
        found = float(np.linalg.norm(written[key] - expected[key])) / norm
        tail = np.linalg.svd(expected[key], compute_uv=False)[rank:]
        assert rank <= 6
        assert found == pytest.approx(cut, rel=1e-3, abs=2e-5), key
        assert found == pytest.approx(float(np.linalg.norm(tail)) / norm, rel=1e-3, abs=2e-5), key


@pytest.mark.parametrize("name", ["ties", "tsv"])
def test_dense_deltas_give_what_files_give(name: str, stack: Stack) -> None:
    written = delta_of(merge(stack.paths, name, weights=WEIGHTS, output=FULL).adapter)
    for key, got in written.items():
        deltas, weights = members_of(stack, key)
        dense = combine(deltas, name, weights=weights)
        assert float(np.linalg.norm(got - dense)) <= 1e-5 * size_of(deltas, weights)


@pytest.mark.parametrize("method", [*ALL, "knots(ties)", "core(dare)"])
def test_bytes_do_not_depend_on_threads(method: str, stack: Stack) -> None:
    found = set()
    for threads in (1, 2, 7):
        path = stack.folder / f"merged-{threads}.safetensors"
        merge(stack.paths, method, weights=WEIGHTS, path=path, threads=threads)
        found.add(path.read_bytes())
    assert len(found) == 1


def best_errors(stack: Stack, name: str) -> list[float]:
    """Least relative errors at the sum of the ranks, for every target."""
    found = []
    for key, delta in truth(stack, TARGETED[name]).items():
        rank = 2 if len(members_of(stack, key)[0]) == 1 else 9
        values = np.linalg.svd(delta, compute_uv=False)
        found.append(float(np.linalg.norm(values[rank:]) / np.linalg.norm(values)))
    return found


@pytest.mark.parametrize("method", [*ALL, "knots(ties)", "core(della)"])
def test_an_error_budget_is_kept_or_refused(method: str, stack: Stack) -> None:
    wish = Output(max_error=0.3, dtype="f32")
    if method in ENTRIES and max(best_errors(stack, method)) > 0.3:
        with pytest.raises(OutputError, match="max_error"):
            merge(stack.paths, method, weights=WEIGHTS, output=wish)
        return
    kept = cuts(stack, merge(stack.paths, method, weights=WEIGHTS, output=wish))
    whole = cuts(stack, merge(stack.paths, method, weights=WEIGHTS, output=Output(dtype="f32")))
    assert max(cut for _, cut in kept.values()) <= 0.3 + 4e-6
    assert sum(rank for rank, _ in kept.values()) < sum(rank for rank, _ in whole.values())
