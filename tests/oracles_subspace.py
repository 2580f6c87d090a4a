"""Slow float64 truth of the subspace methods, on dense deltas, straight from the definitions.

One function per method: ``(deltas, weights, **parameters) -> delta``.  Nothing here is shared with
the package, and nothing knows of bases or cores: orthogonalisation goes through an eigenproblem
instead of singular values, adapters and directions are looped over, and the clusters of `lego`
are those of explicit points, the flattened projectors on the lines through u v^T.
"""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

F64: TypeAlias = npt.NDArray[np.float64]
Triple: TypeAlias = tuple[F64, float, F64]

ZERO = 1e-7
"""Relative size of a singular value that is zero, as documented."""


def _terms(deltas: Sequence[F64], weights: Sequence[float]) -> list[F64]:
    return [weight * delta for weight, delta in zip(weights, deltas, strict=True)]


def _size(terms: Sequence[F64]) -> float:
    return sum(float(np.linalg.svd(term, compute_uv=False)[0]) for term in terms)


def _triples(delta: F64, size: float | None = None) -> list[Triple]:
    """The singular triples (u, s, v) that are not zero, largest first."""
    u, s, vt = np.linalg.svd(delta)
    limit = ZERO * (float(s[0]) if size is None else size)
    return [(u[:, i], float(s[i]), vt[i]) for i in range(len(s)) if s[i] > limit]


def _whitened(columns: Sequence[F64]) -> F64:
    """The polar factor ``X (X^T X)^(-1/2)``, on the space where X is not zero.

    The eigenvectors (p, q) of ``[[0, X], [X^T, 0]]`` with positive eigenvalues are the pairs of
    singular vectors of X, each of length 1 / sqrt(2); nothing is squared.
    """
    matrix = np.stack(columns, axis=1)
    rows, cols = matrix.shape
    whole = np.zeros((rows + cols, rows + cols))
    whole[:rows, rows:], whole[rows:, :rows] = matrix, matrix.T
    values, vectors = np.linalg.eigh(whole)
    result = np.zeros_like(matrix)
    for value, vector in zip(values, vectors.T, strict=True):
        if value > ZERO * values[-1]:
            result += 2 * np.outer(vector[:rows], vector[rows:])
    return result


def _flat(values: Sequence[float], flatten: float) -> list[float]:
    mean = sum(values) / len(values)
    return [(1 - flatten) * value + flatten * mean for value in values]


def _woven(triples: Sequence[Triple], values: Sequence[float]) -> F64:
    """Both sides whitened, with these singular values between them."""
    left = _whitened([u for u, _, _ in triples])
    right = _whitened([v for _, _, v in triples])
    return left @ np.diag(values) @ right.T


def iso_c(deltas: Sequence[F64], weights: Sequence[float], flatten: float = 0.25) -> F64:
    """Sum, decompose, move the singular values to their mean."""
    terms = _terms(deltas, weights)
    total = np.sum(terms, axis=0)
    triples = _triples(total, _size(terms))
    if not triples:
        return np.zeros_like(total)
    values = _flat([s for _, s, _ in triples], flatten)
    parts = [s * np.outer(u, v) for s, (u, _, v) in zip(values, triples, strict=True)]
    return np.asarray(np.sum(parts, axis=0))


def iso_cts(
    deltas: Sequence[F64], weights: Sequence[float], common: float = 0.8, flatten: float = 0.25
) -> F64:
    """Common directions of the sum, own ones of the residuals, whitened, flattened."""
    terms = _terms(deltas, weights)
    size = _size(terms)
    if size == 0:
        return np.zeros_like(deltas[0])
    rank = min(len(_triples(np.hstack(terms), size)), len(_triples(np.vstack(terms), size)))
    own = (rank - math.floor(common * rank)) // len(terms)
    chosen = _triples(np.sum(terms, axis=0), size)[: rank - own * len(terms)]
    projector = sum((np.outer(u, u) for u, _, _ in chosen), np.zeros((len(deltas[0]),) * 2))
    for term in terms:
        chosen = chosen + _triples(term - projector @ term, size)[:own]
    if not chosen:
        return np.zeros_like(deltas[0])
    return _woven(chosen, _flat([s for _, s, _ in chosen], flatten))


def tsv(deltas: Sequence[F64], weights: Sequence[float], density: float = 1.0) -> F64:
    """The largest directions of each delta, whitened, with their weighted singular values."""
    chosen: list[Triple] = []
    for weight, delta in zip(weights, deltas, strict=True):
        triples = _triples(delta) if delta.any() else []
        count = max(1, math.floor(density * len(triples)))
        chosen += [(u, weight * s, v) for u, s, v in triples[:count]]
    if not chosen:
        return np.zeros_like(deltas[0])
    return _woven(chosen, [s for _, s, _ in chosen])


def svc(
    deltas: Sequence[F64],
    weights: Sequence[float],
    strength: float = 1.0,
    floor: float = 1.0,
    by: Literal["energy", "heads"] = "energy",
) -> F64:
    """Each singular value of the sum over the mean of the projection coefficients."""
    terms = _terms(deltas, weights)
    size = _size(terms)
    result = np.sum(terms, axis=0)
    for u, s, v in _triples(result, size):
        shares, coefficients = [], []
        for term in terms:
            answer = u @ term
            square = float(answer @ answer)
            heard = math.sqrt(square) > ZERO * size
            coefficient = float(s * v @ answer) / square if heard else 0.0
            shares.append(square if by == "energy" else 1.0)
            coefficients.append(max(floor, coefficient))
        factor = sum(shares) / float(np.dot(shares, coefficients))
        result = result + strength * (factor - 1) * s * np.outer(u, v)
    return np.asarray(result)


def lego(deltas: Sequence[F64], weights: Sequence[float], k: int = 0, seed: int = 0) -> F64:
    """k-means of explicit points, the best rank one of each cluster's sum."""
    terms = [_triples(term) if term.any() else [] for term in _terms(deltas, weights)]
    units = [unit for term in terms for unit in term]
    result = np.zeros_like(deltas[0])
    if not units:
        return result
    units.sort(key=lambda unit: -unit[1])
    points = [_projector(u, v) for u, _, v in units]
    mass = [s for _, s, _ in units]
    home = _best_clusters(points, mass, k or max(map(len, terms)), seed)
    for cluster in set(home):
        total = np.zeros_like(result)
        for (u, s, v), at in zip(units, home, strict=True):
            if at == cluster:
                total += s * np.outer(u, v)
        left, values, right = np.linalg.svd(total)
        result += values[0] * np.outer(left[:, 0], right[0])
    return result


def _projector(u: F64, v: F64) -> F64:
    line = np.outer(u, v).ravel()
    return np.outer(line, line).ravel()


def _best_clusters(points: list[F64], mass: list[float], k: int, seed: int) -> list[int]:
    if k >= len(points):
        return list(range(len(points)))
    generator = np.random.Philox(key=seed)
    found = []
    for _ in range(8):
        home = _lloyd(points, mass, _plus_plus(points, mass, k, generator))
        found.append((_cost(points, mass, home), home))
    return min(found, key=lambda pair: pair[0])[1]


def _square(left: F64, right: F64) -> float:
    return float(np.sum((left - right) ** 2))


def _plus_plus(
    points: list[F64], mass: list[float], k: int, generator: np.random.Philox
) -> list[F64]:
    words = [int(generator.random_raw()) >> 11 for _ in range(k)]
    centres: list[F64] = []
    for word in words:
        chances = list(mass)
        if centres:
            nearest = [min(_square(point, centre) for centre in centres) for point in points]
            chances = [m * d if d > 1e-12 else 0.0 for m, d in zip(mass, nearest, strict=True)]
        if sum(chances) <= 0:
            break
        level, at = word / 2**53 * sum(chances), 0
        while level >= chances[at]:
            level -= chances[at]
            at += 1
        centres.append(points[at])
    return centres


def _nearest(points: list[F64], centres: list[F64]) -> list[int]:
    return [int(np.argmin([round(_square(point, c), 9) for c in centres])) for point in points]


def _centres(points: list[F64], mass: list[float], home: list[int]) -> list[F64]:
    result = []
    for cluster in sorted(set(home)):
        inside = [i for i, at in enumerate(home) if at == cluster]
        whole = sum(mass[i] for i in inside)
        result.append(np.sum([mass[i] / whole * points[i] for i in inside], axis=0))
    return result


def _lloyd(points: list[F64], mass: list[float], centres: list[F64]) -> list[int]:
    home = _nearest(points, centres)
    for _ in range(100):
        following = _nearest(points, _centres(points, mass, home))
        if following == home:
            break
        home = following
    return home


def _cost(points: list[F64], mass: list[float], home: list[int]) -> float:
    centres = _centres(points, mass, home)
    place = {cluster: i for i, cluster in enumerate(sorted(set(home)))}
    return sum(
        m * _square(point, centres[place[at]])
        for point, m, at in zip(points, mass, home, strict=True)
    )
