"""What a user asks of a composition, checked before anything is loaded."""

from collections.abc import Sequence

from loramix.compose.functional.arrays import Array
from loramix.compose.functional.checks import check_number, number_of
from loramix.compose.functional.masking import check_mask
from loramix.compose.modes import MODES, Merge, Mode
from loramix.errors import ParamError


def numbers(
    name: str, values: Sequence[float] | None, count: int, *, low: float = 0.0
) -> tuple[float, ...] | None:
    """One finite number of at least ``low`` for every adapter; None: none are given.

    Parameters
    ----------
    values : Python's, NumPy's or torch's, those of an array among them.

    Raises
    ------
    ParamError : another count, or no such numbers.
    """
    if values is None:
        return None
    if isinstance(values, str) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) != 1:
        message = f"{name} = {values}: give a list with a number for each adapter"
        raise ParamError(message)
    if len(values) != count:
        message = f"{len(values)} {name} for {count} adapters: give one each"
        raise ParamError(message)
    return tuple(check_number("compose", name, number_of(value), low=low) for value in values)


def masks_for(
    mode: Mode, masks: Sequence[Array | None] | None, count: int
) -> tuple[Array | None, ...] | None:
    """A mask or None for every adapter; None: there are none at all.

    Raises
    ------
    ParamError : another count, a mode without weights for pixels, or numbers outside [0, 1].
    ShapeError : a mask that is not (rows, columns).
    """
    if masks is None or all(one is None for one in masks):
        return None
    if len(masks) != count:
        message = f"{len(masks)} masks for {count} adapters: give one each, or None"
        raise ParamError(message)
    if not mode.per_pixel:
        able = ", ".join(name for name, kind in MODES.items() if kind.per_pixel)
        message = f"mode {mode.name} has no weights for pixels; masks go with {able}"
        raise ParamError(message)
    for number, one in enumerate(masks):
        if one is not None:
            check_mask(one, f"masks[{number}]")
    return tuple(masks)


def refuse_with_pool(mode: Mode, **given: object) -> None:
    """What is said for each adapter of a list is not known of a pool.

    Raises
    ------
    ParamError : such an argument, or a mode that makes one adapter of a list.
    """
    if isinstance(mode, Merge) and mode.method != "linear":
        message = (
            f"mode merge with method {mode.method} takes a list of adapters; of a pool, choose one "
            "that runs them one at a time, such as loratorio:k=2"
        )
        raise ParamError(message)
    for name, value in given.items():
        if value is not None and value != "none":
            message = (
                f"{name} goes with a list of adapters; of a pool, whose members are not known "
                "before, give Pool(weight=...) for all, and text encoders have none of them"
            )
            raise ParamError(message)
