"""The page: tables and pictures side by side, one file."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from loramix_testbed.report.figures import quality_against_cost
from loramix_testbed.report.markdown import spelled
from loramix_testbed.report.summary import Row

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .2rem .6rem; text-align: left; border-bottom: 1px solid #ddd }
img { image-rendering: pixelated; height: 72px }
svg { max-width: 100% }
"""


def page(rows: Sequence[Row], cells: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The whole page.

    Parameters
    ----------
    cells, pictures : of a `Record`.
    """
    mixed = [row for row in rows if row.kind == "mixed"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Quality of merges</title>",
        f"<style>{_STYLE}</style><h1>Quality of merges</h1>",
        "<p>Both: share of pictures in which the judge finds the symbol and the style that were "
        "asked for, with 95 % intervals. Cost: evaluations of the denoiser per step.</p>",
        "" if pictures else "<p>No pictures are here: --quick draws them.</p>",
        quality_against_cost(mixed) if mixed else "",
    ]
    for kind, size in dict.fromkeys((row.kind, row.size) for row in rows):
        parts.append(f"<h2>{html.escape(kind)}, {size} adapters</h2>")
        parts.append(_table([row for row in rows if (row.kind, row.size) == (kind, size)]))
        parts.append(_grids(kind, size, cells, pictures))
    return "".join(parts) + "</html>\n"


def _table(rows: Sequence[Row]) -> str:
    lines = [
        f"<tr><td>{html.escape(row.method)}<td>{spelled(row.both)}<td>{row.content.mean:.2f}"
        f"<td>{row.style.mean:.2f}<td>{spelled(row.distance, 3)}<td>{row.energy.mean:.2f}"
        f"<td>{row.diversity:.2f}"
        f"<td>{'' if row.kept is None else format(row.kept, '.2f')}<td>{row.cost:g}"
        for row in rows
    ]
    names = [
        "method",
        "both",
        "content",
        "style",
        "distance",
        "energy",
        "diversity",
        "kept",
        "cost",
    ]
    head = "<tr>" + "".join(f"<th>{name}" for name in names)
    return f"<table>{head}{''.join(lines)}</table>"


def _grids(kind: str, size: int, cells: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """For every stack the pictures of all methods, one below the other."""
    stacks: dict[str, list[str]] = {}
    for key, cell in cells.items():
        here = (cell["half"], cell["kind"], cell["size"]) == ("held-out", kind, size)
        if here and key in pictures:
            line = (
                f"<tr><td>{html.escape(cell['method'])}<td>"
                f'<img alt="{html.escape(key)}" src="data:image/png;base64,{pictures[key]}">'
            )
            stacks.setdefault(cell["stack"], []).append(line)
    return "".join(
        f"<details><summary>{html.escape(name)}</summary><table>{''.join(lines)}</table></details>"
        for name, lines in stacks.items()
    )
