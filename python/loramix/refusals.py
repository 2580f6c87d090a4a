"""Refusals of the kernels, with the names that users know put to them."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from loramix import _core
from loramix.errors import FormatError, LoramixError, OutputError, ParamError, ShapeError
from loramix.types import Group

_T = TypeVar("_T")
_CLASSES: dict[str, type[LoramixError]] = {
    "shape": ShapeError,
    "dtype": FormatError,
    "param": ParamError,
    "non_finite": FormatError,
    "overflow": OutputError,
    "format": FormatError,
}


def with_names(groups: Sequence[Group], call: Callable[[], _T]) -> _T:
    """Call a kernel; its refusals get the names of file, tensor and target, where there are any."""
    try:
        return call()
    except _core.CoreError as error:
        kind, text, number, member, side = error.args
        where = ""
        if number is not None and groups:
            group = groups[number]
            where = f"{group.target.key}: "
            if member is not None:
                factors = group.members[member]
                key = factors.keys[0 if side == "up" else 1]
                where, text = f"{factors.file}: ", f"{key} holds NaN or infinity"
        message = f"{where}{text}{_ADVICE.get(kind, '')}"
        raise _CLASSES[kind](message) from error


_ADVICE = {
    "non_finite": "; the file is damaged or its training diverged: get another copy",
    "overflow": "; write a wider type with --dtype bf16 or f32",
}
