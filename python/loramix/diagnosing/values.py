"""Numbers in a tensor, judged by their bits: nothing is decoded, and little is in memory."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loramix.tensors import Tensor

_CHUNK = 1 << 22
"""Entries that are looked at together."""


@dataclass(frozen=True, slots=True)
class _Bits:
    """Magnitudes of a floating-point type, as unsigned integers: they are in order.

    Attributes
    ----------
    kind : unsigned integer of the same width.
    magnitude : all bits but the sign.
    largest : of the finite ones.
    normal : the smallest with all its digits.
    """

    kind: npt.DTypeLike
    magnitude: int
    largest: int
    normal: int


_TYPES = {
    "F64": _Bits("<u8", (1 << 63) - 1, 0x7FEFFFFFFFFFFFFF, 0x0010000000000000),
    "F32": _Bits("<u4", (1 << 31) - 1, 0x7F7FFFFF, 0x00800000),
    "F16": _Bits("<u2", (1 << 15) - 1, 0x7BFF, 0x0400),
    "BF16": _Bits("<u2", (1 << 15) - 1, 0x7F7F, 0x0080),
    "F8_E4M3": _Bits("<u1", (1 << 7) - 1, 0x7E, 0x08),
    "F8_E5M2": _Bits("<u1", (1 << 7) - 1, 0x7B, 0x04),
}


@dataclass(frozen=True, slots=True)
class Values:
    """Counts of the entries of a tensor.

    Attributes
    ----------
    entries : all of them.
    bad : NaN or infinite.
    zero : of either sign.
    subnormal : too small for all digits of the type, and not zero.
    """

    entries: int
    bad: int
    zero: int
    subnormal: int

    @property
    def all_zero(self) -> bool:
        """Whether there is nothing in it."""
        return self.zero == self.entries


def values_of(tensor: Tensor) -> Values | None:
    """Count the entries of a tensor; None for types that are not floating point.

    Notes
    -----
    Cost: one read, four vector operations per entry; memory: 48 MB whatever its size.
    """
    bits = _TYPES.get(tensor.dtype)
    if bits is None:
        return None
    raw: npt.NDArray[Any] = np.frombuffer(tensor.data, dtype=bits.kind)
    bad = zero = subnormal = 0
    for start in range(0, len(raw), _CHUNK):
        sizes = raw[start : start + _CHUNK] & np.array(bits.magnitude, dtype=bits.kind)
        bad += int(np.count_nonzero(sizes > bits.largest))
        nothing = len(sizes) - int(np.count_nonzero(sizes))
        zero += nothing
        subnormal += int(np.count_nonzero(sizes < bits.normal)) - nothing
    return Values(len(raw), bad, zero, subnormal)
