"""The adapters, and every group."""

from loramix.report import cells
from loramix.report.facts import Entrant, GroupRow, Overview
from loramix.report.html.markup import Markup, broken, heat, number, prose, section, table, tag
from loramix.report.html.pairs import label
from loramix.report.html.scales import DASH, colour, method_class, share, signed, size

_ADAPTERS = (
    "", "Adapter", "Weight", "Base model", "Dialect", "Targets", "Shared", "Rank", "Type", "Size",
    "Norm", "Interference",
)  # fmt: skip


def adapters(found: Overview) -> Markup:
    """What went in."""
    header = [tag("th", tag("span", "Letter", class_="unseen"), scope="col"), *_ADAPTERS[1:]]
    rows = [_adapter(one) for one in found["adapters"]]
    return section(
        "Adapters", table("Adapters and coverage", header, rows, hidden=True), name="adapters"
    )


def _adapter(one: Entrant) -> list[object]:
    return [
        tag("th", one["letter"], scope="row", class_="letter"),
        tag("td", one["name"], title=one["path"], class_="name"),
        number(cells.weight(one["weight"])),
        _base(one),
        one["dialect"],
        number(one["targets"]),
        number(one["shared"]),
        number(cells.span(*one["ranks"])),
        "+".join(one["dtypes"]),
        number(cells.size(one["size"])),
        number(size(one["norm"])),
        number(share(one["interference"])),
    ]


def _base(one: Entrant) -> str:
    if one["architecture"]:
        return f"{one['architecture']} ({100 * one['match']:.3g} %)"
    return "undecided" if one["candidates"] else "unknown"


def groups(found: Overview) -> Markup:
    """Every group, one row each."""
    several, planned = bool(found["pairs"]), bool(found["methods"])
    written = found["certificate"] is not None
    header = [
        "Target",
        "Shape",
        "In",
        *(["Cosine", "Excess", "Overlap"] if several else []),
        *(["Method", "Why"] if planned else []),
        *(["Rank", "Error"] if written else []),
    ]
    classes = {one["method"]: method_class(i) for i, one in enumerate(found["methods"])}
    rows = []
    for row in found["groups"]:
        line: list[object] = [
            broken(row["target"]),
            number("\u00d7".join(map(str, row["shape"]))),
            "".join(found["adapters"][i]["letter"] for i in row["owners"]),
        ]
        line += _pair(found, row) if several else []
        if planned:
            line += [_method(row, classes), tag("td", prose(_why(row)), class_="prose")]
        if written:
            error = row["error"]
            line += [
                number(DASH if row["rank"] is None else row["rank"]),
                number(DASH if error is None else cells.error(error), data_v=_sortable(error)),
            ]
        rows.append(line)
    title = f"{len(rows)} groups in the order of the network"
    note = "Of several pairs, the one of the largest cosine, either way."
    grid = table(title, header, rows, kind="groups")
    return section(
        "Groups", tag("p", note, class_="note") if several else None, grid, name="groups"
    )


def _sortable(value: float | None) -> str:
    """What a number is sorted by; none comes last."""
    return "" if value is None else f"{value:.4g}"


def _pair(found: Overview, row: GroupRow) -> list[object]:
    known = [pair for pair in row["pairs"] if pair["cosine"] is not None]
    if not known:
        return [number(DASH, data_v=""), number(DASH, data_v=""), number(DASH, data_v="")]
    one = max(known, key=lambda pair: abs(pair["cosine"] or 0.0))
    prefix = f"{label(found, one['first'], one['second'])} " if len(found["adapters"]) > 2 else ""
    cosine, excess = one["cosine"], one["excess"]
    sure = one["significant"]
    return [
        heat(prefix + signed(cosine), colour("cosine", cosine), data_v=_sortable(cosine)),
        heat(signed(excess), colour("excess", excess, sure=sure), data_v=_sortable(excess)),
        number(signed(one["overlap"]), data_v=_sortable(one["overlap"])),
    ]


def _method(row: GroupRow, classes: dict[str, str]) -> Markup:
    name = row["method"] or ""
    chip = tag("span", row["letter"], class_=f"chip {classes.get(name, '')}", aria_hidden="true")
    return tag("td", chip, " ", name)


def _why(row: GroupRow) -> str:
    return f"{row['regime']}: {row['why']}" if row["regime"] else row["why"]
