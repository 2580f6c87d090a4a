"""From stems to targets: which weight of the model every delta of a file changes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from loramix.errors import FormatError, ShapeError
from loramix.formats.dialects import Stem, lookup
from loramix.formats.families import Draft, Place
from loramix.formats.layout import Layout, Module
from loramix.types import BIAS, MODULATION, Base, Factors, Target, Tensor

_SUFFIXES = {"weight": "", "norm": "", "bias": BIAS, "modulation": MODULATION}


@dataclass(frozen=True, slots=True)
class Delta:
    """One delta of a file, under the name it has there."""

    stem: Stem
    draft: Draft

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Rows and columns, as far as its tensors tell."""
        return self.draft.rows, self.draft.cols

    @property
    def suffix(self) -> str:
        """What the key of the target has behind that of the module."""
        return _SUFFIXES[self.draft.part]


def targets_of(
    deltas: Sequence[Delta], layout: Layout | None, where: str, base: Base | None = None
) -> dict[Target, Factors]:
    """What every delta changes, in order of their keys.

    Parameters
    ----------
    layout : module table of the base model; None: names stay what they are.
    where : the file, for messages.
    base : weights of the base model, for deltas that are relative to them.

    Raises
    ------
    FormatError : two deltas change one weight, differently; a weight that the base does not have.
    ShapeError : a delta that does not fit its weight.
    """
    found: dict[str, tuple[Target, Factors]] = {}
    covered: dict[str, str] = {}
    for delta in deltas:
        delta, modules = _located(delta, layout)
        key = _key(delta, modules)
        swap = any(module.swap and module.kohya == delta.stem.text for module in modules)
        weight = _weight(delta, key, base, where, swap=swap)
        if delta.draft.base == "optional" and weight is None:
            continue
        target = Target(key, _shape(delta, modules, weight, where))
        turned = delta.draft.transposed and len(target.shape) == 2
        factors = delta.draft.make(Place(key, target.shape, weight, turned))
        if swap:
            factors = replace(factors, up=factors.up.with_halves_swapped())
        parts = [f"{m.component}.{m.name}{delta.suffix}" for m in modules] or [key]
        for part in parts:
            if part in covered:
                _refuse_twice(found, covered[part], factors, part, where)
            covered[part] = key
        found.setdefault(key, (target, factors))
    return dict(found[key] for key in sorted(found))


def _located(delta: Delta, layout: Layout | None) -> tuple[Delta, tuple[Module, ...]]:
    """Modules that a delta changes, and the reading of its tensors that fits them."""
    modules = lookup(delta.stem, layout, delta.size) if layout else ()
    if layout and not modules and delta.draft.other is not None:
        other = Delta(delta.stem, delta.draft.other)
        modules = lookup(other.stem, layout, other.size)
        return (other, modules) if modules else (delta, ())
    return delta, modules


def _key(delta: Delta, modules: Sequence[Module]) -> str:
    if not modules:
        return delta.stem.key + delta.suffix
    first = modules[0]
    name = first.name if len(modules) == 1 else first.original
    return f"{first.component}.{name}{delta.suffix}"


def _weight(delta: Delta, key: str, base: Base | None, where: str, *, swap: bool) -> Tensor | None:
    """The base weight that a delta is relative to, in the order of rows of the file."""
    if base is None or delta.draft.base == "no":
        return None
    weight = base.weight(key)
    if weight is None and delta.draft.base == "needed":
        message = (
            f"{where}: {delta.stem.text} is relative to the base weight {key}, which the base "
            "model does not have: is it the one that the file was trained on?"
        )
        raise FormatError(message)
    return weight.with_halves_swapped() if swap and weight is not None else weight


def _shape(
    delta: Delta, modules: Sequence[Module], weight: Tensor | None, where: str
) -> tuple[int, ...]:
    """Shape of the target: that of the table, of the base weight, or of the delta itself.

    Raises
    ------
    ShapeError : the delta has another size.
    """
    draft = delta.draft
    if draft.part in ("bias", "modulation"):
        assert draft.shape is not None  # vectors are differences as they are
        return draft.shape
    known: tuple[int, ...] | None = None
    if len(modules) == 1:
        known = modules[0].shape
    elif modules:
        rows = sum(module.shape[0] for module in modules)
        known = (rows, *modules[0].shape[1:])
    if weight is not None:
        turned = draft.transposed and len(weight.shape) == 2
        there = weight.shape[::-1] if turned else weight.shape
        if known is not None and there != known:
            message = (
                f"{where}: the base weight of {delta.stem.text} has shape {list(there)}, but the "
                f"model has {list(known)} there"
            )
            raise ShapeError(message)
        known = there
    shape = known if known is not None else draft.shape
    assert shape is not None  # whoever does not know it needs a base
    if not _fits(draft, shape):
        message = (
            f"{where}: {delta.stem.text} is of a weight of shape {list(shape)}, its tensors are of "
            f"{draft.rows or 'any'} rows and {draft.cols or 'any'} columns"
        )
        raise ShapeError(message)
    return shape


def _fits(draft: Draft, shape: Sequence[int]) -> bool:
    if (draft.part == "norm") != (len(shape) == 1):
        return False
    return draft.rows in (None, shape[0]) and draft.cols in (None, math.prod(shape[1:]))


def _refuse_twice(
    found: dict[str, tuple[Target, Factors]], key: str, new: Factors, part: str, where: str
) -> None:
    old = found[key][1]
    if old.up.data == new.up.data and old.down.data == new.down.data and old.scale == new.scale:
        return  # the same tensors under two spellings: once is enough
    message = (
        f"{where}: {old.keys[0]} and {new.keys[0]} both change {part}, differently; leave one "
        "out with --skip"
    )
    raise FormatError(message)
