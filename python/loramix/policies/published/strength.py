"""Energy normalisation as published, and the strength that is suggested for the result."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from loramix.analysis.strengths import Strength, stand_in
from loramix.methods import Linear, Method
from loramix.methods.composite import calibration
from loramix.methods.consensus import Consensus
from loramix.methods.ties_upstream import TiesPublished
from loramix.policies.base import Decision
from loramix.policies.published.members import Members
from loramix.tensors import F64


def strengths_of(
    all_members: Sequence[Members], count: int, *, floor: float, alignment: float
) -> dict[str, Strength]:
    """How much each branch has to shrink to be as strong as its strongest adapter.

    ``scale = min(max_i e_i / E, 1)`` with ``e_i^2 = sum_g w_i^2 K_ii`` and
    ``E^2 = sum_g w^T K w``.  Cross terms are exact and of any sign, as the publication has them
    and its implementation does not.  A branch of fewer than two adapters keeps its strength.

    Flaws of the publication, kept: E is that of the plain sum, whatever is merged how; the scale
    jumps where the mean cosine passes ``alignment``; the floor is the same for two adapters as
    for eight.

    Parameters
    ----------
    count : adapters in the stack.
    floor : least scale of a branch whose mean cosine, in the signs of the weights, is at most
        ``alignment``; pairs that never meet count as 0.
    """
    found: dict[str, Strength] = {}
    for branch in ("model", "text_encoder"):
        rows = [members for members in all_members if members.group.target.branch == branch]
        if rows:
            found[branch] = _strength(rows, count, floor, alignment)
    return found


def _strength(rows: Sequence[Members], count: int, floor: float, alignment: float) -> Strength:
    own, inner, energy = np.zeros(count), np.zeros((count, count)), 0.0
    for members in rows:
        gram, w, owners = members.group.gram, members.weights, list(members.group.owners)
        own[owners] += w * w * np.diag(gram)
        inner[np.ix_(owners, owners)] += gram * np.outer(np.sign(w), np.sign(w))
        energy += float(w @ gram @ w)
    norm, reference = math.sqrt(max(energy, 0.0)), math.sqrt(own.max())
    cosine = _mean_cosine(inner)
    if np.count_nonzero(own) < 2 or norm == 0:
        return Strength(1.0, norm, reference, cosine)
    scale = min(reference / norm, 1.0)
    if abs(cosine) <= alignment:
        scale = max(scale, floor)
    return Strength(scale, norm, reference, cosine)


def _mean_cosine(inner: F64) -> float:
    """Mean over pairs of adapters that are not 0."""
    norms = np.sqrt(np.maximum(np.diag(inner), 0))
    i, j = np.triu_indices(len(norms), 1)
    sizes = norms[i] * norms[j]
    some = sizes > 0
    return float((inner[i, j][some] / sizes[some]).mean()) if some.any() else 0.0


def scaled(members: Members, strengths: Mapping[str, Strength]) -> F64:
    """Weights with the scale of their branch; a single contributor has its full strength."""
    strength = strengths.get(members.group.target.branch)
    if strength is None or members.contributors < 2:
        return members.weights
    return np.asarray(members.weights * strength.scale)


def weights_for(method: Method, members: Members, strengths: Mapping[str, Strength]) -> F64:
    """What the method gets so that its result has the published strength.

    The published means divide by ``sum|w|``; those of this package multiply by ``max|w|``, which
    is divided out.  The scale of the model's branch is in the weights and so cancels; that of the
    text encoders is outside, on the result, and stays.
    """
    if isinstance(method, Linear | TiesPublished):
        return scaled(members, strengths)
    weights = members.weights / np.abs(members.weights).max()
    strength = strengths.get("text_encoder")
    outside = strength is not None and members.group.target.branch == "text_encoder"
    return np.asarray(weights * strength.scale if strength and outside else weights)


def suggested_strength(
    all_members: Sequence[Members],
    decisions: Sequence[Decision],
    strengths: Mapping[str, Strength],
    cap: float,
) -> float | None:
    """``max(1, min(1 / R, cap))``, ``R = sum_g |M_g| / sum_g mean_i |w_i| |delta_i|``.

    ``w_i`` are the weights with the scale of the branch, before a mean divides them.

    Returns
    -------
    None if nothing is merged.
    """
    merged = mean = 0.0
    for members, decision in zip(all_members, decisions, strict=True):
        if members.contributors:
            weights = np.array(decision.weights)
            merged += _norm(decision.method, members.group.gram, weights)
            sizes = np.abs(scaled(members, strengths))
            mean += float(sizes @ members.norms) / members.contributors
    if mean == 0:
        return None
    return max(1.0, min(mean / merged, cap)) if merged > 0 else cap


def _norm(method: Method, gram: F64, weights: F64) -> float:
    """Norm of the result: exact for coefficients and, by its own definition, for consensus.

    That of ties is not known before it is made; the plain mean stands in.  Neither is what the
    sides of a conflict leave of a delta; all of it stands in.
    """
    used = np.flatnonzero(weights)
    inner, w = gram[np.ix_(used, used)], weights[used]
    if isinstance(method, Consensus):
        return calibration(inner, w)
    c = stand_in(method, inner, w)
    return math.sqrt(max(float(c @ inner @ c), 0.0))
