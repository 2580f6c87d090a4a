"""Choosing on the calibration half, and asking what scores without data predict."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loramix.compose.modes import Loratorio
from loramix_testbed.matrix.methods import METHODS, Composed, Merged, Way
from loramix_testbed.matrix.running import Cell, Record, run
from loramix_testbed.matrix.stacks import Stack, mixed
from loramix_testbed.report.summary import Row, both_of, rows

OF_DISTANCE = 0.25
"""What a unit of distance to the truth costs, in shares of pictures that are right."""

CANDIDATES: Mapping[str, Way] = {
    **{f"sum * {gain:g}": Merged("linear", gain=gain) for gain in (0.6, 0.7, 0.8, 0.9, 1.1, 1.2)},
    **{f"retain * {gain:g}": Merged("retain", gain=gain) for gain in (0.8, 1.0, 1.2)},
    **{
        f"auto:{name}": Merged(f"auto:{name}")
        for name in ("strength=1", "strength=3", "strength=8")
    },
    **{f"auto:{name}": Merged(f"auto:{name}") for name in ("balance=0.5", "balance=1")},
    **{f"{name} * 1.5": Merged(name, gain=1.5) for name in ("knots(ties)", "core(ties)")},
    "elect": Merged("elect"),
    "core(elect)": Merged("core(elect)"),
    "tsv": Merged("tsv"),
    "iso-cts": Merged("iso-cts"),
    "ortho": Merged("ortho"),
}
"""Ways that are tried on the calibration half, beside `METHODS`."""

MODES: Mapping[str, Way] = {
    f"loratorio, tau {tau:g}": Composed(Loratorio(tau=tau)) for tau in (0.01, 0.05, 0.2, 1.0, 5.0)
}
"""Modes that are tried on the stacks of the calibration half that many pictures are asked of."""


def calibrate(path: Path, *, workers: int | None = None, device: str = "cpu") -> None:
    """Measure the candidates on the calibration half, and write what came of it beside the record.

    ``calibration.json``: the objective of every way, by size, best first.  ``modes.json``: that of
    modes.  ``scores.json``: for every score without data, its rank correlation with both-accuracy
    over the merges of a stack.
    """
    record = Record(path)
    merges = {name: way for name, way in METHODS.items() if isinstance(way, Merged)}
    cells = [
        Cell(stack, name, way)
        for stack in mixed("calibration")
        for name, way in {**merges, **CANDIDATES}.items()
    ]
    many = [stack for stack in mixed("calibration") if stack.seeds > 4 and len(stack.adapters) < 4]
    cells += [Cell(stack, name, way) for stack in many for name, way in MODES.items()]
    run(cells, record, workers=workers, device=device)
    found = rows(record.cells.values(), "calibration")
    shown = {"calibration": {**merges, **CANDIDATES}, "modes": MODES}
    for name, ways in shown.items():
        chosen = [row for row in found if row.kind == "mixed" and row.method in ways]
        _write(path.with_name(f"{name}.json"), _ranked(chosen))
    _write(path.with_name("scores.json"), _correlations(record, merges))


def objective(row: Row) -> float:
    """What a way is chosen by: both-accuracy less a share of the distance to the truth."""
    return row.both.mean - OF_DISTANCE * row.distance.mean


def _ranked(found: Sequence[Row]) -> dict[str, dict[str, float]]:
    names = {row.method: {str(r.size): 0.0 for r in found} for row in found}
    for row in found:
        names[row.method][str(row.size)] = round(objective(row), 4)
    means = {name: float(np.mean(list(sizes.values()))) for name, sizes in names.items()}
    return {
        name: {**names[name], "mean": round(means[name], 4)}
        for name in sorted(names, key=lambda name: -means[name])
    }


def _correlations(record: Record, merges: Mapping[str, Merged]) -> dict[str, list[float]]:
    """By score, one rank correlation for each stack whose merges differ in quality.

    What is of the adapters and not of the merge is correlated over the stacks, for the sum.
    """
    found: dict[str, list[float]] = {}
    stacks = [*mixed("calibration"), *mixed("held-out")]
    for stack in stacks:
        cells = [cell for name in merges if (cell := _cell(record, stack, name)) is not None]
        if len(cells) < 5:
            continue
        scored = [_scores(cell) for cell in cells]
        for score in scored[0]:
            _correlate(found, score, [one[score] for one in scored], cells)
    sums = [cell for stack in stacks if (cell := _cell(record, stack, "sum")) is not None]
    crossing = [-float(np.abs(cell["interference"]).mean()) for cell in sums]
    _correlate(found, "little interference (over stacks, of the sum)", crossing, sums)
    return found


def _correlate(
    found: dict[str, list[float]],
    score: str,
    values: Sequence[float],
    cells: Sequence[Mapping[str, Any]],
) -> None:
    measured = np.array([_both(cell) for cell in cells])
    if len(cells) > 1 and np.ptp(values) > 0 and np.ptp(measured) > 0:
        found.setdefault(score, []).append(round(_spearman(np.array(values), measured), 4))


def _cell(record: Record, stack: Stack, name: str) -> dict[str, Any] | None:
    return record.cells.get(f"{stack.half}/{stack.kind}/{stack.name}/{name}")


def _both(cell: Mapping[str, Any]) -> float:
    return float(np.mean(np.concatenate([both_of(prompt) for prompt in cell["prompts"]])))


def _scores(cell: Mapping[str, Any]) -> dict[str, float]:
    """What the weights alone say of a merge, larger being better."""
    kept = np.array(cell["kept"])
    return {
        "least retention": float(kept.min()),
        "mean retention": float(kept.mean()),
        "evenness of retention": float(-kept.std()),
        "retention near 1": float(-np.abs(kept - 1).mean()),
        "cosine with the adapters": float(np.mean(cell["cosine"])),
        "norm": float(cell["norm"]),
        "norm near that of two": float(-abs(math.log(cell["norm"] / math.sqrt(2)))),
    }


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Rank correlation; equal values have the mean of their ranks."""
    ranks = [np.array([((v > x).sum() + (v >= x).sum()) / 2 for x in v]) for v in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _write(path: Path, found: Mapping[str, object]) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
