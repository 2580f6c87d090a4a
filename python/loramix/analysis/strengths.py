"""Energy normalisation: how strong a merged branch is, and how strong it may be."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loramix.analysis.statistics import GroupStatistics
from loramix.methods import Coefficients, Method, apply
from loramix.methods.average import Average
from loramix.tensors import F64


@dataclass(frozen=True, slots=True)
class Strength:
    """Energy normalisation of one branch of the model.

    Attributes
    ----------
    scale : what every coefficient of the branch is multiplied by, in (0, 1].
    norm : norm of the merged branch before.
    reference : norm of the strongest contributor, ``max_i |w_i| |branch_i|``.
    cosine : mean cosine of the adapters over the branch.
    """

    scale: float
    norm: float
    reference: float
    cosine: float


def strengths(
    groups: Sequence[GroupStatistics],
    weights: Sequence[Sequence[float]],
    energies: Sequence[float],
    *,
    floor: float | None = None,
    most: float = 1.0,
) -> dict[str, Strength]:
    """How much each branch has to shrink so that its norm is at most its strongest adapter's.

    ``scale = min(sqrt(most) max_i |w_i| sqrt(n_i) / sqrt(E^2), 1)`` with ``n_i = sum_g K_ii`` and
    the sum ``E^2`` of the energies, for the model and for the text encoders apart.

    Parameters
    ----------
    weights : for every group, the users' weights of its members.
    energies : squared norms of what the method makes of every group before normalisation, see
        `energy_of`.
    floor : least scale of a branch whose adapters are independent (mean cosine within 0.1).
    most : the energy allowed, in squared norms of the strongest contributor, above 0.
    """
    count = 1 + max(owner for group in groups for owner in group.owners)
    result: dict[str, Strength] = {}
    for branch in ("model", "text_encoder"):
        rows = [
            row
            for row in zip(groups, weights, energies, strict=True)
            if row[0].target.branch == branch
        ]
        if not rows:
            continue
        total = np.zeros((count, count))
        own = np.zeros(count)
        squared = 0.0
        for group, w, energy in rows:
            total[np.ix_(group.owners, group.owners)] += group.gram
            own[list(group.owners)] += np.square(w) * np.diag(group.gram)
            squared += energy
        norm, reference = math.sqrt(max(squared, 0.0)), math.sqrt(own.max())
        cosine = _mean_cosine(total)
        scale = min(math.sqrt(most) * reference / norm, 1.0) if norm > 0 else 1.0
        if floor is not None and abs(cosine) <= _INDEPENDENT:
            scale = max(scale, min(floor, 1.0))
        result[branch] = Strength(scale, norm, reference, cosine)
    return result


def energy_of(gram: F64, coefficients: F64) -> float:
    """Squared norm of ``sum c_i delta_i``, exact: ``c^T K c``."""
    return float(coefficients @ gram @ coefficients)


def stand_in(method: Method, gram: F64, weights: F64) -> F64:
    """Coefficients whose result stands for that of the method, for its norm.

    That of a method that is no linear combination is not known before it is made: the plain sum
    or the plain mean takes its place.
    """
    if isinstance(method, Coefficients):
        return apply(method, gram, weights)
    return Average().coefficients(gram, weights) if method.mean else weights


_INDEPENDENT = 0.1


def _mean_cosine(total: F64) -> float:
    norms = np.sqrt(np.maximum(np.diag(total), 0))
    i, j = np.triu_indices(len(norms), 1)
    both = norms[i] * norms[j]
    met = both > 0
    return float((total[i, j][met] / both[met]).mean()) if met.any() else 0.0
