"""Arrays as files have them: an element type, a shape, and bytes that may not be there yet."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias
from weakref import ref

import numpy as np
import numpy.typing as npt

Shape: TypeAlias = tuple[int, ...]
F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]
Dtype: TypeAlias = Literal["f32", "f16", "bf16"]

ITEM_BYTES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


class Made:
    """Bytes that are computed when somebody uses them, and forgotten when nobody does any more.

    Parameters
    ----------
    make : returns an array of the tensor's type and shape; called again after the last view of
        what it returned is gone, so it must return the same every time.
    """

    __slots__ = ("_array", "_make")

    def __init__(self, make: Callable[[], npt.NDArray[Any]]) -> None:
        self._make = make
        self._array: ref[npt.NDArray[Any]] | None = None

    def __call__(self) -> memoryview:
        """The bytes."""
        array = self._array() if self._array is not None else None
        if array is None:
            array = np.ascontiguousarray(self._make()).reshape(-1)
            self._array = ref(array)
        return array.data.cast("B")


@dataclass(frozen=True, slots=True)
class Tensor:
    """Bytes, little endian, row-major: borrowed, or computed when they are used.

    Attributes
    ----------
    dtype : name in a safetensors header, e.g. ``BF16``.
    shape : sizes.
    content : the bytes, usually a part of a mapped file: not read before it is used; or what
        makes them, such as `Made`.
    """

    dtype: str
    shape: tuple[int, ...]
    content: memoryview | Callable[[], memoryview] = field(repr=False)

    @classmethod
    def made(cls, shape: tuple[int, ...], make: Callable[[], F32]) -> "Tensor":
        """F32 values that are computed when they are used."""
        return cls("F32", shape, Made(make))

    @property
    def data(self) -> memoryview:
        """The bytes; whoever keeps them keeps what was computed in memory."""
        return self.content if isinstance(self.content, memoryview) else self.content()

    @property
    def is_made(self) -> bool:
        """Whether the bytes are computed when they are used."""
        return not isinstance(self.content, memoryview)

    @property
    def size(self) -> int:
        """Number of bytes."""
        if isinstance(self.content, memoryview):
            return len(self.content)
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    def rows(self, start: int, stop: int) -> "Tensor":
        """Rows ``start:stop`` of the first axis, without a copy."""
        size = self.size // self.shape[0] if self.shape[0] else 0
        shape = (stop - start, *self.shape[1:])
        span = slice(start * size, stop * size)
        if isinstance(self.content, memoryview):
            return Tensor(self.dtype, shape, self.content[span])
        return Tensor(self.dtype, shape, lambda: self.data[span])

    @classmethod
    def joined(cls, tensors: Sequence["Tensor"]) -> "Tensor":
        """The rows of several tensors of one type, one below the other: a copy, made when used."""
        first = tensors[0]
        shape = (sum(one.shape[0] for one in tensors), *first.shape[1:])

        def rows() -> npt.NDArray[np.uint8]:
            return np.frombuffer(b"".join(one.data for one in tensors), dtype=np.uint8)

        return cls(first.dtype, shape, Made(rows))

    def with_halves_swapped(self) -> "Tensor":
        """The second half of the rows before the first: a copy, made when it is used."""
        half = self.shape[0] // 2
        return Tensor.joined([self.rows(half, self.shape[0]), self.rows(0, half)])
