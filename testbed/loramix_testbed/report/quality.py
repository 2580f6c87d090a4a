"""docs/QUALITY.md: every figure in it comes from the record."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from loramix_testbed.matrix.ablations import ABLATIONS, base_of
from loramix_testbed.matrix.calibrating import objective
from loramix_testbed.matrix.methods import FURTHER, METHODS, PAIRED
from loramix_testbed.matrix.stacks import mixed as mixed_stacks
from loramix_testbed.matrix.stacks import others
from loramix_testbed.places import CALIBRATION
from loramix_testbed.report.choosing import chosen, modes, predicting
from loramix_testbed.report.limits import limits
from loramix_testbed.report.markdown import spelled, tables
from loramix_testbed.report.overall import overall_table
from loramix_testbed.report.standing import concentration, differences, elsewhere, standing
from loramix_testbed.report.summary import Row, rows
from loramix_testbed.world.adapters import HALVES, SPECS

_HEAD = """# Quality

Measured in the testbed (`testbed/README.md`): a small diffusion model that draws glyphs, adapters
that taught it new symbols (content) and new typefaces with their colours (style), and a judge that
knows the true picture of every symbol in every style. All of this page is written from the files
in `testbed/record` by `python -m loramix_testbed report`.

- **both**: share of pictures in which the judge finds the symbol and the style asked for, a mean
  over prompts, as all figures are.
- **distance**: to the nearest of 48 true pictures, in the judge's features; **KID**: of the sets.
- **beyond**: how far colours are beyond black and white before they are cut; **energy**: contrast,
  1 is the truth's; **diversity**: over seeds, 1 is the truth's.
- **kept**: how much of an adapter at weight 1 is in the merged delta, along it, mean over adapters.
- **cost**: evaluations of the denoiser per step, with guidance; a merge has 2, as one adapter has.

Brackets are 95 % intervals, by a bootstrap over prompts and seeds. All methods start from the same
noise. Thresholds may only be chosen on the calibration half of the adapters; what is not said to be
of that half is of the other, held-out one. A world of 24 pixels is no photograph: it says what
composition does where the truth is known, not how a merge of two particular files will look.
"""


_CHANGES = """What each part of a method is worth: ways that differ in one thing, and what they
differ from on the same pictures. Of `auto`, votes in every group are what conflicts by raw sign
counts would decide: they are not more than chance here, so `auto` holds no vote."""

_LIMIT = """The aim was an `auto` that is ahead of the plain sum, of 1/N, of every merge that does
the same in every group, and of `published`, with an interval of the difference above 0. Here are
all the changes of it that were measured, one at a time. The deltas of these adapters are nearly
orthogonal, so `auto` adds them; changes of the plain sum are changes of `auto`, too. "Ahead of"
counts those rivals.

Rows with weights say how much of the gap is a matter of weights alone: contents at 1 to 1.7, styles
at 0.8 and 1, one choice for all stacks, by one who knows which adapter is for what. In the row
"by the judge" the best of these is taken for every stack, on the pictures that are counted: more
than any choice among them can give.
"""

_OPEN = """Contents and styles of this world differ in where their energy is (styles have the larger
share in the last blocks), so a policy could see which is which. Whether that is so of other
adapters is not known, and `auto` makes no use of it: weights are the user's.
"""

_OPPOSED = """Of the stacks called opposed the judge says little: stroke weight is no class of its
own, and the base alone is right. They show that nothing breaks.
"""


def quality(cells: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """The page.

    Parameters
    ----------
    folder : where the files of `calibrate` are, if there are any.
    """
    measured = rows(cells, "held-out")
    held = [row for row in measured if row.method in {**METHODS, **FURTHER, **PAIRED}]
    changed = rows(_compared(cells), "held-out")
    mixed = [row for row in held if row.kind == "mixed"]
    parts = [_HEAD, _alone(held)]
    if mixed:
        parts += [
            "## Where `auto` stands\n",
            standing(mixed),
            "Differences of both-accuracy, picture by picture, on the same noise:\n",
            differences(cells, sorted({row.size for row in mixed})),
            "The other kinds of stacks, beside the fixed merge that is best in hindsight:\n",
            elsewhere(cells, held),
            _OPPOSED,
            concentration(cells),
            "Two adapters, every method and mode:\n\n![two adapters](quality-pairs.svg)\n",
            "Mean over 2 to 8 adapters, of what was measured on all sizes:\n\n"
            "![quality against cost](quality.svg)\n",
            overall_table([c for c in cells if c["method"] in {**METHODS, **FURTHER}]),
        ]
    if changes := limits(cells, (2, 3)):
        parts += ["## What limits `auto` with two and three adapters\n", _LIMIT, changes, _OPEN]
    told_by: dict[str, Callable[[Any], str]]
    told_by = {
        "calibration": partial(chosen, held=_objectives(measured)),
        "modes": modes,
        "scores": predicting,
    }
    for name, told in told_by.items():
        file = folder / f"{name}.json"
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8"))
            parts.append(told(found))
    if changed:
        parts += ["## One change at a time\n", _CHANGES + _alike(cells), tables(changed) + "\n"]
    parts.append(_lacking(measured))
    parts.append("## All figures\n\n" + tables([row for row in held if row.kind != "alone"]))
    return "\n".join(parts).rstrip() + "\n"


def _compared(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Cells of ways that differ in one thing, and of what they differ from on their stacks."""
    asked = {(base_of(c["method"]), _place(c)) for c in cells if c["method"] in ABLATIONS}
    return [
        cell
        for cell in cells
        if cell["method"] in ABLATIONS or (cell["method"], _place(cell)) in asked
    ]


def _place(cell: Mapping[str, Any]) -> tuple[str, ...]:
    return cell["half"], cell["kind"], cell["stack"]


def _alike(cells: Sequence[Mapping[str, Any]]) -> str:
    """Ways whose figures are in every cell those of what they differ from."""
    known = {(cell["method"], _place(cell)): cell["prompts"] for cell in cells}
    same = [
        name
        for name in ABLATIONS
        if all(
            known.get((base_of(name), place)) == prompts
            for (method, place), prompts in known.items()
            if method == name
        )
        and any(method == name for method, _ in known)
    ]
    return f" No figure changed with: {'; '.join(same)}.\n" if same else "\n"


def _objectives(measured: Sequence[Row]) -> dict[str, float]:
    """What the ways are chosen by, of those that the held-out half has in all sizes."""
    found: dict[str, dict[int, float]] = {}
    for row in measured:
        if row.kind == "mixed":
            found.setdefault(row.method, {})[row.size] = objective(row)
    most = max((len(sizes) for sizes in found.values()), default=0)
    return {name: sum(sizes.values()) / most for name, sizes in found.items() if len(sizes) == most}


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
