"""One number for every method: a mean over the sizes of mixed stacks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loramix_testbed.judging.intervals import Interval, interval_over
from loramix_testbed.report.markdown import spelled
from loramix_testbed.report.summary import both_of


@dataclass(frozen=True, slots=True)
class Overall:
    """A method.

    Attributes
    ----------
    both : share of pictures that are right, a mean over the sizes.
    cost : evaluations of the denoiser per step, likewise.
    """

    method: str
    both: Interval
    cost: float


def overall(cells: Iterable[Mapping[str, Any]]) -> list[Overall]:
    """Methods on the held-out mixed stacks that were measured on all sizes, the best first."""
    right: dict[str, dict[int, list[NDArray[np.float64]]]] = {}
    cost: dict[str, dict[int, list[float]]] = {}
    for cell in cells:
        if (cell["half"], cell["kind"]) == ("held-out", "mixed"):
            name, size = cell["method"], cell["size"]
            found = right.setdefault(name, {}).setdefault(size, [])
            found += [both_of(prompt) for prompt in cell["prompts"]]
            cost.setdefault(name, {}).setdefault(size, []).append(cell["cost"])
    sizes = {size for own in right.values() for size in own}
    rows = [
        Overall(
            name,
            interval_over([own[size] for size in sorted(sizes)]),
            float(np.mean([np.mean(costs) for costs in cost[name].values()])),
        )
        for name, own in right.items()
        if set(own) == sizes
    ]
    return sorted(rows, key=lambda row: (-row.both.mean, row.method))


def overall_table(cells: Iterable[Mapping[str, Any]]) -> str:
    """The same as Markdown; empty where nothing was measured on all sizes."""
    lines = [f"| {row.method} | {spelled(row.both)} | {row.cost:g} |" for row in overall(cells)]
    if not lines:
        return ""
    return "\n".join(["| method | both, mean over sizes | cost |", "|---|---|---|", *lines]) + "\n"
