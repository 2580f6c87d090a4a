"""The published refinement on dense deltas: for groups that are `Composite.whole`.

Formulas and choices are in the docstring of `Composite`.  What is kept of the deltas comes from a
backend, and so does the method at the end; what is between them is here, entries in f32 and sums
in f64.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from loramix.methods.base import Keep, Program
from loramix.methods.composite import QUOTA, Composite, calibration, mixer_of
from loramix.methods.ortho import gram_schmidt
from loramix.methods.ties_upstream import TiesPublished
from loramix.raw import Site
from loramix.tensors import F32, F64

Dense: TypeAlias = npt.NDArray[Any]
Run: TypeAlias = Callable[..., F32]
"""`Backend.run` for arrays, its threads given."""


def merged(
    method: Composite, deltas: Sequence[Dense], weights: Sequence[float], site: Site, run: Run
) -> F32:
    """What a method with a published refinement makes of one group.

    Parameters
    ----------
    deltas : n >= 2 of (rows, cols), of any element type that the backend takes; and those that go
        around the method.
    weights : one each, none is 0.
    site : of the group.

    Returns
    -------
    (rows, cols); infinite where float32 does not hold the weighted or the refined deltas.

    Cost: n + 1 programs on n deltas.  A projection is an eigenproblem in f64 of the shorter side s
    of (rows, n cols), O(s^3): half a second for 1280 and 7 s for 3072 on one core.
    Memory: 8 bytes per entry of all deltas; with a projection 24, and 24 s^2.
    """
    beside = list(zip(site.around(weights), site.around(deltas), strict=True))
    deltas, weights, site = site.seen(deltas), site.seen(weights), _without_around(site)
    sizes = np.array(weights)
    values = np.empty((len(deltas), *deltas[0].shape), dtype=np.float32)
    for place, out in enumerate(values):
        out[:] = _kept(method, deltas, weights, site, place, run)
    with np.errstate(over="ignore", invalid="ignore"):
        aside = take_out(values)
        for value, size in zip(values, sizes, strict=True):  # float32 may not hold the size
            np.divide(value, size, out=value, dtype=np.float64, casting="same_kind")
        orthogonalise(values)
    if not (np.isfinite(values).all() and np.isfinite(aside).all()):
        return np.full(aside.shape, np.inf, dtype=np.float32)
    if method.refine == "full-published":
        values = aligned(values)
    result = _operated(method, values, sizes, run)
    result += aside
    for weight, delta in beside:
        result += np.float32(weight) * delta.astype(np.float32)
    return result


def _without_around(site: Site) -> Site:
    return replace(site, sides=site.seen(site.sides))


def _operated(method: Composite, values: F32, weights: F64, run: Run) -> F32:
    """The method itself, on refined deltas (n, rows, cols) without their weights."""
    if isinstance(method.inner, TiesPublished):
        return elected(values, weights, method.inner.vote)
    plain = Composite(method.inner)
    program = replace(plain.program(), keep=Keep())
    norm = calibration(_gram(values), weights) if program.calibrate else None
    return run(list(values), weights.tolist(), program, Site(norm=norm), mix=mixer_of(plain))


def _kept(
    method: Composite,
    deltas: Sequence[Dense],
    weights: Sequence[float],
    site: Site,
    place: int,
    run: Run,
) -> F32:
    """What is kept of one weighted delta: the sum of all, the others times 0."""
    alone = np.zeros((len(deltas), len(deltas)))
    alone[place, place] = 1
    own = replace(site, mix=alone.ravel().tolist(), norm=None)
    return run(deltas, weights, Program(method.program().keep), own)


def take_out(values: F32) -> F32:
    """Set the entries of weighted deltas that belong to one of them to zero, and return them.

    Those are where ``|c_i| >= |T - c_i|`` holds for one i, T the sum of all.  Of two deltas it
    always does, but where they are equally large.
    """
    shape = values.shape[1:]
    total, aside = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    for value in values:
        total += value
    count = np.zeros(shape, dtype=np.int64)
    for value in values:
        count += np.abs(value) >= np.abs(total - value)
    for value in values:
        owned = (np.abs(value) >= np.abs(total - value)) & (count == 1)
        aside[owned] = value[owned]
        value[owned] = 0
    return aside


def orthogonalise(values: F32) -> None:
    """Gram-Schmidt of (n, rows, cols) in their order, in place; each keeps its norm."""
    turn = gram_schmidt(_gram(values))
    for row, old in enumerate(_rows(values)):
        values[:, row] = turn @ old


def aligned(values: F32) -> F32:
    """All of (n, rows, cols), projected on the leading left singular vectors of them side by side.

    The best approximation of rank 256 of ``[D_1 | ... | D_n]``, in which a column of zeros stays
    one; where there are no more directions, the same array.
    """
    n, rows, cols = values.shape
    if min(rows, n * cols) <= QUOTA:
        return values
    beside = values.transpose(1, 0, 2).reshape(rows, n * cols).astype(np.float64)
    if rows <= n * cols:
        leading = np.linalg.eigh(beside @ beside.T)[1][:, -QUOTA:]
    else:
        leading = np.linalg.qr(beside @ np.linalg.eigh(beside.T @ beside)[1][:, -QUOTA:])[0]
    best = np.empty_like(values)
    best[:] = (leading @ (leading.T @ beside)).reshape(rows, n, cols).transpose(1, 0, 2)
    return best


def elected(values: F32, weights: F64, vote: Literal["total", "frequency"]) -> F32:
    """Sum of the weighted rows of those who agree with the vote on a row, over their number.

    Every delta has one ballot for a whole row, the sum of its entries times the sign of its weight;
    a draw is positive.
    """
    ballots = np.sign(weights)[:, None] * values.sum(axis=2, dtype=np.float64)
    votes = ballots if vote == "total" else np.sign(ballots)
    winner = np.where(votes.sum(axis=0) >= 0, 1.0, -1.0)
    agree = ballots * winner > 0
    shares = weights[:, None] * agree / np.maximum(agree.sum(axis=0), 1)
    result = np.empty(values.shape[1:], dtype=np.float32)
    for row, old in enumerate(_rows(values)):
        result[row] = shares[:, row] @ old
    return result


def _gram(values: F32) -> F64:
    """Inner products of (n, rows, cols), (n, n)."""
    total = np.zeros((len(values), len(values)))
    for row in _rows(values):
        total += row @ row.T
    return total


def _rows(values: F32) -> Iterator[F64]:
    """One row of all of (n, rows, cols) after the other, (n, cols)."""
    for row in range(values.shape[1]):
        yield values[:, row].astype(np.float64)
