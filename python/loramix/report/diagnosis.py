"""What is wrong with a file as text, made from the plain data of `loramix.Diagnosis`."""

from collections.abc import Mapping, Sequence
from typing import Any

from loramix.report import cells


def render(facts: Mapping[str, Any], width: int = 80) -> str:
    """Lay a diagnosis out."""
    lines = [
        ("file", facts["path"]),
        ("format", f"{facts['format']}, {cells.size(facts['size'])}{_tensors(facts)}"),
        *_model(facts),
        ("found", _counts(facts["counts"])),
    ]
    return "\n\n".join([cells.fields(lines, width), *_findings(facts["findings"], width)])


def _tensors(facts: Mapping[str, Any]) -> str:
    return f", {facts['tensors']} tensors" if facts["tensors"] else ""


def _model(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not facts["tensors"]:
        return []
    share = f" ({100 * facts['match']:.3g} % of its modules fit)" if facts["architecture"] else ""
    names = f"{facts['architecture'] or 'unknown'}{share}, {facts['dialect'] or 'unknown'} keys"
    return [("model", names)]


def _counts(counts: Mapping[str, int]) -> str:
    some = [f"{n} {name}{'' if n == 1 else 's'}" for name, n in counts.items() if n]
    return ", ".join(some) or "nothing: the file is sound"


def _findings(findings: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    found = []
    for one in findings:
        more = f" and {one['count'] - 1} more" if one["count"] > 1 else ""
        lines = [(one["severity"], one["what"])]
        lines += [("where", f"{one['where']}{more}")] if one["where"] else []
        lines += [("mend", one["mend"])] if one["mend"] else []
        found.append(cells.fields(lines, width))
    return found
