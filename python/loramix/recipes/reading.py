"""From a file to a recipe: TOML, or JSON of the same shape; nothing guessed, nothing ignored."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NoReturn, TypeAlias

from loramix.errors import FormatError, ParamError
from loramix.planning.output import Output
from loramix.recipes import choosing, policy
from loramix.recipes.choosing import one_of
from loramix.recipes.recipe import CONFLICT_MODES, KEY_FILTERS, Entry, Recipe
from loramix.recipes.rules import Rule
from loramix.recipes.strict import Reader, Table
from loramix.types import StrPath

Syntax: TypeAlias = Literal["TOML", "JSON"]
_ENTRY: Mapping[str, Reader] = {
    "path": Table.path,
    "weight": Table.numbers,
    "text_encoder": Table.number,
    "blocks": Table.text,
    "key_filter": one_of(KEY_FILTERS),
    "conflict_mode": one_of(CONFLICT_MODES),
    "rslora": Table.truth,
}
_RULE: Mapping[str, Reader] = {
    "target": Table.text,
    "regex": Table.text,
    "method": choosing.method,
    "weight": Table.numbers,
    "rank": Table.integer,
    "space": choosing.space,
}
_OUTPUT: Mapping[str, Reader] = {
    "rank": Table.integer,
    "energy": Table.number,
    "max_error": Table.number,
    "passes": Table.integer,
    "dtype": Table.text,
    "dialect": Table.text,
    "dense": Table.truth,
    "client": Table.text,
    "verbatim": Table.truth,
}


def _entries(table: Table, key: str) -> tuple[Entry, ...]:
    return tuple(one.make(Entry, _ENTRY, needed=("path",)) for one in table.tables(key))


def _rules(table: Table, key: str) -> tuple[Rule, ...]:
    return tuple(one.make(Rule, _RULE) for one in table.tables(key))


def output(table: Table, key: str) -> Output:
    """A wished output from a table."""
    return table.table(key).make(Output, _OUTPUT)


_RECIPE: Mapping[str, Reader] = {
    "adapter": _entries,
    "method": choosing.method,
    "policy": policy.policy,
    "sparsify": choosing.method,
    "refine": choosing.level,
    "space": choosing.space,
    "rule": _rules,
    "output": output,
    "auto_strength": Table.truth,
    "floor": Table.number,
    "seed": Table.integer,
    "backend": Table.text,
    "architecture": Table.text,
    "skip": Table.texts,
    "base": Table.path,
}


def read_recipe(path: StrPath) -> Recipe:
    """Read a recipe; ``.json`` files as JSON, all others as TOML.

    Relative paths in it start from its folder.

    Raises
    ------
    FormatError : not TOML or JSON, with the line.
    ParamError : an unknown key, a wrong type, a value out of its range, with the place.
    OSError : the file cannot be read.

    Examples
    --------
    >>> read_recipe("stack.toml").adapters[0].weight  # doctest: +SKIP
    0.8
    """
    return _made(read_table(path))


def read_table(path: StrPath) -> Table:
    """What is in a file: ``.json`` files as JSON, all others as TOML.

    Raises
    ------
    FormatError, OSError : see `read_recipe`.
    """
    file = Path(path)
    try:
        text = file.read_bytes().decode("utf-8-sig")  # some editors put a mark in front
    except UnicodeDecodeError as error:
        message = f"{file}: not UTF-8 text ({error.reason} at byte {error.start})"
        raise FormatError(message) from error
    syntax: Syntax = "JSON" if file.suffix.lower() == ".json" else "TOML"
    return _parsed(text, str(file), file.parent, syntax)


def parse(
    text: str, *, name: str = "recipe", folder: StrPath = ".", syntax: Syntax = "TOML"
) -> Recipe:
    """Read a recipe from text.

    Parameters
    ----------
    name : for messages.
    folder : what relative paths start from.

    Raises
    ------
    FormatError, ParamError : see `read_recipe`.
    """
    return _made(_parsed(text, name, Path(folder), syntax))


def _parsed(text: str, name: str, folder: Path, syntax: Syntax) -> Table:
    try:
        values = _json(text) if syntax == "JSON" else tomllib.loads(text)
    except ValueError as error:
        message = f"{name}: not {syntax}: {error}"
        raise FormatError(message) from error
    except RecursionError:
        message = f"{name}: nested too deeply"
        raise FormatError(message) from None
    if not isinstance(values, dict):
        message = f"{name}: expected an object with the key adapter"
        raise FormatError(message)
    return Table(values, name, folder)


def _made(table: Table) -> Recipe:
    if "plan" in table.values and "group" in table.values:
        message = f"{table.where} is a plan: give it as --plan"
        raise ParamError(message)
    try:
        return table.make(_recipe, _RECIPE)
    except RecursionError:
        message = f"{table.where}: nested too deeply"
        raise FormatError(message) from None


def _recipe(
    adapter: tuple[Entry, ...] = (), rule: tuple[Rule, ...] = (), **others: object
) -> Recipe:
    """The tables of a file have the names of one, the fields those of all."""
    return Recipe(adapter, rules=rule, **others)  # type: ignore[arg-type] # read by their readers


def _json(text: str) -> object:
    return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """JSON lets keys be repeated; TOML does not."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        message = f"key {twice!r} is given twice in one object"
        raise ValueError(message)
    return found


def _refuse_constant(word: str) -> NoReturn:
    message = f"{word} is not a number of JSON"
    raise ValueError(message)
