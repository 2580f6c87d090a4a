"""User masks in the size of latents."""

import numpy as np

from loramix.arrays import to_numpy
from loramix.compose.functional.arrays import Array, library_of
from loramix.compose.functional.parts import parts_of
from loramix.compose.functional.patches import How, Patch, cut, edges_of, upsample
from loramix.compose.functional.weighting import restrict
from loramix.errors import ParamError, ShapeError
from loramix.tensors import F64

_NOTHING = 1e-20
"""Between the traces of `restrict` and any weight."""


def fit(mask: Array, height: int, width: int) -> F64:
    """A mask in another size: every pixel the mean of what it covers.

    Parameters
    ----------
    mask : (rows, columns) of any size, each in [0, 1]; NumPy, torch, bool or numbers.
    height, width : the size wanted, such as that of the latents.

    Returns
    -------
    (height, width), in [0, 1].

    Raises
    ------
    ShapeError : not two axes, or one without a pixel.
    ParamError : no array of numbers, values outside [0, 1], or NaN.
    """
    values = check_mask(mask)
    rows, columns = (_cover(*pair) for pair in zip(values.shape, (height, width), strict=True))
    return np.asarray(np.clip(rows @ values @ columns.T, 0, 1))


def check_mask(mask: Array, name: str = "fit") -> F64:
    """A mask as an array, see `fit`.

    Raises
    ------
    ShapeError : not two axes, or one without a pixel.
    ParamError : values outside [0, 1], or NaN.
    """
    try:
        values: F64 = to_numpy(mask).astype(np.float64)
    except (TypeError, ValueError) as error:
        message = f"{name}: {type(mask).__name__} is no mask: give an array of (rows, columns)"
        raise ParamError(message) from error
    if values.ndim != 2 or 0 in values.shape:
        message = f"{name}: a mask of shape {values.shape}: (rows, columns) is needed"
        raise ShapeError(message)
    if not ((values >= 0) & (values <= 1)).all():
        message = (
            f"{name}: a mask with values from {values.min():g} to {values.max():g}: allowed is "
            "[0, 1]; divide pictures by 255"
        )
        raise ParamError(message)
    return values


def inside(weights: Array, masks: Array, *, patch: Patch, how: How) -> Array:
    """What weights of patches are after masks, as means over the pixels of each patch.

    Parameters
    ----------
    weights : (n, batch, *grid), see `restrict`.
    masks : (n, *space), each in [0, 1].
    patch, how : see `upsample`.

    Returns
    -------
    As ``weights``, float32.  Traces that `restrict` gives to who has no weight are 0.
    """
    space = tuple(masks.shape[1:])
    edges = edges_of((1, 1, *space), patch)
    axes = tuple(range(3, 2 * len(edges) + 2, 2))
    xp = library_of(weights)
    parts, found = parts_of(masks[:, None], edges), []
    for part in parts:
        pixels = upsample(weights, space, patch=patch, how=how, part=part)
        pixels = restrict(pixels, part.of(masks, before=1))
        counts = xp.sum(cut(xp.ones_like(pixels[:1, :1]), edges), axis=axes)
        found.append(xp.sum(cut(pixels, edges), axis=axes) / counts)
    means = xp.concatenate(found, axis=2 + parts[0].axis)
    return xp.where(means < _NOTHING, xp.zeros_like(means), means)


def _cover(have: int, want: int) -> F64:
    """How much of every new pixel lies in every old one, rows of sum 1."""
    edges = np.linspace(0, have, want + 1)
    starts = np.arange(have)
    low = np.maximum(edges[:-1, None], starts)
    high = np.minimum(edges[1:, None], starts + 1)
    return np.asarray(np.maximum(high - low, 0) * (want / have))
