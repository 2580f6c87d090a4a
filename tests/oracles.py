"""Slow float64 truth of every method, on dense deltas, straight from the definitions.

One function per key of ``METHODS``: ``(deltas, weights) -> delta``.  Nothing here is shared with
the package: where it works with Gram matrices and coefficients, this works with the vectors of
the deltas themselves.  `is_determined` says where the spherical means are defined by the data;
elsewhere (opposed directions) only the laws of the common suite apply.

Methods that decide entry by entry are `entrywise` with the parameters of their definition; the
functions of the table have the published defaults, seed 0 and target 0.  Their random numbers are
made here again, from the specification of the generator.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

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


def retain(deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    """The least of ``|M|^2 / 2 + sum max(0, |d|^2 - <M, d>)`` among all that may be it.

    At the least each d counts in full, not at all, or as much as makes ``<M, d> = |d|^2``.
    """
    vectors = [weight * delta.ravel() for weight, delta in zip(weights, deltas, strict=True)]
    matrix = np.stack(vectors, axis=1)
    best, least = np.zeros(len(matrix)), np.inf
    for state in itertools.product(("full", "none", "part"), repeat=len(vectors)):
        full = matrix[:, [kind == "full" for kind in state]].sum(axis=1)
        part = matrix[:, [kind == "part" for kind in state]]
        wanted = (part * part).sum(axis=0) - part.T @ full
        found = full + part @ np.linalg.lstsq(part.T @ part, wanted, rcond=1e-13)[0]
        lacking = sum(max(0.0, float(d @ d - found @ d)) for d in vectors)
        value = float(found @ found) / 2 + lacking
        if value < least:
            best, least = found, value
    return best.reshape(deltas[0].shape)


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


def keep_largest(value: F64, density: float, outliers: float = 0.0) -> F64:
    """The entries after the largest ``floor(outliers n)``, ``max(1, floor(density n))`` of them.

    Of equal magnitudes those of lower index come first.
    """
    flat = value.ravel()
    skipped, kept = _whole(outliers * flat.size), max(1, _whole(density * flat.size))
    places = np.argsort(-np.abs(flat), kind="stable")[skipped : skipped + kept]
    result = np.zeros_like(flat)
    result[places] = flat[places]
    return result.reshape(value.shape)


def keep_random(
    value: F64, density: float, divisor: float, *, seed: int, target: int, place: int
) -> F64:
    """The entries whose draw is below the density (as float32), over the divisor."""
    draws = (philox(seed, target, place, value.size) >> 8) * 2.0**-24
    kept = (draws < float(np.float32(density))).reshape(value.shape)
    return np.where(kept, value / divisor, 0.0)


def philox(seed: int, target: int, adapter: int, count: int) -> npt.NDArray[np.uint64]:
    """The first words of a stream: Philox4x32-10, counters as in the head of ``rng.rs``."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    block = np.arange(-(-count // 4), dtype=np.uint64)
    x0, x1 = block & low, (block >> half) | np.uint64(adapter << 16)
    x2 = np.full_like(block, target & 0xFFFFFFFF)
    x3 = np.full_like(block, target >> 32)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        first, second = x0 * np.uint64(0xD2511F53), x2 * np.uint64(0xCD9E8D57)
        x0, x1, x2, x3 = (
            (second >> half) ^ x1 ^ np.uint64(k0),
            second & low,
            (first >> half) ^ x3 ^ np.uint64(k1),
            first & low,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([x0, x1, x2, x3], axis=1).ravel()[:count]


def winning_sign(kept: Sequence[F64], vote: Literal["mass", "count"]) -> F64:
    """1, -1 or 0: of the sum, or of the majority and of the sum where there is none."""
    by_mass = np.sign(np.sum(kept, axis=0))
    if vote == "mass":
        return np.asarray(by_mass, dtype=np.float64)
    heads = np.sign(np.sum([np.sign(value) for value in kept], axis=0))
    return np.where(heads == 0, by_mass, heads)


def entrywise(
    deltas: Sequence[F64],
    weights: Sequence[float],
    keep: Callable[[F64, int], F64],
    vote: Literal["none", "mass", "count"],
    reduce: Literal["sum", "mean"],
) -> F64:
    """Keep (weighted delta, place in the list), vote, reduce; fewer than two members are as is."""
    members = [(w, w * d) for w, d in zip(weights, deltas, strict=True) if w != 0]
    if len(members) < 2:
        return linear(deltas, weights)
    kept = [keep(value, place) for place, (_, value) in enumerate(members)]
    if vote != "none":
        winner = winning_sign(kept, vote)
        kept = [np.where(np.sign(value) == winner, value, 0.0) for value in kept]
    total = np.sum(kept, axis=0)
    if reduce == "sum":
        return np.asarray(total, dtype=np.float64)
    pairs = zip(members, kept, strict=True)
    shares = np.sum([np.where(value != 0, abs(w), 0.0) for (w, _), value in pairs], axis=0)
    heaviest = max(abs(w) for w, _ in members)
    return np.where(shares > 0, heaviest * total / np.where(shares > 0, shares, 1.0), 0.0)


def ties(
    deltas: Sequence[F64],
    weights: Sequence[float],
    density: float = 0.2,
    vote: Literal["mass", "count"] = "mass",
) -> F64:
    """Largest, vote, mean."""
    return entrywise(deltas, weights, lambda x, _: keep_largest(x, density), vote, "mean")


def breadcrumbs(
    deltas: Sequence[F64], weights: Sequence[float], density: float = 0.9, outliers: float = 0.01
) -> F64:
    """Middle, sum."""

    def keep(value: F64, _: int) -> F64:
        return keep_largest(value, density, outliers)

    return entrywise(deltas, weights, keep, "none", "sum")


def dare(
    deltas: Sequence[F64],
    weights: Sequence[float],
    density: float = 0.5,
    dampening: float = 0.0,
    *,
    seed: int = 0,
    target: int = 0,
) -> F64:
    """Random, sum."""
    keep = _dropping(density, dampening, seed, target)
    return entrywise(deltas, weights, keep, "none", "sum")


def dare_ties(
    deltas: Sequence[F64],
    weights: Sequence[float],
    density: float = 0.5,
    dampening: float = 0.0,
    *,
    seed: int = 0,
    target: int = 0,
) -> F64:
    """Random, vote by mass, mean."""
    keep = _dropping(density, dampening, seed, target)
    return entrywise(deltas, weights, keep, "mass", "mean")


def _dropping(
    density: float, dampening: float, seed: int, target: int
) -> Callable[[F64, int], F64]:
    divisor = density + dampening * (1 - density)

    def keep(value: F64, place: int) -> F64:
        return keep_random(value, density, divisor, seed=seed, target=target, place=place)

    return keep


def _whole(count: float) -> int:
    """Floor, of 2.9999999999999996 too."""
    nearest = round(count)
    return nearest if abs(count - nearest) < 1e-9 * max(1.0, count) else math.floor(count)


ORACLES: Mapping[str, Oracle] = {
    "linear": linear,
    "average": average,
    "slerp": slerp,
    "karcher": karcher,
    "model-stock": model_stock,
    "ortho": ortho,
    "ortho-published": ortho_published,
    "retain": retain,
    "ties": ties,
    "dare": dare,
    "dare-ties": dare_ties,
    "breadcrumbs": breadcrumbs,
}


def is_determined(deltas: Sequence[F64], weights: Sequence[float]) -> bool:
    """Whether directions are unopposed, in a half sphere, and their mean is not near zero."""
    points, shares, _ = _on_sphere(deltas, weights)
    if not points:
        return True
    worst = min(float(x @ y) for x in points for y in points)
    middle = _mean(points, [min(1.0, share / 0.05) for share in shares])
    if not middle.any():
        return False
    centre = _unit(middle)
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
