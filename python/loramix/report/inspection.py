"""What is in a file as text, made from the plain data of `loramix.Inspection`."""

import json
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from loramix.formats.scales import CONFIG
from loramix.planning.steps import canonical
from loramix.policies import POLICIES, policy_from
from loramix.report import cells

_MAIN = ("ss_base_model_version", "ss_network_dim", "ss_network_alpha")
_SAID = ("modelspec.trigger_phrase", "ss_trigger_words", "trigger_words")
_DIGITS = 12
"""Of a digest: enough to tell files apart."""


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
        ("scale", _scale(facts)),
        ("size", ", ".join(volume)),
        *_metadata(facts["metadata"]),
        *provenance(facts["provenance"], facts["path"]),
        *(("note", note) for note in facts["notes"]),
    ]
    return cells.fields(lines, width)


def render_any(facts: Mapping[str, Any], width: int = 80) -> str:
    """Lay the facts about an adapter or a model out."""
    return (render_model if facts.get("kind") == "model" else render)(facts, width)


def render_model(facts: Mapping[str, Any], width: int = 80) -> str:
    """Lay the facts about one base model out."""
    made = facts["provenance"]
    architecture = facts["architecture"]
    fitting = f"{architecture} ({100 * facts['match']:.3g} % of its weights fit)"
    lines = [
        ("model", facts["name"]),
        ("path", facts["path"]),
        ("architecture", fitting if architecture else "unknown"),
        ("dtypes", _counts(facts["dtypes"]).lower()),
        ("size", f"{cells.size(facts['size'])}, {facts['parameters']:,} parameters"),
        ("tensors", f"{facts['tensors']} in {facts['files']} file{'s' * (facts['files'] > 1)}"),
        *provenance(made, facts["path"]),
        *([("baked into", _base(made))] if _base(made) else []),
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


def _scale(facts: Mapping[str, Any]) -> str:
    """Scales as they are applied, and what they are made of."""
    config = json_object(facts["metadata"].get(CONFIG))
    root = "sqrt(rank)" if config.get("use_rslora") is True else "rank"
    return f"{cells.span(*facts['scales'])} (alpha / {root})"


def _counts(values: Mapping[object, int]) -> str:
    if len(values) == 1:
        ((what, count),) = values.items()
        return f"{what} (all {count})"
    return ", ".join(f"{what} ({count})" for what, count in values.items())


def _metadata(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    lines = []
    base = json_object(metadata.get(CONFIG)).get("base_model_name_or_path")
    if base:
        lines.append(("base", str(base)))
    trained = [f"{name} {metadata[name]}" for name in _MAIN if name in metadata]
    if trained:
        lines.append(("metadata", ", ".join(trained)))
    said = [metadata[name] for name in _SAID if metadata.get(name, "").strip()]
    if said:
        lines.append(("trigger", ", ".join(dict.fromkeys(said))))
    return lines


def provenance(made: Mapping[str, Any], path: str | None = None) -> list[tuple[str, str]]:
    """How loramix made a file, as labelled lines; nothing where it did not.

    Parameters
    ----------
    made : as it stands in the header, which may hold anything.
    path : of the file, for the command that makes it again.
    """
    if not made:
        return []
    found = made.get("sources")
    sources = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    method = made.get("method")
    name = method.get("name") if isinstance(method, dict) else method
    told = f"{name} of {_parts(sources, extracted=name == 'extract') or 'unknown sources'}"
    lines = [
        ("made by", f"loramix {made.get('version')}: {told}"),
        *([("method", text)] if isinstance(method, dict) and (text := _method(method)) else []),
        *(("source", _source(one)) for one in sources),
        *(("base", one) for one in dict.fromkeys(map(_base, sources)) if one),
        *_rules(made),
    ]
    again = "recipe" in made or "plan" in made
    if path is not None and again:
        lines.append(("again", f"loramix reproduce {quote(path)} --sources DIR"))
    return lines


def _parts(sources: Sequence[Mapping[str, Any]], *, extracted: bool) -> str:
    """What went in, with weights; of an extracted adapter the two models."""
    if extracted:
        return " - ".join(str(one.get("name")) for one in sources)
    return ", ".join(f"{cells.weight(_weight(one))} {one.get('name')}" for one in sources)


def _method(method: Mapping[str, Any]) -> str:
    """Parameters of a method or a policy, of policies those that are not as usual."""
    name = method.get("name")
    usual: dict[str, object] = {"name": name, "refine": "none", "space": "weight"}
    if isinstance(name, str) and name in POLICIES:
        usual |= canonical(policy_from(name, {}).describe())
    rest = {key: value for key, value in sorted(method.items()) if value != usual.get(key)}
    return ", ".join(f"{key.rstrip('_')} {_short(value)}" for key, value in rest.items())


def _short(value: object) -> str:
    if isinstance(value, dict):
        said = _method(value)
        return f"{value.get('name')} ({said})" if said else str(value.get("name"))
    if isinstance(value, list):
        return "+".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _source(one: Mapping[str, Any]) -> str:
    """A source with what tells it from others, and whose it is."""
    facts = [_digest(one)]
    if isinstance(one.get("size"), int):
        facts.append(cells.size(one["size"]))
    said = one.get("trained")
    if isinstance(said, dict):
        facts += [f"{key} {value}" for key, value in sorted(said.items())]
    return f"{one.get('name')}: {', '.join(facts)}"


def _base(one: Mapping[str, Any]) -> str:
    """The base model that a source is relative to; empty if there is none."""
    base = one.get("base")
    if not isinstance(base, dict):
        return ""
    return f"{base.get('name')}: {_digest(base)}"


def _digest(one: Mapping[str, Any]) -> str:
    """Its first digits, and what they are of."""
    algorithm, _, digits = str(one.get("digest", "digest:unknown")).partition(":")
    return f"{algorithm} {digits[:_DIGITS]}"


def _rules(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The seed, what was asked of the output, the strengths of branches."""
    lines = [("seed", str(made["seed"]))] if made.get("seed") else []
    output = made.get("output")
    if isinstance(output, dict):
        asked = [
            (key, value) for key, value in sorted(output.items()) if value not in (None, False)
        ]
        lines.append(("output", ", ".join(f"{key} {_short(value)}" for key, value in asked)))
    strengths = made.get("auto_strength")
    if isinstance(strengths, dict) and strengths:
        told = (f"{branch} {cells.weight(scale)}" for branch, scale in sorted(strengths.items()))
        lines.append(("strengths", ", ".join(told)))
    if made.get("backend") not in (None, "rust"):
        lines.append(("backend", str(made["backend"])))
    decided = made.get("plan")
    if isinstance(decided, dict) and isinstance(decided.get("groups"), list) and decided["groups"]:
        lines.append(("plan", f"decisions for {len(decided['groups'])} groups are in the file"))
    return lines


def _weight(source: Mapping[str, Any]) -> object:
    """A number, or numbers by glob: provenance keeps those as pairs, in order."""
    weight = source.get("weight")
    if isinstance(weight, list) and all(isinstance(p, list) and len(p) == 2 for p in weight):
        return {str(glob): number for glob, number in weight}
    return weight


def json_object(text: str | None) -> dict[str, Any]:
    """A JSON object in a string; empty if it is anything else, as headers hold what they like."""
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
