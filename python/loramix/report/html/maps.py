"""The map of the model: small strips, one column for each block, and the same in numbers."""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from loramix.report.facts import Block, Extreme, Overview, Pair, PairNumber
from loramix.report.html.markup import Markup, join, number, section, table, tag
from loramix.report.html.pairs import label
from loramix.report.html.scales import colour, method_class, share, signed

_CELL = 15
_LEFT = 32
_HEAD = 13
_MOST = 18  # columns of a panel: what a phone shows
_PAIRS = 6  # pairs that have a row of their own
_METRICS: tuple[tuple[PairNumber, str], ...] = (
    ("cosine", "cosine"), ("excess", "excess conflict"), ("overlap", "overlap"),
)  # fmt: skip
_PLAIN = re.compile(r"(.*[._])?(blocks?|layers?)$")


def model_map(found: Overview) -> Markup:
    """Strips and table."""
    panels = [_panel(found, name, part) for name, part in _panels(found["blocks"])]
    strips = tag("div", *panels, class_="panels")
    details = tag("details", tag("summary", "The same in numbers"), _numbers(found))
    return section("Blocks", _legend(found), strips, details, name="blocks")


def _panels(blocks: Sequence[Block]) -> Iterable[tuple[str, list[Block]]]:
    """Sections, in parts of at most `_MOST` blocks: whole attentions where there are such."""
    for name, members in groupby(blocks, key=lambda block: block["section"]):
        parts = _parts(list(members))
        for i, part in enumerate(parts):
            yield (f"{name}, {i + 1} of {len(parts)}" if len(parts) > 1 else name, part)


def _parts(blocks: Sequence[Block]) -> list[list[Block]]:
    inner = [list(members) for _, members in groupby(blocks, key=_inner)]
    even = -(-len(blocks) // -(-len(blocks) // _MOST))
    room = even if len(inner) == len(blocks) else _MOST
    pieces = [one[i : i + _MOST] for one in inner for i in range(0, len(one), _MOST)]
    parts: list[list[Block]] = []
    for piece in pieces:
        if parts and len(parts[-1]) + len(piece) <= room:
            parts[-1] += piece
        else:
            parts.append(piece)
    return parts


def _inner(block: Block) -> str:
    """What is kept together: the next numbered part after the section."""
    return ".".join(block["name"].removeprefix(block["section"]).split(".")[:3])


def _legend(found: Overview) -> Markup:
    methods = [
        tag(
            "li",
            tag("span", one["letter"], class_=f"chip {method_class(i)}"),
            f" {one['method']}, {one['groups']} groups",
            f" ({one['alone']} with nothing to decide)" if one["alone"] else None,
        )
        for i, one in enumerate(found["methods"])
    ]
    if any(block["choice"] and block["choice"]["mixed"] for block in found["blocks"]):
        methods.append(tag("li", "a dot: other methods in the block, too"))
    ramps = [
        _ramp(("n5", "n3", "n1", "z0", "p1", "p3", "p5"), "cosine \u22121 to 1"),
        _ramp(("n5", "n3", "n1", "z0"), "excess conflict 0.25 to none beyond chance"),
        _ramp(("z0", "s1", "s3", "s5"), "overlap 0 to 1; energy none to most"),
        _ramp(("none",), "do not meet"),
    ]
    return join(
        tag("ul", *items, class_="legend")
        for items in (methods, ramps if found["pairs"] else [])
        if items
    )


def _ramp(classes: Iterable[str], said: str) -> Markup:
    swatches = [tag("span", class_=f"swatch {one}", aria_hidden="true") for one in classes]
    return tag("li", *swatches, f" {said}")


def _panel(found: Overview, name: str, blocks: Sequence[Block]) -> Markup:
    """One figure: rows of cells above each other."""
    parts: list[Markup] = []
    top = 0
    if found["methods"]:
        parts += _methods(found, blocks)
        top += _CELL + 3
    for title, rows in _rows(found, blocks):
        parts.append(_label(0, top + _HEAD - 4, title, "head"))
        top += _HEAD
        for short, cells in rows:
            parts.append(_label(0, top + _CELL - 4, short))
            for i, (kind, said) in enumerate(cells):
                box = {"x": _LEFT + i * _CELL, "y": top, "width": _CELL - 1, "height": _CELL - 1}
                told = tag("title", f"{blocks[i]['name']}: {title} {short} {said}")
                parts.append(tag("rect", told, **box, class_=kind))
            top += _CELL
    parts += [
        _label(_LEFT + i * _CELL + _CELL // 2 - 1, top + 10, _short(block["name"]), "foot")
        for i, block in enumerate(blocks)
    ]
    width, height = _LEFT + len(blocks) * _CELL, top + 13
    drawing = tag(
        "svg",
        *parts,
        width=width,
        height=height,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=f"{name}: {len(blocks)} blocks; their numbers are in the table below",
    )
    return tag("figure", tag("figcaption", name), drawing, class_="panel")


def _label(x: int, y: int, shown: str, kind: str | None = None) -> Markup:
    return tag("text", shown, x=x, y=y, class_=kind)


def _methods(found: Overview, blocks: Sequence[Block]) -> list[Markup]:
    place = {one["method"]: i for i, one in enumerate(found["methods"])}
    parts = [_label(0, _CELL - 4, "does")]
    for i, block in enumerate(blocks):
        choice = block["choice"]
        if choice is None:
            continue
        x = _LEFT + i * _CELL
        told = tag("title", f"{block['name']}: {_counts(choice['counts'])}")
        box = {"x": x, "y": 0, "width": _CELL - 1, "height": _CELL - 1}
        parts.append(tag("rect", told, **box, class_=method_class(place[choice["method"]])))
        parts.append(_label(x + _CELL // 2 - 1, _CELL - 4, choice["letter"], "letter"))
        if choice["mixed"]:
            parts.append(tag("circle", cx=x + _CELL - 3, cy=2, r=1.7, class_="dot"))
    return parts


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


Row = tuple[str, list[tuple[str, str]]]


def _rows(found: Overview, blocks: Sequence[Block]) -> Iterable[tuple[str, list[Row]]]:
    """Headings, and rows of (class, text) cells."""
    if found["pairs"]:
        for metric, title in _METRICS:
            if any(metric in block["extremes"] for block in found["blocks"]):
                yield (title, _metric(found, blocks, metric))
    most = [
        max((block["energy"][i] or 0.0 for block in found["blocks"]), default=0.0)
        for i in range(len(found["adapters"]))
    ]
    rows: list[Row] = []
    for i, one in enumerate(found["adapters"]):
        cells = []
        for block in blocks:
            part = block["energy"][i]
            shown = part / most[i] if part is not None and most[i] else part
            cells.append((colour("energy", shown), share(part, 1)))
        rows.append((one["letter"], cells))
    yield ("energy", rows)


def _metric(found: Overview, blocks: Sequence[Block], metric: PairNumber) -> list[Row]:
    if len(found["pairs"]) > _PAIRS:
        each = [block["extremes"].get(metric) for block in blocks]
        return [("most", [(_strongest(metric, one), _said(found, one)) for one in each])]
    return [
        (
            label(found, pair["first"], pair["second"]),
            [_cell(block["pairs"][k], metric) for block in blocks],
        )
        for k, pair in enumerate(found["pairs"])
    ]


def _cell(pair: Pair, metric: PairNumber) -> tuple[str, str]:
    sure = metric != "excess" or pair["significant"]
    return (colour(metric, pair[metric], sure=sure), signed(pair[metric]))


def _strongest(metric: PairNumber, one: Extreme | None) -> str:
    if one is None:
        return colour(metric, None)
    return colour(metric, one["value"], sure=metric != "excess" or one["significant"])


def _said(found: Overview, one: Extreme | None) -> str:
    return f"{label(found, one['first'], one['second'])} {signed(one['value'])}" if one else ""


def _short(name: str) -> str:
    """The end of a block's name, for a column of 15 pixels."""
    above, _, last = name.rpartition(".")
    if not last.isdecimal():
        return last[0]
    word = above.rpartition(".")[2]
    return last if _PLAIN.match(word) else word[0] + last


def _numbers(found: Overview) -> Markup:
    several = bool(found["pairs"])
    planned = bool(found["methods"])
    header = [
        "Block",
        "Groups",
        *(["Shared"] if several else []),
        *(["Method"] if planned else []),
        *(title.capitalize() for _, title in _METRICS if several),
        *(f"Energy {one['letter']}" for one in found["adapters"]),
    ]
    rows = []
    for block in found["blocks"]:
        cells: list[object] = [block["name"], number(block["groups"])]
        if several:
            cells.append(number(block["shared"]))
        if planned:
            cells.append(_counts(block["choice"]["counts"]) if block["choice"] else "")
        if several:
            for metric, _ in _METRICS:
                one = block["extremes"].get(metric)
                said = (
                    f"{label(found, one['first'], one['second'])} {signed(one['value'])}"
                    if one
                    else ""
                )
                cells.append(number(said))
        cells += [number(share(part, 1)) for part in block["energy"]]
        rows.append(cells)
    caption = "Blocks in the order of the network; of several pairs, the one that stands out"
    return table(caption, header, rows)
