"""NumPy arrays and torch tensors under one set of calls, without importing torch."""

import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from loramix.arrays import cast_like as cast_like
from loramix.arrays import is_torch
from loramix.errors import ParamError, ShapeError

Array: TypeAlias = Any
"""A NumPy array or a torch tensor, on any device."""


def library_of(array: Array) -> Any:  # noqa: ANN401 - a module
    """The module whose functions take the array: both know ``axis`` and ``keepdims``."""
    return sys.modules["torch"] if is_torch(array) else np


def wide(array: Array) -> Array:
    """As float32; float64 stays."""
    if is_torch(array):
        return array if str(array.dtype) == "torch.float64" else array.float()
    array = np.asarray(array)
    return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)


def like(values: object, array: Array) -> Array:
    """Numbers, or an array of any kind, as an array of the kind, width and place of another."""
    if is_torch(array):
        torch = sys.modules["torch"]
        width = torch.float64 if array.dtype == torch.float64 else torch.float32
        return torch.as_tensor(values, dtype=width, device=array.device)
    return np.asarray(values, dtype=np.float64 if array.dtype == np.float64 else np.float32)


def indices(values: Sequence[int] | np.ndarray[Any, Any], array: Array) -> Array:
    """Whole numbers where an array is."""
    if is_torch(array):
        return sys.modules["torch"].as_tensor(np.asarray(values), device=array.device)
    return np.asarray(values)


def check_stack(predictions: Sequence[Array], base: Array | None = None) -> None:
    """Refuse an empty stack, and predictions that do not have one shape.

    Raises
    ------
    ParamError : there is none.
    ShapeError : two of them, or one and the base's, differ.
    """
    if len(predictions) == 0:
        message = "predictions: none given; at least one adapter is needed"
        raise ParamError(message)
    first = tuple((predictions[0] if base is None else base).shape)
    for number, one in enumerate(predictions):
        if tuple(one.shape) != first:
            than = "the first one" if base is None else "the base's"
            message = (
                f"prediction {number} is {tuple(one.shape)}, {than} is {first}: all must agree"
            )
            raise ShapeError(message)
