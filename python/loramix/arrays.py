"""NumPy arrays and torch tensors as bytes and back, without importing torch."""

import math
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from loramix.errors import FormatError, ShapeError
from loramix.tensors import F64

Bytes: TypeAlias = tuple[str, npt.NDArray[np.uint8]]

_NUMPY = {"float64": "F64", "float32": "F32", "float16": "F16"}
_TORCH = {**_NUMPY, "bfloat16": "BF16"}


def is_torch(array: object) -> bool:
    """True for torch tensors."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def bytes_of(array: Any) -> Bytes:  # noqa: ANN401 - numpy or torch
    """Element type and bytes, in place where the memory allows it.

    Raises
    ------
    FormatError : an element type that is not floating point.
    """
    if is_torch(array):
        code = _TORCH.get(str(array.dtype).removeprefix("torch."))
    else:
        code = _NUMPY.get(array.dtype.name)  # in any byte order
    if code is None:
        message = f"deltas of type {array.dtype}: f64, f32, f16 and (torch) bf16 can be combined"
        raise FormatError(message)
    if is_torch(array):
        import torch

        flat = array.detach().cpu().resolve_neg().contiguous().reshape(-1)
        if flat.numel() == 0:  # a view of nothing may have strides that forbid another type
            return code, np.empty(0, dtype=np.uint8)
        return code, flat.view(torch.uint8).numpy()
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return code, little.reshape(-1).view(np.uint8)


def empty_like(array: Any) -> tuple[Any, npt.NDArray[np.uint8]]:  # noqa: ANN401 - likewise
    """A new array on the CPU and its bytes."""
    if is_torch(array):
        import torch

        tensor = torch.empty(array.shape, dtype=array.dtype)
        return tensor, tensor.reshape(-1).view(torch.uint8).numpy()
    result = np.empty(array.shape, dtype=array.dtype.newbyteorder("="))
    return result, result.reshape(-1).view(np.uint8)


def cast_like(values: Any, array: Any) -> Any:  # noqa: ANN401 - likewise
    """Values of the same kind in the type and place of an array."""
    if is_torch(array):
        return values.to(array.device, array.dtype)
    return values.astype(array.dtype.newbyteorder("="), copy=False)


def from_f32(values: npt.NDArray[np.float32], array: Any) -> Any:  # noqa: ANN401 - likewise
    """Float32 values in the kind and place of an array."""
    if is_torch(array):
        import torch

        return torch.from_numpy(values).to(array.device)
    return values


def to_numpy(array: Any) -> npt.NDArray[Any]:  # noqa: ANN401 - likewise
    """An array: tensors on the CPU, bf16, which NumPy does not have, as float32."""
    if not is_torch(array):
        return np.asarray(array)
    import torch

    tensor = array.detach().cpu().resolve_neg()
    return np.asarray((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())


def is_finite(array: Any) -> bool:  # noqa: ANN401 - likewise
    """Whether no entry is NaN or infinite."""
    if is_torch(array):
        return bool(array.isfinite().all())
    return bool(np.isfinite(array).all())


def matrix_shape(array: Any) -> tuple[int, int]:  # noqa: ANN401 - likewise
    """Rows and columns: the first axis, and all others; a vector is one row."""
    shape = tuple(array.shape)
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


def check_alike(deltas: Sequence[Any]) -> None:
    """Refuse deltas of different shapes or types.

    Raises
    ------
    ShapeError : two of them differ.
    """
    first = deltas[0]
    for delta in deltas[1:]:
        if delta.shape != first.shape or delta.dtype != first.dtype:
            message = (
                f"deltas of {tuple(first.shape)} {first.dtype} and {tuple(delta.shape)} "
                f"{delta.dtype}: all must agree"
            )
            raise ShapeError(message)


def block_diagonal(blocks: Sequence[F64]) -> F64:
    """A block diagonal matrix."""
    rows, cols = (sum(b.shape[axis] for b in blocks) for axis in (0, 1))
    result = np.zeros((rows, cols))
    row = col = 0
    for block in blocks:
        result[row : row + block.shape[0], col : col + block.shape[1]] = block
        row, col = row + block.shape[0], col + block.shape[1]
    return result
