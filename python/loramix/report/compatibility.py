"""Which adapters go together as text, made from the plain data of `loramix.analysis.compat`."""

from collections.abc import Mapping
from typing import Any

from loramix.report import cells, naming


def render(facts: Mapping[str, Any], width: int = 80) -> str:
    """Lay the pairs of a stack out, best first, and what to do with them.

    Parameters
    ----------
    facts : see `loramix.analysis.compat.Compatibility.as_dict`.
    """
    letters = naming.letters(len(facts["names"]))
    pairs = [(letters[p["first"]] + letters[p["second"]], p) for p in facts["pairs"]]
    parts = (
        cells.table(("adapter", ""), list(zip(letters, facts["names"], strict=True)), "ll", width),
        _ranks(pairs, width),
        cells.fields([(label, pair["words"]) for label, pair in pairs], width),
        cells.fields([*_stacks(facts), *_opponents(facts)], width),
    )
    return "\n\n".join(parts)


def _ranks(pairs: list[tuple[str, Mapping[str, Any]]], width: int) -> str:
    header = ("pair", "score", "error", "confidence", "kind", "published")
    rows = [
        (
            label,
            f"{pair['score']:.2f}",
            _number(pair["error"], ".3f"),
            pair["confidence"],
            pair["kind"],
            _number(pair["published"], "+.2f"),
        )
        for label, pair in pairs
    ]
    return cells.table(header, rows, "lrrllr", width)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _stacks(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = []
    for cluster in facts["clusters"]:
        names = " + ".join(facts["names"][i] for i in cluster["adapters"])
        score = f" (mean score {cluster['score']:.2f} of 1)" if len(cluster["adapters"]) > 1 else ""
        lines.append(("stack" if score else "alone", f"{names}: {cluster['words']}{score}"))
    return lines


def _opponents(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = facts["names"]
    return [
        ("note", f"{name}: not in one sum with {', '.join(names[i] for i in against)}")
        for name, against in zip(names, facts["opponents"], strict=True)
        if against
    ]
