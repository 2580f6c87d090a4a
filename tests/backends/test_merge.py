"""Whole files through both backends: every method, where it looks, and what comes before it.

Pairs, not the full product: every method meets every (space, refinement), and these meet every
sparsifier; stacks and outputs take turns.  Deltas multiplied out in other orders differ in the
last bit, so what is compared is the result, relative to its norm, and the report.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends.stacks import flux, small_flux, unknown
from helpers import delta_of, relative

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
    # The published levels, and full, go with one space less than the others.
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
    """Ranks, norms, errors and shares; measured errors are rounding here, of random signs."""
    for left, right in zip(one.log, two.log, strict=True):
        assert (left.target, left.members, left.rank) == (right.target, right.members, right.rank)
        assert left.norm == pytest.approx(right.norm, rel=near), left.target
        assert left.cut == pytest.approx(right.cut, rel=1e-3, abs=near), left.target
        assert max(left.error, right.error) <= 1.5 * left.cut + near, left.target
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
