"""HTML that cannot be broken by what is in it: every text is escaped where it enters."""

import html
from collections.abc import Iterable, Sequence

from loramix.report.cells import printable

_EMPTY = frozenset({"img", "meta"})


class Markup(str):
    """HTML as it is; any other string is text."""

    __slots__ = ()


def text(value: object) -> Markup:
    """A text, escaped and without control characters: names come from anybody's files."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(printable(str(value))))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element.

    Parameters
    ----------
    children : texts, or markup; None is left out.
    attributes : ``class_`` is class, ``data_x`` is data-x; None leaves it out, True has no value.
    """
    parts = [name]
    for key, value in attributes.items():
        label = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(label)
        elif value is not None:
            parts.append(f'{label}="{text(value)}"')
    opened = f"<{' '.join(parts)}>"
    if name in _EMPTY:
        return Markup(opened)
    return Markup(f"{opened}{join(children)}</{name}>")


def join(children: Iterable[object]) -> Markup:
    """Markup and texts in a row."""
    return Markup("".join(text(child) for child in children if child is not None))


def prose(value: str) -> Markup:
    """A sentence: numbers stay with their percent sign."""
    return Markup(text(value).replace(" %", "&#8239;%"))


def broken(key: str) -> Markup:
    """A key that may be broken after its dots."""
    return Markup(text(key).replace(".", ".<wbr>"))


def lines(value: str) -> Markup:
    """A text of several lines."""
    return Markup("\n".join(text(line) for line in value.splitlines()))


def table(
    caption: str,
    header: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    kind: str = "",
    hidden: bool = False,
) -> Markup:
    """A table that scrolls within itself; the first cell of a row is its heading.

    Parameters
    ----------
    header : texts, or whole ``th`` elements.
    rows : cells: texts, or whole ``td`` elements.
    kind : its class.
    hidden : whether only screen readers meet the caption, as a heading says it already.
    """
    rows = list(rows)
    heads = [
        one if _is(one, "th") else tag("th", one, scope="col", class_=_side(rows, at))
        for at, one in enumerate(header)
    ]
    body = [
        tag(
            "tr",
            tag("th", first, scope="row") if not _is(first, "th") else first,
            *(cell if _is(cell, "td") else tag("td", cell) for cell in cells),
        )
        for first, *cells in rows
    ]
    inner = tag(
        "table",
        tag("caption", caption, class_="unseen" if hidden else None),
        tag("thead", tag("tr", *heads)),
        tag("tbody", *body),
        class_=kind or None,
    )
    return tag("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _side(rows: Sequence[Sequence[object]], at: int) -> str | None:
    """Headings of numbers stand above their last digits."""
    first = rows[0][at] if rows else None
    return "number" if isinstance(first, Markup) and 'class="number' in first[:20] else None


def _is(value: object, name: str) -> bool:
    return isinstance(value, Markup) and value.startswith(f"<{name}")


def number(value: object, **attributes: object) -> Markup:
    """A cell with a number."""
    return tag("td", value, **{"class_": "number", **attributes})


def heat(shown: str, kind: str, **attributes: object) -> Markup:
    """A cell with a number on a colour.

    Parameters
    ----------
    kind : the class of the colour.
    """
    return number(tag("span", shown, class_=f"heat {kind}"), **attributes)


def named(letter: str, name: str) -> Markup:
    """The heading of an adapter's row: its letter, and its name where there is room."""
    return tag(
        "th", tag("b", letter), tag("span", f" {name}", class_="wide"), scope="row", title=name
    )


def section(title: str, *children: object, name: str) -> Markup:
    """A part of the page under a heading.

    Parameters
    ----------
    name : of its anchor.
    """
    heading = tag("h2", title, id=name)
    return tag("section", heading, *children, aria_labelledby=name)
