"""Weights stored as small numbers times scales: what they stand for, and back.

A weight of type F8 or I8 is what its numbers are times what is stored beside it: one scale for all
of it, one for each row, or one for each block.  The names are those of ComfyUI (``scale_weight``,
``weight_scale``), of compressed-tensors and FineGrainedFP8 (``weight_scale``,
``weight_scale_inv``, by which numbers are multiplied whatever it is called), and of bitsandbytes
(``SCB``, the largest magnitude of each row, which stands for 127).  Whatever else is said of a
weight beside it makes its meaning unknown, and is refused by name.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from loramix import _core
from loramix.errors import FormatError
from loramix.formats.values import values
from loramix.tensors import F32, ITEM_BYTES, Tensor

QUANTISED = ("F8_E4M3", "F8_E5M2", "I8")
"""Types whose numbers may be of a scale."""
INTEGER = "I8"
NAMES = ("weight_scale", "scale_weight", "weight_scale_inv", "SCB")
"""What scales are called beside a ``weight``."""
_MAXIMA, _LARGEST = "SCB", 127.0
_POINTS = ("weight_zero_point", "zero_point", "weight_offset")
_MARK, _MARKS = "comfy_quant", "_quantization_metadata"
_PLAIN = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "int8_blockwise",
          "float8_e4m3fn_blockwise")  # fmt: skip
_ROTATED = "convrot"
_BLOCK = 128
_BOUNDS = {"F8_E4M3": (-448.0, 448.0), "F8_E5M2": (-57344.0, 57344.0), "I8": (-128.0, 127.0)}


@dataclass(frozen=True, slots=True)
class Scaling:
    """What the numbers of a weight are multiplied by.

    Attributes
    ----------
    name : of the tensor that says it.
    factors : (blocks of rows, blocks of columns) float32.
    rows, cols : of a block.
    """

    name: str
    factors: F32 = field(repr=False)
    rows: int
    cols: int

    def at(self, start: int, stop: int, cols: int) -> F32:
        """Factors of some rows, of shapes that go with (stop - start, cols)."""
        if self.factors.size == 1:
            return self.factors
        found = self.factors[np.arange(start, stop) // self.rows]
        if self.factors.shape[1] == 1:
            return found
        return found[:, np.arange(cols) // self.cols]

    def expand(
        self, dtype: str, data: memoryview, start: int, shape: tuple[int, int], where: str
    ) -> F32:
        """What stored numbers stand for.

        Parameters
        ----------
        data : rows of the weight, from ``start``.
        shape : of them.
        where : the weight, for messages.

        Raises
        ------
        FormatError : NaN or infinity.
        """
        numbers = np.empty(shape, dtype="<f4")
        if dtype == INTEGER:
            numbers[...] = np.frombuffer(data, dtype=np.int8).reshape(shape)
        else:
            numbers[...] = values(Tensor(dtype, shape, data), where)
        numbers *= self.at(start, start + shape[0], shape[1])
        return numbers

    def round(self, dtype: str, values: F32, start: int) -> tuple[npt.NDArray[np.uint8], int]:
        """The nearest numbers of a type, to even where two are as near.

        Parameters
        ----------
        values : (n, cols) rows of a weight, from ``start``.

        Returns
        -------
        Their bytes, and how many values were beyond the largest number, which stands for them.
        """
        factors = self.at(start, start + len(values), values.shape[1])
        scaled = np.zeros_like(values)
        np.divide(values, factors, out=scaled, where=factors != 0)
        low, high = _BOUNDS[dtype]
        # Up to half a step beyond it, it is the nearest number.
        step = 0.5 if dtype == INTEGER else high / 28
        beyond = int(np.count_nonzero((scaled > high + step) | (scaled < low - step)))
        np.clip(scaled, low, high, out=scaled)
        if dtype == INTEGER:
            return np.rint(scaled).astype(np.int8).reshape(-1).view(np.uint8), beyond
        out = np.empty(values.size, dtype=np.uint8)
        view = ("F32", scaled.reshape(-1).view(np.uint8))
        _core.dense_combine([view], [1.0], out, dtype=dtype)
        return out, beyond


def scaling_of(
    tensors: Mapping[str, Tensor], name: str, strings: Mapping[str, str]
) -> Scaling | None:
    """What is said beside a weight of the meaning of its numbers.

    Parameters
    ----------
    tensors : of the model.
    name : of the weight.
    strings : of the model's headers.

    Returns
    -------
    None where nothing is: the numbers of F8 weights are meant as they are, and nobody knows what
    those of I8 weights mean.

    Raises
    ------
    FormatError : something else is said, or what is said does not fit.
    """
    tensor = tensors[name]
    head = name.removesuffix("weight")
    if tensor.dtype not in QUANTISED or head == name or not tensor.shape:
        return None
    _refuse_formats(tensors, name, head, strings)
    for point in _POINTS:
        if head + point in tensors:
            message = f"{name} has a zero point beside it ({point}), which is not known here"
            raise FormatError(message)
    found = [head + one for one in NAMES if head + one in tensors]
    if not found:
        return None
    if len(found) > 1:
        message = f"{name} has {len(found)} scales beside it ({', '.join(found)}): which counts?"
        raise FormatError(message)
    return _fitted(tensor, name, found[0], tensors[found[0]])


def beside(name: str) -> Iterator[str]:
    """Names that tensors with the meaning of a weight may have."""
    head = name.removesuffix("weight")
    if head != name:
        yield from (head + one for one in (*NAMES, *_POINTS, _MARK))


def scaled(tensor: Tensor, scaling: Scaling, where: str) -> Tensor:
    """What a weight stands for, made when it is used.

    Parameters
    ----------
    where : the weight, for messages.
    """
    rows, cols = tensor.shape[0], math.prod(tensor.shape[1:])

    def make() -> F32:
        return scaling.expand(tensor.dtype, tensor.data, 0, (rows, cols), where).reshape(
            tensor.shape
        )

    return Tensor.made(tensor.shape, make)


def _fitted(tensor: Tensor, name: str, beside: str, scale: Tensor) -> Scaling:
    """Scales as they lie over a weight."""
    rows, cols = tensor.shape[0], math.prod(tensor.shape[1:])
    if scale.dtype not in ITEM_BYTES:
        message = f"{beside} has type {scale.dtype}: allowed is a type of floats"
        raise FormatError(message)
    factors = values(scale, beside)
    if beside.endswith(_MAXIMA):
        factors = factors / np.float32(_LARGEST)
    if factors.size == 1 or (factors.size == rows and factors.shape[0] == rows):
        return Scaling(beside, factors.reshape(-1, 1), 1, max(cols, 1))
    if factors.ndim == 2:
        for height, width in ((_BLOCK, _BLOCK), (1, -(-cols // factors.shape[1]))):
            if factors.shape == (-(-rows // height), -(-cols // width)):
                return Scaling(beside, factors, height, width)
    message = (
        f"{beside} of shape {list(scale.shape)} does not fit {name} of shape {list(tensor.shape)}: "
        f"known are one scale, one for each row, for each block of {_BLOCK} x {_BLOCK}, and for "
        "runs of a row of one length"
    )
    raise FormatError(message)


def _refuse_formats(
    tensors: Mapping[str, Tensor], name: str, head: str, strings: Mapping[str, str]
) -> None:
    """Refuse weights that are more than numbers times scales."""
    for said in _said(tensors, head, strings):
        kind = said.get("format")
        if kind not in _PLAIN:
            message = f"{name} is stored in the format {kind!r}; known are {', '.join(_PLAIN)}"
            raise FormatError(message)
        if said.get(_ROTATED):
            message = f"{name} was rotated before it was quantised ({_ROTATED}), which is not known"
            raise FormatError(message)


def _said(
    tensors: Mapping[str, Tensor], head: str, strings: Mapping[str, str]
) -> Iterator[Mapping[str, object]]:
    """What ComfyUI's files say of a weight, in a tensor beside it or in the header."""
    mark = tensors.get(head + _MARK)
    if mark is not None:
        yield _table(bytes(mark.data), head + _MARK)
    if _MARKS in strings:
        layers = _table(strings[_MARKS], f"{_MARKS} in the header").get("layers")
        own = layers.get(head.removesuffix(".")) if isinstance(layers, dict) else None
        if isinstance(own, dict):
            yield own


def _table(text: bytes | str, where: str) -> Mapping[str, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        message = f"{where}: not JSON ({error})"
        raise FormatError(message) from None
    if not isinstance(found, dict):
        message = f"{where}: a JSON {type(found).__name__}, but it must be an object"
        raise FormatError(message)
    return found
