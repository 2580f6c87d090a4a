"""Predictions cut into patches: how far each patch turns away from the base's, and back to pixels.

A prediction is (batch, channels, *space); space is height and width, or frames, height and width,
or tokens.  A patch has all channels, so it is one vector of channels * edge * edge numbers.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from loramix.compose.functional.arrays import (
    Array,
    check_stack,
    indices,
    library_of,
    like,
    wide,
)
from loramix.compose.functional.checks import check_count, check_word
from loramix.compose.functional.parts import Part, parts_of
from loramix.errors import ParamError, ShapeError

Patch: TypeAlias = int | tuple[int, ...]
"""The edge of a patch in latent pixels, or one edge for every axis of space."""
How: TypeAlias = Literal["nearest", "bilinear"]


def edges_of(shape: Sequence[int], patch: Patch) -> tuple[int, ...]:
    """The edge of a patch along every axis of space.

    Parameters
    ----------
    shape : (batch, channels, *space).
    patch : one edge d for height and width, where frames before them are looked at one by one;
        or an edge for each axis of space.

    Returns
    -------
    One edge per axis of space, each at least 1.

    Raises
    ------
    ParamError : an edge below 1, or not one per axis.
    ShapeError : no axis of space.
    """
    axes = len(shape) - 2
    if axes < 1:
        message = f"a prediction of shape {tuple(shape)}: (batch, channels, *space) is needed"
        raise ShapeError(message)
    flat = min(axes, 2)
    edges = (1,) * (axes - flat) + (patch,) * flat if isinstance(patch, int) else tuple(patch)
    if len(edges) != axes:
        message = f"patch = {patch}: give one edge, or {axes} of them, one per axis of space"
        raise ParamError(message)
    for edge in edges:
        check_count("patches", "patch", edge)
    return edges


def divergence(base: Array, predictions: Sequence[Array], *, patch: Patch) -> Array:
    """One minus the cosine of every patch with the same patch of the base.

    ``d[i, p] = |a / |a| - b / |b||^2 / 2 = 1 - cos(a, b)`` with a, b the patches p of adapter i
    and of the base.  Noise predictions of an adapter and its base have cosines of 0.9 to 0.9999;
    this way the small numbers keep all their digits.

    Parameters
    ----------
    base : (batch, channels, *space), the base's conditional prediction, any floating type.
    predictions : n arrays of that shape, the adapters' conditional predictions.
    patch : see `Patch`.  Sizes that are not divisible are filled up with zeros, which change no
        cosine: patches at the rim are smaller.

    Returns
    -------
    (n, batch, *grid), each in [0, 2], float32 (float64 for float64); grid is space / edge,
    rounded up.  0 where either patch has norm zero.

    Raises
    ------
    ShapeError : predictions of different shapes, or without an axis of space.
    ParamError : no predictions, or a patch out of range.

    Notes
    -----
    Cost: four passes over each prediction.  No loop over patches.  Memory: predictions are looked
    at in eighths, so that three eighths of one in float32 are the most; on a GPU, where small
    arrays cost their calls, those below 2**19 numbers at once.
    NaN and infinity make the divergence of their patch NaN.

    References
    ----------
    Foteinopoulou et al. 2025, arXiv:2508.11624, section 3 (patch similarity).  The text calls d
    the number of pixels of a patch and up-samples by d; here d is the edge.
    """
    check_stack(predictions, base)
    edges = edges_of(base.shape, patch)
    parts = parts_of(base, edges)
    found = [_apart(part.of(base), [part.of(one) for one in predictions], edges) for part in parts]
    return library_of(base).concatenate(found, axis=2 + parts[0].axis)


def _apart(base: Array, predictions: Sequence[Array], edges: Sequence[int]) -> Array:
    """`divergence` of a part that is made of whole patches."""
    xp = library_of(base)
    axes = (1, *range(3, 2 * len(edges) + 2, 2))
    reference, empty = _unit(cut(base, edges), axes)
    found = []
    for one in predictions:
        unit, blank = _unit(cut(one, edges), axes)
        half = xp.sum((unit - reference) ** 2, axis=axes) / 2
        found.append(xp.where(empty | blank, xp.zeros_like(half), half))
    return xp.stack(found)


def similarity(base: Array, predictions: Sequence[Array], *, patch: Patch) -> Array:
    """Cosine of every patch of every adapter with the base's: equation 3 of the publication.

    ``s[i, p] = 1 - d[i, p]``, see `divergence`, which has more digits where s is near one.

    Returns
    -------
    (n, batch, *grid), each in [-1, 1]; 1 where either patch has norm zero.
    """
    return 1 - divergence(base, predictions, patch=patch)


def upsample(
    weights: Array,
    space: Sequence[int],
    *,
    patch: Patch,
    how: How = "nearest",
    part: Part | None = None,
) -> Array:
    """Weights of patches as weights of latent pixels: equation 5 of the publication.

    Parameters
    ----------
    weights : (n, batch, *grid).
    space : the sizes wanted, such as (height, width).
    patch : as given to `divergence`.
    how : ``nearest``: constant inside a patch, the literal reading.  ``bilinear``: linear between
        the middles of patches along every axis, constant beyond the outermost.
    part : of the space, which is then all that is made; None: the whole.

    Returns
    -------
    (n, batch, *space), or the part of it.  Weights that sum to one still do, up to rounding.

    Raises
    ------
    ShapeError : the grid is not that of the space.
    """
    check_word("upsample", "how", how, ("nearest", "bilinear"))
    edges = edges_of((1, 1, *space), patch)
    grid = tuple(-(-size // edge) for size, edge in zip(space, edges, strict=True))
    if tuple(weights.shape[2:]) != grid:
        message = (
            f"weights of grid {tuple(weights.shape[2:])}: {tuple(space)} in patches of {edges} "
            f"has {grid}"
        )
        raise ShapeError(message)
    for axis, (size, edge) in enumerate(zip(space, edges, strict=True)):
        inside = part is not None and part.axis == axis
        places = np.arange(part.start, part.stop) if part and inside else np.arange(size)
        if edge > 1 or inside:
            weights = _stretch(weights, 2 + axis, edge, places, how)
    return weights


def cut(array: Array, edges: Sequence[int]) -> Array:
    """As (batch, channels, g1, e1, g2, e2, ...), with zeros behind the end, float32."""
    array = wide(array)
    xp = library_of(array)
    for axis, edge in enumerate(edges, 2):
        lack = -array.shape[axis] % edge
        if lack:
            shape = (*array.shape[:axis], lack, *array.shape[axis + 1 :])
            more = xp.zeros_like(array[(slice(None),) * axis + (slice(0, 1),)])
            array = xp.concatenate((array, xp.broadcast_to(more, shape)), axis=axis)
    pairs = [n for axis, e in enumerate(edges, 2) for n in (array.shape[axis] // e, e)]
    return array.reshape((*array.shape[:2], *pairs))


def _unit(cut: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Patches of norm one, and which of them have norm zero.

    Divided by the largest entry first: squares of large and of small numbers leave float32.
    """
    xp = library_of(cut)
    top = xp.amax(xp.abs(cut), axis=axes, keepdims=True)
    scaled = cut / xp.where(top == 0, xp.ones_like(top), top)
    norm = xp.sqrt(xp.sum(scaled**2, axis=axes, keepdims=True))
    empty = top == 0
    unit = scaled / xp.where(empty, xp.ones_like(norm), norm)
    grid = (cut.shape[0], *cut.shape[2::2])
    return unit, empty.reshape(grid)


def _stretch(weights: Array, axis: int, edge: int, places: NDArray[np.int64], how: How) -> Array:
    """One axis from patches to these pixels."""
    before = (slice(None),) * axis
    count = weights.shape[axis]
    if how == "nearest":
        return weights[(*before, indices(places // edge, weights))]
    place = np.clip((places + 0.5) / edge - 0.5, 0, count - 1)
    left = np.minimum(place.astype(np.int64), max(count - 2, 0))
    right = np.minimum(left + 1, count - 1)
    low = weights[(*before, indices(left, weights))]
    high = weights[(*before, indices(right, weights))]
    shape = [1] * weights.ndim
    shape[axis] = len(places)
    part = like(place - left, weights).reshape(shape)
    return low + (high - low) * part  # equal neighbours give exactly themselves
