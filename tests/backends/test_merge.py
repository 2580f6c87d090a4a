"""Whole files through both backends: every method, where it looks, and what comes before it.

Pairs, not the full product: every method meets every (space, refinement), and these meet every
sparsifier; stacks and outputs take turns.  Deltas multiplied out in other orders differ in the
last bit, so what is compared is the result, relative to its norm, and the report.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from backends.stacks import flux, small_flux, unknown
from helpers import ROUNDING, delta_of, relative

from loramix import METHODS, Merged, Output, ParamError, merge
from loramix.methods import Subspace, method_of
from loramix.methods.composite import LEVELS, SPACES

WEIGHTS = [0.9, -0.6, 1.37, 0.5]
NEAR = 1e-5
FULL = Output(rank=10**6, dtype="f32")
"""Whole results: those of entries differ by decisions alone, not by how well they are cut."""
SPARSIFIERS = [None, "dare", "della:only=conflicts", "breadcrumbs"]
OPTIONS = [{"space": space, "refine": level} for space, level in product(SPACES, LEVELS)]
STACKS = ["unknown", "flux"]


@dataclass(frozen=True)
class Case:
    """Arguments of `merge`."""

    method: str
    options: Mapping[str, Any]
    stack: str

    def __str__(self) -> str:
        return "|".join([self.method, *map(str, self.options.values()), self.stack])


def pairwise() -> list[Case]:
    """Every pair of a method and (space, refinement), of those and a sparsifier, and of a method
    and a sparsifier.
    """
    found = []
    for i, name in enumerate(METHODS):
        if isinstance(METHODS[name](), Subspace):
            found += [Case(name, {}, stack) for stack in STACKS]
            continue
        for j, options in enumerate(OPTIONS):
            sparsify = SPARSIFIERS[(i + j) % len(SPARSIFIERS)]
            case = Case(name, {**options, "sparsify": sparsify}, STACKS[(i + j // 2) % 2])
            if is_allowed(case):
                found.append(case)
    return found


def is_allowed(case: Case) -> bool:
    try:
        method_of(case.method, **case.options)
    except ParamError:
        return False
    return True


def test_only_levels_with_a_space_of_their_own_are_left_out() -> None:
    """So that a refusal which is wrong does not hide a case."""
    found = Counter(case.method for case in pairwise())
    # full goes with two spaces, the published levels with one.
    expected = dict.fromkeys(METHODS, 10)
    expected.update({name: 2 for name in METHODS if isinstance(METHODS[name](), Subspace)})
    expected["tall"] = 8  # has its own rule for what belongs to one adapter
    assert found == expected


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Path]]]:
    folder = tmp_path_factory.mktemp
    with small_flux():
        yield {"flux": flux(folder("flux")), "unknown": unknown(folder("unknown"))}


def both(paths: list[Path], method: str, **options: Any) -> tuple[Merged, Merged]:
    given = {"weights": WEIGHTS, "output": FULL, **options}
    return merge(paths, method, **given), merge(paths, method, backend="torch:cpu", **given)


def check_report(one: Merged, two: Merged, near: float) -> None:
    """Ranks, norms, errors (measured on the same random vectors) and shares."""
    for left, right in zip(one.log, two.log, strict=True):
        assert (left.target, left.members, left.rank) == (right.target, right.members, right.rank)
        assert left.norm == pytest.approx(right.norm, rel=near), left.target
        assert left.cut == pytest.approx(right.cut, rel=1e-3, abs=near), left.target
        assert left.error == pytest.approx(right.error, rel=1e-3, abs=near), left.target
    pairs = [(one.shares, two.shares)]
    pairs += [(left.shares, right.shares) for left, right in zip(one.log, two.log, strict=True)]
    for these, those in pairs:
        for a, b in zip(these, those, strict=True):
            size = np.sqrt(a.written / a.energy) if a.energy > 0 else 1.0
            assert a.owner == b.owner
            assert a.retention == pytest.approx(b.retention, abs=near * (1 + size))
            assert a.interference == pytest.approx(b.interference, rel=near, abs=near)
            assert a.cosine == pytest.approx(b.cosine, abs=near)


def check_alike(one: Merged, two: Merged, near: float = NEAR) -> None:
    ours, theirs = delta_of(one.adapter), delta_of(two.adapter)
    assert ours.keys() == theirs.keys()
    for key, delta in ours.items():
        assert relative(theirs[key], delta) <= near, key
    check_report(one, two, near)


@pytest.mark.parametrize("case", pairwise(), ids=str)
def test_both_backends_write_the_same(case: Case, stacks: dict[str, list[Path]]) -> None:
    check_alike(*both(stacks[case.stack], case.method, **case.options))


CUTS = [
    Output(rank=4, dtype="f32"),
    Output(energy=0.9, dtype="f32"),
    Output(max_error=0.6, dtype="f32"),
]


@pytest.mark.parametrize("output", CUTS, ids=str)
@pytest.mark.parametrize("method", ["linear", "slerp", "knots(ties)", "core(della)", "tsv", "svc"])
@pytest.mark.parametrize("stack", STACKS)
def test_both_cut_alike_what_has_few_directions(
    stack: str, method: str, output: Output, stacks: dict[str, list[Path]]
) -> None:
    check_alike(*both(stacks[stack], method, output=output))


@pytest.mark.parametrize("output", [*CUTS[:1], replace(CUTS[1], rank=40)], ids=str)
@pytest.mark.parametrize("method", ["ties", "dare", "consensus", "tall"])
@pytest.mark.parametrize("stack", STACKS)
def test_both_cut_entries_equally_well(
    stack: str, method: str, output: Output, stacks: dict[str, list[Path]]
) -> None:
    """A cut of full rank is near the best; how near is each backend's own."""
    one, two = both(stacks[stack], method, output=output)
    for left, right in zip(one.log, two.log, strict=True):
        assert (left.target, left.rank) == (right.target, right.rank)
        assert left.norm == pytest.approx(right.norm, rel=NEAR)
        assert left.cut == pytest.approx(right.cut, rel=5e-3, abs=NEAR)
        for a, b in zip(left.shares, right.shares, strict=True):
            assert a.energy == pytest.approx(b.energy, rel=NEAR)
            assert a.cosine == pytest.approx(b.cosine, abs=5e-3)


OTHERS: Mapping[str, dict[str, Any]] = {
    "a weight of zero": {"weights": [0.9, 0.0, 1.37, 0.5]},
    "a single weight": {"weights": [0.0, -0.6, 0.0, 0.0]},
    "all weights zero": {"weights": [0.0] * 4},
    "weights by target": {"weights": [{"*to_q": 0.5, "*conv*": -2.0}, 0.7, -1.0, {"*": 1.5}]},
    "huge weights": {"weights": [1e12, -3e-4, 1.0, 1e6]},
    "a seed": {"seed": 2**64 - 1},
    "strengthened": {"auto_strength": True, "floor": 0.9},
    "in parts": {"output": replace(FULL, dialect="diffusers")},
}


@pytest.mark.parametrize("method", ["slerp", "ties", "dare-ties", "knots(della)", "iso-cts"])
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("options", OTHERS)
def test_both_follow_every_option(
    options: str, stack: str, method: str, stacks: dict[str, list[Path]]
) -> None:
    check_alike(*both(stacks[stack], method, **OTHERS[options]))


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("method", ["linear", "ties", "core(ties)", "tsv"])
@pytest.mark.parametrize("stack", STACKS)
def test_coarse_types_round_alike(
    stack: str, method: str, dtype: Literal["f16", "bf16"], stacks: dict[str, list[Path]]
) -> None:
    near = 2 * ROUNDING[dtype]
    one, two = both(stacks[stack], method, output=replace(FULL, dtype=dtype))
    ours, theirs = delta_of(one.adapter), delta_of(two.adapter)
    for key, delta in ours.items():
        assert relative(theirs[key], delta) <= 4 * near, key
    for left, right in zip(one.log, two.log, strict=True):
        assert left.rank == right.rank
        assert left.cut == pytest.approx(right.cut, abs=NEAR)
        assert max(left.error, right.error) <= 4 * near


@pytest.mark.parametrize("method", ["ties", "dare", "consensus", "tall"])
def test_dense_results_are_alike(method: str, stacks: dict[str, list[Path]]) -> None:
    check_alike(*both(stacks["flux"], method, output=Output(dense=True, dtype="f32")))
