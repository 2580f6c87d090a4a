"""Sources as users name them become a stack of adapters, or are refused."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from loramix.adapters import loading
from loramix.checkpoints import lent
from loramix.errors import FormatError, ParamError
from loramix.formats.dialects import is_flat
from loramix.groups import agreed
from loramix.recipes.recipe import Recipe
from loramix.types import Adapter, Base, Group, StrPath, Weight

_EXPERTS = tuple(
    re.compile(rf"(?<![a-z]){level}[-_ ]?noise(?![a-z])", re.IGNORECASE)
    for level in ("high", "low")
)


def open_all(
    sources: Sequence[StrPath | Adapter],
    *,
    architecture: str | None = None,
    skip: Sequence[str] = (),
    base: Base | StrPath | None = None,
    rslora: bool = False,
) -> list[Adapter]:
    """Load what is not loaded; what fits several architectures follows what fits one, or the base.

    Parameters
    ----------
    architecture, skip, base, rslora : see `loramix.load`; for the sources that are paths.
    """
    model = lent(base)  # once for all
    stack = [
        source
        if isinstance(source, Adapter)
        else loading.load(source, architecture=architecture, skip=skip, base=model, rslora=rslora)
        for source in sources
    ]
    known = agreed(stack)
    if known is None and model is not None and any(_is_open(a) for a in stack):
        known = model.architecture
    if known is not None:
        stack = [
            loading.resolve(a, known) if a.architecture != known and known in a.candidates else a
            for a in stack
        ]
    _refuse_mixed_unknown(stack)
    return stack


def _is_open(adapter: Adapter) -> bool:
    """Whether it fits several models; of what fits none, a base decides nothing."""
    return adapter.architecture is None and bool(adapter.candidates)


def open_recipe(
    recipe: Recipe, base: Base | StrPath | None = None
) -> tuple[list[Adapter], list[Weight]]:
    """The adapters of a recipe, and their weights.

    Parameters
    ----------
    base : the model that deltas are relative to, where the recipe names none.
    """
    model = lent(recipe.base or base)
    loaded = [
        loading.load(
            entry.path, architecture=recipe.architecture, skip=recipe.skip, base=model,
            rslora=entry.rslora,
        )
        for entry in recipe.adapters
    ]  # fmt: skip
    stack = open_all(loaded)
    rows = zip(recipe.adapters, stack, strict=True)
    return stack, [entry.weights(adapter.architecture, adapter.keys) for entry, adapter in rows]


def _refuse_mixed_unknown(stack: Sequence[Adapter]) -> None:
    """Flattened names of an unknown model meet no other names."""
    flat = next((a for a in stack if a.architecture is None and is_flat(a.dialect)), None)
    other = next((a for a in stack if not is_flat(a.dialect)), None)
    if flat is not None and other is not None:
        message = (
            f"{flat.name} has {flat.dialect} names of a model that loramix does not know, "
            f"{other.name} has {other.dialect} names: they cannot be matched"
        )
        raise FormatError(message)


def notes_of(stack: Sequence[Adapter]) -> tuple[str, ...]:
    """What nobody can see in the files: that two are for different experts of one model.

    The two networks of Wan 2.2 A14B have the same modules; only names say which an adapter is for.
    """
    high, low = (
        [
            a.name
            for a in stack
            if (a.architecture or "").startswith("wan") and pattern.search(a.name)
        ]
        for pattern in _EXPERTS
    )
    if not (high and low):
        return ()
    return (
        f"{high[0]} is for the high-noise expert by its name, {low[0]} for the low-noise one: "
        "those are two models, and each wants adapters of its own; merge them apart",
    )


def refuse_strangers(stack: Sequence[Adapter], groups: Sequence[Group]) -> None:
    """An adapter of an unknown model whose names are of another world than all others'.

    Sharing no target is no mistake in itself: one may change attention, the other the MLPs.
    """
    met = {owner for group in groups if len(group.owners) > 1 for owner in group.owners}
    roots = [{target.key.partition(".")[0] for target in adapter} for adapter in stack]
    for owner, adapter in enumerate(stack):
        others = set().union(*roots[:owner], *roots[owner + 1 :])
        if adapter.architecture or owner in met or len(stack) == 1 or roots[owner] & others:
            continue
        message = (
            f"{adapter.name} shares no target with the other adapters, and no names either "
            f"({min(adapter).key} against {', '.join(sorted(others))}): its names follow another "
            "convention, or it is for another model"
        )
        if adapter.candidates:
            fitting = " or ".join(adapter.candidates)
            message = f"{adapter.name} fits {fitting}: say which with --architecture"
        raise FormatError(message)


def refuse_idle_globs(
    stack: Sequence[Adapter], groups: Sequence[Group], weights: Sequence[Weight]
) -> None:
    """Weights by globs of which none is about a target of their adapter: a mistyped one, likely.

    Some that match nothing are no mistake: those of blocks are about all blocks of the model.
    """
    for owner, (adapter, weight) in enumerate(zip(stack, weights, strict=True)):
        if not isinstance(weight, Mapping):
            continue
        keys = [group.target.key for group in groups if owner in group.owners]
        if keys and not any(fnmatchcase(key, glob) for glob in weight for key in keys):
            more = f" and {len(weight) - 1} more globs match" if len(weight) > 1 else " matches"
            message = (
                f"weight of {adapter.name}: {next(iter(weight), '')!r}{more} none of its "
                f"{len(keys)} targets, such as {keys[0]}: globs are compared with whole keys"
            )
            raise ParamError(message)


def weights_of(
    sources: Sequence[StrPath | Adapter], weights: Sequence[Weight] | None
) -> tuple[Weight, ...]:
    """One finite weight per source."""
    if weights is None:
        return (1.0,) * len(sources)
    if len(weights) != len(sources):
        message = f"{len(weights)} weights for {len(sources)} adapters: one each"
        raise ParamError(message)
    for source, weight in zip(sources, weights, strict=True):
        numbers = weight.values() if isinstance(weight, Mapping) else (weight,)
        if not all(math.isfinite(number) for number in numbers):
            name = source.name if isinstance(source, Adapter) else source
            message = f"weight {weight} of {name}: a finite number of any sign"
            raise ParamError(message)
    return tuple(weights)


def refuse_twice(sources: Sequence[StrPath | Adapter]) -> None:
    """One file counts once."""
    seen: set[str] = set()
    for source in sources:
        path = source.source.path if isinstance(source, Adapter) else Path(source)
        if path is None:
            continue
        real = os.path.realpath(path)
        if real in seen:
            message = f"{path} is given twice; give it once, with the sum of the weights"
            raise ParamError(message)
        seen.add(real)
