"""Pairs that can be read in two ways, as they are and transposed: which of the two is meant.

``up`` (p, q) beside ``down`` (q, p) is a weight of p x p at rank q, or of q x q at rank p.  Where a
module table or a base model knows the weight, that decides, whatever is said here (`Delta.find`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from loramix.adapters.deltas import Delta
from loramix.types import Factors, Target

_TOLD = 3


def settled(deltas: Sequence[Delta]) -> list[Delta]:
    """The same, each in the reading that is more likely.

    It has the rank of all pairs that can be read in one way only, where those have one; else the
    rank that is not above both sides, which is no rank.
    """
    ranks = {one.draft.rank for one in deltas if one.draft.other is None and one.draft.rank}
    uniform = next(iter(ranks)) if len(ranks) == 1 else None
    return [_likely(one, uniform) for one in deltas]


def _likely(delta: Delta, uniform: int | None) -> Delta:
    draft = delta.draft
    # The rank of the other reading is what this one has for sides.
    first, second = draft.rank, draft.rows
    if draft.other is None or first is None or second is None or first == second:
        return delta
    better = second == uniform if uniform in (first, second) else first > second
    if not better:
        return delta
    return Delta(delta.stem, replace(delta.turned.draft, other=lambda: draft))


def turned_of(targets: Mapping[Target, Factors]) -> list[Factors]:
    """Those that came transposed: nothing else of plain LoRA computes its down side."""
    return [one for one in targets.values() if one.family == "lora" and one.down.is_made]


def notes_on(turned: Iterable[Factors]) -> list[str]:
    """What a user should know of them."""
    names = list(dict.fromkeys(one.keys[0] for one in turned))
    if not names:
        return []
    more = ", ..." if len(names) > _TOLD else ""
    return [f"{len(names)} pairs are stored transposed: turned ({', '.join(names[:_TOLD])}{more})"]
