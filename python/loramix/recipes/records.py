"""The provenance of an output, read back: what `loramix.recipes.provenance` wrote."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from loramix._core import VERSION
from loramix.errors import FormatError, ParamError
from loramix.formats import trained
from loramix.formats.layout import LAYOUTS
from loramix.recipes.choosing import one_of
from loramix.recipes.reading import parse
from loramix.recipes.recipe import Recipe
from loramix.recipes.strict import Reader, Table
from loramix.types import Weight

EXTRACT = "extract"
"""What stands in the place of a method where two models were subtracted."""


def told(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The provenance as it stands in a header; empty if there is none, or nothing readable."""
    try:
        found = json.loads(metadata.get(trained.KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """A base model, by what it is.

    Attributes
    ----------
    name : in reports.
    digest : see `loramix.Checkpoint.digest`.
    size : of its files in bytes; None: not known.
    """

    name: str
    digest: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class OriginRecord:
    """The file of a base model that a file of a baked model was made of.

    Attributes
    ----------
    name : of the model, in reports.
    digest, size : of the file; no size: not known.
    place : of the file in the folder of the model, parts joined by slashes; None: it is the model.
    architecture : whose names its weights were looked up by; None: of none that is known.
    history : what the file itself said of how it was made; None: nothing of loramix.
    """

    name: str
    digest: str
    size: int | None = None
    place: str | None = None
    architecture: str | None = None
    history: str | None = None


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One input, by what it is.

    Attributes
    ----------
    name : in reports, in titles and in rules of weights.
    digest : of its tensor file.
    size : of that in bytes; None: not known.
    weight : see `loramix.merge`.
    config : sha256 of the text of its ``adapter_config.json``; None: it had none.
    architecture : the base model that it was read for.
    skip : names of tensors that were left out.
    rslora : whether its scale is alpha over the root of the rank.
    base : the model that its deltas are relative to; None: they are relative to none.
    """

    name: str
    digest: str
    size: int | None = None
    weight: Weight = 1.0
    config: str | None = None
    architecture: str | None = None
    skip: tuple[str, ...] = ()
    rslora: bool = False
    base: BaseRecord | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """How an output was made.

    Attributes
    ----------
    version : of loramix.
    sources : in the order of the stack.
    recipe : says all; its adapters are places in `sources`.  None where it cannot.
    plan : the decisions instead, see `loramix.plans.recalling`.
    method, strengths : name and parameters, scales by branch, as they stood in the output.
    decisions : digest of the plan.
    backend : what the arithmetic ran on.
    base : the file that deltas were added to, of a baked model; None: it is an adapter.
    """

    version: str
    sources: tuple[SourceRecord, ...]
    recipe: Recipe | None = None
    plan: Table | None = None
    method: Mapping[str, object] = field(default_factory=dict)
    strengths: Mapping[str, float] = field(default_factory=dict)
    decisions: str = ""
    seed: int = 0
    backend: str = "rust"
    base: OriginRecord | None = None

    @property
    def verb(self) -> Literal["merge", "extract", "bake"]:
        """What it was made by; conversions and smaller files are merges of one."""
        if self.base is not None:
            return "bake"
        return "extract" if self.method.get("name") == EXTRACT else "merge"


def _name(table: Table, key: str) -> str:
    """Any text: names of files need be neither Unicode nor long."""
    value = table.values[key]
    if not isinstance(value, str):
        table.refuse(key, "a text")
    return value


def _weight(table: Table, key: str) -> Weight:
    """A number, or numbers by glob as pairs."""
    value = table.values[key]
    if not isinstance(value, list):
        return table.number(key)
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        table.refuse(key, "a number, or pairs of a glob and a number")
    inner = Table({str(glob): number for glob, number in value}, f"{table.where}: {key}")
    return {glob: inner.number(glob) for glob in inner.values}


def _base(table: Table, key: str) -> BaseRecord:
    return _known(table.table(key), _BASE).make(BaseRecord, _BASE, ("name", "digest"))


def _place(table: Table, key: str) -> str:
    """A path below a folder."""
    place = PurePosixPath(table.text(key))
    if place.is_absolute() or ".." in place.parts or "\0" in str(place):
        table.refuse(key, "a path below the folder of the model")
    return str(place)


def _origin(table: Table, key: str) -> OriginRecord:
    found = table.table(key)
    values = {"history" if k == trained.KEY else k: v for k, v in found.values.items()}
    known = _known(Table(values, found.where), _ORIGIN)
    return known.make(OriginRecord, _ORIGIN, ("name", "digest"))


_BASE: Mapping[str, Reader] = {"name": _name, "digest": Table.text, "size": Table.integer}
_ORIGIN: Mapping[str, Reader] = {
    **_BASE, "place": _place, "architecture": one_of(tuple(LAYOUTS)), "history": Table.text,
}  # fmt: skip
_SOURCE: Mapping[str, Reader] = {
    "name": _name, "digest": Table.text, "size": Table.integer, "weight": _weight,
    "config": Table.text, "architecture": one_of(tuple(LAYOUTS)), "skip": Table.texts,
    "rslora": Table.truth, "base": _base,
}  # fmt: skip


def _known(table: Table, known: Mapping[str, Reader]) -> Table:
    """Without keys of other versions: what comes of them shows in the bytes."""
    return Table({k: v for k, v in table.values.items() if k in known}, table.where)


def _sources(table: Table, key: str) -> tuple[SourceRecord, ...]:
    return tuple(
        _known(one, _SOURCE).make(SourceRecord, _SOURCE, ("name", "digest"))
        for one in table.tables(key)
    )


def _strengths(table: Table, key: str) -> dict[str, float]:
    inner = table.table(key)
    return {branch: inner.number(branch) for branch in inner.values}


def _recipe(table: Table, key: str) -> Recipe:
    return parse(table.text(key), name=f"{table.where}: {key}")


_RECORD: Mapping[str, Reader] = {
    "version": Table.text, "sources": _sources, "recipe": _recipe, "plan": Table.table,
    "method": lambda table, key: dict(table.table(key).values), "strengths": _strengths,
    "decisions": Table.text, "seed": Table.integer, "backend": Table.text, "base": _origin,
}  # fmt: skip


def read_record(metadata: Mapping[str, str], where: str) -> Record:
    """How a file was made, from the strings of its header.

    Parameters
    ----------
    where : the file, for messages.

    Raises
    ------
    FormatError : loramix did not make it, or it does not say how.
    """
    if trained.KEY not in metadata:
        message = f"{where}: made by something else: its header has nothing of loramix"
        raise FormatError(message)
    place = f"{where}: {trained.KEY} in the header"
    try:
        values = json.loads(metadata[trained.KEY])
    except (ValueError, RecursionError) as error:
        message = f"{place}: not JSON ({error})"
        raise FormatError(message) from None
    if not isinstance(values, dict):
        message = f"{place}: a JSON {type(values).__name__}, but it must be an object"
        raise FormatError(message)
    values = {"strengths" if k == "auto_strength" else k: v for k, v in values.items()}
    table = Table(values, place)
    try:
        found = _known(table, _RECORD).make(Record, _RECORD, ("version", "sources"))
    except ParamError as error:  # it is the file that is wrong, and not what the user asks for
        raise FormatError(str(error)) from None
    _check(found, place)
    return found


def _check(found: Record, place: str) -> None:
    if found.recipe is None and found.plan is None:
        message = (
            f"{place}: says what it was made of, but not how: a method or a policy was not of "
            f"loramix, or the loramix that made it ({found.version}; this is {VERSION}) did not "
            "store that yet"
        )
        raise FormatError(message)
    if found.verb == EXTRACT and len(found.sources) != 2:
        message = f"{place}: {len(found.sources)} sources, but a difference has two"
        raise FormatError(message)
    if found.recipe is not None and len(found.recipe.adapters) != len(found.sources):
        message = (
            f"{place}: {len(found.sources)} sources, but its recipe has "
            f"{len(found.recipe.adapters)} adapters"
        )
        raise FormatError(message)
