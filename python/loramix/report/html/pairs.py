"""Pairs of adapters: a heat map for every number, and what they mean in words."""

from collections.abc import Mapping
from typing import Any

from loramix.report.facts import Overview, Pair, PairNumber
from loramix.report.html.markup import Markup, heat, join, number, prose, section, table, tag
from loramix.report.html.scales import colour, share, signed, within

_MATRICES: tuple[tuple[PairNumber, str, str], ...] = (
    ("cosine", "Cosine", "\u22121 opposed, 0 independent, 1 the same"),
    ("excess", "Excess conflict", "signs that clash more than the angle says"),
    ("overlap", "Overlap beyond chance", "energy in the same directions"),
    ("weighted_conflict", "Weighted conflict", "share of the smaller magnitudes"),
    ("lost", "Lost energy", "what a plain sum loses where signs differ"),
)
_HEADER = (
    "Pair", "Score", "What would happen", "Cosine", "Excess conflict", "Lost energy", "Overlap",
    "Shared groups", "Published score",
)  # fmt: skip


def pairs(found: Overview) -> Markup | None:
    """All pairs; None for one adapter."""
    if not found["pairs"]:
        return None
    scores = _scores(found)
    parts = [_words(found, scores)]
    if len(found["adapters"]) > 2:
        parts.append(tag("div", *_matrices(found, scores), class_="matrices"))
    return section("Pairs", *parts, *_stacks(found), name="pairs")


def label(found: Overview, first: int, second: int) -> str:
    """Letters of two adapters."""
    letters = [one["letter"] for one in found["adapters"]]
    return f"{letters[first]}\u00b7{letters[second]}"


def _scores(found: Overview) -> dict[tuple[int, int], Mapping[str, Any]]:
    compat = found["compatibility"] or {"pairs": ()}
    return {(one["first"], one["second"]): one for one in compat["pairs"]}


def _words(found: Overview, scores: Mapping[tuple[int, int], Mapping[str, Any]]) -> Markup:
    by_pair = {(pair["first"], pair["second"]): pair for pair in found["pairs"]}
    order = [*scores, *(pair for pair in by_pair if pair not in scores)]
    rows = [_row(found, by_pair[key], scores.get(key)) for key in order]
    return table("Pairs, those that go together best first", _HEADER, rows, kind="words")


def _row(found: Overview, pair: Pair, score: Mapping[str, Any] | None) -> list[object]:
    names = [found["adapters"][i]["name"] for i in (pair["first"], pair["second"])]
    head = join((tag("b", label(found, pair["first"], pair["second"])), " ", " + ".join(names)))
    facts = score or {"score": None, "error": None, "words": "not known", "published": None}
    return [
        head,
        heat(within(facts["score"], facts["error"], 2), colour("score", facts["score"])),
        tag("td", prose(facts["words"]), class_="prose"),
        heat(signed(pair["cosine"], 3), colour("cosine", pair["cosine"])),
        heat(
            within(pair["excess"], pair["excess_error"]),
            colour("excess", pair["excess"], sure=pair["significant"]),
        ),
        number(share(pair["lost"])),
        number(signed(pair["overlap"])),
        number(pair["groups"]),
        number(signed(facts["published"])),
    ]


def _matrices(found: Overview, scores: Mapping[tuple[int, int], Mapping[str, Any]]) -> list[Markup]:
    values = {key: one["score"] for key, one in scores.items()}
    first = _matrix(found, "score", "Score", "1: neither suffers next to the other", values)
    others = []
    for metric, title, meaning in _MATRICES:
        numbers = {(p["first"], p["second"]): p[metric] for p in found["pairs"]}
        others.append(_matrix(found, metric, title, meaning, numbers))
    return [first, *others] if values else others


def _matrix(
    found: Overview,
    metric: str,
    title: str,
    meaning: str,
    values: Mapping[tuple[int, int], float | None],
) -> Markup:
    sure = {(p["first"], p["second"]): p["significant"] for p in found["pairs"]}
    heads = [tag("abbr", one["letter"], title=one["name"]) for one in found["adapters"]]
    rows = []
    for i, head in enumerate(heads):
        cells: list[object] = [head]
        for j in range(len(heads)):
            if i == j:
                cells.append(tag("td", "\u00b7", class_="self"))
                continue
            key = (min(i, j), max(i, j))
            value = values[key]
            kind = colour(metric, value, sure=metric != "excess" or sure[key])
            cells.append(tag("td", signed(value), class_=kind))
        rows.append(cells)
    corner = tag("th", tag("span", "Adapter", class_="unseen"), scope="col")
    caption = join((tag("b", title), " ", tag("span", meaning)))
    grid = table(title, [corner, *heads], rows, kind="matrix", hidden=True)
    return tag("figure", tag("figcaption", caption), grid)


def _stacks(found: Overview) -> list[Markup]:
    compat = found["compatibility"]
    if not compat or len(found["adapters"]) < 3:
        return []
    names = [f"{one['letter']} {one['name']}" for one in found["adapters"]]
    lines = []
    for cluster in compat["clusters"]:
        members = ", ".join(names[i] for i in cluster["adapters"])
        several = len(cluster["adapters"]) > 1
        end = f"{cluster['words']} (mean score {signed(cluster['score'])} of 1)"
        lines.append(tag("li", tag("b", members), ": ", end if several else cluster["words"]))
    return [tag("h3", "Suggested stacks"), tag("ul", *lines)]
