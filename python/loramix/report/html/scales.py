"""Numbers as texts and as classes of colour.

Colours are classes, not values: a style sheet gives them for light and dark, and the page needs
no style attribute, which its content policy forbids.
"""

from collections.abc import Mapping
from typing import Literal

Metric = Literal[
    "score", "cosine", "conflict", "weighted_conflict", "excess", "lost", "overlap", "groups"
]

STEPS = 5
DASH = "\u2013"
_SCALES: Mapping[str, tuple[float, float]] = {
    "cosine": (0.0, 1.0),
    "excess": (0.0, -0.25),
    "conflict": (0.5, -0.5),
    "weighted_conflict": (0.5, -0.5),
    "score": (1.0, 1.0),
}
"""What says nothing, and how far from there the good end is; trouble lies the other way."""


def signed(value: float | None, digits: int = 2) -> str:
    """A number with a true minus; a dash for none."""
    if value is None:
        return DASH
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "\u2212")


def share(value: float | None, digits: int = 0) -> str:
    """A share as a percentage."""
    return DASH if value is None else f"{signed(100 * value, digits)} %"


def within(value: float | None, error: float | None, digits: int = 3) -> str:
    """A number and its standard error, where that can be seen."""
    if value is None or error is None:
        return signed(value, digits)
    shown = f"{error:.{digits}f}"
    return f"{signed(value, digits)} \u00b1 {shown}" if float(shown) else signed(value, digits)


def size(value: float | None) -> str:
    """A norm, three digits."""
    return DASH if value is None else f"{value:.3g}"


def colour(metric: str, value: float | None, *, sure: bool = True) -> str:
    """The class of a value.

    Parameters
    ----------
    sure : whether the value differs from 0 at all; if not, it gets no colour.

    Returns
    -------
    ``n5`` to ``n1`` for trouble, ``z0`` for nothing, ``p1`` to ``p5`` for agreement, ``s1`` to
    ``s5`` for amounts that are neither; ``none`` where there is no value.
    """
    if value is None:
        return "none"
    letter = "s"
    if metric in _SCALES:
        middle, reach = _SCALES[metric]
        value = (value - middle) / reach
        letter = "n" if value < 0 else "p"
    step = round(STEPS * min(1.0, abs(value)))
    return f"{letter}{step}" if sure and step else "z0"


def method_class(index: int) -> str:
    """The colour of a method, by its place in the list of methods."""
    return f"m{index % 8}"
