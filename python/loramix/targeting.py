"""From stems to targets: which weight of the model every delta of a file changes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from loramix.errors import FormatError
from loramix.formats.dialects import Stem
from loramix.formats.layout import Layout, flatten
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
        for target, factors, parts in _placed(delta, layout):
            for part in parts:
                if part in covered:
                    _refuse_twice(found, covered[part], factors, part, where)
                covered[part] = target.key
            found.setdefault(target.key, (target, factors))
    return dict(found[key] for key in sorted(found))


def _placed(delta: Delta, layout: Layout | None) -> list[tuple[Target, Factors, list[str]]]:
    """What a delta changes: targets, what it does to each, the keys of the modules of each."""
    stem, factors = delta.stem, delta.factors
    hit = layout.find(flatten(stem.path), stem.component, delta.size) if layout else None
    if hit is None:
        target = Target(stem.key, (factors.up.shape[0], *factors.down.shape[1:]))
        return [(target, factors, [target.key])]
    if hit.swapped:
        factors = replace(factors, up=factors.up.with_halves_swapped())
    first = hit.modules[0]
    parts = [Target(f"{m.component}.{m.name}", m.shape) for m in hit.modules]
    if len(parts) == 1:
        return [(parts[0], factors, [parts[0].key])]
    if all(module.kohya == first.kohya for module in hit.modules):
        whole = Target(f"{first.component}.{first.original}", (delta.size[0], *first.shape[1:]))
        return [(whole, factors, [part.key for part in parts])]
    # Fused by a naming that no dialect writes: its parts are apart from the start.
    ends = accumulate(part.rows for part in parts)
    return [
        (part, factors.rows(end - part.rows, end), [part.key])
        for part, end in zip(parts, ends, strict=True)
    ]


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
