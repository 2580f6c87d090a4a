"""Sum of deltas after their overlaps have been taken out."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from loramix.methods.base import Law
from loramix.tensors import F64

_RIDGE = 0.25
"""Of the squared norm: bounds how much of a small residual is blown up, at 1 / sqrt(0.25) = 2."""
_ZERO = 1e-8
"""Norm, relative to the largest, under which the published method gives up."""
_LEFT = 1e-7
"""The same for what is left of a vector of length one."""
_NOTHING = 1e-100
"""Relative size whose square is lost in float64."""
_APART = 1e-12
"""Cosine up to which two vectors have nothing in common."""


@dataclass(frozen=True, slots=True)
class Ortho:
    """Sum of the weighted deltas, made (nearly) orthogonal to each other all at once.

    With ``B = [|w_i| delta_i]``: ``Q = B (B^T B + 0.25 diag)^(-1/2)`` (Loewdin's symmetric
    orthogonalisation, weighted and with a ridge), each column scaled so that its component along
    its own delta is kept in full; ``M = sum_i sign(w_i) |w_i delta_i| q_i``.  The heavier delta
    bends less, the order does not matter, orthogonal deltas come out as they went in, and equal
    ones as their sum.

    References
    ----------
    Loewdin 1950; Carlson and Keller 1957 (it is the closest orthonormal set).
    """

    name: ClassVar[str] = "ortho"
    mean: ClassVar[bool] = False
    reads_gram: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = frozenset()

    def coefficients(self, gram: F64, weights: F64) -> F64:
        """Coefficients of the sum of the orthogonalised deltas."""
        sizes = np.abs(weights) * np.sqrt(np.maximum(np.diag(gram), 0))
        used = sizes > _NOTHING * sizes.max()
        result = np.zeros_like(weights)
        if not used.any():
            return result
        scaled = weights[used]
        turn = orthogonalised(gram[np.ix_(used, used)] * np.outer(scaled, scaled))
        result[used] = scaled * turn.sum(axis=0)
        return result


def orthogonalised(gram: F64) -> F64:
    """How much of each vector goes into each of the (nearly) orthogonal ones of `Ortho`.

    Parameters
    ----------
    gram : (n, n) inner products of the vectors.

    Returns
    -------
    (n, n), rows are the new vectors; those of vectors of zero are zero.  Vectors that are linked
    by no chain of overlaps are not mixed at all, not even by rounding: it would have a vote.
    """
    sizes = np.sqrt(np.maximum(np.diag(gram), 0))
    used = sizes > _NOTHING * sizes.max(initial=0.0)
    turn = np.zeros_like(gram)
    if not used.any():
        return turn
    overlap = gram[np.ix_(used, used)]
    values, vectors = np.linalg.eigh(overlap + _RIDGE * np.diag(np.diag(overlap)))
    root = (vectors / np.sqrt(np.maximum(values, np.finfo(float).tiny))) @ vectors.T
    own = np.einsum("ij,ji->i", overlap, root) / sizes[used]
    linked = np.abs(overlap) > _APART * np.outer(sizes[used], sizes[used])
    for _ in range(len(linked).bit_length()):
        linked = linked @ linked
    turn[np.ix_(used, used)] = np.where(linked, (sizes[used] / own)[:, None] * root, 0.0)
    return turn


@dataclass(frozen=True, slots=True)
class GramSchmidt:
    """Sum of the weighted deltas after Gram-Schmidt in stack order, as published.

    Each delta loses its components along those before it and gets its own norm back.  Breaks
    three laws by design: the first adapter is privileged; what little an almost equal delta adds
    is blown up to full norm; and a delta that adds nothing disappears, abruptly.  Kept for
    comparison; `Ortho` is the repaired form.
    """

    name: ClassVar[str] = "ortho-published"
    mean: ClassVar[bool] = False
    reads_gram: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = frozenset({"permutation", "identical", "continuity"})

    def coefficients(self, gram: F64, weights: F64) -> F64:
        """Coefficients of the sum of the orthogonalised deltas."""
        used = weights != 0
        result = np.zeros_like(weights)
        result[used] = weights[used] @ gram_schmidt(gram[np.ix_(used, used)])
        return result


def gram_schmidt(gram: F64) -> F64:
    """How much of each vector goes into each of the orthogonal ones of `GramSchmidt`.

    What is left of a vector is nothing under 1e-7 of it: the published 1e-8 is what rounding
    leaves of an exact copy in these inner products, and would be blown up to its full norm.

    Parameters
    ----------
    gram : (n, n) inner products of the vectors, in stack order.

    Returns
    -------
    (n, n), rows are the new vectors, as long as the old ones; zero where nothing is left.
    """
    norms = np.sqrt(np.maximum(np.diag(gram), 0))
    basis = np.zeros_like(gram)
    for i, norm in enumerate(norms):
        if norm <= _ZERO * norms.max():
            continue
        row = np.zeros(len(gram))
        row[i] = 1 / norm
        for other in basis[:i]:
            row = row - (other @ gram @ row) * other
        left = math.sqrt(max(float(row @ gram @ row), 0.0))
        basis[i] = row / left if left > _LEFT else 0
    return norms[:, None] * basis
