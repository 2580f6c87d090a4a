"""The publication's figures: of one group over its pairs, and of the whole stack.

All ratios are ratios of sums over pairs, so a group counts by what was sampled of it, and a small
one as much as a large one: a flaw, kept, like the plain means of cosines, in which one opposed
pair among aligned ones disappears.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import combinations

import numpy as np

from loramix.analysis.statistics import PairStatistics
from loramix.policies.published.members import Members
from loramix.tensors import F64


@dataclass(frozen=True, slots=True)
class Figures:
    """What decides.

    Attributes
    ----------
    contributors : members that take part.
    conflict : share of the positions where signs differ, of all pairs.
    weighted_conflict : the same by the smaller magnitude, above the noise floor; `conflict` where
        nothing is.
    expected_conflict : ``arccos(c) / pi``, mean over pairs by what is above the noise floor.
    excess_conflict : ``max(weighted - expected, 0)`` of each pair, the same mean.
    overlap : of the subspaces, mean over pairs weighted by the product of their norms.
    cosine : plain mean over pairs.
    magnitude_ratio : largest norm over the smallest that is not 0; 1 for fewer than two.
    """

    contributors: int
    conflict: float = 0.0
    weighted_conflict: float = 0.0
    expected_conflict: float = 0.0
    excess_conflict: float = 0.0
    overlap: float = 0.0
    cosine: float = 0.0
    magnitude_ratio: float = 1.0

    @property
    def effective_conflict(self) -> float:
        """``excess * (0.5 + 0.5 overlap)``, or the excess itself where the overlap is 0.

        The jump at an overlap of 0, from half to all of the excess, is a flaw of the publication.
        """
        excess = max(self.excess_conflict, 0.0)
        return excess * (0.5 + 0.5 * self.overlap) if self.overlap > 0 else excess

    def numbers(self, prefix: str = "") -> dict[str, float]:
        """All of them by name, with a prefix to the names."""
        names = (*(field.name for field in fields(self)), "effective_conflict")
        return {prefix + name: getattr(self, name) for name in names}


def figures_of(members: Members) -> Figures:
    """Figures of one group; magnitudes without the users' weights."""
    pairs = [pair for _, pair in members.pairs]
    cosine = float(np.mean([pair.cosine for pair in pairs])) if pairs else 0.0
    return _figures(members.contributors, pairs, cosine, ratio_of(members.norms))


def figures_of_all(all_members: Sequence[Members]) -> Figures:
    """Figures of the stack: over all pairs of all groups.

    The cosine is the mean over pairs of adapters, 0 for a pair that never meets.  Magnitudes are
    those of the weighted adapters, of the model without its text encoders.
    """
    pairs = [pair for members in all_members for _, pair in members.pairs]
    owners = sorted({owner for members in all_members for owner in members.owners})
    met = pair_cosines(all_members)
    cosines = [met.get(pair, 0.0) for pair in combinations(owners, 2)]
    energies = dict.fromkeys(owners, 0.0)
    for members in all_members:
        if members.group.target.branch == "model":
            energy = (members.weights * members.norms) ** 2
            for owner, own in zip(members.group.owners, energy, strict=True):
                if own > 0:
                    energies[owner] += float(own)
    ratio = ratio_of(np.sqrt(list(energies.values())))
    cosine = float(np.mean(cosines)) if cosines else 0.0
    return _figures(len(owners), pairs, cosine, ratio)


def pair_cosines(all_members: Iterable[Members]) -> dict[tuple[int, int], float]:
    """Cosine of every pair of adapters that meet, ``sum dot / sqrt(sum a^2 sum b^2)``."""
    sums: dict[tuple[int, int], F64] = {}
    for members in all_members:
        for owners, pair in members.pairs:
            place = (min(owners), max(owners))
            sizes = np.array([pair.dot, pair.first2, pair.second2])
            sums[place] = sums.get(place, 0.0) + sizes
    return {place: _cosine(*sizes.tolist()) for place, sizes in sorted(sums.items())}


def mean_rank(all_members: Iterable[Members]) -> float:
    """Mean over adapters of their mean rank over the groups to which they contribute."""
    ranks: dict[int, list[int]] = {}
    for members in all_members:
        deltas = members.group.deltas
        for owner, delta, weight in zip(members.group.owners, deltas, members.weights, strict=True):
            if weight != 0:
                ranks.setdefault(owner, []).append(delta.rank)
    means = [float(np.mean(ranks[owner])) for owner in sorted(ranks)]
    return float(np.mean(means)) if means else 0.0


def ratio_of(norms: F64) -> float:
    """Largest over smallest of those that are not 0; 1 for fewer than two."""
    some = norms[norms > 0]
    return float(some.max() / some.min()) if len(some) > 1 else 1.0


def _figures(
    contributors: int, pairs: Sequence[PairStatistics], cosine: float, ratio: float
) -> Figures:
    positions = sum(pair.positions for pair in pairs)
    conflict = sum(pair.conflicts for pair in pairs) / positions if positions else 0.0
    totals = [pair.floor_total for pair in pairs]
    weighted = _mean([pair.published_ratio for pair in pairs], totals)
    sizes = [(pair.first2 * pair.second2) ** 0.5 for pair in pairs]
    return Figures(
        contributors=contributors,
        conflict=conflict,
        weighted_conflict=weighted if sum(totals) > 0 else conflict,
        expected_conflict=_mean([pair.published_expected for pair in pairs], totals),
        excess_conflict=_mean([pair.published_excess for pair in pairs], totals),
        overlap=_mean([pair.overlap for pair in pairs], sizes),
        cosine=cosine,
        magnitude_ratio=ratio,
    )


def _mean(values: Sequence[float], shares: Sequence[float]) -> float:
    total = sum(shares)
    return sum(v * s for v, s in zip(values, shares, strict=True)) / total if total > 0 else 0.0


def _cosine(dot: float, first2: float, second2: float) -> float:
    size = (first2 * second2) ** 0.5
    return max(-1.0, min(1.0, dot / size)) if size > 0 else 0.0
