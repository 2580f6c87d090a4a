"""What the calibration half said."""

from collections.abc import Mapping, Sequence

import numpy as np

from loramix_testbed.matrix.calibrating import OF_DISTANCE

_SHOWN = 12


def chosen(found: Mapping[str, Mapping[str, float]]) -> str:
    """The best ways by the objective, and every one of `auto`."""
    shown = [
        name for at, name in enumerate(found) if at < _SHOWN or name.partition(":")[0] == "auto"
    ]
    lines = [
        "## What was chosen on the calibration half\n",
        f"The objective is both-accuracy less {OF_DISTANCE:g} of the distance, a mean over the "
        "mixed stacks of a size;\nall figures are in `testbed/record/calibration.json`. The best "
        f"{_SHOWN} of {len(found)} ways, and all of `auto`,\nwhose default is `strength=2`:\n",
        "| way | 2 adapters | 3 | 5 | 8 | mean |",
        "|---|---|---|---|---|---|",
    ]
    for name in shown:
        sizes = " | ".join(f"{found[name][size]:+.2f}" for size in ("2", "3", "5", "8", "mean"))
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
