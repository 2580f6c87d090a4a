"""Whole methods by their names; `loramix.combine` has all of them, with all parameters."""

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

from loramix.arguments import weights_of, word
from loramix.kernels.entries import checked, flat_shape
from loramix.memory import Array, combine
from loramix.methods.base import Elementwise
from loramix.methods.consensus import Consensus
from loramix.methods.dare import DareTies
from loramix.methods.della import DellaTies
from loramix.methods.ties import Ties


def ties(
    deltas: Sequence[Array],
    density: float | Literal["auto"] = 0.2,
    *,
    weights: Sequence[float] | None = None,
    vote: Literal["mass", "count"] = "mass",
    threads: int | None = None,
) -> Array:
    """Mean of the largest entries that have the winning sign: trim, elect, average.

    ``max|w| * sum w_i d_i / sum |w_i|`` over the winners; see the method ``ties`` for its laws.

    Parameters
    ----------
    deltas : arrays or tensors of one shape and type: f64, f32, f16, and bf16 (torch).
    density : share of entries kept of each delta, (0, 1]; ``auto``: as few as hold 95 % of its
        squared norm.
    weights : one number per delta, any sign, default 1; those of weight 0 are left out.
    vote : ``mass``: by the sum of the weighted entries; ``count``: by heads, draws by the sum.
    threads : default all cores.

    Returns
    -------
    A new array of the same kind, type, shape and device.  One delta alone comes back whole, times
    its weight.

    Raises
    ------
    ShapeError : different shapes or types.  FormatError : not arrays of floating point, NaN,
    infinity.  ParamError : no deltas, a parameter out of range.  OutputError : overflow.

    Notes
    -----
    In f32.  Cost: two reads of the deltas, up to one more for a sample, one write.

    References
    ----------
    Yadav et al. 2023, arXiv:2306.01708, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from loramix import kernels
    >>> kernels.ties([np.array([1.0, 5.0, 4.0]), np.array([0.5, -3.0, 2.0])], 0.7)
    array([0., 5., 3.])
    """
    result = _combine(deltas, Ties(density, vote), weights=weights, threads=threads, flat=True)
    return cast("Array", result)


def dare_ties(
    deltas: Sequence[Array],
    density: float = 0.5,
    *,
    weights: Sequence[float] | None = None,
    dampening: float = 0.0,
    seed: int = 0,
    threads: int | None = None,
) -> Array:
    """Drop entries at random as `dare` does, then elect and average as `ties` does.

    Parameters
    ----------
    deltas, weights, threads : see `ties`.
    density, dampening : see `dare`.
    seed : of the random draws, 0 to 2^64 - 1.  Delta i draws from its own stream, so the order
        counts.

    Returns
    -------
    As `ties`.

    Raises
    ------
    As `ties`.

    Notes
    -----
    In f32.  Cost: two reads of the deltas, one write, ten rounds of Philox per four entries.

    References
    ----------
    Yu et al. 2023, arXiv:2311.03099, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from loramix import kernels
    >>> kernels.dare_ties([np.ones(6), 3 * np.ones(6)], 0.5)
    array([2., 0., 0., 0., 0., 2.])
    """
    method = DareTies(density, dampening)
    result = _combine(deltas, method, weights=weights, seed=seed, threads=threads, flat=True)
    return cast("Array", result)


def della_ties(
    deltas: Sequence[Array],
    density: float = 0.5,
    *,
    weights: Sequence[float] | None = None,
    epsilon: float = 0.3,
    seed: int = 0,
    threads: int | None = None,
) -> Array:
    """Drop entries at random as `della` does, then elect and average as `ties` does.

    Parameters
    ----------
    deltas, weights, threads : see `ties`.
    density, epsilon : see `della`, which says what rows are.
    seed : see `dare_ties`.

    Returns
    -------
    As `ties`.

    Raises
    ------
    As `ties`.

    Notes
    -----
    In f32.  Cost: as `dare_ties`, and the ranking of every row.

    References
    ----------
    Deep et al. 2024, arXiv:2406.11617, section 3.

    Examples
    --------
    >>> import numpy as np
    >>> from loramix import kernels
    >>> kernels.della_ties([np.eye(3), 3 * np.eye(3)], 0.4, epsilon=0.2)
    array([[2.14285707, 0.        , 0.        ],
           [0.        , 0.        , 0.        ],
           [0.        , 0.        , 2.14285707]])
    """
    method = DellaTies(density, epsilon)
    result = _combine(deltas, method, weights=weights, seed=seed, threads=threads)
    return cast("Array", result)


def consensus(
    deltas: Sequence[Array],
    *,
    weights: Sequence[float] | None = None,
    clean: bool = True,
    threads: int | None = None,
) -> Array:
    """Mean of the entries weighted by their squares, at the mean norm of the deltas.

    See the method ``consensus`` for its formula and its laws.

    Parameters
    ----------
    deltas, weights, threads : see `ties`.
    clean : whether singular values are shrunk by the noise that the choice of entries adds.

    Returns
    -------
    As `ties`.

    Raises
    ------
    As `ties`; ParamError : squares beyond the range of f64.

    Notes
    -----
    In f32.  Cost: three reads of the deltas, one write; with ``clean`` a read more, and where there
    is noise a full singular value decomposition, O(rows * cols * min(rows, cols)).

    References
    ----------
    Matena and Raffel 2022, arXiv:2111.09832; Gavish and Donoho 2017, eq. 7.

    Examples
    --------
    >>> import numpy as np
    >>> from loramix import kernels
    >>> kernels.consensus([np.eye(2), np.eye(2)])
    array([[1., 0.],
           [0., 1.]])
    """
    result = _combine(deltas, Consensus(clean), weights=weights, threads=threads)
    return cast("Array", result)


def _combine(
    deltas: Sequence[Any],
    method: Elementwise,
    *,
    weights: Sequence[float] | None,
    threads: int | None,
    seed: int = 0,
    flat: bool = False,
) -> Any:  # noqa: ANN401 - numpy or torch
    """`combine`, of deltas in a shape with small tiles where the method looks at entries only."""
    deltas = checked(deltas, threads)
    sizes, seed = weights_of(weights, len(deltas)).tolist(), word("seed", seed)
    shape = tuple(deltas[0].shape)
    inner = flat_shape(math.prod(shape)) if flat else shape
    same = [delta.reshape(inner) for delta in deltas]
    return combine(same, method, weights=sizes, seed=seed, threads=threads).reshape(shape)
