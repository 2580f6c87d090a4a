"""From stems to targets: which weight of the model every delta of a file changes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from loramix.errors import FormatError
from loramix.formats.dialects import Stem, lookup
from loramix.formats.layout import Layout, Module
from loramix.types import Factors, Target


@dataclass(frozen=True, slots=True)
class Delta:
    """One delta of a file, under the name it has there."""

    stem: Stem
    factors: Factors

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.factors.up.shape[0], math.prod(self.factors.down.shape[1:])


def targets_of(deltas: Sequence[Delta], layout: Layout | None, where: str) -> dict[Target, Factors]:
    """What every delta changes, in order of their keys.

    Parameters
    ----------
    layout : module table of the base model; None: names stay what they are.
    where : the file, for messages.

    Raises
    ------
    FormatError : two deltas change one weight, differently.
    """
    found: dict[str, tuple[Target, Factors]] = {}
    covered: dict[str, str] = {}
    for delta in deltas:
        modules = lookup(delta.stem, layout, delta.size) if layout else ()
        target, factors = _target(delta, modules), delta.factors
        if any(module.swap and module.kohya == delta.stem.text for module in modules):
            factors = replace(factors, up=factors.up.with_halves_swapped())
        parts = [f"{m.component}.{m.name}" for m in modules] or [target.key]
        for part in parts:
            if part in covered:
                _refuse_twice(found, covered[part], factors, part, where)
            covered[part] = target.key
        found.setdefault(target.key, (target, factors))
    return dict(found[key] for key in sorted(found))


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


def _target(delta: Delta, modules: Sequence[Module]) -> Target:
    factors = delta.factors
    if not modules:
        return Target(delta.stem.key, (factors.up.shape[0], *factors.down.shape[1:]))
    first = modules[0]
    if len(modules) == 1:
        return Target(f"{first.component}.{first.name}", first.shape)
    return Target(f"{first.component}.{first.original}", (delta.size[0], *first.shape[1:]))
