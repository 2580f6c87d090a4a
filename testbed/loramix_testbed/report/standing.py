"""Where `auto` stands among the others."""

from collections.abc import Mapping, Sequence
from typing import Any

from loramix_testbed.judging.intervals import Interval
from loramix_testbed.matrix.methods import FURTHER
from loramix_testbed.report.markdown import spelled
from loramix_testbed.report.summary import Row, ahead, both_of

RIVALS = (
    *("sum", "1/N", "sum, energy kept", "average", "slerp", "karcher"),
    *("ties", "dare", "knots(ties)", "core(ties)", "iso-c"),
    *FURTHER,
)
"""Merges that do the same in every group."""


def standing(mixed: Sequence[Row]) -> str:
    """For every size `auto`, the best fixed merge in hindsight, and the best of all."""
    lines = ["| adapters | auto | best fixed merge | best of all |", "|---|---|---|---|"]
    for size in sorted({row.size for row in mixed}):
        own = {row.method: row for row in mixed if row.size == size and row.method != "truth"}
        fixed = [row for row in own.values() if row.method in RIVALS]
        best, most = (max(r, key=lambda row: row.both.mean) for r in (fixed, list(own.values())))
        auto = spelled(own["auto"].both) if "auto" in own else "not measured"
        lines.append(
            f"| {size} | {auto} | {best.method}: {spelled(best.both)} | "
            f"{most.method}: {spelled(most.both)} |"
        )
    return "\n".join(lines) + "\n"


def differences(cells: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> str:
    """How far `auto` is ahead of every rival, with intervals."""
    there = {cell["method"] for cell in cells}
    if "auto" not in there:
        return ""
    rivals = [name for name in (*RIVALS, "published", "no adapter") if name in there]
    lines = [
        "| auto less | " + " | ".join(f"{size} adapters" for size in sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for name in rivals:
        gaps = [ahead(cells, "held-out", "mixed", size, ("auto", name)) for size in sizes]
        lines.append(f"| {name} | " + " | ".join(marked(gap) for gap in gaps) + " |")
    return "\n".join(lines) + "\n"


def elsewhere(cells: Sequence[Mapping[str, Any]], held: Sequence[Row]) -> str:
    """Stacks that are not mixed: `auto`, the best fixed merge, and how far it is ahead."""
    lines = [
        "| stacks | auto | best fixed merge | auto less that | pictures |",
        "|---|---|---|---|---|",
    ]
    others = [row for row in held if row.kind not in ("mixed", "alone")]
    for kind, size in dict.fromkeys((row.kind, row.size) for row in others):
        own = {row.method: row for row in others if (row.kind, row.size) == (kind, size)}
        fixed = [row for name, row in own.items() if name in RIVALS]
        if "auto" not in own or not fixed:
            continue
        best = max(fixed, key=lambda row: row.both.mean)
        gap = ahead(cells, "held-out", kind, size, ("auto", best.method))
        lines.append(
            f"| {kind}, {size} | {own['auto'].both.mean:.2f} | {best.method}: "
            f"{best.both.mean:.2f} | {marked(gap)} | {own['auto'].pictures} |"
        )
    return "\n".join(lines) + "\n"


def concentration(cells: Sequence[Mapping[str, Any]]) -> str:
    """Whose pictures the right ones of large stacks are."""
    told = []
    for size in (5, 8):
        hits: dict[str, int] = {}
        for cell in cells:
            if (cell["half"], cell["kind"], cell["size"]) == ("held-out", "mixed", size):
                for prompt in cell["prompts"] if cell["method"] == "auto" else ():
                    hits[prompt["style"]] = hits.get(prompt["style"], 0) + int(
                        both_of(prompt).sum()
                    )
        if sum(hits.values()):
            style = max(hits, key=hits.__getitem__)
            told.append(f"of {size} adapters {hits[style]} of {sum(hits.values())} are in {style}")
    if not told:
        return ""
    return (
        "In large stacks one style wins over the others: of the pictures that `auto` gets right, "
        + ", ".join(told)
        + ".\n"
    )


def marked(gap: Interval) -> str:
    """Bold where the interval excludes 0."""
    text = "{:+.2f} [{:+.2f}, {:+.2f}]".format(
        *(round(value, 2) + 0.0 for value in (gap.mean, gap.low, gap.high))
    )
    return f"**{text}**" if gap.low > 0 or gap.high < 0 else text
