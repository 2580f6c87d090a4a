"""User masks in the size of latents."""

from typing import Any

import numpy as np

from loramix.arrays import to_numpy
from loramix.compose.functional.arrays import Array
from loramix.errors import ParamError, ShapeError
from loramix.tensors import F64


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
    ParamError : values outside [0, 1], or NaN.
    """
    values: np.ndarray[Any, Any] = to_numpy(mask).astype(np.float64)
    if values.ndim != 2 or 0 in values.shape:
        message = f"a mask of shape {values.shape}: (rows, columns) is needed"
        raise ShapeError(message)
    if not ((values >= 0) & (values <= 1)).all():
        message = (
            f"a mask with values from {values.min():g} to {values.max():g}: allowed is [0, 1]; "
            "divide pictures by 255"
        )
        raise ParamError(message)
    rows, columns = (_cover(*pair) for pair in zip(values.shape, (height, width), strict=True))
    return np.asarray(np.clip(rows @ values @ columns.T, 0, 1))


def _cover(have: int, want: int) -> F64:
    """How much of every new pixel lies in every old one, rows of sum 1."""
    edges = np.linspace(0, have, want + 1)
    starts = np.arange(have)
    low = np.maximum(edges[:-1, None], starts)
    high = np.minimum(edges[1:, None], starts + 1)
    return np.asarray(np.maximum(high - low, 0) * (want / have))
