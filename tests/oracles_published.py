"""The published refinement in float64 NumPy, one stage after the other, from its formulas.

Stages of ``refine-published`` and ``full-published``: sections 5.1 and 5.6 to 5.9 of the reference
specification.  Nothing is shared with the package: where it works with inner products, this works
with the vectors themselves, and singular vectors come from a decomposition of the whole matrix.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from oracles import F64

QUOTA = 256


def split(values: Sequence[F64]) -> tuple[F64, list[F64]]:
    """What goes around the rest, and the rest: ``|c_i| >= |T - c_i|`` for exactly one i."""
    total = np.sum(values, axis=0)
    positive = np.stack([np.abs(value) >= np.abs(total - value) for value in values])
    alone = positive & (positive.sum(axis=0) == 1)
    aside = np.sum([np.where(own, v, 0.0) for own, v in zip(alone, values, strict=True)], axis=0)
    return aside, [np.where(own, 0.0, v) for own, v in zip(alone, values, strict=True)]


def schmidt(deltas: Sequence[F64]) -> list[F64]:
    """Modified Gram-Schmidt in stack order, each with its norm; nothing of norms up to 1e-8."""
    basis: list[F64] = []
    found = []
    for delta in deltas:
        size = float(np.linalg.norm(delta))
        if size <= 1e-8:
            found.append(np.zeros_like(delta))
            continue
        rest = delta / size
        for direction in basis:
            rest = rest - float(np.sum(direction * rest)) * direction
        left = float(np.linalg.norm(rest))
        if left <= 1e-8:
            found.append(np.zeros_like(delta))
            continue
        basis.append(rest / left)
        found.append(size * basis[-1])
    return found


def align(deltas: Sequence[F64]) -> list[F64]:
    """``U_q S_q V_iq^T = U_q U_q^T D_i`` of ``[D_1 | ... | D_n]``, q = min(out, n in, 256).

    In the second form zeros of a whole column stay zeros, which do not vote.  With all singular
    values that is the same again, other entries of 0 included.
    """
    matrices = [matrix(delta) for delta in deltas]
    if min(len(matrices[0]), sum(one.shape[1] for one in matrices)) <= QUOTA:
        return list(deltas)
    up = np.linalg.svd(np.hstack(matrices), full_matrices=False)[0][:, :QUOTA]
    return [(up @ (up.T @ one)).reshape(deltas[0].shape) for one in matrices]


def by_rows(
    deltas: Sequence[F64], weights: Sequence[float], vote: Literal["total", "frequency"]
) -> F64:
    """TIES with one ballot per row: the sum of ``sign(w) D`` there; a draw is +.

    ``sum |w| sign(w) D / count`` over the whole rows of those whose ballot has the winning sign.
    """
    folded = [np.sign(w) * matrix(d) for w, d in zip(weights, deltas, strict=True)]
    result = np.zeros_like(folded[0])
    for row in range(len(result)):
        ballots = [float(np.sum(one[row])) for one in folded]
        heads = ballots if vote == "total" else [float(np.sign(ballot)) for ballot in ballots]
        winner = 1.0 if sum(heads) >= 0 else -1.0
        agree = [i for i, ballot in enumerate(ballots) if ballot * winner > 0]
        for i in agree:
            result[row] += abs(weights[i]) * folded[i][row] / len(agree)
    return result.reshape(deltas[0].shape)


def matrix(delta: F64) -> F64:
    """First axis by all others; a vector is one row."""
    return delta.reshape(1, -1) if delta.ndim < 2 else delta.reshape(delta.shape[0], -1)
