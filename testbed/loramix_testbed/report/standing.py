"""Where `auto` stands among the others, and how far weights alone could go."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loramix_testbed.judging.intervals import Interval
from loramix_testbed.matrix.ablations import WEIGHTED
from loramix_testbed.matrix.methods import FURTHER
from loramix_testbed.report.markdown import spelled
from loramix_testbed.report.summary import Row, ahead, both_of

_RIVALS = (
    *("sum", "1/N", "average", "slerp", "karcher", "ties", "dare"),
    *("knots(ties)", "core(ties)", "iso-c"),
    *FURTHER,
)


def standing(mixed: Sequence[Row]) -> str:
    """For every size `auto`, the best fixed merge in hindsight, and the best of all."""
    lines = ["| adapters | auto | best fixed merge | best of all |", "|---|---|---|---|"]
    for size in sorted({row.size for row in mixed}):
        own = {row.method: row for row in mixed if row.size == size and row.method != "truth"}
        fixed = [row for row in own.values() if row.method in _RIVALS or "energy" in row.method]
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
    rivals = [name for name in (*_RIVALS, "published", "no adapter") if name in there]
    lines = [
        "| auto less | " + " | ".join(f"{size} adapters" for size in sizes) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for name in rivals:
        gaps = [ahead(cells, "held-out", "mixed", size, ("auto", name)) for size in sizes]
        lines.append(f"| {name} | " + " | ".join(_marked(gap) for gap in gaps) + " |")
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
        fixed = [row for name, row in own.items() if name in _RIVALS or "energy" in name]
        if "auto" not in own or not fixed:
            continue
        best = max(fixed, key=lambda row: row.both.mean)
        gap = ahead(cells, "held-out", kind, size, ("auto", best.method))
        lines.append(
            f"| {kind}, {size} | {own['auto'].both.mean:.2f} | {best.method}: "
            f"{best.both.mean:.2f} | {_marked(gap)} | {own['auto'].pictures} |"
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


def _marked(gap: Interval) -> str:
    """Bold where the interval excludes 0."""
    text = "{:+.2f} [{:+.2f}, {:+.2f}]".format(
        *(round(value, 2) + 0.0 for value in (gap.mean, gap.low, gap.high))
    )
    return f"**{text}**" if gap.low > 0 or gap.high < 0 else text


def limit(cells: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> str:
    """What the best weights would give, chosen by one who knows the adapters, or the truth."""
    lines = [
        "| adapters | auto | sum | best weights of content and style, for all stacks | "
        "best weights for each stack, by the judge |",
        "|---|---|---|---|---|",
    ]
    for size in sizes:
        known = _accuracies(cells, size)
        stacks = sorted(known.get("sum", {}))
        tried = [name for name in ("sum", *WEIGHTED) if set(known.get(name, {})) >= set(stacks)]
        if not stacks or len(tried) <= len(WEIGHTED) or set(known.get("auto", {})) < set(stacks):
            continue
        means = {name: _mean(known[name], stacks) for name in (*tried, "auto")}
        best = max(tried, key=means.__getitem__)
        most = np.mean([max(known[name][stack] for name in tried) for stack in stacks])
        lines.append(
            f"| {size} | {means['auto']:.2f} | {means['sum']:.2f} | "
            f"{best}: {means[best]:.2f} | {most:.2f} |"
        )
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _accuracies(cells: Sequence[Mapping[str, Any]], size: int) -> dict[str, dict[str, float]]:
    """Both-accuracy of the held-out mixed stacks of a size, by method and stack."""
    found: dict[str, dict[str, float]] = {}
    for cell in cells:
        if (cell["half"], cell["kind"], cell["size"]) == ("held-out", "mixed", size):
            right = np.concatenate([both_of(prompt) for prompt in cell["prompts"]])
            found.setdefault(cell["method"], {})[cell["stack"]] = float(right.mean())
    return found


def _mean(values: Mapping[str, float], stacks: Sequence[str]) -> float:
    return float(np.mean([values[stack] for stack in stacks]))
