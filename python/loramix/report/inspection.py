"""What is in a file as text, made from the plain data of `loramix.Inspection`."""

import json
from collections.abc import Mapping
from typing import Any

from loramix.report import cells

_MAIN = ("ss_base_model_version", "ss_network_dim", "ss_network_alpha")


def render(facts: Mapping[str, Any], width: int = 80) -> str:
    """Lay the facts about one adapter out."""
    volume = (
        cells.size(facts["size"]),
        f"{facts['parameters']:,} parameters",
        f"{facts['tensors']} tensors used",
    )
    lines = [
        ("adapter", facts["name"]),
        ("path", facts["path"] or "in memory"),
        ("architecture", _architecture(facts)),
        ("dialect", facts["dialect"]),
        ("modules", _counts(facts["modules"])),
        ("families", _counts(facts["families"])),
        ("kinds", _counts(facts["kinds"])),
        ("ranks", _counts(facts["ranks"]) or "-"),
        ("dtypes", _counts(facts["dtypes"]).lower()),
        ("scale", f"{cells.span(*facts['scales'])} (alpha / rank)"),
        ("size", ", ".join(volume)),
        *_metadata(facts["metadata"]),
        *(("note", note) for note in facts["notes"]),
    ]
    return cells.fields(lines, width)


def _architecture(facts: Mapping[str, Any]) -> str:
    nearest = ""
    if facts["runner_up"]:
        name, share = facts["runner_up"]
        nearest = f"{name}, {100 * share:.3g} %"
    if facts["architecture"]:
        following = f"; next is {nearest}" if nearest else ""
        fitting = f"{100 * facts['match']:.3g} % of its modules fit"
        return f"{facts['architecture']} ({fitting}{following})"
    candidates = " or ".join(facts["candidates"])
    if candidates:
        return f"undecided: {candidates}"
    return f"unknown (nearest is {nearest})" if nearest else "unknown"


def _counts(values: Mapping[object, int]) -> str:
    if len(values) == 1:
        ((what, count),) = values.items()
        return f"{what} (all {count})"
    return ", ".join(f"{what} ({count})" for what, count in values.items())


def _metadata(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    lines = []
    base = json_object(metadata.get("adapter_config.json")).get("base_model_name_or_path")
    if base:
        lines.append(("base", str(base)))
    trained = [f"{name} {metadata[name]}" for name in _MAIN if name in metadata]
    if trained:
        lines.append(("metadata", ", ".join(trained)))
    made = json_object(metadata.get("loramix"))
    if made:
        lines.append(("made by", _provenance(made)))
    return lines


def _provenance(made: Mapping[str, Any]) -> str:
    method, sources = made.get("method"), made.get("sources")
    name = method.get("name") if isinstance(method, dict) else method
    listed = [s for s in sources if isinstance(s, dict)] if isinstance(sources, list) else []
    parts = [f"{cells.weight(_weight(source))} {source.get('name')}" for source in listed]
    return f"loramix {made.get('version')}: {name} of {', '.join(parts) or 'unknown sources'}"


def _weight(source: Mapping[str, Any]) -> object:
    """A number, or numbers by glob: provenance keeps those as pairs, in order."""
    weight = source.get("weight")
    return dict(weight) if isinstance(weight, list) else weight


def json_object(text: str | None) -> dict[str, Any]:
    """A JSON object in a string; empty if it is anything else, as headers hold what they like."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
