"""docs/QUALITY.md: every figure in it comes from the record."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loramix_testbed.judging.intervals import Interval
from loramix_testbed.matrix.ablations import ABLATIONS
from loramix_testbed.matrix.methods import METHODS, PAIRED
from loramix_testbed.matrix.stacks import mixed as mixed_stacks
from loramix_testbed.matrix.stacks import others
from loramix_testbed.places import CALIBRATION
from loramix_testbed.report.markdown import spelled, tables
from loramix_testbed.report.summary import Row, ahead, rows
from loramix_testbed.world.adapters import HALVES, SPECS

_RIVALS = (
    *("sum", "1/N", "average", "slerp", "karcher", "ties", "dare"),
    *("knots(ties)", "core(ties)", "iso-c"),
)

_HEAD = """# Quality

Measured in the testbed (`testbed/README.md`): a small diffusion model that draws glyphs, adapters
that taught it new symbols (content) and new typefaces with their colours (style), and a judge that
knows the true picture of every symbol in every style. All of this page is written from
`testbed/record/quality.json` by `python -m loramix_testbed report`.

- **both**: share of pictures in which the judge finds the symbol and the style asked for.
- **distance**: to the nearest of 48 true pictures, in the judge's features; **KID**: of the sets.
- **beyond**: how far colours are beyond black and white before they are cut; **energy**: contrast,
  1 is the truth's; **diversity**: over seeds, 1 is the truth's.
- **cost**: evaluations of the denoiser per step, with guidance; a merge has 2, as one adapter has.

Brackets are 95 % intervals, by a bootstrap over prompts and seeds. All methods start from the same
noise. Thresholds may only be chosen on the calibration half of the adapters; everything here is the
other half. A world of 24 pixels is no photograph: it says what composition does where the truth is
known, not how a merge of two particular files will look.
"""


def quality(cells: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """The page.

    Parameters
    ----------
    folder : where scores.json is, if they were computed.
    """
    measured = rows(cells, "held-out")
    held = [row for row in measured if row.method in {**METHODS, **PAIRED}]
    changed = [row for row in measured if row.method in ABLATIONS]
    mixed = [row for row in held if row.kind == "mixed"]
    parts = [_HEAD, _alone(held)]
    if mixed:
        parts += [
            "## Where `auto` stands\n",
            _standing(mixed),
            "Differences of both-accuracy, picture by picture, on the same noise:\n",
            _differences(cells, sorted({row.size for row in mixed})),
            "Two adapters, every method and mode:\n\n![two adapters](quality-pairs.svg)\n",
            "Mean over 2 to 8 adapters, of what was measured on all sizes:\n\n"
            "![quality against cost](quality.svg)\n",
        ]
    scores = folder / "scores.json"
    if scores.is_file():
        parts.append(_scores(json.loads(scores.read_text(encoding="utf-8"))))
    if changed:
        parts.append("## One change at a time\n\n" + tables(changed) + "\n")
    parts.append(_lacking(measured))
    parts.append("## All figures\n\n" + tables([row for row in held if row.kind != "alone"]))
    return "\n".join(parts).rstrip() + "\n"


def _lacking(measured: Sequence[Row]) -> str:
    """What the testbed has a place for, and this page no figure."""
    stacks = [stack for half in HALVES for stack in (*mixed_stacks(half), *others(half))]
    kinds = dict.fromkeys(stack.kind for stack in stacks)
    lines = []
    if unknown := [kind for kind in kinds if kind not in {row.kind for row in measured}]:
        lines.append(f"- Stacks of these kinds: {', '.join(unknown)}.")
    if untrained := [name for name, spec in SPECS.items() if not spec.path.is_file()]:
        lines.append(f"- With adapters that are not trained yet: {', '.join(untrained)}.")
    if not CALIBRATION.is_file():
        lines.append("- The calibration half: no threshold of `auto` was chosen by pictures.")
    known = {row.method for row in measured}
    if open_questions := [name for name in ABLATIONS if name not in known]:
        lines.append(f"- One change at a time: {', '.join(open_questions)}.")
    return "## Not measured yet\n\n" + "\n".join(lines) + "\n" if lines else ""


def _alone(held: Sequence[Row]) -> str:
    found = [row for row in held if row.kind == "alone"]
    if not found:
        return ""
    row = found[0]
    return (
        "## Adapters alone\n\nEvery held-out adapter by itself, asked for its own concept "
        f"({row.pictures} pictures):\ncontent {spelled(row.content)}, style {spelled(row.style)},\n"
        f"both {spelled(row.both)}, distance {spelled(row.distance, 3)}.\n"
    )


def _standing(mixed: Sequence[Row]) -> str:
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


def _differences(cells: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> str:
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


def _marked(gap: Interval) -> str:
    """Bold where the interval excludes 0."""
    text = "{:+.2f} [{:+.2f}, {:+.2f}]".format(
        *(round(value, 2) + 0.0 for value in (gap.mean, gap.low, gap.high))
    )
    return f"**{text}**" if gap.low > 0 or gap.high < 0 else text


def _scores(found: Mapping[str, Sequence[float]]) -> str:
    lines = [
        "## What scores without data predict\n",
        "Rank correlation with both-accuracy over the merges of a stack, mean over the mixed "
        "stacks of both halves:\n",
        "| score | rank correlation | stacks |",
        "|---|---|---|",
    ]
    lines += [f"| {k} | {np.mean(v):+.2f} | {len(v)} |" for k, v in sorted(found.items())]
    return "\n".join(lines) + "\n"
