"""Strings of headers that are JSON objects, field by field: what differs of two of them."""

import json
from collections.abc import Iterator, Mapping

Value = tuple[str | None, str | None]
"""A field of both as text; None where one has none of that name."""
_MOST = 1 << 24
"""Characters; nobody compares larger strings by eye."""
REORDERED = "the same in another order"


def fields_of(first: str | None, second: str | None) -> dict[str, Value] | None:
    """Fields that differ; None if one of the strings is no JSON object.

    Those inside of others have dots in their names.  Of lists of texts it is the texts that only
    one of them has: what they list, such as the modules of an adapter, has no order.
    """
    one, other = _object(first), _object(second)
    if one is None or other is None:
        return None
    return dict(_differing(one, other, ""))


def _object(text: str | None) -> Mapping[str, object] | None:
    if text is None or len(text) > _MOST:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _differing(
    one: Mapping[str, object], other: Mapping[str, object], where: str
) -> Iterator[tuple[str, Value]]:
    for key in sorted({*one, *other}):
        name = where + key
        if key not in one or key not in other:
            yield name, (_text(one, key), _text(other, key))
            continue
        first, second = one[key], other[key]
        if isinstance(first, dict) and isinstance(second, dict):
            yield from _differing(first, second, f"{name}.")
        elif _texts(first) and _texts(second) and first != second:
            yield name, _listed(first, second)
        elif first != second or isinstance(first, bool) != isinstance(second, bool):
            yield name, (_text(one, key), _text(other, key))


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _listed(first: object, second: object) -> Value:
    """Texts that only one of two lists has."""
    assert isinstance(first, list)
    assert isinstance(second, list)
    only = sorted({*first} - {*second}), sorted({*second} - {*first})
    if only == ([], []):
        return (REORDERED, REORDERED)
    return ("+".join(only[0]) or None, "+".join(only[1]) or None)


def _text(table: Mapping[str, object], key: str) -> str | None:
    if key not in table:
        return None
    value = table[key]
    return value if isinstance(value, str) else json.dumps(value)
