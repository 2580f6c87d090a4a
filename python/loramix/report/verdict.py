"""What a report says in words: one sentence, and warnings."""

from loramix.compat import Compatibility, Pairing
from loramix.report import cells
from loramix.report.facts import Overview

_WEAK = 0.5
"""Retention below which most of an adapter is gone."""
_LOUD = 3.0
"""Ratio of norms from which one adapter drowns another."""
_LOSSY = 0.01
"""Relative error of a file that somebody would see."""


def verdict(found: Overview, compat: Compatibility | None) -> str:
    """The one sentence that stands on top."""
    count = len(found["adapters"])
    many = "1 adapter changes" if count == 1 else f"{count} adapters change"
    parts = [f"{many} {len(found['groups'])} targets"]
    if count > 1:
        parts[0] += f", {found['shared']} of them in common"
    if compat and compat.pairs:
        parts.append(_worst(compat))
    if found["methods"]:
        parts.append(_methods(found))
    if found["certificate"]:
        parts.append(_kept(found))
    return "; ".join(parts) + "."


def _worst(compat: Compatibility) -> str:
    kinds = {pair.kind for pair in compat.pairs}
    if kinds <= {"independent", "disjoint"}:
        return "they are independent" if len(compat.pairs) > 1 else "the two are independent"
    worst = compat.pairs[-1]
    names = f"{compat.names[worst.first]} and {compat.names[worst.second]}"
    return f"{names} are {_ADJECTIVES[worst.kind]}" if len(compat.names) > 2 else worst.words


_ADJECTIVES = {
    "opposed": "opposed",
    "mixed": "opposed in some blocks and alike in others",
    "conflicted": "in conflict",
    "same": "nearly the same",
    "related": "related",
    "independent": "independent",
    "disjoint": "apart",
}


def _methods(found: Overview) -> str:
    first, *others = found["methods"]
    if not others:
        return f"all are merged by {first['method']}"
    total = sum(one["groups"] for one in found["methods"])
    share = f"{first['groups']} of {total}"
    return f"{len(others) + 1} methods are used, mostly {first['method']} ({share})"


def _kept(found: Overview) -> str:
    error = found["certificate"]["relative"] if found["certificate"] else 0.0
    kept = [one["retention"] for one in found["became"]]
    text = (
        f"the file is what was meant to within {cells.error(error)}"
        if error
        else "the file is exact"
    )
    if len(kept) < 2:
        return text
    low, high = f"{100 * min(kept):.0f}", f"{100 * max(kept):.0f}"
    share = f"{low} %" if low == high else f"{low} to {high} %"
    return f"{text} and keeps {share} of each adapter"


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
    return [
        f"{one['adapter']}: {100 * one['retention']:.0f} % of it is in the result"
        for one in found["became"]
        if one["retention"] < _WEAK
    ]


def _lossy(found: Overview) -> list[str]:
    certificate = found["certificate"]
    if not certificate or certificate["relative"] <= _LOSSY:
        return []
    return [
        f"the file differs from what was meant by {cells.error(certificate['relative'])}: "
        "a larger rank or a smaller error budget (--rank, --max-error) keeps more"
    ]
