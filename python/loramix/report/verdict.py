"""What a report says in words: one sentence, and warnings."""

from collections.abc import Mapping

from loramix.analysis.compat import Compatibility, Pairing
from loramix.report import cells
from loramix.report.facts import Overview

_WEAK = 0.5
"""Retention below which most of an adapter is gone."""
_LOUD = 3.0
"""Ratio of norms from which one adapter drowns another."""
_LOSSY = 0.01
"""Relative error of a file that somebody would see."""


def verdict(found: Overview, compat: Compatibility | None) -> str:
    """The one sentence that stands on top: how they go together, what is done, what it costs.

    Adapters are called by their letters, which stand beside their names.
    """
    parts = []
    if compat:
        parts.append(_together(compat, [one["letter"] for one in found["adapters"]]))
    if found["methods"]:
        parts.append(_methods(found))
    if found["certificate"]:
        parts.append(_kept(found))
    if not parts:
        count = len(found["adapters"])
        parts.append(f"{count} adapter{'s' if count > 1 else ''} of {len(found['groups'])} targets")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _together(compat: Compatibility, letters: list[str]) -> str:
    worst = min(compat.pairs, key=lambda pair: (_SEVERITY.index(pair.kind), pair.score))
    if worst.kind in _APART:
        return f"{'the two' if len(letters) == 2 else 'all'} {_APART[worst.kind]}"
    return f"{letters[worst.first]} and {letters[worst.second]} are {_ADJECTIVES[worst.kind]}"


_ADJECTIVES: Mapping[str, str] = {
    "opposed": "opposed",
    "mixed": "opposed in some blocks and alike in others",
    "conflicted": "in conflict",
    "same": "nearly the same",
    "related": "related",
}
_APART: Mapping[str, str] = {
    "independent": "change the weights in unrelated directions",
    "disjoint": "change different weights",
}
_SEVERITY = (*_ADJECTIVES, *_APART)


def _methods(found: Overview) -> str:
    first, *others = found["methods"]
    if not others:
        return f"{first['method']} merges all groups"
    total = sum(one["groups"] for one in found["methods"])
    return f"{first['method']} merges {first['groups']} of {total} groups"


def _kept(found: Overview) -> str:
    error = found["certificate"]["relative"] if found["certificate"] else 0.0
    fidelity = f"with an error of {cells.error(error)}" if error else "exactly"
    kept = [100 * one["retention"] for one in found["became"]]
    if len(kept) < 2:
        return f"the file holds the result {fidelity}"
    low, high = f"{min(kept):.0f}", f"{max(kept):.0f}"
    share = f"{low} %" if low == high else f"{low} to {high} %"
    return f"the file holds {share} of each, {fidelity}"


def warnings(found: Overview, compat: Compatibility | None) -> list[str]:
    """Everything a user should know, one line each."""
    return [
        *(f"{one['name']}: {note}" for one in found["adapters"] for note in one["notes"]),
        *(
            f"{one['name']}: {len(one['skipped'])} tensors left out on request"
            for one in found["adapters"]
            if one["skipped"]
        ),
        *_against(compat),
        *_loud(found),
        *_weak(found),
        *_lossy(found),
    ]


def _against(compat: Compatibility | None) -> list[str]:
    bad: list[Pairing] = [
        pair
        for pair in (compat.pairs if compat else ())
        if pair.kind in ("opposed", "mixed", "conflicted")
    ]
    names = compat.names if compat else ()
    return [f"{names[p.first]} and {names[p.second]}: {p.words}" for p in reversed(bad)]


def _loud(found: Overview) -> list[str]:
    norms = [(one["norm"], one["name"]) for one in found["adapters"] if one["norm"]]
    if len(norms) < 2:
        return []
    (low, weak), (high, strong) = min(norms), max(norms)
    assert low is not None  # zeros and unknown ones are out
    assert high is not None
    if high <= _LOUD * low:
        return []
    return [f"{strong} is {high / low:.3g} times as strong as {weak}: check the weights"]


def _weak(found: Overview) -> list[str]:
    each = [
        f"{one['adapter']} ({100 * one['retention']:.0f} %)"
        for one in found["became"]
        if one["retention"] < _WEAK
    ]
    return [f"less than half of an adapter is in the result: {', '.join(each)}"] if each else []


def _lossy(found: Overview) -> list[str]:
    certificate = found["certificate"]
    if not certificate or certificate["relative"] <= _LOSSY:
        return []
    return [
        f"the file differs from what was meant by {cells.error(certificate['relative'])}: "
        "a larger rank or a smaller error budget (--rank, --max-error) keeps more"
    ]
