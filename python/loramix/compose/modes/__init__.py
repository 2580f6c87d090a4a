"""The table of modes: one line each.

To add one: a file beside this one, a line here, its row in the table of ``tests/compose``.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

from loramix.compose.modes.base import Mode as Mode
from loramix.compose.modes.base import Moment as Moment
from loramix.compose.modes.cm import Cm as Cm
from loramix.compose.modes.composite import Composite as Composite
from loramix.compose.modes.k_lora import KLora as KLora
from loramix.compose.modes.loratorio import Loratorio as Loratorio
from loramix.compose.modes.merge import Merge as Merge
from loramix.compose.modes.multlfg import MultLfg as MultLfg
from loramix.compose.modes.switch import Switch as Switch
from loramix.compose.modes.w_composite import WComposite as WComposite
from loramix.compose.modes.w_composite import importance_of as importance_of
from loramix.compose.modes.w_switch import WSwitch as WSwitch
from loramix.errors import ParamError
from loramix.nearest import hint

_ALL: tuple[type[Mode], ...] = (
    Loratorio,
    Composite,
    Switch,
    Merge,
    WSwitch,
    WComposite,
    Cm,
    MultLfg,
    KLora,
)
MODES: Mapping[str, type[Mode]] = MappingProxyType({m.name: m for m in _ALL})


def named(what: str, text: str, table: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of the table
    """An object of a table from a text such as ``loratorio:tau=0.1,patch=8``.

    Parameters
    ----------
    what : ``mode`` or ``guidance``, for the message.

    Raises
    ------
    ParamError : no such name or parameter, a parameter that no text can be, or a value outside its
        range.
    """
    name, _, rest = text.partition(":")
    if name not in table:
        message = f"{what} {name!r}{hint(name, table)}; known are {', '.join(table)}"
        raise ParamError(message)
    kind = cast("Callable[..., object]", table[name])
    fields = {f.name.rstrip("_"): f for f in dataclasses.fields(cast("Any", kind))}
    found: dict[str, object] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in fields:
            known = ", ".join(fields) or "none"
            message = f"{name}: no parameter {key!r}{hint(key, fields)}; it has {known}"
            raise ParamError(message)
        if fields[key].name in found:
            message = f"{name}: {key} is given twice"
            raise ParamError(message)
        if isinstance(fields[key].default, tuple):
            message = f"{name}: {key} = {value}: give it in Python, as a tuple"
            raise ParamError(message)
        found[fields[key].name] = _value(value)
    return kind(**found)


def _value(text: str) -> object:
    """A text as a number, or as it is: the constructor says what it allows."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
