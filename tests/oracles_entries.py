"""Slow float64 truth of the methods that decide entry by entry, and of what may come before them.

A `Definition` says in words of the docstrings what happens, `merged` carries it out on dense
deltas, one stage after the other: keep, set selfish entries aside, make orthogonal, vote and
reduce (or a linear combination), add the selfish ones back, calibrate, clean.  Nothing is shared
with the package: where it works with inner products and coefficients, this works with the vectors
themselves, and the random words come from the specification of the generator.

The values that are ranked and compared are float32 by definition: ``float32(w) * float32(d)``.
Everything after that is float64.

Sources: the docstrings of the methods, section 5 of the reference specification, and the papers
they name.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from oracles import F64, Oracle, keep_largest, linear, philox, winning_sign
from oracles_published import align, by_rows, schmidt, split

Flags: TypeAlias = npt.NDArray[np.bool_]
Combination: TypeAlias = Callable[[Sequence[F64], Sequence[float]], F64]


@dataclass(frozen=True)
class Thin:
    """Which entries of each delta take part.

    Attributes
    ----------
    rule : ``largest`` (with ``outliers``), ``energy`` (``density`` is the share of the squared
        norm), ``random`` (dare), ``ranked`` (della).
    only, guard, fallback : of `Dare` and `Della`.
    """

    rule: Literal["largest", "energy", "random", "ranked"]
    density: float
    outliers: float = 0.0
    dampening: float = 0.0
    epsilon: float = 0.3
    only: Literal["all", "conflicts"] = "all"
    guard: Literal["calibrated", "published", "none"] = "calibrated"
    fallback: Literal["everywhere", "nowhere"] = "everywhere"


@dataclass(frozen=True)
class Definition:
    """A method on entries, and what comes before it.

    Attributes
    ----------
    reduce : ``sum``; ``average``; ``mean`` of the winners; ``importance``; or a linear
        combination of the deltas.
    mean : whether selfish entries come back at the strength of the heaviest.
    lambda_ : how many times larger a selfish entry is; None leaves all where they are.
    refine : whether what is left of the deltas is made nearly orthogonal.
    published : the published refinement; everything else then happens to what is left by it.
    rows : whether whole rows elect, as published: ``total`` or ``frequency``.
    """

    reduce: Literal["sum", "average", "mean", "importance"] | Combination
    mean: bool
    keep: Thin | None = None
    vote: Literal["none", "mass", "count"] = "none"
    lambda_: float | None = None
    refine: bool = False
    calibrate: bool = False
    clean: bool = False
    published: Literal["no", "refine", "full"] = "no"
    rows: Literal["total", "frequency"] | None = None


def merged(
    what: Definition,
    deltas: Sequence[F64],
    weights: Sequence[float],
    *,
    seed: int = 0,
    target: int = 0,
) -> F64:
    """What a definition makes of dense deltas; fewer than two members are as they are."""
    pairs = [(w, d) for w, d in zip(weights, deltas, strict=True) if w != 0]
    if len(pairs) < 2:
        return linear(deltas, weights)
    sizes, own = [w for w, _ in pairs], [d for _, d in pairs]
    values = kept(what.keep, weighted(own, sizes), own, sizes, seed, target)
    if what.published != "no":
        return as_published(what, values, sizes)
    aside = np.zeros_like(own[0])
    if what.lambda_ is not None:
        aside, values = set_aside(values, sizes, what.lambda_, level=what.mean)
    if what.refine:
        values = orthogonal(values)
    result = reduced(what, values, sizes) + aside
    if what.calibrate:
        result = calibrated(result, own, sizes)
    return cleaned(result, own) if what.clean else result


def as_published(what: Definition, values: Sequence[F64], weights: Sequence[float]) -> F64:
    """The published refinement of kept, weighted deltas; the method sees what it leaves."""
    aside, rest = split(values)
    refined = schmidt([value / weight for value, weight in zip(rest, weights, strict=True)])
    if what.published == "full":
        refined = align(refined)
    if what.rows is not None:
        return aside + by_rows(refined, weights, what.rows)
    return aside + merged(replace(what, keep=None, published="no"), refined, weights)


def weighted(deltas: Sequence[F64], weights: Sequence[float]) -> list[F64]:
    """``w d``, a product of two float32 rounded to float32."""
    pairs = zip(weights, deltas, strict=True)
    return [(np.float32(w) * d.astype(np.float32)).astype(np.float64) for w, d in pairs]


# Which entries take part.


def kept(
    thin: Thin | None,
    values: Sequence[F64],
    deltas: Sequence[F64],
    weights: Sequence[float],
    seed: int,
    target: int,
) -> list[F64]:
    """The weighted deltas without the entries that a rule drops."""
    if thin is None:
        return list(values)
    if thin.rule == "largest":
        return [keep_largest(value, thin.density, thin.outliers) for value in values]
    if thin.rule == "energy":
        return [keep_energy(value, thin.density) for value in values]
    dropped = [
        random_drop(thin, value, seed=seed, target=target, place=place)
        for place, value in enumerate(values)
    ]
    if thin.only == "all":
        return dropped
    flags = conflicts(values)
    if np.count_nonzero(flags) > guard_of(thin, deltas, weights) * flags.size:
        return dropped if thin.fallback == "everywhere" else list(values)
    return [np.where(flags, d, v) for d, v in zip(dropped, values, strict=True)]


def keep_energy(value: F64, energy: float) -> F64:
    """The fewest entries, by falling magnitude, that hold a share of the squared norm."""
    flat = value.ravel()
    if energy >= 1 or not flat.any():
        return value
    order = np.argsort(-np.abs(flat), kind="stable")
    held = np.cumsum(flat[order] ** 2)
    count = int(np.argmax(held >= energy * float(np.sum(flat**2)))) + 1
    result = np.zeros_like(flat)
    result[order[:count]] = flat[order[:count]]
    return result.reshape(value.shape)


def random_drop(thin: Thin, value: F64, *, seed: int, target: int, place: int) -> F64:
    """`Dare` and `Della`: entries whose draw is below their probability, over their divisor."""
    draws = ((philox(seed, target, place, value.size) >> np.uint64(8)) * 2.0**-24).reshape(
        value.shape
    )
    if thin.rule == "random":
        chance = np.full(value.shape, thin.density)
        divisor: F64 | float = thin.density + thin.dampening * (1 - thin.density)
    else:
        chance = divisor = chances(value, thin.density, thin.epsilon)
    return np.where(draws < chance.astype(np.float32), value / divisor, 0.0)


def chances(value: F64, density: float, epsilon: float) -> F64:
    """Probabilities of `Della`: equal steps in each row, of mean ``density``, by falling magnitude.

    The row is cut in as many equal parts as it has entries and each entry gets the middle of its
    part, so that the mean is the density whatever the length; equal magnitudes by index.
    """
    rows = matrix(value)
    spread = min(epsilon, 2 * min(density, 1 - density))
    cols = rows.shape[1]
    steps = density + spread * (0.5 - (np.arange(cols) + 0.5) / max(cols, 1))
    result = np.empty_like(rows)
    for row, found in zip(rows, result, strict=True):
        found[np.argsort(-np.abs(row), kind="stable")] = steps
    return result.reshape(value.shape)


def matrix(value: F64) -> F64:
    """First axis by all others; a vector is one row."""
    return value.reshape(1, -1) if value.ndim < 2 else value.reshape(value.shape[0], -1)


def conflicts(values: Sequence[F64]) -> Flags:
    """Where some weighted delta is positive and some negative."""
    stack = np.stack(values)
    return np.asarray((stack > 0).any(axis=0) & (stack < 0).any(axis=0))


def guard_of(thin: Thin, deltas: Sequence[F64], weights: Sequence[float]) -> float:
    """Largest share of conflicts for which the limit makes sense."""
    if thin.guard == "calibrated":
        return min(1.0, expected_conflict(deltas, weights) + 0.02)
    return {"published": 0.4, "none": 1.0}[thin.guard]


def expected_conflict(deltas: Sequence[F64], weights: Sequence[float]) -> float:
    """Share of positions where jointly normal entries of the same cosines disagree in sign.

    Two: ``angle / pi``; three: half the sum of that over the pairs, from the orthant probability
    (David 1953); more: the share among many normal draws.
    """
    points = []
    for weight, delta in zip(weights, deltas, strict=True):
        size = float(np.linalg.norm(delta))
        if size > 0:
            points.append(math.copysign(1.0, weight) * delta.ravel() / size)
    n = len(points)
    if n < 2:
        return 0.0
    angles = [
        math.acos(min(max(float(points[i] @ points[j]), -1.0), 1.0)) / math.pi
        for i in range(n)
        for j in range(i)
    ]
    if n == 2:
        return angles[0]
    if n == 3:
        return min(sum(angles) / 2, 1.0)
    cosines = np.array([[x @ y for x in points] for y in points])
    draws = np.random.default_rng(n).multivariate_normal(np.zeros(n), cosines, size=400_000)
    return 1 - float(((draws > 0).all(axis=1) | (draws < 0).all(axis=1)).mean())


# Refinement.


def set_aside(
    values: Sequence[F64], weights: Sequence[float], lambda_: float, *, level: bool
) -> tuple[F64, list[F64]]:
    """What belongs to one member (``lambda`` times the largest of the others), and the rest.

    Level: ``max|w| sign(w) d`` of it, and ``w d`` otherwise.
    """
    heaviest = max(abs(w) for w in weights)
    stack = np.abs(np.stack(values))
    aside, rest = np.zeros_like(values[0]), []
    for i, (value, weight) in enumerate(zip(values, weights, strict=True)):
        others = np.delete(stack, i, axis=0).max(axis=0)
        own = (stack[i] >= lambda_ * others) & (stack[i] > others)
        aside = aside + np.where(own, value * (heaviest / abs(weight) if level else 1.0), 0.0)
        rest.append(np.where(own, 0.0, value))
    return aside, rest


def orthogonal(values: Sequence[F64]) -> list[F64]:
    """`Ortho`'s vectors: ``B (B^T B + diag / 4)^(-1/2)``, each one's own component restored."""
    used = [i for i, value in enumerate(values) if value.any()]
    result = [np.zeros_like(value) for value in values]
    if not used:
        return result
    columns = np.stack([values[i].ravel() for i in used], axis=1)
    gram = columns.T @ columns
    eigen, vectors = np.linalg.eigh(gram + 0.25 * np.diag(np.diag(gram)))
    turned = columns @ (vectors * eigen**-0.5) @ vectors.T
    for k, i in enumerate(used):
        column, vector = turned[:, k], columns[:, k]
        own = float(column @ vector) / float(vector @ vector)
        result[i] = (column / own).reshape(values[i].shape)
    return result


# From the entries of a position to one number.


def reduced(what: Definition, values: Sequence[F64], weights: Sequence[float]) -> F64:
    """Vote and reduce weighted entries, or combine them."""
    sizes = [abs(w) for w in weights]
    if callable(what.reduce):
        return what.reduce([v / w for v, w in zip(values, weights, strict=True)], weights)
    if what.vote != "none":
        winner = winning_sign(values, what.vote)
        values = [np.where(np.sign(value) == winner, value, 0.0) for value in values]
    total = np.sum(values, axis=0)
    if what.reduce == "sum":
        return np.asarray(total)
    if what.reduce == "average":
        return np.asarray(max(sizes) / sum(sizes) * total)
    if what.reduce == "mean":
        shares = [size * (value != 0) for size, value in zip(sizes, values, strict=True)]
        return quotient(max(sizes) * total, np.sum(shares, axis=0))
    squares = [(v / size) ** 2 for v, size in zip(values, sizes, strict=True)]
    upper = np.sum([v * square for v, square in zip(values, squares, strict=True)], axis=0)
    lower = np.sum([s * square for s, square in zip(sizes, squares, strict=True)], axis=0)
    return quotient(max(sizes) * upper, lower)


def quotient(upper: F64, lower: F64) -> F64:
    """Zero where the divisor is."""
    return np.where(lower != 0, upper / np.where(lower != 0, lower, 1.0), 0.0)


# What is done to the result.


def calibrated(result: F64, deltas: Sequence[F64], weights: Sequence[float]) -> F64:
    """At the norm ``max|w| sum |w| |d| / sum |w|``, but at most twice as large as before."""
    sizes = [abs(w) for w in weights]
    norms = [float(np.linalg.norm(delta)) for delta in deltas]
    wanted = max(sizes) * math.fsum(s * n for s, n in zip(sizes, norms, strict=True)) / sum(sizes)
    found = float(np.linalg.norm(result))
    return result * min(wanted / found, 2.0) if found > 0 else result


def cleaned(result: F64, deltas: Sequence[F64]) -> F64:
    """Without white noise of the size of what is outside the span of the deltas, at its norm."""
    noise = float(np.linalg.norm(outside(result, deltas)) ** 2) / result.size
    shape = matrix(result)
    # What rounding leaves outside is none.
    if noise <= 1e-6 * float(np.mean(result**2)):
        return result
    u, values, vt = np.linalg.svd(shape, full_matrices=False)
    left = np.array([optimal(value, math.sqrt(noise), shape.shape) for value in values])
    if not left.any():
        return result
    left *= math.sqrt(np.sum(values**2) / np.sum(left**2))
    return np.asarray((u * left) @ vt).reshape(result.shape)


def outside(result: F64, deltas: Sequence[F64]) -> F64:
    """The part of a result that is no linear combination of the deltas."""
    columns = np.stack([d.ravel() / (np.linalg.norm(d) or 1.0) for d in deltas], axis=1)
    best = np.linalg.lstsq(columns, result.ravel(), rcond=1e-6)[0]
    return np.asarray(result.ravel() - columns @ best).reshape(result.shape)


def optimal(value: float, sigma: float, shape: tuple[int, int]) -> float:
    """Gavish and Donoho's shrinkage for the Frobenius norm, of one singular value."""
    unit, beta = sigma * math.sqrt(max(shape)), min(shape) / max(shape)
    y = value / unit
    if y <= 1 + math.sqrt(beta):
        return 0.0
    return unit * math.sqrt((y * y - beta - 1) ** 2 - 4 * beta) / y


def _defaults(what: Definition) -> Oracle:
    return lambda deltas, weights: merged(what, deltas, weights)


DELLA = Thin("ranked", 0.5)
ORACLES: Mapping[str, Oracle] = {
    "della": _defaults(Definition("sum", mean=False, keep=DELLA)),
    "della-ties": _defaults(Definition("mean", mean=True, keep=DELLA, vote="mass")),
    "consensus": _defaults(Definition("importance", mean=True, calibrate=True, clean=True)),
    "tall": _defaults(Definition("average", mean=True, lambda_=3.0)),
}
"""The new methods of the table with their default parameters, seed 0 and target 0."""
