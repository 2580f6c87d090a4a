"""What became of every adapter: retention, cosine, interference."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from loramix.backends.base import Factored
from loramix.planning.steps import Step


@dataclass(frozen=True, slots=True)
class Share:
    """One adapter's part in one target, or in several (then the numbers are sums).

    Attributes
    ----------
    owner : position of the adapter in the stack.
    energy : ``w^2 |delta|^2``, the square of what the adapter gives.
    along : ``<M, w delta>``, M as written, before rounding to the element type.
    others : ``sum_j <w_j delta_j, w delta>`` over all other adapters.
    written : ``|M|^2`` of the targets that the adapter changes.
    """

    owner: int
    energy: float
    along: float
    others: float
    written: float

    @property
    def retention(self) -> float:
        """How much of the adapter is in the result: 1 is all; more where others add to it."""
        return self.along / self.energy if self.energy > 0 else 0.0

    @property
    def interference(self) -> float:
        """What the other adapters would add to its retention in a plain sum; negative: take."""
        return self.others / self.energy if self.energy > 0 else 0.0

    @property
    def cosine(self) -> float:
        """Of the weighted delta and the result, -1 to 1."""
        size = math.sqrt(self.energy * self.written)
        return min(1.0, max(-1.0, self.along / size)) if size > 0 else 0.0


def shares(step: Step, made: Factored) -> tuple[Share, ...]:
    """The adapters of one step, in the order of the stack."""
    group = step.group()
    sizes = np.array(step.weights()) * np.array([m.scale for m in group.members])
    inner = made.gram * np.outer(sizes, sizes)
    along = made.along * sizes
    owners = np.array(group.owners)
    written = (made.norm**2) * (1 - made.cut**2)
    found = []
    for owner in sorted(set(group.owners)):
        own = owners == owner
        energy = float(inner[np.ix_(own, own)].sum())
        others = float(inner[np.ix_(own, ~own)].sum())
        found.append(Share(owner, max(energy, 0.0), float(along[own].sum()), others, written))
    return tuple(found)


def total(rows: Iterable[Sequence[Share]]) -> tuple[Share, ...]:
    """The same over many targets, for every adapter that has a share in any."""
    each: dict[int, list[Share]] = {}
    for row in rows:
        for share in row:
            each.setdefault(share.owner, []).append(share)
    return tuple(
        Share(
            owner,
            math.fsum(s.energy for s in found),
            math.fsum(s.along for s in found),
            math.fsum(s.others for s in found),
            math.fsum(s.written for s in found),
        )
        for owner, found in sorted(each.items())
    )
