"""Verbs that keep some entries of one delta."""

from typing import Any, cast

import numpy as np

from loramix import arrays
from loramix.arguments import word
from loramix.kernels.entries import back, checked, run
from loramix.memory import Array
from loramix.methods.base import Keep, Program, check_shares
from loramix.methods.dare import Dare
from loramix.methods.della import Della
from loramix.raw import Site


def trim(
    delta: Array, density: float, *, outliers: float = 0.0, threads: int | None = None
) -> Array:
    """Keep the entries of largest magnitude, unchanged, and set all others to zero.

    Of n entries the ``floor(outliers * n)`` very largest are dropped (not all), then exactly the
    ``max(1, floor(density * n))`` next ones are kept, or as many as are left.  Equal magnitudes
    count in index order.

    Parameters
    ----------
    delta : array or tensor of any shape: f64, f32, f16, and bf16 (torch).
    density : share kept, (0, 1].
    outliers : share of the very largest that is dropped first, [0, 1).
    threads : default all cores.

    Returns
    -------
    A new array of the same kind, type, shape and device.

    Raises
    ------
    FormatError : not an array of floating point, NaN, infinity.  ParamError : a share out of
    range.  OutputError : f64 beyond the range of f32.

    Notes
    -----
    Magnitudes are ranked in f32, exactly for all types but f64, of which entries below 1e-45
    count as zero.  Cost: two reads, a quarter to a whole one more for a sample, one write,
    two reads of the result; memory: one f32 array, and one of the type if that is another.

    References
    ----------
    Yadav et al. 2023, arXiv:2306.01708, section 3 (trim); Davari and Belilovsky 2023,
    arXiv:2312.06795 (outliers).

    Examples
    --------
    >>> import numpy as np
    >>> from loramix import kernels
    >>> kernels.trim(np.array([0.5, -4.0, 1.0, 3.0]), 0.5)
    array([ 0., -4.,  0.,  3.])
    >>> kernels.trim(np.array([0.5, -4.0, 1.0, 3.0]), 0.5, outliers=0.25)
    array([0., 0., 1., 3.])
    """
    check_shares("trim", {"density": density})
    check_shares("trim", {"outliers": outliers}, zero=True)
    keep = Keep("largest", density, outliers=outliers)
    result = _kept(delta, Program(keep), Site(), threads)
    if str(delta.dtype).removeprefix("torch.") == "float64":
        own: Any = cast("Any", delta).detach() if arrays.is_torch(delta) else delta
        kept = result != 0
        result[kept] = own[kept]  # not their f32 roundings
    return cast("Array", result)


def dare(
    delta: Array,
    density: float,
    *,
    dampening: float = 0.0,
    seed: int = 0,
    key: int = 0,
    threads: int | None = None,
) -> Array:
    """Drop entries at random and scale the others up.

    Each entry is kept with probability p = ``density`` and divided by
    ``q = p + dampening (1 - p)``.

    Parameters
    ----------
    delta : array or tensor of any shape: f64, f32, f16, and bf16 (torch).
    density : probability of an entry to be kept, (0, 1].
    dampening : 0 unbiased, towards 1 less rescaling, [0, 1).
    seed, key : of the random draws, 0 to 2^64 - 1.  Entry e of the flattened delta depends on
        (seed, key, e) only: give every tensor a key of its own, or they lose entries at the same
        positions.
    threads : default all cores.

    Returns
    -------
    A new array of the same kind, type, shape and device.

    Raises
    ------
    FormatError : not an array of floating point, NaN, infinity.  ParamError : a number out of
    range.  OutputError : overflow.

    Notes
    -----
    In f32, rounded to the type.  The draws are those of the first adapter of a stack in
    `loramix.combine`, for key 0.  Cost: two reads, one write, two reads of the result,
    ten rounds of Philox per four entries; memory: as `trim`.

    References
    ----------
    Yu et al. 2023, arXiv:2311.03099, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from loramix import kernels
    >>> kernels.dare(np.ones(8), 0.5)
    array([2., 0., 0., 0., 0., 2., 0., 2.])
    """
    site = Site(key=word("key", key), seed=word("seed", seed))
    return cast("Array", _kept(delta, Dare(density, dampening).program(), site, threads))


def della(
    delta: Array,
    density: float,
    *,
    epsilon: float = 0.3,
    seed: int = 0,
    key: int = 0,
    threads: int | None = None,
) -> Array:
    """Drop entries at random, small ones of a row more often, and scale the others up.

    The largest entry of a row is kept with probability ``density + epsilon / 2``, the smallest
    with ``density - epsilon / 2``, those between in equal steps, and each is divided by its own
    probability.  Near 0 and 1 the spread is reduced to ``2 min(density, 1 - density)``.

    Parameters
    ----------
    delta : array or tensor: f64, f32, f16, and bf16 (torch).  Rows are those of the first axis,
        with all others flattened; a vector is one row.
    density : mean probability of an entry to be kept, (0, 1].
    epsilon : difference of the probabilities of the largest and the smallest entry, [0, 1).
    seed, key : see `dare`.
    threads : default all cores.

    Returns
    -------
    A new array of the same kind, type, shape and device.

    Raises
    ------
    As `dare`.

    Notes
    -----
    In f32, rounded to the type.  Cost: as `dare`, and the ranking of every row; a row is never
    shared between threads.

    References
    ----------
    Deep et al. 2024, arXiv:2406.11617, section 3.1 (MAGPRUNE).

    Examples
    --------
    >>> import numpy as np
    >>> from loramix import kernels
    >>> kernels.della(np.array([[1.0, 2.0, 3.0, 4.0]]), 0.5, epsilon=0.8, seed=2)
    array([[0., 0., 0., 5.]])
    """
    site = Site(key=word("key", key), seed=word("seed", seed))
    return cast("Array", _kept(delta, Della(density, epsilon).program(), site, threads))


def _kept(
    delta: Any,  # noqa: ANN401 - numpy or torch
    program: Program,
    site: Site,
    threads: int | None,
) -> Any:  # noqa: ANN401 - likewise
    checked([delta], threads)
    by_rows = program.keep.rule == "ranked"
    return back(run([delta], np.ones(1), program, site, threads, by_rows=by_rows), delta)
