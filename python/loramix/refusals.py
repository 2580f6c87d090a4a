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
    """Call a kernel; its refusals get the names of file, tensor and target.

    Parameters
    ----------
    groups : what was given to the kernel; empty for arrays, which are numbered.
    """
    try:
        return call()
    except _core.CoreError as error:
        kind, text, number, member, side = error.args
        if number is not None and groups:
            text = _of_file(kind, text, groups[number], member, side)
        elif member is not None:
            text = f"delta {member} holds NaN or infinity"
        raise _CLASSES[kind](text) from error


def _of_file(kind: str, text: str, group: Group, member: int | None, side: str | None) -> str:
    where = f"{group.target.key}: "
    if member is not None:
        factors = group.members[member]
        key = factors.keys[0 if side == "up" else 1]
        where, text = f"{factors.file}: ", f"{key} holds NaN or infinity"
    return f"{where}{text}{_advice(kind, text)}"


def _advice(kind: str, text: str) -> str:
    """What to try."""
    if kind == "non_finite":
        return "; the file is damaged or its training diverged: get another copy"
    if kind != "overflow":
        return ""
    wide = text.endswith(("F32", "BF16", "F64"))  # types with the largest exponents there are
    return "; give smaller weights" if wide else "; write a wider type with --dtype bf16 or f32"
