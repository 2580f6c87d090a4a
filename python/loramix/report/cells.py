"""Text in columns: numbers, sizes, tables, labelled lines.  ASCII but for users' names."""

import textwrap
from collections.abc import Sequence

_LABEL = 11
_GAP = "  "
_SMALLEST_NAME = 12
_LONG = 16


def printable(text: str) -> str:
    """One line without control characters: names come from files that anyone may have made."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def error(value: float) -> str:
    """A relative error: a percentage if it can be seen, else its order of magnitude."""
    if value == 0:
        return "0"
    return f"{100 * value:.3g} %" if value >= 1e-4 else f"{value:.1e}"


def share(value: float) -> str:
    """A share that may be close to one: never 100 % if anything is lost that can be seen."""
    return f"{100 * value:.6g} %"


def size(count: int) -> str:
    """Bytes."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def seconds(value: float) -> str:
    """Wall time."""
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def span(low: float, high: float) -> str:
    """A range, or the one number that it holds."""
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


def weight(value: object) -> str:
    """A weight, written as on the command line where it can be, and not if that is long."""
    if isinstance(value, dict):
        if list(value) == ["text_encoder*", "*"]:
            return f"{weight(value['*'])}:{weight(value['text_encoder*'])}"
        said = ",".join(f"{glob}={weight(number)}" for glob, number in value.items())
        return said if len(said) <= _LONG else "by target"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def fields(lines: Sequence[tuple[str, str]], width: int) -> str:
    """Labels in a column, texts beside them; nothing is broken inside a word."""
    indent = max(_LABEL, *(len(label) + 2 for label, _ in lines))
    return "\n".join(
        textwrap.fill(
            printable(text) or "-",
            max(width, 40),
            initial_indent=label.ljust(indent),
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for label, text in lines
    )


def ranked(label: str, rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Lines for `fields`: the label once, the numbers in a column, beside each what it is of."""
    wide = max((len(number) for number, _ in rows), default=0)
    return [
        (label if i == 0 else "", f"{number:>{wide}} {what}")
        for i, (number, what) in enumerate(rows)
    ]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: str, width: int) -> str:
    """Columns as wide as they must be; the first one gives way, in its middle.

    Parameters
    ----------
    right : one letter for each column, ``r`` if it is aligned to the right.
    """
    body = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in body) for i in range(len(header))]
    rest = sum(widths[1:]) + len(_GAP) * len(widths)
    widths[0] = min(widths[0], max(width - rest, _SMALLEST_NAME))
    lines = []
    for row in body:
        cells = [shorten(row[0], widths[0]), *row[1:]]
        aligned = [
            cell.rjust(size) if side == "r" else cell.ljust(size)
            for cell, size, side in zip(cells, widths, right, strict=True)
        ]
        lines.append((_GAP + _GAP.join(aligned)).rstrip())
    return "\n".join(lines)


def shorten(text: str, width: int) -> str:
    """Both ends of a name that is too long: versions stand at the end."""
    if len(text) <= width:
        return text
    keep = width - 3
    return f"{text[: keep - keep // 2]}...{text[len(text) - keep // 2 :]}"
