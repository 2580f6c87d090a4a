"""Values and tables in the spelling of TOML."""

import json
import re
from collections.abc import Mapping

from loramix.errors import ParamError

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHOWN = 60


def document(tables: Mapping[str, object]) -> str:
    """A whole file: plain values first, then tables, then lists of tables.

    Parameters
    ----------
    tables : what a parser makes of the file, without None; tables of tables stand in one line.
    """
    plain = {k: v for k, v in tables.items() if not _headed(v)}
    blocks = [_lines(plain)] if plain else []
    for name, value in tables.items():
        if isinstance(value, Mapping):
            blocks.append(f"[{key(name)}]\n{_lines(value)}")
        elif _headed(value):
            blocks += [f"[[{key(name)}]]\n{_lines(one)}" for one in _listed(value)]
    return "\n".join(blocks)


def _headed(found: object) -> bool:
    return isinstance(found, Mapping) or bool(_listed(found))


def _listed(found: object) -> list[Mapping[str, object]]:
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _lines(table: Mapping[str, object]) -> str:
    return "".join(f"{key(name)} = {value(found)}\n" for name, found in table.items())


def key(name: str) -> str:
    """A key, in quotes if it needs them."""
    return name if _BARE.fullmatch(name) else _text(name)


def value(found: object) -> str:
    """A value, on one line.

    Raises
    ------
    ParamError : a text that is not Unicode, such as the name of a file in another encoding.
    """
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, str):
        return _text(found)
    if isinstance(found, Mapping):
        inner = ", ".join(f"{key(name)} = {value(one)}" for name, one in found.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(found, list):
        return f"[{', '.join(map(value, found))}]"
    # Decimal digits of very long integers cost their square, and Python refuses to make them.
    long = isinstance(found, int) and found.bit_length() > 64
    return f"{found:#x}" if long else str(found)


def _text(found: str) -> str:
    """A string of JSON is one of TOML, but for the one control character that JSON lets pass."""
    try:
        found.encode()
    except UnicodeEncodeError:
        message = f"{found!r} is not Unicode and cannot be written in a recipe"
        raise ParamError(message) from None
    return json.dumps(found, ensure_ascii=False).replace("\x7f", "\\u007f")


def shown_key(name: str) -> str:
    """A key in a message."""
    return name if _BARE.fullmatch(name) else shown(name)


def shown(found: object) -> str:
    """A value in a message: not too long, and whatever it holds."""
    try:
        text = value(found)
    except ParamError:
        text = ascii(found)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
