"""Results scale with the deltas, however large or small the unit: no square leaves its type."""

from typing import Any

import numpy as np
import pytest

from loramix import combine
from loramix.methods import METHODS

LEVELS = ("refine", "full", "refine-published", "full-published")
CASES: list[tuple[str, dict[str, Any]]] = [
    *((method, {}) for method in METHODS),
    *(
        (method, {"refine": level})
        for method in ("ties", "linear", "dare-ties")
        for level in LEVELS
    ),
    *(
        (method, {"space": space})
        for method in ("ties", "dare", "consensus", "tall", "karcher", "ortho")
        for space in ("core", "knots")
    ),
]


@pytest.mark.parametrize("exponent", [-100, -60, 60, 100])
@pytest.mark.parametrize(
    ("method", "options"), CASES, ids=lambda one: one if isinstance(one, str) else str(one.values())
)
def test_every_method_in_any_unit(method: str, options: dict[str, Any], exponent: int) -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(40, 30))  # without it the model stock is zero
    deltas = [(common + rng.normal(size=(40, 30))).astype(np.float32) for _ in range(3)]
    unit = np.float32(2.0**exponent)
    weights = [1.0, 0.5, 0.7]
    expected = combine(deltas, method, weights=weights, **options)
    assert expected.any()
    got = combine([unit * delta for delta in deltas], method, weights=weights, **options) / unit
    room = 2e-5 * float(np.linalg.norm(expected))
    assert float(np.linalg.norm(got - expected)) <= room
