"""Values of a tensor as float32, whatever its element type."""

import math

import numpy as np

from loramix.errors import FormatError
from loramix.tensors import F32, Tensor

_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def decoded(tensor: Tensor) -> F32:
    """All values in the tensor's shape, exact but for F64.

    Cost: one pass over the bytes, a copy unless the type is F32.
    """
    data = tensor.data
    if tensor.dtype in _FLOATS:
        with np.errstate(over="ignore"):
            found = np.frombuffer(data, _FLOATS[tensor.dtype]).astype(np.float32, copy=False)
    elif tensor.dtype == "BF16":
        found = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        found = _FP8[tensor.dtype][np.frombuffer(data, np.uint8)]
    return found.reshape(tensor.shape)


def values(tensor: Tensor, where: str) -> F32:
    """The same, finite.

    Parameters
    ----------
    where : file and name, for messages.

    Raises
    ------
    FormatError : NaN or infinity.
    """
    found = decoded(tensor)
    if not np.isfinite(found).all():
        raise FormatError(not_finite(where))
    return found


def not_finite(where: str) -> str:
    """What is said of numbers that are none."""
    return (
        f"{where} holds NaN or infinity; the file is damaged or its training diverged: get "
        "another copy"
    )


def _table(mantissa: int, bias: int, nans: tuple[int, ...]) -> F32:
    """Values of all 256 codes (OCP OFP8 1.0)."""
    codes = np.arange(256)
    magnitude = codes & 0x7F
    exponent, digits = magnitude >> mantissa, magnitude & ((1 << mantissa) - 1)
    normal = np.ldexp(1 + digits / 2**mantissa, exponent - bias)
    tiny = np.ldexp(digits / 2**mantissa, 1 - bias)
    found = np.where(exponent > 0, normal, tiny)
    found[np.isin(magnitude, nans)] = math.nan
    return np.asarray(np.where(codes & 0x80, -found, found), dtype=np.float32)


_FP8 = {
    "F8_E4M3": _table(3, 7, (0x7F,)),
    "F8_E5M2": _table(2, 15, (0x7C, 0x7D, 0x7E, 0x7F)),
}
