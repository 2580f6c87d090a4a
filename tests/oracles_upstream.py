"""Conventions of other tools in float64 NumPy, from their behaviour and documents.

PEFT 0.21 (`peft_...`) and mergekit 0.1.5 (`mergekit_...`) are held to recorded outputs
(``data/goldens``, made by ``scripts/make_goldens.py``).  mergekit's were found from the outside:
recipes in, tensors out, and its documents.  `published_...` are formulas of the published
per-group optimiser, of which there is no recording.

Deltas are any equal shapes; weights any sign, one each.  Nothing is shared with the package or
with ``oracles``.  Where equal magnitudes meet a cut the tools keep some of them; here those of
lower index.  All are O(N n log n).
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

F64: TypeAlias = npt.NDArray[np.float64]
Votes: TypeAlias = Literal["total", "frequency"]
Merge: TypeAlias = Callable[[Sequence[F64], Sequence[float]], F64]


def weighted(deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    """Return ``sum w d``: PEFT's and mergekit's task arithmetic, the linear DARE at density 1."""
    total = np.zeros_like(deltas[0])
    for weight, delta in zip(weights, deltas, strict=True):
        total = total + weight * delta
    return total


def largest(delta: F64, count: int, skipped: int = 0) -> F64:
    """Keep ``count`` entries by magnitude, after the ``skipped`` very largest; zeros elsewhere."""
    places = np.argsort(-np.abs(delta), axis=None, kind="stable")[skipped : skipped + count]
    result = np.zeros(delta.size)
    result[places] = delta.ravel()[places]
    return result.reshape(delta.shape)


def majority(values: Sequence[F64], votes: Votes) -> F64:
    """1 or -1: sign of the sum of the values or of their signs; a draw is +1 everywhere."""
    heads = values if votes == "total" else [np.sign(value) for value in values]
    return np.where(np.sum(heads, axis=0) >= 0, 1.0, -1.0)


def agreeing(values: Sequence[F64], winner: F64) -> list[F64]:
    """1 where a value has the winning sign, else 0; zeros agree with nobody."""
    return [np.where(np.sign(value) == winner, 1.0, 0.0) for value in values]


def masked_sum(masks: Sequence[F64], deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    """``sum w d`` where the masks are 1."""
    return weighted([mask * delta for mask, delta in zip(masks, deltas, strict=True)], weights)


# --------------------------------------------------------------------------------------- PEFT


def peft_trim(delta: F64, density: float) -> F64:
    """Keep ``int(density n)`` largest entries of the tensor: none where that is 0."""
    return delta if density >= 1 else largest(delta, int(density * delta.size))


def peft_magnitude_prune(deltas: Sequence[F64], weights: Sequence[float], density: float) -> F64:
    """Trim, sum."""
    return weighted([peft_trim(delta, density) for delta in deltas], weights)


def peft_ties(
    deltas: Sequence[F64], weights: Sequence[float], density: float, votes: Votes = "total"
) -> F64:
    """Trim, vote *without* weights or their signs, ``sum w d / count`` of the agreeing.

    A negative weight does not flip its vote, and an adapter of weight 0 votes and counts.
    """
    kept = [peft_trim(delta, density) for delta in deltas]
    agree = agreeing(kept, majority(kept, votes))
    return masked_sum(agree, kept, weights) / np.maximum(sum(agree), 1.0)


def peft_factors(
    factors: Sequence[tuple[F64, F64]],
    scales: Sequence[float],
    weights: Sequence[float],
    merge: Merge,
) -> F64:
    """Merge ups and downs each by themselves: ``add_weighted_adapter`` without ``_svd``.

    Both get ``sqrt|w s|``, the downs the sign too.  The product has the cross terms of different
    adapters: with ``merge = weighted`` it is not ``sum w s U D``.
    """
    products = [w * s for w, s in zip(weights, scales, strict=True)]
    roots = [math.sqrt(abs(product)) for product in products]
    signed = [
        root if product >= 0 else -root for root, product in zip(roots, products, strict=True)
    ]
    up = merge([pair[0] for pair in factors], roots)
    return up @ merge([pair[1] for pair in factors], signed)


# ----------------------------------------------------------------------------------- mergekit


def mergekit_trim(delta: F64, density: float) -> F64:
    """Keep ``max(1, int(density n))`` largest entries of the tensor."""
    return delta if density >= 1 else largest(delta, max(1, int(density * delta.size)))


def mergekit_middle(delta: F64, density: float, gamma: float) -> F64:
    """Keep ``int(density n)`` entries after the ``int(gamma n)`` largest, and never fewer."""
    count = int(density * delta.size)
    return largest(delta, count, min(int(gamma * delta.size), delta.size - count))


def mergekit_sum(deltas: Sequence[F64], weights: Sequence[float], *, normalize: bool) -> F64:
    """``sum w d``, over the *signed* ``sum w`` if normalised; a sum of 0 counts as 1.

    ``linear``, ``task_arithmetic`` and the methods without a vote at density 1; only ``linear``
    normalises by default (and has no guard: there a sum of 0 gives infinities).
    """
    total = weighted(deltas, weights)
    return total / _divisor(np.array(sum(weights))) if normalize else total


def mergekit_vote(deltas: Sequence[F64], weights: Sequence[float], *, normalize: bool) -> F64:
    """Vote by the sum of weighted values, sum the agreeing, over their *signed* ``sum w``.

    With weights of both signs the divisor can be small or negative at some entries and not at
    their neighbours: the result is then larger than any delta, or turned.  ``dare_ties`` (does not
    normalise by default) and ``della`` (does) at density 1.
    """
    values = [w * d for w, d in zip(weights, deltas, strict=True)]
    agree = agreeing(values, majority(values, "total"))
    total = masked_sum(agree, deltas, weights)
    return total / _divisor(weighted(agree, weights)) if normalize else total


def mergekit_ties(
    deltas: Sequence[F64],
    weights: Sequence[float],
    density: float | Sequence[float] = 1.0,
    *,
    normalize: bool = True,
) -> F64:
    """Trim, `mergekit_vote`.  ``density`` may differ between deltas."""
    shares = [density] * len(deltas) if isinstance(density, float) else density
    kept = [mergekit_trim(delta, share) for delta, share in zip(deltas, shares, strict=True)]
    return mergekit_vote(kept, weights, normalize=normalize)


def mergekit_breadcrumbs(
    deltas: Sequence[F64],
    weights: Sequence[float],
    density: float,
    gamma: float,
    *,
    normalize: bool = False,
    vote: bool = False,
) -> F64:
    """Keep the middle, sum, or `mergekit_vote`."""
    kept = [mergekit_middle(delta, density, gamma) for delta in deltas]
    return (mergekit_vote if vote else mergekit_sum)(kept, weights, normalize=normalize)


def mergekit_della_keeps(count: int, density: float, epsilon: float) -> F64:
    """Probabilities to be kept in a row of ``count``, from the smallest magnitude to the largest.

    Evenly spaced from ``density - epsilon`` to ``density + epsilon``, both included.
    """
    return np.linspace(density - epsilon, density + epsilon, count)


def mergekit_rescale(delta: F64, kept: F64) -> float:
    """Factor of the survivors of a random drop, for the whole tensor: sum |d| before / after.

    Neither 1 / density nor 1 / (an entry's probability): the result is not unbiased.
    """
    return float(np.abs(delta).sum() / np.abs(kept).sum())


def _divisor(total: F64) -> F64:
    return np.where(total == 0, 1.0, total)  # 5e-9 is recorded to divide as it is


# ---------------------------------------------------------------------------------- published


def published_ties(
    deltas: Sequence[F64], weights: Sequence[float], density: float, votes: Votes = "frequency"
) -> F64:
    """Sign of w into the delta, trim ``max(1, floor(density n))``, vote, ``sum |w| v / count``.

    |w| comes after the vote; adapters of weight 0 are removed first; a draw is +.
    """
    live = [(w, d) for w, d in zip(weights, deltas, strict=True) if w != 0]
    if not live:
        return np.zeros_like(deltas[0])
    kept = [largest(np.sign(w) * d, max(1, math.floor(density * d.size))) for w, d in live]
    agree = agreeing(kept, majority(kept, votes))
    return masked_sum(agree, kept, [abs(w) for w, _ in live]) / np.maximum(sum(agree), 1.0)


def published_consensus(deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    """``sum w d^3 / sum |w| d^2``, at the weighted mean norm, its small singular values damped.

    The damping needs every dimension to be 4 or more; an SVD of at most 128 columns (randomised
    there, exact here) loses what is beyond.  The scale of all weights cancels.
    """
    upper = weighted([d**3 for d in deltas], weights)
    lower = weighted([d**2 for d in deltas], [abs(w) for w in weights])
    result = np.divide(upper, lower, out=np.zeros_like(upper), where=lower > 0)
    norm, size = float(np.linalg.norm(result)), sum(abs(w) for w in weights)
    if norm > 1e-8:
        mean = sum(abs(w) * float(np.linalg.norm(d)) for w, d in zip(weights, deltas, strict=True))
        result = result * (mean / size / norm)
    if result.ndim < 2 or min(result.shape) < 4:
        return result
    return _damped(result.reshape(result.shape[0], -1)).reshape(result.shape)


def published_della_drops(count: int, density: float, epsilon: float = 0.3) -> F64:
    """Probabilities to be dropped in a row of ``count``, from the largest magnitude on.

    ``p_min + (epsilon / count) j`` in [0, 1], ``p_min = max(1 - density - epsilon / 2, 0)``;
    survivors are divided by ``max(1 - p, 1e-6)``.  On average that is the density only while
    nothing is clipped: for densities above 0.85 it stays 0.85.
    """
    least = max(1 - density - epsilon / 2, 0.0)
    return np.clip(least + epsilon / count * np.arange(count), 0.0, 1.0)


def _damped(matrix: F64) -> F64:
    """Singular values times a logistic gate around the effective rank, at the norm before."""
    up, values, down = np.linalg.svd(matrix, full_matrices=False)
    count = min(len(values), 128)
    up, values, down = up[:, :count], values[:count], down[:count]
    if values.sum() < 1e-10:
        return matrix
    shares = np.maximum(values / values.sum(), 1e-10)
    entropy = -float(np.sum(shares * np.log(shares)))
    rank = min(max(math.floor(math.exp(entropy) + 0.5), 1), count)
    gate = 1 / (1 + np.exp(4 * (np.arange(count) - rank) / rank))
    result: F64 = (up * (values * gate)) @ down
    return result * float(np.linalg.norm(matrix) / np.linalg.norm(result))
