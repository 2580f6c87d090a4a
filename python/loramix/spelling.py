"""Names, and objects with their parameters, as users spell them."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from loramix.errors import ParamError

_TRUTHS = {"true": True, "yes": True, "false": False, "no": False}


def hint(word: str, known: Iterable[str]) -> str:
    """`` (did you mean ...?)``, or nothing if no known word is near."""
    choices = list(known)
    folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(word.casefold(), folded, 1)
    return f" (did you mean {folded[near[0]]}?)" if near else ""


def listed(what: str, name: str, table: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of the table
    """What a table has under a name.

    Parameters
    ----------
    what : what the table is of, for the message.

    Raises
    ------
    ParamError : it has nothing of that name.
    """
    if name not in table:
        message = f"{what} {name!r}{hint(name, table)}; known are {', '.join(table)}"
        raise ParamError(message)
    return table[name]


def named(what: str, text: str, table: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of the table
    """An object of a table of dataclasses from a text such as ``ties:density=0.3``.

    Parameters are joined by commas, several values of one by ``+``.  A name that is a word of
    Python (`lambda`) has an underscore behind it there, and needs none here.

    Parameters
    ----------
    what : what the table is of, for the message.

    Raises
    ------
    ParamError : no such name or parameter, or a value outside its range.
    """
    name, _, parameters = text.partition(":")
    kind = listed(what, name, table)
    kinds = {f.name.rstrip("_"): f for f in dataclasses.fields(kind)}
    found: dict[str, object] = {}
    for part in filter(None, parameters.split(",")):
        key, _, value = part.partition("=")
        key = key.removesuffix("_") if key.removesuffix("_") in kinds else key
        refuse_unknown(name, key, kinds)
        if kinds[key].name in found:
            message = f"{name}: {key} is given twice"
            raise ParamError(message)
        found[kinds[key].name] = _value(kinds[key].type, value)
    return kind(**found)


def spelled(one: Any) -> str:  # noqa: ANN401 - of a table of `named`
    """An object as a text that `named` reads, with all its parameters."""
    said = []
    for field in dataclasses.fields(one):
        value = getattr(one, field.name)
        several = value if isinstance(value, tuple) else (value,)
        words = ["none" if item is None else str(item) for item in several]
        if words:
            said.append(f"{field.name.rstrip('_')}={'+'.join(words)}")
    return f"{one.name}:{','.join(said)}" if said else str(one.name)


def refuse_unknown(name: str, key: str, known: Iterable[str]) -> None:
    """Say which parameters there are, if this one is not.

    Raises
    ------
    ParamError : it is not.
    """
    known = list(known)
    if key not in known:
        there = ", ".join(known) or "none"
        message = f"{name}: no parameter {key!r}{hint(key, known)}; it has {there}"
        raise ParamError(message)


def _value(kind: object, text: str) -> object:
    """A text in a type of its field, or as it is: the constructor says what it allows."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    several = next((one for one in kinds if get_origin(one) is tuple), None)
    if several is not None and ("+" in text or len(kinds) == 1):
        return tuple(_value(get_args(several)[0], item) for item in text.split("+"))
    if bool in kinds:
        return _TRUTHS.get(text.lower(), text)
    if NoneType in kinds and text.lower() == "none":
        return None
    for number in (int, float):
        if number in kinds:
            try:
                return number(text)
            except ValueError:
                continue
    return text
