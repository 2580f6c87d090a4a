"""Files of the report, from a record."""

import json
from dataclasses import asdict
from pathlib import Path

from loramix_testbed.matrix.ablations import ABLATIONS
from loramix_testbed.matrix.running import Record
from loramix_testbed.report.figures import quality_against_cost
from loramix_testbed.report.markdown import tables
from loramix_testbed.report.overall import overall_table
from loramix_testbed.report.page import page
from loramix_testbed.report.quality import quality
from loramix_testbed.report.summary import rows


def write(path: Path, folder: Path, quality_file: Path | None = None) -> None:
    """Write ``table.md``, ``table.json``, ``page.html``, and docs/QUALITY.md where one is named.

    Parameters
    ----------
    path : the record.
    """
    record = Record(path)
    cells = list(record.cells.values())
    halves = {half: rows(cells, half) for half in ("held-out", "calibration")}
    held = halves["held-out"]
    folder.mkdir(parents=True, exist_ok=True)
    means = overall_table(cells)
    first = f"### mixed, all sizes\n\n{means}\n" if means else ""
    (folder / "table.md").write_text(first + tables(held) + "\n", encoding="utf-8")
    listed = {half: [asdict(row) for row in found] for half, found in halves.items()}
    (folder / "table.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    (folder / "page.html").write_text(page(held, record.cells, record.pictures), encoding="utf-8")
    if quality_file is not None:
        quality_file.write_text(quality(cells, folder), encoding="utf-8")
        mixed = [row for row in held if row.kind == "mixed"]
        shown = {"quality": mixed, "quality-pairs": [row for row in mixed if row.size == 2]}
        for name, found in shown.items():
            figure = quality_against_cost([row for row in found if row.method not in ABLATIONS])
            quality_file.with_name(f"{name}.svg").write_text(figure, encoding="utf-8")
