"""Modified methods in joint bases equal their definitions on dense coefficients.

The oracle runs on coefficients in the singular vectors of the dense deltas set side by side.
Random drops are addressed by the place in that matrix, so the order of the vectors counts, and it
is that of falling singular values.  Their signs are free, and nothing here may depend on them.
"""

from collections.abc import Sequence

import numpy as np
import pytest
from entries.cases import (
    BOTH,
    CASES,
    CLEANED,
    MIXED,
    POSITIVE,
    REFINED,
    SPARSE,
    Case,
    as_type,
    bound,
    draw,
    is_defined,
)
from oracles import F64
from oracles_entries import merged
from oracles_suite import in_space

from loramix.methods import Space

SHAPES = [(9, 14), (17, 11)]
SPACED = [case for case in CASES if not case.refine.endswith("published")]
SPACES: list[Space] = ["knots", "core"]

spaces = pytest.mark.parametrize("space", SPACES)


def size_of(deltas: Sequence[F64], weights: Sequence[float]) -> float:
    each = zip(weights, deltas, strict=True)
    return sum(abs(w) * float(np.linalg.norm(d)) for w, d in each)


def limit(case: Case) -> float:
    """Coefficients are rounded once more than entries, and norms add what entries have apart."""
    return CLEANED if case.means.clean else 5 * bound(case)


@spaces
@pytest.mark.parametrize("case", SPACED, ids=str)
@pytest.mark.parametrize("count", [2, 5])
def test_equal_to_the_oracle_on_coefficients(case: Case, count: int, space: Space) -> None:
    for shape, weights, seed in ((SHAPES[0], MIXED, 0), (SHAPES[1], POSITIVE, 2**63 + 5)):
        deltas, own = draw(count, count, shape), weights[:count]

        def oracle(cores: Sequence[F64], sizes: Sequence[float], seed: int = seed) -> F64:
            assert is_defined(case, cores, sizes)
            return merged(case.means, cores, sizes, seed=seed)

        got = case(as_type(deltas), own, space=space, seed=seed).astype(np.float64)
        far = in_space(space, oracle, deltas, own, got)
        assert far <= limit(case) * size_of(deltas, own), shape


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", [*SPARSE, *REFINED, *BOTH], ids=str)
def test_the_result_turns_with_the_deltas(case: Case, side: str) -> None:
    """Cores do not see it: masks, conflicts and what is selfish stay where they were."""
    deltas, weights = draw(9, 3, SHAPES[0]), POSITIVE[:3]
    size = SHAPES[0][side == "right"]
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(size, size)))[0]

    def turned(delta: F64) -> F64:
        return turn @ delta if side == "left" else delta @ turn

    # In float64, which the bases are made in: what is turned is as exact as what was there.
    plain = case(deltas, weights, space="core")
    got = case([turned(delta) for delta in deltas], weights, space="core")
    far = float(np.linalg.norm(got - turned(plain)))
    assert far <= limit(case) * size_of(deltas, weights)
