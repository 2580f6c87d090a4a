"""From a recipe to a file that reads back equal."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import cast

from loramix.methods import Method
from loramix.planning.output import Output
from loramix.policies.base import Policy
from loramix.recipes import choosing, policy, spelling
from loramix.recipes.recipe import Entry, Recipe
from loramix.recipes.rules import Rule
from loramix.types import StrPath

_ORDER = (
    "seed", "backend", "architecture", "skip", "base", "policy", "method", "sparsify", "refine",
    "space", "auto_strength", "floor", "adapters", "rules", "output",
)  # fmt: skip
_TABLES = {"adapters": "adapter", "rules": "rule"}


def to_toml(recipe: Recipe, folder: StrPath | None = None) -> str:
    """The text of a recipe; what has its default is left out, but for the seed.

    Parameters
    ----------
    folder : where the text will be kept: paths below it are written relative to it.  None: all
        as they are, which reads back equal if they are absolute.

    Raises
    ------
    ParamError : a method that is not of loramix, or a path that is not Unicode.
    """
    return spelling.document(tables(recipe, folder))


def tables(recipe: Recipe, folder: StrPath | None = None) -> dict[str, object]:
    """What a parser of TOML or JSON makes of the text of a recipe.  See `to_toml`."""
    usual = Recipe(recipe.adapters)
    found: dict[str, object] = {}
    for name in _ORDER:
        value = getattr(recipe, name)
        if name in ("seed", "adapters") or value != getattr(usual, name):
            found[_TABLES.get(name, name)] = _plain(value, folder)
    return found


def _plain(value: object, folder: StrPath | None) -> object:
    match value:
        case tuple():
            found: object = [_plain(one, folder) for one in value]
        case Mapping():
            found = dict(value)
        case Path():
            found = _path(value, folder)
        case Entry() | Rule() | Output():
            found = _said(value, folder)
        case Policy():
            found = policy.plain(value)
        case str() | int() | float():
            found = value
        case _:  # the only other values are methods
            found = choosing.plain(cast("Method", value))
    return found


def _said(value: Entry | Rule | Output, folder: StrPath | None) -> dict[str, object]:
    """Fields without their defaults."""
    given = {f.name: (getattr(value, f.name), f.default) for f in fields(value)}
    return {name: _plain(v, folder) for name, (v, default) in given.items() if v != default}


def _path(path: Path, folder: StrPath | None) -> str:
    if folder is not None and path.is_relative_to(folder):
        path = path.relative_to(folder)
    return path.as_posix()
