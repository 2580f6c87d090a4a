"""Choosing on the calibration half, and asking what scores without data predict."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import loramix
from loramix_testbed.matrix.methods import METHODS, Merged, Way
from loramix_testbed.matrix.running import Cell, Record, run
from loramix_testbed.matrix.stacks import Stack, mixed
from loramix_testbed.report.summary import Row, rows
from loramix_testbed.world.adapters import SPECS

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


def calibrate(path: Path, *, workers: int | None = None) -> None:
    """Measure the candidates on the calibration half, and write what came of it beside the record.

    ``calibration.json``: the objective of every way, by size, best first.  ``scores.json``: for
    every score without data, its rank correlation with both-accuracy over the merges of a stack.
    """
    record = Record(path)
    merges = {name: way for name, way in METHODS.items() if isinstance(way, Merged)}
    cells = [
        Cell(stack, name, way)
        for stack in mixed("calibration")
        for name, way in {**merges, **CANDIDATES}.items()
    ]
    run(cells, record, workers=workers)
    found = rows(record.cells.values(), "calibration")
    _write(path.with_name("calibration.json"), _ranked(found))
    _write(path.with_name("scores.json"), _correlations(record, merges))


def objective(row: Row) -> float:
    """What a way is chosen by: both-accuracy less a share of the distance to the truth."""
    return row.both.mean - OF_DISTANCE * row.distance.mean


def _ranked(found: Sequence[Row]) -> dict[str, dict[str, float]]:
    own = [row for row in found if row.kind == "mixed"]
    names = {row.method: {str(r.size): 0.0 for r in own} for row in own}
    for row in own:
        names[row.method][str(row.size)] = round(objective(row), 4)
    means = {name: float(np.mean(list(sizes.values()))) for name, sizes in names.items()}
    return {
        name: {**names[name], "mean": round(means[name], 4)}
        for name in sorted(names, key=lambda name: -means[name])
    }


def _correlations(record: Record, merges: Mapping[str, Merged]) -> dict[str, list[float]]:
    """By score, one rank correlation for each stack whose merges differ in quality."""
    found: dict[str, list[float]] = {}
    for stack in [*mixed("calibration"), *mixed("held-out")]:
        known = [name for name in merges if _cell(record, stack, name) is not None]
        if len(known) < 5:
            continue
        measured = np.array([_both(_cell(record, stack, name) or {}) for name in known])
        scored = [_scores(merges[name], stack) for name in known]
        for score in scored[0]:
            values = np.array([one[score] for one in scored])
            if np.ptp(values) > 0 and np.ptp(measured) > 0:
                found.setdefault(score, []).append(round(_spearman(values, measured), 4))
    return found


def _cell(record: Record, stack: Stack, name: str) -> dict[str, Any] | None:
    return record.cells.get(f"{stack.half}/{stack.kind}/{stack.name}/{name}")


def _both(cell: Mapping[str, Any]) -> float:
    right = [
        content and style
        for prompt in cell["prompts"]
        for content, style in zip(prompt["content"], prompt["style_right"], strict=True)
    ]
    return float(np.mean(right))


def _scores(way: Merged, stack: Stack) -> dict[str, float]:
    """What the weights alone say of a merge, larger being better."""
    files = [SPECS[name].path for name in stack.adapters]
    weights = way.weights(stack.adapters)
    shares = loramix.merge(files, way.method, weights=weights, **way.options).shares
    kept = np.array([s.retention * w for s, w in zip(shares, weights, strict=True)])
    return {
        "least retention": float(kept.min()),
        "mean retention": float(kept.mean()),
        "evenness of retention": float(-kept.std()),
        "retention near 1": float(-np.abs(kept - 1).mean()),
        "cosine with the adapters": float(np.mean([share.cosine for share in shares])),
    }


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Rank correlation; equal values have the mean of their ranks."""
    ranks = [np.array([((v > x).sum() + (v >= x).sum()) / 2 for x in v]) for v in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _write(path: Path, found: Mapping[str, object]) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
