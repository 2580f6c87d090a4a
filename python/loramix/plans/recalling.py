"""Decisions that an output carries become a plan again.  See `loramix.recipes.provenance`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from loramix.analysis.strengths import Strength
from loramix.backends.base import Backend
from loramix.errors import FormatError, ParamError
from loramix.formats.dialects import Dialect
from loramix.groups import align
from loramix.methods import Method
from loramix.planning import stepping
from loramix.planning.output import Output
from loramix.planning.steps import Choice, Plan
from loramix.plans.reading import SIDES, numbers_of, planned
from loramix.policies.base import Decision, Side, Verdict
from loramix.recipes import choosing
from loramix.recipes.reading import output
from loramix.recipes.records import Record
from loramix.recipes.strict import Table
from loramix.types import Adapter, Group


@dataclass(frozen=True, slots=True)
class _Top:
    rows: tuple[Table, ...]
    groups: list[int]
    split: bool = True
    backend: str = "rust"
    output: Output = field(default_factory=Output)


@dataclass(frozen=True, slots=True)
class _Row:
    method: Method
    weights: object
    sides: tuple[str, ...] = ()
    published_sides: bool = False
    rank: int | None = None


def _places(table: Table, key: str) -> list[int]:
    values = table.values[key]
    if not isinstance(values, list) or not all(type(one) is int and one >= 0 for one in values):
        table.refuse(key, "a list of places in rows, from 0")
    return values


_TOP = {
    "rows": Table.tables, "groups": _places, "split": Table.truth, "backend": Table.text,
    "output": output,
}  # fmt: skip
_ROW = {
    "method": choosing.method, "weights": lambda table, key: table.values[key],
    "sides": Table.texts, "published_sides": Table.truth, "rank": Table.integer,
}  # fmt: skip


def recall(
    record: Record,
    stack: Sequence[Adapter],
    device: Backend,
    *,
    threads: int | None = None,
    dialect: Dialect | None = None,
) -> Plan:
    """The plan of a record that has decisions instead of a recipe.

    Parameters
    ----------
    stack : its sources, opened.
    dialect : to write; None: that of the output.

    Raises
    ------
    FormatError : not decisions, or not for the groups that the sources have.
    """
    assert record.plan is not None
    try:
        found = record.plan.make(_Top, _TOP, ("rows", "groups"))
        groups = align(stack, split=found.split)
        if len(groups) != len(found.groups):
            message = (
                f"{record.plan.where}: decisions for {len(found.groups)} groups, but the sources "
                f"have {len(groups)}"
            )
            raise FormatError(message)
        weights = tuple(one.weight for one in record.sources)
        asked = stepping.asked(groups, weights)
        chosen = [
            _choice(found, record.plan, place, group, own)
            for place, group, own in zip(found.groups, groups, asked, strict=True)
        ]
    except ParamError as error:  # it is the file that is wrong
        raise FormatError(str(error)) from None
    nothing = math.nan  # what the norms were is not stored
    strengths = {
        branch: Strength(scale, nothing, nothing, nothing)
        for branch, scale in record.strengths.items()
    }
    return planned(
        stack, groups, chosen, device, threads=threads,
        output=found.output, weights=weights, method=record.method,
        verdict=Verdict(tuple(one.decision for one in chosen), strengths),
        seed=record.seed, split=found.split, dialect=dialect,
    )  # fmt: skip


def _choice(top: _Top, table: Table, place: int, group: Group, asked: tuple[float, ...]) -> Choice:
    if place >= len(top.rows):
        table.refuse("groups", f"places below {len(top.rows)}")
    row = top.rows[place]
    found = row.make(_Row, _ROW, ("method", "weights"))
    count = len(group.owners)
    weights = numbers_of(row, "weights", found.weights, count)
    if found.sides and (len(found.sides) != count or not set(found.sides) <= SIDES):
        row.refuse("sides", f"one of {', '.join(sorted(SIDES))} for each member")
    if found.rank is not None and found.rank < 1:
        row.refuse("rank", "at least 1")
    sides = cast("tuple[Side, ...]", found.sides)
    decision = Decision(found.method, weights, "", "", {}, sides, found.published_sides)
    return Choice(group.target, group.owners, asked, decision, found.rank)
