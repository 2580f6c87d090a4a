"""The published decisions in float64 NumPy, from dense deltas and straight from the text.

Sections 1.5, 2.4 to 2.8, 3, 4 and 5.2 to 5.4 of the reference specification.  Nothing is shared
with the package: where it flips the sums of a pair, this changes the signs of the deltas; where
it works with inner products, this adds the deltas themselves.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from oracles import F64

Row = Mapping[int, F64]
"""One group: deltas by the adapters that contribute."""

CONSTANTS: Mapping[str, tuple[float, float, float, float, float]] = {
    "sd_unet": (0.10, 0.1, 0.9, 3, 0.85),
    "dit": (0.05, 0.4, 0.95, 5, 0.85),
    "llm": (0.15, 0.1, 0.8, 3, 0.90),
}
"""Noise ratio, clamp of the density, cap of the suggestion, orthogonal floor."""


def sign(weight: float) -> float:
    return 1.0 if weight >= 0 else -1.0


def pair_numbers(a: F64, b: F64, ranks: tuple[int, int]) -> dict[str, float]:
    """Section 2.4, on all entries of two sign-corrected deltas."""
    names = ("overlap", "conflict", "dot", "na", "nb", "weighted_total", "weighted_conflict")
    names = (*names, "expected", "excess", "subspace", "cosine")
    found = dict.fromkeys(names, 0.0)
    both = [(x, y) for x, y in zip(a.ravel(), b.ravel(), strict=True) if x != 0 and y != 0]
    if not both:
        return found
    x, y = np.array(both).T
    eps = 0.05 * max(np.sqrt((x**2).mean()), np.sqrt((y**2).mean()))
    above = (abs(x) > eps) & (abs(y) > eps)
    if not above.any():
        above[:] = True
    m = np.minimum(abs(x), abs(y))[above]
    differ = np.sign(x) != np.sign(y)
    dot, na, nb = (x * y).sum(), (x * x).sum(), (y * y).sum()
    c = min(1.0, max(-1.0, dot / math.sqrt(na * nb)))
    total, conflict = m.sum(), m[differ[above]].sum()
    expected = math.acos(c) / math.pi
    excess = max(conflict / total - expected, 0.0)
    values = (len(x), differ.sum(), dot, na, nb, total, conflict, expected, excess)
    values = (*values, subspace(a, b, ranks), c)
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def subspace(a: F64, b: F64, ranks: tuple[int, int]) -> float:
    """``tr(P_a P_b) / min(rank)``, P the projectors on the ranges; left and right."""

    def projector(m: F64) -> F64:
        return m @ np.linalg.pinv(m, rcond=1e-10)

    pairs = ((a, b), (a.T, b.T))
    return float(np.mean([np.trace(projector(x) @ projector(y)) / min(ranks) for x, y in pairs]))


def numbers(row: Row, weights: Sequence[float], ranks: Sequence[int]) -> list[dict[str, float]]:
    """Those of all pairs of one group, signs corrected."""
    folded = {i: sign(weights[i]) * d for i, d in row.items()}
    return [
        pair_numbers(folded[i], folded[j], (ranks[i], ranks[j]))
        for i, j in combinations(sorted(row), 2)
    ]


def pooled(pairs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Section 2.5 without cosine and magnitude ratio: of a group, or of the whole stack."""

    def total(*names: str) -> float:
        return sum(math.prod(pair[name] for name in names) for pair in pairs)

    weight = total("weighted_total")
    raw = total("conflict") / total("overlap") if total("overlap") else 0.0
    size = sum(math.sqrt(pair["na"] * pair["nb"]) for pair in pairs)
    by_size = sum(math.sqrt(pair["na"] * pair["nb"]) * pair["subspace"] for pair in pairs)
    return {
        "conflict": raw,
        "weighted_conflict": total("weighted_conflict") / weight if weight else raw,
        "expected_conflict": total("expected", "weighted_total") / weight if weight else 0.0,
        "excess_conflict": total("excess", "weighted_total") / weight if weight else 0.0,
        "overlap": by_size / size if size else 0.0,
    }


def spread(norms: Sequence[float]) -> float:
    some = [norm for norm in norms if norm]
    return max(some) / min(some) if len(some) > 1 else 1.0


def of_group(row: Row, weights: Sequence[float], ranks: Sequence[int]) -> dict[str, float]:
    """All figures of one group."""
    pairs = numbers(row, weights, ranks)
    cosine = sum(pair["cosine"] for pair in pairs) / len(pairs) if pairs else 0.0
    ratio = spread([float(np.linalg.norm(d)) for d in row.values()])
    return {**pooled(pairs), "cosine": cosine, "magnitude_ratio": ratio}


def of_stack(
    rows: Sequence[Row], model: Sequence[bool], weights: Sequence[float], ranks: Sequence[int]
) -> dict[str, float]:
    """All figures of the stack: ratios of sums over all pairs of all groups."""
    everything = [pair for row in rows for pair in numbers(row, weights, ranks)]
    adapters = sorted({i for row in rows for i in row})
    cosines = []
    for i, j in combinations(adapters, 2):
        met = [
            numbers({i: row[i], j: row[j]}, weights, ranks)[0] for row in rows if {i, j} <= {*row}
        ]
        dot, na, nb = (sum(pair[name] for pair in met) for name in ("dot", "na", "nb"))
        cosines.append(dot / math.sqrt(na * nb) if na * nb else 0.0)
    norms = [
        abs(weights[i])
        * math.sqrt(
            sum(np.sum(row[i] ** 2) for row, m in zip(rows, model, strict=True) if m and i in row)
        )
        for i in adapters
    ]
    cosine = sum(cosines) / len(cosines) if cosines else 0.0
    return {**pooled(everything), "cosine": cosine, "magnitude_ratio": spread(norms)}


def effective(excess: float, overlap: float) -> float:
    """Section 3.1."""
    e = max(excess, 0)
    if overlap > 0:
        e = e * (0.5 + 0.5 * overlap)
    return e


def regime(
    figures: Mapping[str, float],
    gate: float,
    contributors: int,
    strategy: str,
    *,
    full_rank: bool = False,
) -> str:
    """Section 3.2, rules 1 to 7, whose constants are alike for all presets."""
    c, o = figures["cosine"], figures["overlap"]
    e = effective(figures["excess_conflict"], o)
    if contributors <= 1:
        return "weighted_sum"
    if strategy == "full" and c > 0.5 and e < 0.15 and o >= 0.35:
        return "consensus"
    mean = strategy in ("full", "no_slerp") and abs(c) < 0.25 and e < 0.60 and o < 0.35
    if not mean and e > 0.25:
        return "ties"
    if strategy == "full" and gate >= 0 and not full_rank:
        return "slerp"
    if full_rank and abs(gate) < 0.25:
        return "weighted_sum"
    return "weighted_average"


def smoothing(
    rows: Sequence[Mapping[str, float]], blocks: Sequence[str], sizes: Sequence[float], share: float
) -> list[dict[str, float]]:
    """Section 3.5."""
    found = []
    for row, block in zip(rows, blocks, strict=True):
        same = [i for i, other in enumerate(blocks) if other == block]
        heavy = {i: sizes[i] or 1.0 for i in same}
        mean = {
            name: sum(heavy[i] * rows[i][name] for i in same) / sum(heavy.values()) for name in row
        }
        alone = len(same) == 1
        found.append({n: v if alone else (1 - share) * v + share * mean[n] for n, v in row.items()})
    return found


def density(samples: Sequence[F64], weights: Sequence[float], preset: str) -> float:
    """Section 2.8, from samples of the deltas without their weights."""
    noise, low, high, _, _ = CONSTANTS[preset]
    values = [abs(w) * abs(x) for w, sample in zip(weights, samples, strict=True) for x in sample]
    top = max(values, default=0.0)
    if top == 0:
        return 0.5
    share = sum(value > noise * top for value in values) / len(values)
    return max(low, min(high, share))


def plain(rows: Sequence[Row], weights: Sequence[float]) -> float:
    """Norm of a branch merged by the plain sum."""
    sums = [np.sum([weights[i] * d for i, d in row.items()], axis=0) for row in rows]
    return math.sqrt(sum(float(np.sum(one**2)) for one in sums))


def reference(rows: Sequence[Row], weights: Sequence[float]) -> float:
    """Norm of the strongest adapter of a branch."""
    return max(
        plain([{i: row[i]} for row in rows if i in row], weights) for i in range(len(weights))
    )


def scale(
    rows: Sequence[Row], weights: Sequence[float], floor: float, alignment: float = 0.1
) -> float:
    """Section 4, of one branch."""
    norms2 = [
        sum(float(np.sum(row[i] ** 2)) for row in rows if i in row) for i in range(len(weights))
    ]
    if sum(w != 0 and n > 0 for w, n in zip(weights, norms2, strict=True)) < 2:
        return 1.0
    total = plain(rows, weights)
    if total == 0:
        return 1.0
    found = min(reference(rows, weights) / total, 1.0)
    cosines = []
    for i, j in combinations(range(len(weights)), 2):
        if norms2[i] and norms2[j] and weights[i] and weights[j]:
            met = [row for row in rows if i in row and j in row]
            dot = sum(
                float(np.sum(sign(weights[i]) * row[i] * sign(weights[j]) * row[j])) for row in met
            )
            cosines.append(dot / math.sqrt(norms2[i] * norms2[j]))
    if abs(sum(cosines) / len(cosines)) <= alignment and found < floor:
        return floor
    return found


def average(row: Row, weights: Sequence[float]) -> F64:
    """Section 5.3."""
    top = np.sum([weights[i] * d for i, d in row.items()], axis=0)
    return np.asarray(top / sum(abs(weights[i]) for i in row))


def slerp(a: F64, b: F64, weights: tuple[float, float]) -> F64:
    """Section 5.4, of two deltas."""
    v, w = [sign(s) * d for s, d in zip(weights, (a, b), strict=True)], [abs(s) for s in weights]
    order = [0, 1] if w[0] >= w[1] else [1, 0]
    first, second = v[order[0]], v[order[1]]
    f = w[order[1]] / sum(w)
    norms = [float(np.linalg.norm(one)) for one in v]
    theta = math.acos(float(np.sum(v[0] * v[1])) / (norms[0] * norms[1]))
    acc = (math.sin((1 - f) * theta) * first + math.sin(f * theta) * second) / math.sin(theta)
    return np.asarray(acc * (w[0] * norms[0] + w[1] * norms[1]) / sum(w) / np.linalg.norm(acc))


def suggestion(
    merged: Sequence[float], rows: Sequence[Row], weights: Sequence[Sequence[float]], preset: str
) -> float:
    """Section 4: from the norms of the merged groups and the weights of each."""
    means = [
        float(np.mean([abs(own[i]) * np.linalg.norm(d) for i, d in row.items()]))
        for row, own in zip(rows, weights, strict=True)
    ]
    ratio = sum(merged) / sum(means)
    return max(1.0, min(1 / ratio, CONSTANTS[preset][3]))
