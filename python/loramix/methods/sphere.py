"""Means of directions, in the coordinates of the deltas.

Directions ``v_i = sign(w_i) delta_i / |delta_i|`` with shares ``p_i = |w_i| / sum|w|`` live on a
sphere; a point of their span is given by coefficients x, and ``<x, y> = x^T C y`` with C the
matrix of cosines.  Nothing of the size of a delta is formed.
"""

import math
from collections.abc import Callable

import numpy as np

from loramix.tensors import F64

# Between these the result goes over from what the data do not determine to what they do.
_OPPOSED = (1e-4, 1e-2)  # 1 + cosine: of a pair, or of a direction and the mean
_RESULTANT = (2e-2, 1e-1)  # length of the linear mean of the directions
_UNIQUE = (0.0, 0.1)  # cosine to a centre: a ball of less than 90 degrees has one Karcher mean
_MINOR = 0.05  # a share counts fully from here on

Mean = Callable[[F64, F64], F64]


def spherical(gram: F64, weights: F64, mean: Mean) -> F64:
    """Coefficients of ``norm * mean direction``.

    The norm is ``max|w| * sum_i p_i |delta_i|``, the weighted mean of the norms at the strength
    of the heaviest.  Where directions (nearly) cancel, the result goes over continuously into
    the plain mean ``max|w| * sum_i p_i sign(w_i) delta_i``, which has no preferred direction to
    invent.  Deltas of zero are left out.

    Parameters
    ----------
    gram : (n, n) inner products.
    weights : (n,) any sign.
    mean : (cosines, shares) -> coefficients of a point near the unit sphere.
    """
    norms = np.sqrt(np.maximum(np.diag(gram), 0))
    used = (norms > 0) & (weights != 0)
    result = np.zeros_like(weights)
    if not used.any():
        return result
    signs, sizes, norms = np.sign(weights[used]), np.abs(weights[used]), norms[used]
    shares = sizes / sizes.sum()
    cosines = gram[np.ix_(used, used)] / np.outer(norms, norms) * np.outer(signs, signs)
    cosines = np.clip((cosines + cosines.T) / 2, -1, 1)
    np.fill_diagonal(cosines, 1)
    plain = shares * signs
    trust = _trust(cosines, shares)
    mixed = (1 - trust) * plain
    if trust > 0:
        point = mean(cosines, shares)
        length = math.sqrt(max(float(point @ cosines @ point), float(np.finfo(float).tiny)))
        norm = shares @ norms
        mixed = mixed + trust * norm * point / length * signs / norms
    result[used] = sizes.max() * mixed
    return result


def one_step(cosines: F64, shares: F64) -> F64:
    """Average in the tangent space at the normalised linear mean, and back to the sphere.

    For two directions this is exactly ``sin((1-t) a) / sin(a), sin(t a) / sin(a)``.
    """
    base = shares / _length(cosines, shares)
    return _step(cosines, shares, base)[0]


def until_settled(cosines: F64, shares: F64) -> F64:
    """The Karcher mean: tangent averages until the point moves no more.

    Directions spread over more than a half sphere have several local means; there the result
    goes over into the first average, which is unique.
    """
    first = one_step(cosines, shares)
    counts = np.minimum(1, shares / _MINOR)
    centre = counts / max(_length(cosines, counts), np.finfo(float).tiny)
    far = counts * (1 - _smooth(cosines @ centre, *_UNIQUE))
    unique = 1 - float(far.max())
    if unique == 0:
        return first
    point = first
    for _ in range(200):
        point, moved = _step(cosines, shares, point)
        if moved < 1e-13:
            break
    return unique * point + (1 - unique) * first


def _step(cosines: F64, shares: F64, base: F64) -> tuple[F64, float]:
    along = np.clip(cosines @ base, -1, 1)
    angles = np.arccos(along)
    # log of v_i at the base: angle / sin(angle) * (v_i - cos(angle) base).  Opposite to the base
    # it points nowhere, and fades out before.
    sines = np.maximum(np.sinc(angles / np.pi), np.finfo(float).tiny)
    stretch = shares * _smooth(1 + along, *_OPPOSED) / sines
    tangent = stretch - (stretch @ along) * base
    moved = _length(cosines, tangent)
    point = np.cos(moved) * base + np.sinc(moved / np.pi) * tangent
    return point / max(_length(cosines, point), np.finfo(float).tiny), moved


def _length(cosines: F64, point: F64) -> float:
    return math.sqrt(max(float(point @ cosines @ point), 0.0))


def _trust(cosines: F64, shares: F64) -> float:
    """1 where the mean direction is well determined, 0 where it is not."""
    count = np.minimum(1, np.minimum.outer(shares, shares) / _MINOR)
    doubt = count * (1 - _smooth(1 + cosines, *_OPPOSED))
    return float((1 - doubt.max()) * _smooth(np.array(_length(cosines, shares)), *_RESULTANT))


def _smooth(value: F64, low: float, high: float) -> F64:
    x = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(x * x * (3 - 2 * x))
