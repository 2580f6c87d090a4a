"""What a user should know of a stack, whatever is decided."""

from collections.abc import Sequence

from loramix.policies.base import Stack
from loramix.policies.published.measures import pair_cosines
from loramix.policies.published.members import Members

_OPPOSED = -0.1


def notes_of(stack: Stack, rows: Sequence[Members]) -> list[str]:
    """One line for each: mixed architectures, adapters that oppose each other, what is left out."""
    notes = []
    names = [adapter.name for adapter in stack.adapters]
    known = list(dict.fromkeys(adapter.architecture or "unknown" for adapter in stack.adapters))
    if len(known) > 1:
        notes.append(f"adapters of different architectures: {', '.join(known)}")
    notes += [
        f"{names[first]} and {names[second]} oppose each other (cosine {cosine:.3g} < {_OPPOSED})"
        for (first, second), cosine in pair_cosines(rows).items()
        if cosine < _OPPOSED
    ]
    left_out = sum(members.count > 0 and members.contributors == 0 for members in rows)
    if left_out:
        notes.append(f"{left_out} of {len(rows)} groups are left out: the key filters leave nobody")
    return notes
