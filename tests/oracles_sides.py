"""Slow float64 truth of what members give to their group, one position at a time in words.

`given` is what is left of the deltas after the vote on conflicts; `sided` merges that by a
`Definition`, and adds what goes around.  Norms are those of whole deltas, and so is the span that
noise is outside of.

Sources: `loramix.raw.Site`; for the published draw, section 1.6 of the reference specification.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from oracles import F64, linear
from oracles_entries import Definition, calibrated, cleaned, merged, weighted


def given(
    deltas: Sequence[F64], weights: Sequence[float], sides: Sequence[str], *, published: bool
) -> list[F64]:
    """The deltas of members of which none goes around, without what they do not give."""
    ballots = weighted(deltas, weights)
    count = np.sum([np.sign(b) for b in ballots], axis=0)
    total = np.sum(ballots, axis=0)
    draw = np.ones_like(total) if published else np.sign(total)
    winner = np.where(count != 0, np.sign(count), draw)
    found = []
    for delta, ballot, side in zip(deltas, ballots, sides, strict=True):
        with_it = ballot * winner > 0
        against = (ballot * winner < 0) | (winner == 0)
        found.append(np.where({"all": True, "low": with_it, "high": against}[side], delta, 0.0))
    return found


def sided(
    what: Definition,
    deltas: Sequence[F64],
    weights: Sequence[float],
    sides: Sequence[str],
    *,
    published: bool = False,
    seed: int = 0,
    target: int = 0,
) -> F64:
    """What a definition makes of the members that it sees, and beside it those that go around."""
    each = list(zip(deltas, weights, sides, strict=True))
    around = [(d, w) for d, w, side in each if side == "around"]
    own = [(d, w, side) for d, w, side in each if side != "around"]
    whole, sizes = [d for d, _, _ in own], [w for _, w, _ in own]
    if len(own) > 1:
        parts = given(whole, sizes, [side for _, _, side in own], published=published)
        # As published, a method looks at refined deltas only, for its norm and its noise too.
        late = what.published == "no"
        early = replace(what, calibrate=False, clean=False) if late else what
        result = merged(early, parts, sizes, seed=seed, target=target)
        result = calibrated(result, whole, sizes) if late and what.calibrate else result
        result = cleaned(result, whole) if late and what.clean else result
    else:
        result = linear(whole, sizes) if own else np.zeros_like(deltas[0])
    return result + sum((w * d for d, w in around), np.zeros_like(result))
