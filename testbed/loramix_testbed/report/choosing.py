"""What the calibration half said."""

from collections.abc import Mapping, Sequence

import numpy as np

from loramix_testbed.matrix.calibrating import OF_DISTANCE

_SHOWN = 12
_WHY_NOT = """
Balanced adapters do best here, and are not the default all the same: the adapters of
this world were all trained alike, so their lengths say how strong they are. Files from everywhere
differ in length by what they are for, and a default that makes some of them up to twice as strong
as their authors and the weights say would be a surprise."""


_BEFORE = """
Strengths of `auto`, and temperatures of LoRAtorio, had been looked at on held-out stacks before
this half was measured; the choice was made here. Where the last column has another order, it does
not carry over.
"""


def chosen(found: Mapping[str, Mapping[str, float]], held: Mapping[str, float]) -> str:
    """The best ways by the objective, and every one of `auto`.

    Parameters
    ----------
    held : the same objective on the held-out half, of the ways that were measured there.
    """
    shown = [
        name for at, name in enumerate(found) if at < _SHOWN or name.partition(":")[0] == "auto"
    ]
    lines = [
        "## What was chosen on the calibration half\n",
        f"The objective is both-accuracy less {OF_DISTANCE:g} of the distance, a mean over the "
        "mixed stacks of a size;\nall figures are in `testbed/record/calibration.json`. The best "
        f"{_SHOWN} of {len(found)} ways, and all of `auto`,\nwhose default is `strength=2`:\n",
        "| way | 2 adapters | 3 | 5 | 8 | mean | mean of the held-out half |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in shown:
        sizes = " | ".join(f"{found[name][size]:+.2f}" for size in ("2", "3", "5", "8", "mean"))
        there = f"{held[name]:+.2f}" if name in held else ""
        lines.append(f"| {name} | {sizes} | {there} |")
    lines.append(_BEFORE.rstrip())
    if next(iter(found)).startswith("auto:balance"):
        lines.append(_WHY_NOT)
    return "\n".join(lines) + "\n"


def modes(found: Mapping[str, Mapping[str, float]]) -> str:
    """The candidates for the default of `Loratorio`."""
    lines = [
        "## What temperature LoRAtorio gets\n",
        "The same objective, on stacks of two and three with 16 pictures each:\n",
        "| mode | 2 adapters | 3 | mean |",
        "|---|---|---|---|",
    ]
    for name, row in found.items():
        sizes = " | ".join(f"{row[size]:+.2f}" for size in ("2", "3", "mean"))
        lines.append(f"| {name} | {sizes} |")
    return "\n".join(lines) + "\n"


def predicting(found: Mapping[str, Sequence[float]]) -> str:
    """How well scores without data predict what was measured."""
    lines = [
        "## What scores without data predict\n",
        "Rank correlation with both-accuracy over the merges of a stack, mean over the mixed "
        "stacks of both halves:\n",
        "| score | rank correlation | stacks |",
        "|---|---|---|",
    ]
    lines += [f"| {k} | {np.mean(v):+.2f} | {len(v)} |" for k, v in sorted(found.items())]
    return "\n".join(lines) + "\n"
