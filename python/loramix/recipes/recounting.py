"""What was asked for, as a recipe: the way back from objects to the file that would say it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loramix.adapters.loading import place_of
from loramix.errors import ParamError
from loramix.groups import common_architecture
from loramix.methods import Composite
from loramix.planning.output import Output
from loramix.planning.steps import canonical
from loramix.policies.base import Policy
from loramix.policies.filtered import Filtered
from loramix.policies.fixed import Fixed
from loramix.policies.modified import Modified
from loramix.policies.published.members import ConflictMode, KeyFilter
from loramix.recipes import spelling
from loramix.recipes.recipe import Entry, Recipe
from loramix.recipes.rules import Rule
from loramix.recipes.writing import tables
from loramix.types import Adapter, Weight


def recipe_of(
    adapters: Sequence[Adapter],
    weights: Sequence[Weight],
    policy: Policy,
    *,
    rules: Sequence[Rule] = (),
    output: Output | None = None,
    seed: int = 0,
    backend: str = "rust",
) -> Recipe:
    """The recipe of a merge, with places in the stack, from 1, for adapters that are in memory.

    Parameters
    ----------
    weights : one per adapter; those of blocks are in them.
    policy : as the merge got it; one that has no name here has no recipe either.
    """
    said: dict[str, Any] = {}
    filters: tuple[KeyFilter, ...] = tuple("all" for _ in adapters)
    modes: tuple[ConflictMode, ...] = tuple("all" for _ in adapters)
    if isinstance(policy, Filtered):
        filters, modes, policy = policy.key_filters, policy.conflict_modes, policy.inner
    if isinstance(policy, Modified):
        said.update(sparsify=policy.sparsify, refine=policy.refine, space=policy.space)
        policy = policy.inner
    if type(policy) is Fixed:  # what is derived from it decides otherwise
        said.update(auto_strength=policy.auto_strength, floor=policy.floor)
        method = policy.method
        if isinstance(method, Composite):
            said.update(sparsify=method.sparsify, refine=method.refine, space=method.space)
            method = method.inner
        said["method"] = method
    else:
        said["policy"] = policy
    rows = zip(adapters, weights, filters, modes, strict=True)
    entries = []
    for place, (adapter, weight, key, mode) in enumerate(rows, 1):
        own = dict(weight) if isinstance(weight, Mapping) else weight
        path = place_of(adapter) or Path(str(place))
        rslora = adapter.reading.rslora
        entries.append(Entry(path, own, key_filter=key, conflict_mode=mode, rslora=rslora))
    left_out = {name for adapter in adapters for name in adapter.coverage.skipped}
    return Recipe(
        tuple(entries),
        rules=tuple(rules),
        output=output or Output(),
        seed=seed,
        backend=backend,
        architecture=common_architecture(adapters),
        skip=tuple(sorted(left_out)),
        base=_base(adapters),
        **said,
    )


def _base(adapters: Sequence[Adapter]) -> Path | None:
    """The model that deltas are relative to.

    Raises
    ------
    ParamError : there are several, or it is in memory.
    """
    used = {adapter.base.path for adapter in adapters if adapter.base is not None}
    if len(used) > 1 or None in used:
        message = "a recipe names one base model for all its adapters, by its path"
        raise ParamError(message)
    return next(iter(used), None)


def portable(recipe: Recipe) -> str:
    """The text of a recipe without what is of one machine, or said of every source by itself.

    Adapters are named by their places in the stack, from 1.  What is read from the text gives the
    same text.

    Raises
    ------
    ParamError : see `loramix.recipes.writing.to_toml`.
    """
    places = [
        replace(entry, path=Path(str(place)), rslora=False)
        for place, entry in enumerate(recipe.adapters, 1)
    ]
    bare = replace(recipe, adapters=tuple(places), architecture=None, skip=(), base=None)
    return spelling.document(canonical(tables(bare)))
