"""Verbs that compare deltas of one shape."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np

from loramix import _core, arrays
from loramix.arguments import weights_of
from loramix.errors import ParamError
from loramix.kernels.entries import back, checked, run
from loramix.memory import Array
from loramix.methods.base import Program
from loramix.methods.tall import Tall
from loramix.raw import Site
from loramix.refusals import with_names
from loramix.tensors import F64


def gram(deltas: Sequence[Array], *, threads: int | None = None) -> F64:
    """Inner products of all pairs: norms on the diagonal, squared; angles from the rest.

    Parameters
    ----------
    deltas : n arrays or tensors of one shape and type: f64, f32, f16, and bf16 (torch).
    threads : default all cores.

    Returns
    -------
    (n, n) float64 NumPy array, symmetric.

    Raises
    ------
    ShapeError : different shapes or types.  FormatError : not arrays of floating point, NaN,
    infinity.  ParamError : no deltas; a square beyond the range of f64.

    Notes
    -----
    Exact to f64 rounding: decoded to f64, summed block by block in fixed order.  Cost: one read of
    the deltas, n (n + 1) / 2 multiplications per entry; no memory to speak of.

    Examples
    --------
    >>> import numpy as np
    >>> from loramix import kernels
    >>> kernels.gram([np.array([3.0, 4.0]), np.array([1.0, 0.0])])
    array([[25.,  3.],
           [ 3.,  1.]])
    """
    deltas = checked(deltas, threads)
    views = [arrays.bytes_of(delta) for delta in deltas]
    flat = with_names([], lambda: _core.dense_gram(views, threads=threads))
    found = np.array(flat).reshape(len(deltas), -1)
    for index, square in enumerate(np.diag(found)):
        if not np.isfinite(square):
            message = f"delta {index}: the square of its norm leaves the range of float64"
            raise ParamError(message)
    return found


def sign_conflict(deltas: Sequence[Array], *, threads: int | None = None) -> F64:
    """Of every pair, the share of common positions at which the signs differ.

    Parameters
    ----------
    deltas : n arrays or tensors of one shape and type: f64, f32, f16, and bf16 (torch).
    threads : default all cores.

    Returns
    -------
    (n, n) float64 NumPy array, symmetric, 0 to 1: among the positions where both entries are
    non-zero, how many have different signs.  0 on the diagonal, and where no position is common.

    Raises
    ------
    ShapeError : different shapes or types.  FormatError : not arrays of floating point, NaN,
    infinity.  ParamError : no deltas.

    Notes
    -----
    Counts are exact.  Independent deltas are near 0.5; of two Gaussian ones with cosine c, the
    share is ``arccos(c) / pi``.  Cost: one read of the deltas, about two byte operations per entry
    and pair; no memory to speak of.

    Examples
    --------
    >>> import numpy as np
    >>> from loramix import kernels
    >>> kernels.sign_conflict([np.array([1.0, 2.0, 0.0, 1.0]), np.array([5.0, -1.0, 3.0, 0.0])])
    array([[0. , 0.5],
           [0.5, 0. ]])
    """
    deltas = checked(deltas, threads)
    views = [arrays.bytes_of(delta) for delta in deltas]
    counts = with_names([], lambda: _core.disagreement(views, threads=threads))
    conflicts, overlaps = (np.array(c, dtype=np.float64).reshape(len(deltas), -1) for c in counts)
    return np.asarray(conflicts / np.maximum(overlaps, 1))


def elect_sign(
    deltas: Sequence[Array],
    *,
    weights: Sequence[float] | None = None,
    vote: Literal["mass", "count"] = "mass",
    threads: int | None = None,
) -> Array:
    """The sign that wins at every position.

    Parameters
    ----------
    deltas : arrays or tensors of one shape and type: f64, f32, f16, and bf16 (torch).
    weights : one number per delta, any sign, default 1; a negative one turns its ballots.
    vote : ``mass``: the sign of the weighted sum; ``count``: of the majority of the weighted
        entries that are not zero, of the sum where there is none.
    threads : default all cores.

    Returns
    -------
    -1, 0 and 1 in a new array of the same kind, type, shape and device; 0 where nobody wins.

    Raises
    ------
    ShapeError : different shapes or types.  FormatError : not arrays of floating point, NaN,
    infinity.  ParamError : no deltas, bad weights, unknown vote.  OutputError : a weighted
    sum beyond the range of f32.

    Notes
    -----
    Odd: negating all deltas, or all weights, negates the result.  Sums are in f32, as those that
    `ties` elects with.  Cost: two reads, one write, three reads of the result; memory: as
    `trim`.

    References
    ----------
    Yadav et al. 2023, arXiv:2306.01708, section 3 (elect).

    Examples
    --------
    >>> import numpy as np
    >>> from loramix import kernels
    >>> deltas = [np.array([1.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0]), np.array([-1.0, -5.0, 0.0])]
    >>> kernels.elect_sign(deltas)
    array([ 1., -1.,  0.])
    >>> kernels.elect_sign(deltas, vote="count")
    array([1., 1., 0.])
    """
    deltas = checked(deltas, threads)
    sizes = weights_of(weights, len(deltas))
    if vote not in ("mass", "count"):
        message = f"elect_sign: vote = {vote!r}: mass or count"
        raise ParamError(message)
    # The sum of those that agree with the winner has its sign.
    winners = run(deltas, sizes, Program(vote=vote), Site(), threads)
    np.sign(winners, out=winners)
    return cast("Array", back(winners, deltas[0]))


def tall_masks(
    deltas: Sequence[Array],
    *,
    weights: Sequence[float] | None = None,
    lambda_: float = 3.0,
    threads: int | None = None,
) -> Array:
    """Which entries belong to one delta: those that the method ``tall`` sets aside.

    Entry ``w_i d_i`` is selfish if it is larger than every other one of its position, and at
    least ``lambda_`` times as large (magnitudes, in f32).

    Parameters
    ----------
    deltas : n arrays or tensors of one shape and type: f64, f32, f16, and bf16 (torch).
    weights : one number per delta, any sign, default 1.
    lambda_ : how many times larger, at least 1.
    threads : default all cores.

    Returns
    -------
    (n, *shape) booleans of the same kind and device; at most one of n at each position.

    Raises
    ------
    ShapeError : different shapes or types.  FormatError : not arrays of floating point, NaN,
    infinity.  ParamError : no deltas, bad weights or ``lambda_``, weighted entries beyond the range
    of f32.

    Notes
    -----
    Cost: one read of the deltas, one byte written per entry; no other memory.

    References
    ----------
    Wang et al. 2024, arXiv:2405.07813 (TALL masks), section 3, which compares with the sum of
    the others.

    Examples
    --------
    >>> import numpy as np
    >>> from loramix import kernels
    >>> kernels.tall_masks([np.array([9.0, 1.0, 0.0]), np.array([-1.0, 1.0, 0.1])])
    array([[ True, False, False],
           [False, False,  True]])
    """
    deltas = checked(deltas, threads)
    sizes = weights_of(weights, len(deltas))
    rule = Tall(lambda_)
    views = [arrays.bytes_of(delta) for delta in deltas]
    masks = np.empty((len(deltas), *deltas[0].shape), dtype=np.bool_)
    raw = masks.reshape(-1).view(np.uint8)
    with_names([], lambda: _core.owners(views, sizes.tolist(), rule.lambda_, raw, threads=threads))
    return cast("Array", arrays.from_f32(cast("Any", masks), deltas[0]))  # any type will do
