"""The shortest delta that keeps every adapter in full."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from loramix.errors import ParamError
from loramix.methods.base import Law
from loramix.tensors import F64

_RIDGE = 1e-10
"""Of the squared norm: shares an adapter out evenly among its copies."""
_SLACK = 1e-12
"""Of the largest norm: what rounding leaves of a slope or a bound."""
_NOTHING = 1e-100
"""Relative size whose square is lost in float64."""
_PATIENCE = 3
"""Rounds of changing all that are wrong at once without getting better, before one by one."""
_ROUNDS = 10_000
"""Pivoting ends; this is for rounding.  Of 20000 hard stacks (6 rounds each, on average) the worst
took 672: 12 adapters in a plane."""


@dataclass(frozen=True, slots=True)
class Retain:
    """Sum in which nothing that several deltas have in common counts twice.

    With ``d_i = w_i delta_i``, the shortest M that lacks nothing of any adapter, as far as that
    needs no adapter to be amplified:
    ``M = argmin |M|^2 / 2 + sum_i max(0, |d_i|^2 - <M, d_i>)``, so ``M = sum_i c_i d_i`` with
    ``0 <= c_i <= 1``.  Two equally long deltas of cosine c > 0 get ``1 / (1 + c)`` each, so the
    retention of both is 1, and not 1 + c as in the sum.  Equal deltas come back once, the
    heaviest counting; deltas that are orthogonal or opposed are added as they are: what the
    weights ask to cancel, cancels.

    ``|M|^2 <= sum_i |d_i|^2`` always (as long as if all were orthogonal), and where no two are
    opposed, ``|M| >= max_i |d_i|``.

    Parameters
    ----------
    share : how far to go from the plain sum (0) to that (1), [0, 1].

    Notes
    -----
    M is unique and continuous in the deltas and the weights, since the sum to be minimised is
    strongly convex in M; where the c_i are not (copies), they are shared out evenly.  The dual is
    a quadratic program in n numbers, ``max sum_i c_i |d_i|^2 - |sum_i c_i d_i|^2 / 2`` in the box
    [0, 1]^n, and is solved exactly by pivoting: a few linear systems of size n.

    References
    ----------
    Judice and Pires 1992, "Basic-set algorithm for a generalized linear complementarity problem"
    (the pivoting).
    """

    name: ClassVar[str] = "retain"
    mean: ClassVar[bool] = True
    reads_gram: ClassVar[bool] = True
    breaks: ClassVar[frozenset[Law]] = frozenset()

    share: float = 1.0

    def __post_init__(self) -> None:
        number = isinstance(self.share, int | float) and not isinstance(self.share, bool)
        if not (number and 0 <= self.share <= 1):
            message = f"retain: share = {self.share}: allowed is a number in [0, 1]"
            raise ParamError(message)

    def coefficients(self, gram: F64, weights: F64) -> F64:
        """Coefficients of the shortest such sum."""
        sizes = np.abs(weights) * np.sqrt(np.maximum(np.diag(gram), 0))
        used = sizes > _NOTHING * sizes.max(initial=0.0)
        result = weights.copy()
        if not used.any():
            return result
        own, lengths = weights[used], sizes[used] / sizes.max()
        signed = gram[np.ix_(used, used)] * np.outer(own, own)
        cosines = np.clip(signed / np.outer(sizes[used], sizes[used]), -1, 1)
        np.fill_diagonal(cosines, 1)
        if (cosines - np.eye(len(own))).max() > 0:
            kept = _kept(cosines, lengths) / lengths
            result[used] = own * (1 - self.share + self.share * kept)
        return result


def _kept(cosines: F64, sizes: F64) -> F64:
    """Lengths x of unit vectors that maximise ``sizes x - x^T C x / 2`` for 0 <= x <= sizes.

    Every vector is kept in full, in part or not at all.  Those that are in the wrong state change
    it, all at once as long as their number falls, and otherwise the last one only, which ends.
    """
    system = cosines + _RIDGE * np.eye(len(sizes))
    state = np.ones(len(sizes), dtype=np.int8)
    fewest, patience, lengths = len(sizes) + 1, _PATIENCE, sizes.copy()
    for _ in range(_ROUNDS):
        lengths = _solved(system, sizes, state, np.zeros_like(sizes))
        better = _corrected(state, lengths, sizes, sizes - system @ lengths)
        wrong = np.flatnonzero(better != state)
        if not len(wrong):
            break
        if len(wrong) < fewest:
            fewest, patience = len(wrong), _PATIENCE
        else:
            patience -= 1
        turned = wrong if patience > 0 else wrong[-1:]
        state[turned] = better[turned]
    # Once more, with what the ridge took away given back; where more vectors are in part than
    # their span has dimensions, that would lead out of the box along what changes nothing.
    again = _solved(system, sizes, state, _RIDGE * lengths)
    inside = (again >= -_SLACK).all() and (again <= sizes + _SLACK).all()
    return np.clip(again if inside else lengths, 0, sizes)


def _solved(system: F64, sizes: F64, state: npt.NDArray[np.int8], more: F64) -> F64:
    """Lengths x that are what the states say, and ``system x = sizes + more`` for those in part."""
    lengths = np.where(state > 0, sizes, 0.0)
    part = state == 0
    if part.any():
        rest = (sizes + more)[part] - system[part] @ lengths
        lengths[part] = np.linalg.solve(system[np.ix_(part, part)], rest)
    return lengths


def _corrected(
    state: npt.NDArray[np.int8], lengths: F64, sizes: F64, slopes: F64
) -> npt.NDArray[np.int8]:
    """The states that the lengths and the slopes ask for: 1 in full, 0 in part, -1 not at all."""
    result = state.copy()
    result[(state == 0) & (lengths < -_SLACK)] = -1
    result[(state == 0) & (lengths > sizes + _SLACK)] = 1
    result[(state > 0) & (slopes < -_SLACK)] = 0
    result[(state < 0) & (slopes > _SLACK)] = 0
    return result
