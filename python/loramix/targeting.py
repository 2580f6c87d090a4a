"""From stems to targets: which weight of the model every delta of a file changes."""

from collections.abc import Sequence
from itertools import accumulate

from loramix.deltas import Delta
from loramix.errors import FormatError
from loramix.formats.layout import Layout
from loramix.types import BIAS, Base, Factors, Target


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
        for target, factors, parts in _placed(delta, layout, where, base):
            for part in parts:
                if part in covered:
                    _refuse_twice(found, covered[part], factors, part, where)
                covered[part] = target.key
            found.setdefault(target.key, (target, factors))
    return dict(found[key] for key in sorted(found))


def _placed(
    delta: Delta, layout: Layout | None, where: str, base: Base | None
) -> list[tuple[Target, Factors, list[str]]]:
    """What a delta changes: targets, what it does to each, the keys of the modules of each."""
    delta, hit = delta.find(layout)
    if hit is None:
        placed = delta.at(delta.stem.key + delta.suffix, None, base, where)
        return [(*placed, [placed[0].key])] if placed else []
    first = hit.modules[0]
    keys = [f"{m.component}.{m.name}{delta.suffix}" for m in hit.modules]
    rows = sum(module.shape[0] for module in hit.modules)
    whole = len(keys) == 1 or all(module.kohya == first.kohya for module in hit.modules)
    key = keys[0] if len(keys) == 1 else f"{first.component}.{first.original}{delta.suffix}"
    shape = (rows, *first.shape[1:])
    placed = delta.at(key, shape, base, where, parts=keys, swapped=hit.swapped)
    if placed is None:
        return []
    if whole:
        return [(*placed, keys)]
    # Fused by a naming that no dialect writes: its parts are apart from the start.
    factors = placed[1]
    shapes = [m.shape[:1] if delta.suffix == BIAS else m.shape for m in hit.modules]
    ends = accumulate(shape[0] for shape in shapes)
    return [
        (Target(key, shape), factors.rows(end - shape[0], end), [key])
        for key, shape, end in zip(keys, shapes, ends, strict=True)
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
