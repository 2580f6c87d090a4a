"""Two adapters side by side as text, made from the plain data of `loramix.Difference`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loramix.formats.trained import KEY
from loramix.report import cells
from loramix.report.inspection import json_object

_WORST = 8
_FIELDS = 6
_VALUE = 24


def render(facts: Mapping[str, Any], width: int = 80) -> str:
    """Lay the differences of two adapters out."""
    total = facts["total"]
    numbers = (
        f"relative difference {cells.error(total['difference'])}",
        *([f"cosine {_cosine(total['cosine'])}"] if total["cosine"] is not None else []),
        *([f"ratio {total['ratio']:.4g}"] if total["ratio"] is not None else []),
    )
    lines = [
        ("first", facts["paths"][0] or facts["names"][0]),
        ("second", facts["paths"][1] or facts["names"][1]),
        ("deltas", facts["sentence"]),
        ("total", ", ".join(numbers)),
        *((name, f"{a} / {b}") for name, (a, b) in facts["facts"].items()),
        *_only(facts),
        *_metadata(facts["metadata"], facts["fields"]),
    ]
    parts = [cells.fields(lines, width), *_targets(facts, width)]
    return "\n\n".join(parts)


def _only(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = []
    for where, keys in zip(("first", "second"), facts["only"], strict=True):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            lines.append((f"only in {where}", f"{keys[0]}{more}"))
    return lines


def _metadata(
    strings: Mapping[str, Sequence[str | None]], fields: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Strings of the headers, those that are tables on lines of their own.

    Parameters
    ----------
    fields : of tables what differs; not shown of what loramix says of its own outputs.
    """
    tables = [name for name in fields if name != KEY]
    plain = {name: pair for name, pair in strings.items() if name not in tables}
    lines = [("metadata", _listed(plain, _value))] if plain else []
    for name in tables:
        told = _listed(fields[name], _field) or "the same, written in another way"
        lines.append(("fields", f"{name}: {told}"))
    return lines


def _listed(
    pairs: Mapping[str, Sequence[str | None]], show: Callable[[str, str | None], str]
) -> str:
    """The first few, both values of each."""
    shown = [
        f"{name} ({' / '.join(show(name, value) for value in values)})"
        for name, values in list(pairs.items())[:_FIELDS]
    ]
    more = [f"{len(pairs) - _FIELDS} more"] if len(pairs) > _FIELDS else []
    return ", ".join([*shown, *more])


def _field(_name: str, value: str | None) -> str:
    return "-" if value is None else cells.shorten(value, _VALUE)


def _value(name: str, value: str | None) -> str:
    """A string of a header; of what loramix says of its own outputs, which is long, the version."""
    if value is None:
        return "-"
    if name == KEY:
        return str(json_object(value).get("version", "unreadable"))
    return cells.shorten(value, _VALUE)


def _targets(facts: Mapping[str, Any], width: int) -> list[str]:
    """Those that differ most; nothing where nothing differs."""
    far = [one for one in facts["targets"] if one["pair"]["difference"] > facts["tolerance"]]
    if not far:
        return []
    header = ("differs", "by", "cosine", "ratio", "ranks")
    rows = [
        (
            one["target"],
            cells.error(one["pair"]["difference"]),
            _cosine(one["pair"]["cosine"]),
            _number(one["pair"]["ratio"]),
            "/".join(map(str, one["ranks"])),
        )
        for one in far[:_WORST]
    ]
    found = [cells.table(header, rows, "lrrrr", width)]
    if len(far) > _WORST:
        found.append(f"  and {len(far) - _WORST} more targets")
    return found


def _cosine(value: float | None) -> str:
    """Four places: what is smaller is chance."""
    return "-" if value is None else f"{round(value, 4) + 0.0:.4f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
