"""Arguments that several entrances take: deltas in memory, weights, threads, words of 64 bits."""

import operator
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from loramix import arrays
from loramix.errors import FormatError, ParamError
from loramix.tensors import F64

THREADS = 1024
"""The most that may be asked for; more than cores only wait for each other."""


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that is none.

    Raises
    ------
    ParamError : not an integer from 1 to `THREADS`, or None.
    """
    if threads is None:
        return
    if not 1 <= _integer(threads) <= THREADS:
        message = f"threads = {threads}: allowed is 1 to {THREADS}, or None for all cores"
        raise ParamError(message)


def word(name: str, value: int) -> int:
    """A number of 64 bits.

    Raises
    ------
    ParamError : it is none.
    """
    number = _integer(value)
    if not 0 <= number < 2**64:
        message = f"{name} = {value}: allowed is an integer from 0 to 2^64 - 1"
        raise ParamError(message)
    return number


def deltas_of(deltas: Iterable[Any]) -> list[Any]:
    """Arrays or tensors of one shape and type, at least one.

    Raises
    ------
    FormatError : something else than arrays whose entries are in memory.  ShapeError : they differ.
    ParamError : there are none, or they are not in a list.
    """
    found = _listed(deltas)
    if not found:
        message = "no deltas: at least one is needed"
        raise ParamError(message)
    for index, delta in enumerate(found):
        if unfit := _unfit(delta):
            message = f"delta {index} is {unfit}"
            raise FormatError(message)
    arrays.check_alike(found)
    return found


def weights_of(weights: Iterable[float] | None, count: int) -> F64:
    """Weights of deltas, 1 by default.

    Raises
    ------
    ParamError : not one number for each that f32 holds.
    """
    if weights is None:
        return np.ones(count)
    sizes = _numbers(weights)
    if sizes.shape != (count,) or not (np.abs(sizes) <= np.finfo(np.float32).max).all():
        message = (
            f"weights = {weights}: one finite number, at most 3.4e38, for each of {count} deltas"
        )
        raise ParamError(message)
    return sizes


def _integer(value: object) -> int:
    """-1 for what is no integer."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return -1


def _numbers(weights: Iterable[Any]) -> F64:
    """Of nothing for what is no list of numbers: text is none, even where it could be read."""
    if arrays.is_torch(weights):
        weights = arrays.to_numpy(weights)
    if isinstance(weights, Mapping | str | bytes):
        return np.empty(0)
    try:
        each = [arrays.to_numpy(w) if arrays.is_torch(w) else w for w in weights]
        found = np.array(each)
        return found.astype(np.float64) if found.dtype.kind in "iuf" else np.empty(0)
    except (TypeError, ValueError, OverflowError):
        return np.empty(0)


def _listed(deltas: Iterable[Any]) -> list[Any]:
    if isinstance(deltas, np.ndarray) or arrays.is_torch(deltas):
        shape = tuple(getattr(deltas, "shape", ()))
        message = (
            f"deltas are one array of shape {shape}: give a list of arrays; list(stack) makes one "
            "of a stack"
        )
        raise ParamError(message)
    if isinstance(deltas, Mapping):
        message = "deltas are a mapping: give list(deltas.values()), in the order of the weights"
        raise ParamError(message)
    if not isinstance(deltas, Iterable) or isinstance(deltas, str | bytes):
        message = f"deltas are a {type(deltas).__name__}: give a list of arrays"
        raise ParamError(message)
    # A sum or mean of arrays without axes is a NumPy number: that is an array of shape () again.
    return [np.asarray(each) if isinstance(each, np.generic) else each for each in deltas]


def _unfit(delta: object) -> str:
    """What keeps something from being a delta; empty where nothing does."""
    if isinstance(delta, np.ma.MaskedArray):
        return "a masked array: say what masked entries are, such as delta.filled(0)"
    if isinstance(delta, np.ndarray):
        return ""
    if not arrays.is_torch(delta):
        return f"a {type(delta).__name__}: give NumPy arrays or tensors"
    tensor: Any = delta
    if tensor.device.type == "meta":
        return "on the device meta, where tensors have no entries"
    if str(tensor.layout) != "torch.strided":
        return f"a tensor of layout {tensor.layout}: give delta.to_dense()"
    return ""
