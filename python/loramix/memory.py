"""The methods on deltas in memory: NumPy arrays or torch tensors, without files."""

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from loramix import _core, kernels
from loramix.errors import FormatError, OutputError, ParamError, ShapeError
from loramix.methods import Coefficients, Elementwise, Linear, Method, apply, method_of
from loramix.types import F64

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", "np.ndarray[Any, Any]", "torch.Tensor")

_NUMPY = {"float64": "F64", "float32": "F32", "float16": "F16"}
_TORCH = {**_NUMPY, "bfloat16": "BF16"}


def combine(
    deltas: Sequence[Array],
    method: str | Method = "linear",
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Array:
    """Combine dense deltas of one weight.

    Parameters
    ----------
    deltas : arrays or tensors of one shape and type: f64, f32, f16, and bf16 (torch).
        Contiguous CPU memory is used in place, anything else is copied first.
    method : a name of `METHODS` or a method object.
    weights : one number per delta, any sign, default 1.
    seed : of the random draws of methods that have them.
    threads : default all cores.  The result does not depend on it.

    Returns
    -------
    A new array of the same kind, type, shape (and device).

    Raises
    ------
    ShapeError : different shapes.  FormatError : types that are not floating point, NaN,
    infinity.  OutputError : overflow of f16.  ParamError : no deltas, unknown method.

    Notes
    -----
    Cost: two reads of the deltas, one write, for methods that are linear combinations (summed in
    f64); three or four reads for those that decide entry by entry (in f32).

    Examples
    --------
    >>> import numpy as np
    >>> combine([np.eye(2), 3 * np.eye(2)], "average")
    array([[2., 0.],
           [0., 2.]])
    """
    if not deltas:
        message = "no deltas: combine needs at least one"
        raise ParamError(message)
    first = deltas[0]
    for delta in deltas[1:]:
        if delta.shape != first.shape or delta.dtype != first.dtype:
            message = (
                f"deltas of {tuple(first.shape)} {first.dtype} and {tuple(delta.shape)} "
                f"{delta.dtype}: all must agree"
            )
            raise ShapeError(message)
    each = np.ones(len(deltas)) if weights is None else np.asarray(weights, dtype=np.float64)
    if each.shape != (len(deltas),) or not np.isfinite(each).all():
        message = f"weights {weights}: one finite number for each of {len(deltas)} deltas"
        raise ParamError(message)
    if not 0 <= seed < 2**64:
        message = f"seed = {seed}: allowed is 0 to 2^64 - 1"
        raise ParamError(message)
    chosen = method_of(method)
    if isinstance(chosen, Elementwise):
        return cast("Array", _entry_by_entry(deltas, chosen, each, seed, threads))
    return cast("Array", _linear(deltas, chosen, each, threads))


def _linear(
    deltas: Sequence[Any], method: Coefficients, weights: F64, threads: int | None
) -> object:
    views = [_bytes(delta) for delta in deltas]

    def run() -> object:
        gram = np.array(_core.dense_gram(views, threads=threads)).reshape(len(deltas), -1)
        _check_range(gram, deltas)
        numbers = apply(method, gram, weights).tolist()
        result, raw = _empty_like(deltas[0])
        _core.dense_combine(views, numbers, raw, dtype=views[0][0], threads=threads)
        return result.to(deltas[0].device) if _is_torch(result) else result

    return kernels.with_names([], run)


def _entry_by_entry(
    deltas: Sequence[Any], method: Elementwise, weights: F64, seed: int, threads: int | None
) -> object:
    """In f32, like the deltas of files; one adapter alone is its weighted delta."""
    # Names what is not finite, in any of them.
    kernels.with_names([], lambda: _core.dense_gram([_bytes(d) for d in deltas], threads=threads))
    used = [(d, float(w)) for d, w in zip(deltas, weights, strict=True) if w != 0]
    if len(used) < 2:
        return _linear(deltas, Linear(), weights, threads)
    shape = tuple(deltas[0].shape)
    rows = shape[0] if len(shape) > 1 else 1
    cols = math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
    views = [_bytes(delta) for delta, _ in used]
    sizes = [weight for _, weight in used]
    out = np.empty((rows, cols), dtype=np.float32)
    raw = method.program().raw(seed)

    def run() -> None:
        _core.run_program(views, rows, cols, sizes, raw, out, threads=threads)

    kernels.with_names([], run)
    with np.errstate(over="ignore"):
        result = _like(out.reshape(shape), deltas[0])
    if not (np.isfinite(out).all() and _is_finite(result)):
        message = f"a result too large for {deltas[0].dtype} (elementwise methods work in f32)"
        raise OutputError(message)
    return result


def _is_finite(array: Any) -> bool:  # noqa: ANN401 - numpy or torch
    return bool((array - array == 0).all())


def _check_range(gram: F64, deltas: Sequence[Array]) -> None:
    """Squares of norms must be numbers: refuse deltas of 1e160 or 1e-170 with words."""
    for index, (square, delta) in enumerate(zip(np.diag(gram), deltas, strict=True)):
        if not np.isfinite(square) or (square < np.finfo(float).tiny and bool((delta != 0).any())):
            message = (
                f"delta {index}: the square of its norm leaves the range of float64; rescale the "
                "deltas by one factor"
            )
            raise ParamError(message)


def _is_torch(array: object) -> bool:
    """True for torch tensors, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def _bytes(array: Any) -> tuple[str, "np.ndarray[Any, Any]"]:  # noqa: ANN401 - numpy or torch
    """Element type and bytes, in place where the memory allows it."""
    name = str(array.dtype).removeprefix("torch.")
    is_torch = _is_torch(array)
    code = (_TORCH if is_torch else _NUMPY).get(name)
    if code is None:
        message = f"deltas of type {array.dtype}: f64, f32, f16 and (torch) bf16 can be combined"
        raise FormatError(message)
    if is_torch:
        import torch

        flat = array.detach().cpu().contiguous().reshape(-1)
        return code, flat.view(torch.uint8).numpy()
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return code, little.reshape(-1).view(np.uint8)


def _empty_like(array: Any) -> tuple[Any, "np.ndarray[Any, Any]"]:  # noqa: ANN401 - likewise
    """A new array and its bytes."""
    if _is_torch(array):
        import torch

        tensor = torch.empty(array.shape, dtype=array.dtype)  # on the CPU, where the kernels are
        return tensor, tensor.reshape(-1).view(torch.uint8).numpy()
    result = np.empty(array.shape, dtype=array.dtype.newbyteorder("="))
    return result, result.reshape(-1).view(np.uint8)


def _like(values: "np.ndarray[Any, Any]", array: Any) -> object:  # noqa: ANN401 - likewise
    """Values in the kind and type of an array."""
    if _is_torch(array):
        import torch

        return torch.from_numpy(values).to(array.device, array.dtype)
    return values.astype(array.dtype)
