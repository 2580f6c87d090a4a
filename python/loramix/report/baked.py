"""The report of a baked model: plain data, and text."""

from dataclasses import asdict
from typing import Any, TypedDict

from loramix import __version__
from loramix.baking.writing import Baked
from loramix.report import cells, text
from loramix.report.model import Input, input_of

_WORST = 3
_LOST = 0.5


class BakedReport(TypedDict):
    """All of it.

    Attributes
    ----------
    base : path, architecture, share of its weights in the module table.
    method : name and parameters of the method or policy.
    path : the new file or folder.
    survival : share of the energy of all deltas that survived the rounding.
    cosine : of all deltas and what the weights moved by.
    seconds : wall time.
    rows : one for each target, see `loramix.baking.writing.BakedRow`.
    """

    version: str
    base: dict[str, Any]
    inputs: list[Input]
    method: dict[str, object]
    path: str
    survival: float
    cosine: float
    seconds: float
    notes: list[str]
    rows: list[dict[str, Any]]


def report_of(baked: Baked, *, seconds: float) -> BakedReport:
    """Plain data about a finished model."""
    plan, base = baked.plan, baked.base
    return BakedReport(
        version=__version__,
        base={
            "path": str(base.path),
            "files": len(base.shards),
            "size": base.size,
            "architecture": base.architecture,
            "match": base.match,
        },
        inputs=[input_of(*pair) for pair in zip(plan.adapters, plan.weights, strict=True)],
        method=dict(plan.method),
        path=str(baked.path),
        survival=baked.survival,
        cosine=baked.cosine,
        seconds=seconds,
        notes=[*plan.notes, *baked.notes],
        rows=[asdict(row) for row in baked.log],
    )


def render(report: BakedReport, width: int = 80) -> str:
    """Lay a report out; nothing is computed here."""
    base, rows = report["base"], report["rows"]
    dtypes = ", ".join(sorted({row["dtype"].lower() for row in rows}))
    lines = [
        ("base", f"{base['path']} ({base['architecture'] or 'unknown'}, {dtypes or '-'})"),
        ("method", str(report["method"]["name"])),
        ("targets", f"{len(rows)} weights changed"),
        (
            "survival",
            f"{cells.share(report['survival'])} of what the adapters change survived the rounding "
            f"(cosine {report['cosine']:.4f})",
        ),
        *_worst(report),
        ("wrote", f"{report['path']} in {cells.seconds(report['seconds'])}"),
    ]
    notes = [
        ("note", f"{one['name']}: {said}") for one in report["inputs"] for said in one["notes"]
    ]
    notes += [("note", said) for said in report["notes"]]
    if report["survival"] < _LOST:
        notes.append(("note", _advice(dtypes)))
    parts = [text.inputs(report["inputs"], width), ""]
    parts += [cells.fields(notes, width), ""] if notes else []
    return "\n".join([*parts, cells.fields(lines, width)])


def _worst(report: BakedReport) -> list[tuple[str, str]]:
    order = sorted(report["rows"], key=lambda row: float(row["survival"]))[:_WORST]
    return cells.ranked("least", [(cells.share(row["survival"]), row["target"]) for row in order])


def _advice(dtypes: str) -> str:
    return (
        f"most of the change is smaller than the rounding of {dtypes}: bake into a base of a wider "
        "type, or merge the adapters into one and apply it when the model runs"
    )
