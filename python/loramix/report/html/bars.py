"""Numbers that are better seen than read, each beside its number."""

from collections.abc import Sequence

from loramix.report import cells
from loramix.report.facts import Bin, Certificate, Energy, Overview
from loramix.report.html.markup import Markup, broken, named, number, section, table, tag
from loramix.report.html.scales import share, signed, size

_WIDE = 110
_HIGH = 12
_BIN = 34
_TALL = 90
_BRANCHES = {"model": "Model", "text_encoder": "Text encoders"}


def energy(found: Overview) -> Markup:
    """How strong every adapter is in every branch, before and after."""
    rows = []
    for branch, title in _BRANCHES.items():
        here = [one for one in found["energy"] if one["branch"] == branch]
        most = max((value for one in here for value in _norms(one)), default=0.0)
        for one in here:
            name = found["adapters"][one["adapter"]]
            bars = _bars([one["given"], one["planned"], one["kept"]], most)
            rows.append(
                [
                    named(name["letter"], name["name"]),
                    title,
                    tag("td", bars, class_="bars"),
                    *(number(size(one[key])) for key in ("given", "planned", "kept")),
                ]
            )
    header = ("Adapter", "Branch", "Strength", "Given", "Planned", "Kept")
    note = tag(
        "p",
        "Norms. Given: with your weights. Planned: with the weights that the methods get. ",
        "Kept: length of the result along the adapter.",
        class_="note",
    )
    return section(
        "Energy before and after",
        note,
        table("Norms by adapter and branch", header, rows, hidden=True),
        *_strengths(found),
        name="energy",
    )


def _norms(one: Energy) -> list[float]:
    return [value for value in (one["given"], one["planned"], one["kept"]) if value is not None]


def _bars(values: Sequence[float | None], most: float) -> Markup:
    """Thin bars below each other: given, planned, kept."""
    known = [(i, value) for i, value in enumerate(values) if value is not None]
    height = 5 * len(known) + 1
    parts = [
        tag("rect", x=0, y=5 * row, width=_length(value, most), height=4, class_=f"bar{i}")
        for row, (i, value) in enumerate(known)
    ]
    return _drawing(parts, _WIDE, height)


def _length(value: float, most: float) -> str:
    return f"{_WIDE * max(value, 0.0) / most if most > 0 else 0.0:.1f}"


def _drawing(parts: Sequence[Markup], width: int, height: int) -> Markup:
    """Decoration: the numbers stand beside it."""
    box = f"0 0 {width} {height}"
    return tag("svg", *parts, width=width, height=height, viewBox=box, aria_hidden="true")


def _strengths(found: Overview) -> list[Markup]:
    rows = [
        [
            _BRANCHES[branch],
            *(number(size(one[key])) for key in ("norm", "reference", "scale")),
            number(signed(one["cosine"], 3)),
        ]
        for branch, one in found["strengths"].items()
    ]
    header = ("Branch", "Merged norm", "Strongest adapter", "Scale", "Mean cosine")
    return [table("Energy normalisation", header, rows)] if rows else []


def retention(found: Overview) -> Markup | None:
    """What became of the adapters; None without a result."""
    if not found["became"]:
        return None
    most = max(1.0, *(one["retention"] for one in found["became"]))
    rows = []
    for one in found["became"]:
        full = f"{_WIDE / most:.1f}"
        bar = [
            tag("rect", x=0, y=0, width=_length(one["retention"], most), height=_HIGH,
                class_="bar0"),
            tag("line", x1=full, x2=full, y1=0, y2=_HIGH, class_="mark"),
        ]  # fmt: skip
        rows.append(
            [
                named(one["letter"], one["adapter"]),
                tag("td", _drawing(bar, _WIDE + 1, _HIGH), class_="bars"),
                number(share(one["retention"])),
                number(signed(one["cosine"])),
                number(share(one["interference"])),
            ]
        )
    header = ("Adapter", "In the result", "Retention", "Cosine", "Interference")
    note = tag(
        "p",
        "Retention: how much of the weighted adapter is in the result; the line marks 100 %. ",
        "Interference: what the others would add to it in a plain sum.",
        class_="note",
    )
    grid = table("What became of the adapters", header, rows, hidden=True)
    return section("Retention", note, grid, name="retention")


def certificate(found: Overview) -> Markup | None:
    """Errors of the file; None without one."""
    loss = found["certificate"]
    if loss is None:
        return None
    total = tag(
        "p",
        f"Measured on the written file: it differs by {cells.error(loss['relative'])} from what "
        f"was meant. Median of {loss['targets']} targets: {cells.error(loss['median'])}"
        + (f"; {loss['exact']} are exact." if loss["exact"] else "."),
    )
    rows = [
        [
            broken(one["target"]),
            *(number(x) for x in (cells.error(one["error"]), one["rank"], size(one["norm"]))),
        ]
        for one in loss["worst"]
    ]
    worst = table("The largest errors", ("Target", "Error", "Rank", "Norm"), rows, kind="targets")
    return section(
        "Loss certificate", total, _histogram(loss), worst if rows else None, name="loss"
    )


def _histogram(loss: Certificate) -> Markup | None:
    """Targets by the size of their error."""
    if not loss["bins"]:
        return None
    most = max(one["count"] for one in loss["bins"])
    parts: list[Markup] = []
    for i, one in enumerate(loss["bins"]):
        height = round(_TALL * one["count"] / most)
        x, top = i * _BIN, 14 + _TALL - height
        told = tag("title", f"{_span(one)}: {one['count']} targets")
        parts.append(tag("rect", told, x=x, y=top, width=_BIN - 2, height=height, class_="bar0"))
        if one["count"]:
            parts.append(tag("text", one["count"], x=x + _BIN // 2 - 1, y=top - 3, class_="foot"))
    edges = [one["low"] for one in loss["bins"]] + [loss["bins"][-1]["high"]]
    for i, edge in enumerate(edges):
        parts.append(tag("text", _edge(edge), x=i * _BIN, y=_TALL + 26, class_="foot"))
    width, height = len(loss["bins"]) * _BIN + 30, _TALL + 30
    drawing = tag(
        "svg",
        *parts,
        width=width,
        height=height,
        viewBox=f"-15 0 {width} {height}",
        role="img",
        aria_label=", ".join(f"{_span(one)}: {one['count']}" for one in loss["bins"]),
    )
    caption = tag("figcaption", "Targets by relative error")
    inner = tag("div", drawing, class_="scroll", tabindex=0, role="region", aria_label="Histogram")
    return tag("figure", caption, inner, class_="histogram")


def _span(one: Bin) -> str:
    return f"{_edge(one['low'])} to {_edge(one['high'])}"


def _edge(value: float) -> str:
    if value >= 1e-4:
        return f"{100 * value:.0f}%" if value >= 0.1 else f"{100 * value:.2g}%"
    return f"{value:.0e}".replace("e-0", "e-")
