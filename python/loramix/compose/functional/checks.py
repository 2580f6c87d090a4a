"""Ranges of numbers, refused in the words of the house."""

import math
from numbers import Integral, Real

import numpy as np

from loramix.errors import ParamError


def number_of(value: object) -> object:
    """What an array without axes holds (NumPy's or torch's), as Python has it; others as they are.

    A number in bfloat16 or float32 is the one that it is rounded to.
    """
    return value.item() if getattr(value, "shape", None) == () else value  # type: ignore[attr-defined]


def check_number(
    owner: str,
    name: str,
    value: object,
    *,
    low: float = 0.0,
    high: float = math.inf,
    above: bool = False,
    infinite: bool = False,
) -> float:
    """Refuse what is no number in [low, high]; the others as Python has them.

    Parameters
    ----------
    above : whether ``low`` itself is refused.
    infinite : whether infinity is a value.

    Raises
    ------
    ParamError : it is not; the message names the range.
    """
    if isinstance(value, Real) and not isinstance(value, bool | np.bool_):
        number = float(value)
        inside = (number > low if above else number >= low) and number <= high
        if inside and (infinite or math.isfinite(number)):
            return number
    left = f"({low:g}" if above or low == -math.inf else f"[{low:g}"
    right = "inf]" if infinite else "inf)" if high == math.inf else f"{high:g}]"
    kind = type(value).__name__
    held = f"; this is a {kind}: give its .item()" if hasattr(value, "item") else ""
    message = f"{owner}: {name} = {value}: allowed is a number in {left}, {right}{held}"
    raise ParamError(message)


def check_count(owner: str, name: str, value: object, *, low: int = 1) -> None:
    """Refuse what is no whole number of at least ``low``.

    Raises
    ------
    ParamError : it is not.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        message = f"{owner}: {name} = {value}: allowed is a whole number of at least {low}"
        raise ParamError(message)


def check_word(owner: str, name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a word that is not among those allowed.

    Raises
    ------
    ParamError : it is not.
    """
    if value not in allowed:
        message = f"{owner}: {name} = {value!r}: allowed is {', '.join(allowed)}"
        raise ParamError(message)
