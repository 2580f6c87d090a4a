"""Tables in Markdown."""

from collections.abc import Sequence

from loramix_testbed.judging.intervals import Interval
from loramix_testbed.report.summary import Row

_HEAD = (
    "| method | both | content | style | distance | beyond | energy | KID | diversity | kept | "
    "cost | pictures |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def spelled(value: Interval, digits: int = 2) -> str:
    """A mean with its interval."""
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def table(rows: Sequence[Row]) -> str:
    """The rows of one kind and size."""
    return "\n".join([_HEAD, *(_line(row) for row in rows)])


def tables(rows: Sequence[Row]) -> str:
    """All rows, a table and a heading for each kind and size."""
    parts = []
    for kind, size in dict.fromkeys((row.kind, row.size) for row in rows):
        chosen = [row for row in rows if (row.kind, row.size) == (kind, size)]
        adapters = "1 adapter" if size == 1 else f"{size} adapters"
        parts.append(f"### {kind}, {adapters}\n\n{table(chosen)}")
    return "\n\n".join(parts)


def _line(row: Row) -> str:
    values = (
        row.method,
        spelled(row.both),
        f"{row.content.mean:.2f}",
        f"{row.style.mean:.2f}",
        spelled(row.distance, 3),
        f"{row.beyond.mean:.3f}",
        f"{row.energy.mean:.2f}",
        f"{round(row.kid, 2) + 0.0:.2f}",
        f"{row.diversity:.2f}",
        "" if row.kept is None else f"{row.kept:.2f}",
        f"{row.cost:g}",
        f"{row.pictures}",
    )
    return "| " + " | ".join(values) + " |"
