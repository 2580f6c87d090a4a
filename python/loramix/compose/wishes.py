"""What a user asks of a composition, checked before anything is loaded."""

from collections.abc import Iterable, Mapping, Sequence, Set
from os import PathLike
from typing import TypeAlias, TypeVar, cast

from loramix.compose.functional.arrays import Array
from loramix.compose.functional.checks import check_number, number_of
from loramix.compose.functional.masking import check_mask
from loramix.compose.modes import MODES, Merge, Mode
from loramix.compose.pool import Pool
from loramix.compose.saving import Saving
from loramix.errors import ParamError
from loramix.spelling import named
from loramix.types import StrPath

_SHOWN = 60
_T = TypeVar("_T")
Each: TypeAlias = Sequence[_T] | Mapping[str, _T]
"""One for every adapter, in their order or by the names that the user gave them."""


def adapters_of(
    adapters: Sequence[StrPath] | Mapping[str, StrPath] | Pool,
) -> tuple[tuple[StrPath, ...], tuple[str, ...] | None]:
    """The adapters, none of a pool; and the names that the user gave them in a mapping.

    Raises
    ------
    ParamError : one adapter that is not in a list, or names that are no texts.
    """
    if isinstance(adapters, Pool):
        return (), None
    if isinstance(adapters, str | PathLike) or not isinstance(adapters, Iterable):
        message = (
            f"adapters = {adapters}: give a list of files or names, a mapping from names of your "
            "own to them, or a Pool"
        )
        raise ParamError(message)
    if isinstance(adapters, Set):
        message = "adapters: a set has no order, which weights and modes need; give a list"
        raise ParamError(message)
    given = adapters.values() if isinstance(adapters, Mapping) else adapters
    names = tuple(adapters) if isinstance(adapters, Mapping) else None
    found = tuple(given)
    for one in found:
        if not isinstance(one, str | PathLike) or not str(one).strip():
            what = f"{one!r}"[:_SHOWN]
            message = f"adapters: {what} is neither a file nor the name of a loaded adapter"
            raise ParamError(message)
    for name, one in zip(names or (), found, strict=False):
        if not isinstance(name, str) or not name.strip():
            message = f"adapters: {name!r} is no name for {one}: give a text"
            raise ParamError(message)
    return found, names


def rule_of(what: str, given: object, table: Mapping[str, type[_T]]) -> _T:
    """A mode or a guidance: an object, its class, or a text.

    Parameters
    ----------
    what : for messages.

    Raises
    ------
    ParamError : none of them, no such name, or a parameter out of range.
    """
    if isinstance(given, str):
        found: _T = named(what, given, table)
        return found
    if isinstance(given, type) and given in table.values():
        made: _T = given()
        return made
    # Others may have written one of their own: it has a name, and what the protocol asks for.
    if isinstance(given, type) or not isinstance(getattr(given, "name", None), str):
        known = ", ".join(table)
        message = f"{what} = {given!r}: give an object, its class, or a text; known are {known}"
        raise ParamError(message)
    return cast("_T", given)


def saving_of(given: object) -> Saving:
    """What saves work: an object, a text of its parameters, or None.

    Raises
    ------
    ParamError : none of them, no such parameter, or one out of range.
    """
    if given is None:
        return Saving()
    if isinstance(given, str):
        parameters = given.removeprefix(f"{Saving.name}:")
        found: Saving = named(Saving.name, f"{Saving.name}:{parameters}", {Saving.name: Saving})
        return found
    if not isinstance(given, Saving):
        message = f"saving = {given!r}: give a Saving, or a text such as every=3,window=0.2+0.8"
        raise ParamError(message)
    return given


def _in_order(what: str, given: Each[_T], names: Sequence[str] | None) -> Sequence[_T]:
    """What is given for each adapter, in their order.

    Raises
    ------
    ParamError : other names than those of the adapters, or names where these have none.
    """
    if not isinstance(given, Mapping):
        return given
    if names is None:
        message = f"{what} by names: the adapters have none; give a list in their order"
        raise ParamError(message)
    if set(given) != set(names):
        lacking = ", ".join(name for name in names if name not in given)
        strange = ", ".join(str(name) for name in given if name not in names)
        said = [f"none for {lacking}"] * bool(lacking) + [f"no adapter {strange}"] * bool(strange)
        message = f"{what} by names: {'; '.join(said)}"
        raise ParamError(message)
    return [given[name] for name in names]


def numbers(
    name: str,
    values: Each[float] | None,
    count: int,
    names: Sequence[str] | None,
    *,
    low: float = 0.0,
) -> tuple[float, ...] | None:
    """One finite number of at least ``low`` for every adapter; None: none are given.

    Parameters
    ----------
    values : Python's, NumPy's or torch's, those of an array among them.
    names : that the user gave the adapters; None: they have none.

    Raises
    ------
    ParamError : another count, or no such numbers.
    """
    if values is None:
        return None
    values = _in_order(name, values, names)
    if isinstance(values, str) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) != 1:
        message = f"{name} = {values}: give a list with a number for each adapter"
        raise ParamError(message)
    if len(values) != count:
        message = f"{len(values)} {name} for {count} adapters: give one each"
        raise ParamError(message)
    return tuple(check_number("compose", name, number_of(value), low=low) for value in values)


def masks_for(
    mode: Mode, masks: Each[Array | None] | None, count: int, names: Sequence[str] | None
) -> tuple[Array | None, ...] | None:
    """A mask or None for every adapter; None: there are none at all.

    Raises
    ------
    ParamError : another count, a mode without weights for pixels, or numbers outside [0, 1].
    ShapeError : a mask that is not (rows, columns).
    """
    if masks is None:
        return None
    masks = _in_order("masks", masks, names)
    if not hasattr(masks, "__len__"):
        message = f"masks = {masks}: give a list with a mask or None for each adapter"
        raise ParamError(message)
    if all(one is None for one in masks):
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
