"""What limits `auto` in small stacks: all measured changes of it, and the best weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from loramix_testbed.judging.intervals import Interval
from loramix_testbed.matrix.ablations import ABLATIONS, WEIGHTED, base_of
from loramix_testbed.report.standing import RIVALS, marked
from loramix_testbed.report.summary import ahead, both_of

Cells: TypeAlias = Sequence[Mapping[str, Any]]

BY_THE_JUDGE = "sum, weights for each stack by the judge"
"""Of the plain sum and `WEIGHTED`, what is best on the pictures that are counted."""
_RIVALS = (*RIVALS, "published")
_WAYS = ("auto", "sum", *(name for name in ABLATIONS if base_of(name) in ("auto", "sum")))


@dataclass(frozen=True, slots=True)
class Standing:
    """A way in the mixed stacks of a size.

    Attributes
    ----------
    both : share of pictures that are right.
    gap : `both` less that of `auto`.
    behind : rivals that it is ahead of, by an interval above 0.
    level : the other rivals.
    doubt : half the width of the intervals of its differences from rivals, on average.
    """

    way: str
    both: float
    gap: Interval
    behind: tuple[str, ...]
    level: tuple[str, ...]
    doubt: float


def limits(cells: Cells, sizes: Sequence[int]) -> str:
    """A table of all changes, and what follows from it; empty where nothing was changed."""
    found = {size: standings(cells, size) for size in sizes}
    found = {size: ways for size, ways in found.items() if len(ways) > 2}
    if not found:
        return ""
    heads = [f"{size} adapters | less auto | ahead of" for size in found]
    lines = [f"| way | {' | '.join(heads)} |", "|---|" + "---|---|---|" * len(found)]
    for way in dict.fromkeys(way for ways in found.values() for way in ways):
        own = (ways.get(way) for ways in found.values())
        lines.append(f"| {way} | " + " | ".join(map(_cell, own)) + " |")
    told = [_told(size, ways) for size, ways in found.items()]
    return "\n".join([*lines, "", *told])


def standings(cells: Cells, size: int) -> dict[str, Standing]:
    """Ways that were measured on all stacks of the size that `auto` was, the best first."""
    kind = ("held-out", "mixed", size)
    own = [cell for cell in cells if (cell["half"], cell["kind"], cell["size"]) == kind]
    own += _by_the_judge(own)
    stacks = {name: set(right) for name, right in _accuracies(own).items()}
    whole = {name for name, have in stacks.items() if have >= stacks.get("auto", {""})}
    rivals = [name for name in _RIVALS if name in whole]
    ways = [name for name in (*_WAYS, BY_THE_JUDGE) if name in whole]
    found = [_standing(own, size, way, [r for r in rivals if r != way]) for way in ways]
    return {one.way: one for one in sorted(found, key=lambda one: (-one.both, one.way))}


def _standing(cells: Cells, size: int, way: str, rivals: Sequence[str]) -> Standing:
    gaps = {name: _ahead(cells, size, way, name) for name in rivals}
    prompts = [both_of(p).mean() for c in cells if c["method"] == way for p in c["prompts"]]
    return Standing(
        way=way,
        both=float(np.mean(prompts)),
        gap=_ahead(cells, size, way, "auto"),
        behind=tuple(name for name, gap in gaps.items() if gap.low > 0),
        level=tuple(name for name, gap in gaps.items() if gap.low <= 0),
        doubt=float(np.mean([(gap.high - gap.low) / 2 for gap in gaps.values()] or [0.0])),
    )


def _ahead(cells: Cells, size: int, way: str, other: str) -> Interval:
    return ahead(cells, "held-out", "mixed", size, (way, other))


def _by_the_judge(cells: Cells) -> Cells:
    """Of every stack the cell whose weights are best, if all were measured."""
    known = _accuracies(cells)
    tried = ("sum", *WEIGHTED)
    if not all(known.get(name, {}).keys() >= known.get("sum", {"": 0.0}).keys() for name in tried):
        return []
    best = {stack: max(tried, key=lambda name: known[name][stack]) for stack in known["sum"]}
    chosen = [cell for cell in cells if best.get(cell["stack"]) == cell["method"]]
    return [{**cell, "method": BY_THE_JUDGE} for cell in chosen]


def _accuracies(cells: Cells) -> dict[str, dict[str, float]]:
    """Both-accuracy by method and stack."""
    found: dict[str, dict[str, float]] = {}
    for cell in cells:
        right = np.mean([both_of(prompt).mean() for prompt in cell["prompts"]])
        found.setdefault(cell["method"], {})[cell["stack"]] = float(right)
    return found


def _cell(one: Standing | None) -> str:
    if one is None:
        return "| |"
    gap = "" if one.way == "auto" else marked(one.gap)
    return f"{one.both:.2f} | {gap} | {len(one.behind)} of {len(one.behind) + len(one.level)}"


def _told(size: int, ways: Mapping[str, Standing]) -> str:
    """What the table says of one size."""
    auto = ways["auto"]
    better = [one.way for one in ways.values() if one.gap.low > 0]
    worse = [one.way for one in ways.values() if one.gap.high < 0]
    return (
        f"- **{size} adapters**: `auto` is ahead of {_named(auto.behind)}, and not of "
        f"{_named(auto.level)}. A lead of less than about {auto.doubt:.2f} does not show: so wide "
        "to either side are the intervals of its differences, on average. Of all ways in the "
        f"table, surely better than `auto`: {_named(better)}; surely worse: {_named(worse)}; "
        f"ahead of all rivals: {_named([one.way for one in ways.values() if not one.level])}.\n"
    )


def _named(names: Sequence[str]) -> str:
    return "; ".join(names) if names else "none"
