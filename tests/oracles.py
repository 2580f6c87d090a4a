"""Slow float64 truth of every method, on dense deltas, straight from the definitions.

One function per key of ``METHODS``: ``(deltas, weights) -> delta``.  Nothing here is shared with
the package: where it works with Gram matrices and coefficients, this works with the vectors of
the deltas themselves.  `is_determined` says where the spherical means are defined by the data;
elsewhere (opposed directions) only the laws of the common suite apply.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

F64: TypeAlias = npt.NDArray[np.float64]
Oracle: TypeAlias = Callable[[Sequence[F64], Sequence[float]], F64]


def linear(deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    """``sum w d``."""
    total = np.zeros_like(deltas[0])
    for weight, delta in zip(weights, deltas, strict=True):
        total = total + weight * delta
    return total


def average(deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    """``max|w| * sum w d / sum|w|``."""
    absolute = [abs(weight) for weight in weights]
    if not any(absolute):
        return np.zeros_like(deltas[0])
    return max(absolute) / sum(absolute) * linear(deltas, weights)


def slerp(deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    """Shoemake's formula for two; for more one tangent average at the normalised mean."""
    points, shares, norm = _on_sphere(deltas, weights)
    if not points:
        return np.zeros_like(deltas[0])
    if len(points) == 2:
        direction = _shoemake(points[0], points[1], shares[1])
    else:
        direction = _tangent_average(_unit(_mean(points, shares)), points, shares)
    return (norm * direction).reshape(deltas[0].shape)


def karcher(deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    """Riemannian gradient descent on the sum of squared angles, until it stands still."""
    points, shares, norm = _on_sphere(deltas, weights)
    if not points:
        return np.zeros_like(deltas[0])
    here = _unit(_mean(points, shares))
    for _ in range(2000):
        there = _tangent_average(here, points, shares)
        if np.linalg.norm(there - here) < 1e-14:
            break
        here = there
    return (norm * here).reshape(deltas[0].shape)


def model_stock(deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    """The mean times ``n c / (1 + (n - 1) c)``, c the mean cosine, n the effective number."""
    mean = average(deltas, weights)
    points, sizes = [], []
    for weight, delta in zip(weights, deltas, strict=True):
        if weight != 0 and np.linalg.norm(delta) > 0:
            points.append(_unit(np.sign(weight) * delta.ravel()))
            sizes.append(abs(weight))
    if len(points) < 2:
        return mean
    upper, lower = 0.0, 0.0
    for i in range(len(points)):
        for j in range(i):
            upper += sizes[i] * sizes[j] * float(points[i] @ points[j])
            lower += sizes[i] * sizes[j]
    cosine = min(max(upper / lower, 0.0), 1.0)
    count = sum(sizes) ** 2 / sum(size**2 for size in sizes)
    return mean * (count * cosine / (1 + (count - 1) * cosine))


def ortho(deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    """Loewdin's ``B (B^T B + diag / 4)^(-1/2)``, each column's own component restored."""
    members = [
        (weight, delta.ravel())
        for weight, delta in zip(weights, deltas, strict=True)
        if weight != 0 and np.linalg.norm(delta) > 0
    ]
    total = np.zeros(deltas[0].size)
    if not members:
        return total.reshape(deltas[0].shape)
    matrix = np.stack([abs(weight) * vector for weight, vector in members], axis=1)
    ridge = 0.25 * np.diag([float(column @ column) for column in matrix.T])
    values, vectors = np.linalg.eigh(matrix.T @ matrix + ridge)
    turned = matrix @ (vectors @ np.diag(values**-0.5) @ vectors.T)
    for (weight, vector), column in zip(members, turned.T, strict=True):
        own = float(column @ vector) / float(vector @ vector)  # along its own delta
        total += weight / own * column
    return total.reshape(deltas[0].shape)


def ortho_published(deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    """Modified Gram-Schmidt in stack order, norms restored."""
    basis: list[F64] = []
    total = np.zeros(deltas[0].size)
    for weight, delta in zip(weights, deltas, strict=True):
        size = float(np.linalg.norm(delta))
        if size == 0:
            continue
        rest = delta.ravel() / size
        for direction in basis:
            rest = rest - float(direction @ rest) * direction
        left = float(np.linalg.norm(rest))
        if left <= 1e-8:
            continue
        basis.append(rest / left)
        total += weight * size * basis[-1]
    return total.reshape(deltas[0].shape)


ORACLES: Mapping[str, Oracle] = {
    "linear": linear,
    "average": average,
    "slerp": slerp,
    "karcher": karcher,
    "model-stock": model_stock,
    "ortho": ortho,
    "ortho-published": ortho_published,
}


def is_determined(deltas: Sequence[F64], weights: Sequence[float]) -> bool:
    """Whether directions are unopposed, in a half sphere, and their mean is not near zero."""
    points, shares, _ = _on_sphere(deltas, weights)
    if not points:
        return True
    worst = min(float(x @ y) for x in points for y in points)
    centre = _unit(_mean(points, [min(1.0, share / 0.05) for share in shares]))
    apart = min(float(x @ centre) for x in points)
    return worst > -0.98 and apart > 0.1 and float(np.linalg.norm(_mean(points, shares))) > 0.1


def _on_sphere(
    deltas: Sequence[F64], weights: Sequence[float]
) -> tuple[list[F64], list[float], float]:
    """Signed directions, their shares, the norm of the result."""
    points, sizes, norms = [], [], []
    for weight, delta in zip(weights, deltas, strict=True):
        size = float(np.linalg.norm(delta))
        if weight != 0 and size > 0:
            points.append(np.sign(weight) * delta.ravel() / size)
            sizes.append(abs(weight))
            norms.append(size)
    shares = [size / sum(sizes) for size in sizes]
    norm = sum(share * size for share, size in zip(shares, norms, strict=True))
    return points, shares, max(sizes, default=0.0) * norm


def _mean(points: Sequence[F64], shares: Sequence[float]) -> F64:
    total = np.zeros_like(points[0])
    for share, point in zip(shares, points, strict=True):
        total = total + share * point
    return total


def _unit(vector: F64) -> F64:
    return vector / float(np.linalg.norm(vector))


def _angle(x: F64, y: F64) -> float:
    """Accurate at both ends, where arccos of the cosine is not."""
    return 2 * float(np.arctan2(np.linalg.norm(x - y), np.linalg.norm(x + y)))


def _shoemake(first: F64, second: F64, t: float) -> F64:
    angle = _angle(first, second)
    if angle < 1e-9:
        return first
    left, right = math.sin((1 - t) * angle), math.sin(t * angle)
    return (left * first + right * second) / math.sin(angle)


def _tangent_average(base: F64, points: Sequence[F64], shares: Sequence[float]) -> F64:
    step = np.zeros_like(base)
    for point, share in zip(points, shares, strict=True):
        across = point - float(point @ base) * base
        length = float(np.linalg.norm(across))
        if length > 0:
            step += share * _angle(base, point) * across / length
    length = float(np.linalg.norm(step))
    if length == 0:
        return base
    return _unit(np.cos(length) * base + np.sin(length) * step / length)
