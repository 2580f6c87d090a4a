"""What came of making an output again as text, from the plain data of `loramix.Reproduction`."""

from collections.abc import Mapping
from typing import Any

from loramix.report import cells

_FEW = 5


def render(facts: Mapping[str, Any], width: int = 80) -> str:
    """Lay the facts about one reproduction out."""
    lines = [
        ("compared", f"{facts['path']}, made by loramix {facts['version']}"),
        *(("source", f"{one['name']}: {one['path']}") for one in facts["sources"]),
    ]
    if facts["again"]:
        lines.append(("wrote", facts["again"]))
    lines.append(("result", _result(facts)))
    if facts["header"]:
        lines.append(("header", _some(facts["header"])))
    if facts["tensors"]:
        lines.append(("tensors", _some(facts["tensors"])))
    if facts["files"]:
        lines.append(("files", _some(facts["files"])))
    lines += _measured(facts)
    lines += [("note", note) for note in facts["notes"]]
    return cells.fields(lines, width)


def _result(facts: Mapping[str, Any]) -> str:
    if facts["identical"]:
        return f"identical, byte by byte ({facts['total']} tensors)"
    if not facts["tensors"]:
        what = "the header differs" if facts["header"] else "other files differ"
        return f"not identical: all {facts['total']} tensors are the same, {what}"
    return f"not identical: {len(facts['tensors'])} of {facts['total']} tensors differ"


def _measured(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    if facts["error"] is None or facts["worst"] is None:
        return []
    key, error = facts["worst"]
    text = f"the deltas differ by {cells.error(facts['error'])}; most at {key}, by "
    return [("difference", text + cells.error(error))]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more
