"""docs/QUALITY.md: every figure in it comes from the record."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loramix_testbed.matrix.ablations import ABLATIONS
from loramix_testbed.matrix.methods import METHODS, PAIRED
from loramix_testbed.matrix.stacks import mixed as mixed_stacks
from loramix_testbed.matrix.stacks import others
from loramix_testbed.places import CALIBRATION
from loramix_testbed.report.choosing import chosen, modes, predicting
from loramix_testbed.report.markdown import spelled, tables
from loramix_testbed.report.standing import differences, limit, standing
from loramix_testbed.report.summary import Row, rows
from loramix_testbed.world.adapters import HALVES, SPECS

_HEAD = """# Quality

Measured in the testbed (`testbed/README.md`): a small diffusion model that draws glyphs, adapters
that taught it new symbols (content) and new typefaces with their colours (style), and a judge that
knows the true picture of every symbol in every style. All of this page is written from
`testbed/record/quality.json` by `python -m loramix_testbed report`.

- **both**: share of pictures in which the judge finds the symbol and the style asked for.
- **distance**: to the nearest of 48 true pictures, in the judge's features; **KID**: of the sets.
- **beyond**: how far colours are beyond black and white before they are cut; **energy**: contrast,
  1 is the truth's; **diversity**: over seeds, 1 is the truth's.
- **kept**: how much of an adapter at weight 1 is in the merged delta, along it, mean over adapters.
- **cost**: evaluations of the denoiser per step, with guidance; a merge has 2, as one adapter has.

Brackets are 95 % intervals, by a bootstrap over prompts and seeds. All methods start from the same
noise. Thresholds may only be chosen on the calibration half of the adapters; everything here is the
other half. A world of 24 pixels is no photograph: it says what composition does where the truth is
known, not how a merge of two particular files will look.
"""


_LIMIT = """The deltas of these adapters are nearly orthogonal: without data, all that a policy
can say of them is how long they are. So what would the best weights give? The same sum was measured
with contents at 1 to 1.7 and styles at 0.8 and 1: one choice for all stacks, by one who knows which
adapter is for what; and for every stack the best of them by the judge itself, on the pictures that
are counted, which is more than any choice can give. Both-accuracy; a single adapter has what
"Adapters alone" says.
"""


def quality(cells: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """The page.

    Parameters
    ----------
    folder : where the files of `calibrate` are, if there are any.
    """
    measured = rows(cells, "held-out")
    held = [row for row in measured if row.method in {**METHODS, **PAIRED}]
    changed = [row for row in measured if row.method in ABLATIONS]
    mixed = [row for row in held if row.kind == "mixed"]
    parts = [_HEAD, _alone(held)]
    if mixed:
        parts += [
            "## Where `auto` stands\n",
            standing(mixed),
            "Differences of both-accuracy, picture by picture, on the same noise:\n",
            differences(cells, sorted({row.size for row in mixed})),
            "Two adapters, every method and mode:\n\n![two adapters](quality-pairs.svg)\n",
            "Mean over 2 to 8 adapters, of what was measured on all sizes:\n\n"
            "![quality against cost](quality.svg)\n",
        ]
    if best := limit(cells, (2, 3)):
        parts += ["## How far weights alone could go\n", _LIMIT, best]
    told_by: dict[str, Callable[[Any], str]]
    told_by = {"calibration": chosen, "modes": modes, "scores": predicting}
    for name, told in told_by.items():
        file = folder / f"{name}.json"
        if file.is_file():
            parts.append(told(json.loads(file.read_text(encoding="utf-8"))))
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
