"""Ties, dare and breadcrumbs: which entries they keep, who wins, what is written.

Deltas hold float32 values, so that the oracle ranks what the package ranks.  Random data has no
near ties; ties are made by hand from integers and powers of two.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from helpers import F64
from oracles import breadcrumbs, dare, dare_ties, ties

from loramix import METHODS

ENTRYWISE = sorted(name for name in METHODS if hasattr(METHODS[name], "program"))

DENSITIES = [0.05, 0.2, 0.5, 0.9, 1.0]

FLOAT = 3e-6
"""Of a few sums and products in f32, relative to what goes in."""

Truth = Callable[[Sequence[F64], Sequence[float], int], F64]

ONE_OF_EACH = ["ties:density=0.3", "dare:density=0.3", "dare-ties:density=0.6", "breadcrumbs"]

MEANINGS: Mapping[str, Truth] = {
    "ties:density=0.3": lambda d, w, _: ties(d, w, 0.3),
    "ties:density=0.3,vote=count": lambda d, w, _: ties(d, w, 0.3, "count"),
    "dare:density=0.3": lambda d, w, t: dare(d, w, 0.3, target=t),
    "dare-ties:density=0.6": lambda d, w, t: dare_ties(d, w, 0.6, target=t),
    "breadcrumbs": lambda d, w, _: breadcrumbs(d, w),
}

WEIGHTS = [0.9, -0.6, 1.3, 0.4, -1.1, 0.7]


def draw(seed: int, count: int, shape: tuple[int, ...], dtype: str = "float32") -> list[F64]:
    """Random deltas of different norms that share a part, rounded to a type."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=shape)
    sizes = np.exp(rng.uniform(-1, 1, size=count))
    found = [size * (0.7 * common + rng.normal(size=shape)) for size in sizes]
    return [delta.astype(dtype).astype(np.float64) for delta in found]
