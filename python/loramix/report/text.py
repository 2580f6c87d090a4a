"""Reports as text, readable in 80 columns and without colour."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from loramix.policies import POLICIES, policy_from
from loramix.report import cells, naming
from loramix.report.facts import Block, Extreme, Overview, PairNumber
from loramix.report.model import Input, Report

_WORST = 3
_CUT = 1e-3
"""Relative error from which a cut, and not rounding, makes the error."""
_STANDING_OUT: tuple[PairNumber, ...] = ("cosine", "excess", "overlap")


def render(report: Report, width: int = 80) -> str:
    """Lay a report out; nothing is computed here."""
    lines = [
        ("method", _method(report)),
        *_chosen(report),
        *suggested(report["suggested"]),
        *(("norm", text) for text in _strengths(report)),
        ("targets", _targets(report)),
        ("error", _error(report)),
        *_worst(report),
        ("wrote", _wrote(report)),
    ]
    parts = (
        inputs(report["inputs"], width),
        *_became(report, width),
        *_notes(report, width),
        "",
        cells.fields(lines, width),
    )
    return "\n".join(parts)


def inputs(each: Sequence[Input], width: int) -> str:
    """What went in, one line for each."""
    header = ("adapter", "weight", "architecture", "dialect", "targets", "rank", "dtype")
    rows = [
        (
            one["name"],
            cells.weight(one["weight"]),
            one["architecture"] or ("undecided" if one["candidates"] else "unknown"),
            one["dialect"],
            str(one["targets"]),
            cells.span(*one["ranks"]),
            "+".join(one["dtypes"]),
        )
        for one in each
    ]
    return cells.table(header, rows, "lrllrrl", width)


def _became(report: Report, width: int) -> list[str]:
    if len(report["adapters"]) < 2:
        return []
    header = ("adapter", "retention", "cosine", "interference")
    rows = [
        (
            one["adapter"],
            f"{100 * one['retention']:.0f} %",
            f"{round(one['cosine'], 2) + 0.0:.2f}",
            f"{round(100 * one['interference']):+d} %",
        )
        for one in report["adapters"]
    ]
    return ["", cells.table(header, rows, "lrrr", width)]


def _notes(report: Report, width: int) -> list[str]:
    lines = [("note", f"{one['name']}: {text}") for one in report["inputs"] for text in _said(one)]
    lines += [("note", text) for text in report["policy_notes"]]
    return ["", cells.fields(lines, width)] if lines else []


def _said(one: Input) -> list[str]:
    skipped = len(one["skipped"])
    return [*one["notes"], *([f"{skipped} tensors left out by --skip"] if skipped else [])]


def _method(report: Report) -> str:
    method = dict(report["method"])
    if method["name"] in POLICIES:
        usual = policy_from(str(method["name"]), {}).describe()
        method = {k: v for k, v in method.items() if k == "name" or v != usual.get(k, v)}
    thin, space = method.pop("sparsify", None), method.pop("space", "weight")
    refine = method.pop("refine", "none")
    texts = [_named(method)]
    texts += [f"after {_named(thin)}"] if isinstance(thin, dict) else []
    texts += [f"refined ({refine})"] if refine != "none" else []
    texts += [f"in the space {space}"] if space != "weight" else []
    return "; ".join(texts)


def _chosen(report: Report) -> list[tuple[str, str]]:
    """What a policy chose; a method that was asked for is said already."""
    if report["method"]["name"] not in POLICIES:
        return []
    found = ", ".join(f"{count} {name}" for name, count in report["chosen"].items())
    return [("chosen", found)]


def suggested(strength: float | None) -> list[tuple[str, str]]:
    """How strongly the result may be applied, if anybody has a view."""
    return [] if strength is None else [("strength", f"apply it at {strength:.3g} at most")]


def _named(method: Mapping[str, object]) -> str:
    name, *parameters = method.items()
    return ", ".join([str(name[1]), *(f"{key.strip('_')} {value}" for key, value in parameters)])


def _strengths(report: Report) -> list[str]:
    texts = []
    for branch, found in report["auto_strength"].items():
        name = branch.replace("_", " ")
        cosine = round(found["cosine"], 3) + 0.0  # no minus zero
        texts.append(
            f"{name} {found['norm']:.4g} x {found['scale']:.4g} = "
            f"{found['norm'] * found['scale']:.4g} "
            f"(strongest {found['reference']:.4g}, cosine {cosine:.3f})"
        )
    return texts


def _targets(report: Report) -> str:
    total = report["groups"]["targets"]
    several = len(report["inputs"]) > 1
    shared = report["groups"]["shared_by"].items()
    first, *others = [f"{count} in {members}" for members, count in shared]
    first += " adapter" if next(iter(shared))[0] == "1" else " adapters"
    return f"{total}: {', '.join((first, *others))}" if several else str(total)


def _error(report: Report) -> str:
    measured = f"{cells.error(report['error']['relative'])} relative to the exact result, measured"
    rows = [row for row in report["rows"] if row["norm"] is not None]
    norm = math.fsum(row["norm"] ** 2 for row in rows)
    left = math.fsum((row["cut"] * row["norm"]) ** 2 for row in rows)
    if left <= _CUT**2 * norm or len(rows) < len(report["rows"]):  # copies have no norm
        return measured
    return f"{measured}; what was cut off is {cells.error(math.sqrt(left / norm))}, exactly"


def _worst(report: Report) -> list[tuple[str, str]]:
    """Targets with the largest errors: of a cut the exact ones, since random vectors have noise."""
    told = [(_told(row), row["target"]) for row in report["rows"]]
    worst = sorted(told, key=lambda pair: -pair[0])[:_WORST]
    return cells.ranked("worst", [(cells.error(error), name) for error, name in worst if error])


def _told(row: Mapping[str, Any]) -> float:
    """The error of a target: what was cut off where that is seen, else what was measured."""
    return float(row["cut"] if row["cut"] > _CUT else row["error"])


def _wrote(report: Report) -> str:
    output = report["output"]
    facts = (
        cells.size(output["size"]),
        *([output["architecture"]] if output["architecture"] else []),
        output["dialect"],
        output["dtype"],
        *([f"rank {cells.span(*output['ranks'])}"] if output["ranks"] else []),
        *([f"{output['dense']} dense"] if output["dense"] else []),
        f"{output['targets']} targets",
    )
    where = output["path"] or "to memory"
    return f"{where} ({', '.join(facts)}) in {cells.seconds(report['seconds'])}"


def render_analysis(found: Overview, width: int = 80) -> str:
    """What the adapters do to each other: adapters, pairs, blocks."""
    parts = (_entrants(found, width), *_pairs(found, width), _map(found, width))
    return "\n\n".join((*parts, cells.fields(_said_of(found), width)))


def render_plan(found: Overview, width: int = 80) -> str:
    """What a plan does: adapters, methods, blocks; a star: other methods in the block, too."""
    parts = (_entrants(found, width), *_used(found, width), _map(found, width))
    return "\n\n".join((*parts, cells.fields(_said_of(found), width)))


def _said_of(found: Overview) -> list[tuple[str, str]]:
    """The verdict, and what there is to know."""
    return [("verdict", found["verdict"]), *(("note", note) for note in found["warnings"])]


def _entrants(found: Overview, width: int) -> str:
    header = ("adapter", "weight", "targets", "shared", "rank", "norm", "interference")
    rows = [
        (
            f"{one['letter']} {one['name']}",
            cells.weight(one["weight"]),
            str(one["targets"]),
            str(one["shared"]),
            cells.span(*one["ranks"]),
            "-" if one["norm"] is None else f"{one['norm']:.3g}",
            _percent(one["interference"]),
        )
        for one in found["adapters"]
    ]
    return cells.table(header, rows, "lrrrrrr", width)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{round(100 * value):+d} %"


def _pairs(found: Overview, width: int) -> list[str]:
    header = ("pair", "groups", "cosine", "excess", "error", "lost", "overlap")
    rows = [
        (
            _letters(found, pair["first"], pair["second"]),
            str(pair["groups"]),
            _number(pair["cosine"]),
            _number(pair["excess"]),
            _number(pair["excess_error"], 3).lstrip("+"),
            _number(pair["lost"]).lstrip("+"),
            _number(pair["overlap"]),
        )
        for pair in found["pairs"]
    ]
    return [cells.table(header, rows, "lrrrrrr", width)] if rows else []


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{round(value, digits) + 0.0:+.{digits}f}"


def _letters(found: Overview, first: int, second: int) -> str:
    letters = [one["letter"] for one in found["adapters"]]
    return letters[first] + letters[second]


def _used(found: Overview, width: int) -> list[str]:
    header = ("method", "letter", "groups", "nothing to decide")
    rows = [
        (one["method"], one["letter"], str(one["groups"]), str(one["alone"]))
        for one in found["methods"]
    ]
    return [cells.table(header, rows, "lrrr", width)] if rows else []


def _map(found: Overview, width: int) -> str:
    """One line for each block; of several pairs the one that stands out."""
    planned = bool(found["methods"])
    several = bool(found["pairs"])
    header = ["block", *["does"] * planned, "groups", *_STANDING_OUT * several]
    rows = [
        [
            naming.brief(block["name"]),
            *[_does(block)] * planned,
            str(block["groups"]),
            *(_extreme(found, block["extremes"].get(name)) for name in _STANDING_OUT * several),
        ]
        for block in found["blocks"]
    ]
    return cells.table(header, rows, "l" + "l" * planned + "rrrr"[: 1 + 3 * several], width)


def _does(block: Block) -> str:
    choice = block["choice"]
    return f"{choice['letter']}{'*' if choice['mixed'] else ''}" if choice else ""


def _extreme(found: Overview, one: Extreme | None) -> str:
    """The pair is named where it makes a difference."""
    if one is None:
        return "-"
    number = _number(one["value"])
    named = len(found["pairs"]) > 1 and float(number) != 0
    return f"{_letters(found, one['first'], one['second'])} {number}" if named else number
