"""Which directions of a dense delta say more than the rounding of its entries.

A product of factors of rank 16 that was rounded to bf16 has full rank: beside its own directions
it has as many of rounding noise.  Methods in joint bases count directions, or make them equal,
so noise has to go before they see it.
"""

import numpy as np

from loramix.tensors import F32, F64

BITS = {"BF16": (8, -133), "F16": (11, -24), "F8_E4M3": (4, -9), "F8_E5M2": (3, -16)}
"""By type: significant bits, and the exponent of the smallest step between two numbers."""

_SLACK = 1.5
"""For deltas that were rounded twice, such as a product that was scaled afterwards."""


def significant(delta: F64, dtype: str) -> tuple[F32, F32] | None:
    """Factors of what is above rounding noise; None if that is everything, or nothing.

    An entry that was rounded to steps of h has an error of variance ``h^2 / 12``.  In the
    directions u, v these sum up to ``n^2 = sum_ij u_i^2 v_j^2 h_ij^2 / 12``, and of all directions
    of independent errors of one size n the largest has ``n (sqrt(rows) + sqrt(cols))``
    (Davidson and Szarek 2001, theorem II.13).  A direction with 1.5 of that or less is noise.  As
    n is that of the direction, small entries beside large ones keep what they say.

    Parameters
    ----------
    delta : (rows, cols), the exact values.  What is no number is left to whoever refuses it.
    dtype : in which they were; types that are not in `BITS` have no noise worth a cut.

    Returns
    -------
    (rows, k) with the singular values, (k, cols) orthonormal; k < min(rows, cols).

    Notes
    -----
    Cost: one singular value decomposition, and 2 rows cols min(rows, cols) flops.
    """
    if dtype not in BITS or delta.size == 0 or not np.isfinite(delta).all():
        return None
    left, values, right = np.linalg.svd(delta, full_matrices=False)
    variances = np.einsum("ik,ik->k", left**2, (_steps(delta, dtype) ** 2 / 12) @ right.T**2)
    edges = np.sqrt(variances) * sum(np.sqrt(delta.shape))
    kept = values > _SLACK * edges
    # Directions that are zero in exact arithmetic have edges of zero, too.
    kept &= values > len(values) * np.finfo(float).eps * values[0]
    if kept.all() or not kept.any():
        return None
    up, down = left[:, kept] * values[kept], right[kept]
    return up.astype(np.float32), down.astype(np.float32)


def _steps(delta: F64, dtype: str) -> F64:
    """Distance from each entry to the next number of the type; 0 for zeros, which are exact."""
    bits, least = BITS[dtype]
    _, exponents = np.frexp(delta)
    return np.where(delta == 0, 0.0, np.ldexp(1.0, np.maximum(exponents - bits, least)))
