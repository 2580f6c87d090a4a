"""The report of an extracted adapter: plain data, and text."""

import math
from dataclasses import fields
from typing import Any, TypedDict

from loramix import __version__
from loramix.executing.running import Merged
from loramix.report import cells

_WORST = 3


class ExtractedReport(TypedDict):
    """All of it.

    Attributes
    ----------
    tuned, base : names of the models.
    path : of the adapter; None if it was kept in memory.
    ranks : smallest and largest.
    kept : share of the energy of the difference that is in the adapter.
    error : relative error of the adapter against the difference, measured on the written file.
    seconds : wall time.
    rows : one for each target: target, rank, norm, cut, error.
    """

    version: str
    tuned: str
    base: str
    architecture: str | None
    path: str | None
    dialect: str
    dtype: str
    ranks: tuple[int, int]
    kept: float
    error: float
    seconds: float
    notes: list[str]
    rows: list[dict[str, Any]]


def report_of(merged: Merged, *, seconds: float) -> ExtractedReport:
    """Plain data about a finished extraction."""
    plan, log = merged.plan, merged.log
    sizes = [(row.norm or 0.0, row.cut) for row in log]  # nothing is a copy here
    norm = math.fsum(size**2 for size, _ in sizes)
    lost = math.fsum((cut * size) ** 2 for size, cut in sizes)
    ranks = [row.rank for row in log if not row.dense] or [0]
    names = [one.name for one in fields(log[0]) if one.name not in ("shares", "members", "dense")]
    return ExtractedReport(
        version=__version__,
        tuned=plan.adapters[0].name,
        base=plan.adapters[1].name,
        architecture=plan.architecture,
        path=str(merged.path) if merged.path else None,
        dialect=plan.dialect.name,
        dtype=plan.dtype,
        ranks=(min(ranks), max(ranks)),
        kept=1 - lost / norm if norm > 0 else 1.0,
        error=merged.error,
        seconds=seconds,
        notes=list(plan.notes),
        rows=[{name: getattr(row, name) for name in names} for row in log],
    )


def render(report: ExtractedReport, width: int = 80) -> str:
    """Lay a report out; nothing is computed here."""
    worst = sorted(report["rows"], key=lambda row: -float(row["cut"]))[:_WORST]
    lines = [
        ("models", f"{report['tuned']} - {report['base']} ({report['architecture'] or 'unknown'})"),
        ("targets", f"{len(report['rows'])} weights changed, rank {cells.span(*report['ranks'])}"),
        ("kept", f"{cells.share(report['kept'])} of the energy of the difference"),
        (
            "error",
            f"{cells.error(math.sqrt(max(1 - report['kept'], 0.0)))} left out; in all "
            f"{cells.error(report['error'])}, measured on the written file with random vectors",
        ),
        *cells.ranked("left out", [(cells.error(row["cut"]), row["target"]) for row in worst]),
        (
            "wrote",
            f"{report['path']} ({report['dialect']}, {report['dtype']}) in "
            f"{cells.seconds(report['seconds'])}",
        ),
    ]
    notes = [("note", note) for note in report["notes"]]
    parts = [cells.fields(notes, width), ""] if notes else []
    return "\n".join([*parts, cells.fields(lines, width)])
