"""What a merge says became of every adapter, against dense float64 truth.

The truth is made from the sources and the file as written, for every target and for all together:
retention ``<M, w d> / |w d|^2``, cosine, and what the other adapters would add to a plain sum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers import F64, MODULES, Stack, delta_of, pairs

from loramix import METHODS, Merged, Output, merge
from loramix.executing.accounting import Share
from loramix.methods import Level

WEIGHTS = [0.9, -0.6, 1.37]
ALONE = "unet.blocks.0.ff.proj"
SPACED = ["knots(ties)", "core(ties)", "core(consensus)", "knots(dare)"]
F32 = Output(dtype="f32")


@dataclass
class Sums:
    """Inner products of one adapter over some targets."""

    energy: float = 0.0
    along: float = 0.0
    others: float = 0.0
    written: float = 0.0


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """Three adapters that share a part; one module belongs to the first alone."""
    found = Stack(tmp_path)
    for seed in range(3):
        modules = {name: s for name, s in MODULES.items() if seed == 0 or name != ALONE}
        common, own = pairs(7, 2, modules=modules), pairs(seed, 2 + seed, modules=modules)
        for name, one in own.items():
            one.up[:, :1], one.down[:1] = common[name].up[:, :1], common[name].down[:1]
        found.add(own)
    return found


def truth(
    stack: Stack, written: Mapping[str, F64], weights: Sequence[float], keys: Sequence[str]
) -> dict[int, Sums]:
    """Sums over some targets, for every adapter of weight other than 0 that has one."""
    found: dict[int, Sums] = {}
    for key in keys:
        terms = {
            i: w * deltas[key]
            for i, (w, deltas) in enumerate(zip(weights, stack.deltas, strict=True))
            if w != 0 and key in deltas
        }
        for i, term in terms.items():
            one = found.setdefault(i, Sums())
            rest = sum((t for j, t in terms.items() if j != i), np.zeros_like(term))
            one.energy += float(np.sum(term**2))
            one.along += float(np.sum(written[key] * term))
            one.others += float(np.sum(rest * term))
            one.written += float(np.sum(written[key] ** 2))
    return found


def check(shares: Sequence[Share], expected: Mapping[int, Sums], bound: float) -> None:
    assert [share.owner for share in shares] == sorted(expected)
    for share in shares:
        one = expected[share.owner]
        size = float(np.sqrt(one.energy * one.written))
        ratio = float(np.sqrt(one.written / one.energy))
        assert share.energy == pytest.approx(one.energy, rel=bound)
        assert share.retention == pytest.approx(one.along / one.energy, abs=bound * (1 + ratio))
        assert share.interference == pytest.approx(one.others / one.energy, abs=5 * bound)
        assert share.cosine == pytest.approx(one.along / size if size else 0.0, abs=5 * bound)


def check_all(
    stack: Stack, merged: Merged, weights: Sequence[float] = WEIGHTS, bound: float = 1e-5
) -> None:
    written = delta_of(merged.adapter)
    for row in merged.log:
        check(row.shares, truth(stack, written, weights, [row.target]), bound)
    check(merged.shares, truth(stack, written, weights, sorted(written)), bound)


@pytest.mark.parametrize("output", [F32, Output(rank=3, dtype="f32"), Output(rank=64, dtype="f32")])
@pytest.mark.parametrize("method", [*sorted(METHODS), *SPACED])
def test_shares_equal_the_dense_truth(method: str, output: Output, stack: Stack) -> None:
    check_all(stack, merge(stack.paths, method, weights=WEIGHTS, output=output))


@pytest.mark.parametrize("refine", ["refine", "full"])
def test_shares_of_refined_deltas_are_of_the_deltas_themselves(refine: Level, stack: Stack) -> None:
    merged = merge(
        stack.paths, "average", weights=WEIGHTS, sparsify="dare", refine=refine, output=F32
    )
    check_all(stack, merged)


@pytest.mark.parametrize("method", ["linear", "ties", "tsv", "core(ties)"])
def test_an_adapter_of_weight_zero_has_the_truth_of_its_absence(method: str, stack: Stack) -> None:
    weights = [0.9, 0.0, 1.37]
    merged = merge(stack.paths, method, weights=weights, output=F32)
    rest = merge([stack.paths[0], stack.paths[2]], method, weights=[0.9, 1.37], output=F32)
    own = {share.owner: share for share in merged.shares}
    for share, place in zip(rest.shares, (0, 2), strict=True):
        assert own[place].retention == pytest.approx(share.retention, rel=1e-6)
        assert own[place].interference == pytest.approx(share.interference, rel=1e-6)


def test_shares_are_of_what_is_strengthened(stack: Stack) -> None:
    merged = merge(stack.paths, "linear", weights=WEIGHTS, auto_strength=True, output=F32)
    check_all(stack, merged)


def test_rounding_to_a_coarse_type_is_left_out(stack: Stack) -> None:
    # The shares are of what was meant: bf16 adds noise that no adapter gave.
    check_all(
        stack,
        merge(stack.paths, "linear", weights=WEIGHTS, output=Output(dtype="bf16")),
        bound=2e-2,
    )


def test_one_adapter_is_all_there(stack: Stack) -> None:
    (share,) = merge(stack.paths[:1], "linear", weights=[0.7], output=F32).shares
    assert share.retention == pytest.approx(1, abs=1e-6)
    assert share.cosine == pytest.approx(1, abs=1e-6)
    assert share.interference == 0
