"""The formulas of composition in float64, patch by patch and number by number.

Nothing of the package is used: straight from the publications and the definitions.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def patches(shape: Sequence[int], edges: Sequence[int]) -> list[tuple[tuple[int, ...], tuple]]:
    """Place in the grid and slices of every patch."""
    grid = [math.ceil(size / edge) for size, edge in zip(shape, edges, strict=True)]
    return [
        (place, tuple(slice(p * e, (p + 1) * e) for p, e in zip(place, edges, strict=True)))
        for place in itertools.product(*(range(g) for g in grid))
    ]


def cosine(a: Array, b: Array) -> float:
    a, b = a.ravel(), b.ravel()
    if not a.any() or not b.any():
        return 1.0
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def similarity(base: Array, predictions: Array, edges: Sequence[int]) -> Array:
    """(n, batch, *grid)."""
    space = base.shape[2:]
    cells = patches(space, edges)
    grid = tuple(p + 1 for p in cells[-1][0])
    found = np.empty((len(predictions), len(base), *grid))
    for i, one in enumerate(predictions):
        for b in range(len(base)):
            for place, where in cells:
                inside = (slice(None), *where)
                found[(i, b, *place)] = cosine(one[b][inside], base[b][inside])
    return found


def softmin(similarities: Array, tau: float, prior: Sequence[float]) -> Array:
    found = np.zeros_like(similarities)
    for place in itertools.product(*(range(s) for s in similarities.shape[1:])):
        values = [float(s) for s in similarities[(slice(None), *place)]]
        lowest = min(v for v, p in zip(values, prior, strict=True) if p > 0)
        raised = [
            p * math.exp(-(v - lowest) / tau) if p > 0 else 0.0
            for v, p in zip(values, prior, strict=True)
        ]
        found[(slice(None), *place)] = np.array(raised) / sum(raised)
    return found


def nearest(weights: Array, space: Sequence[int], edges: Sequence[int]) -> Array:
    found = np.empty((*weights.shape[:2], *space))
    for place in itertools.product(*(range(s) for s in space)):
        cell = tuple(p // e for p, e in zip(place, edges, strict=True))
        found[(..., *place)] = weights[(..., *cell)]
    return found


def bilinear(weights: Array, space: Sequence[int], edges: Sequence[int]) -> Array:
    """Between the middles of patches, separately along every axis."""
    found = weights
    for axis, (size, edge) in enumerate(zip(space, edges, strict=True), 2):
        middles = [(k + 0.5) * edge for k in range(found.shape[axis])]
        pixels = np.arange(size) + 0.5
        found = np.apply_along_axis(lambda v, x=pixels, m=middles: np.interp(x, m, v), axis, found)
    return found


def aggregate(predictions: Array, weights: Array) -> Array:
    """Weights (n, batch, *space)."""
    found = np.zeros_like(predictions[0])
    for i in range(len(predictions)):
        for b in range(predictions.shape[1]):
            for c in range(predictions.shape[2]):
                found[b, c] += weights[i, b] * predictions[i, b, c]
    return found


def entropy(weights: Array) -> Array:
    found = np.zeros(weights.shape[1:])
    for place in itertools.product(*(range(s) for s in found.shape)):
        for w in weights[(slice(None), *place)]:
            found[place] -= w * math.log(w) if w > 0 else 0.0
    return found


def standardise(values: Array, scope: str) -> Array:
    """Over adapters; the spread of a patch, or the root mean square of all of an image."""
    found = np.zeros_like(values)
    for b in range(values.shape[1]):
        flat = values[:, b].reshape(len(values), -1)
        flat = flat - flat[0]  # equal values have no spread, also after rounding
        moved = np.stack([column - column.mean() for column in flat.T])
        spreads = [math.sqrt(sum(x * x for x in row) / len(row)) for row in moved]
        if scope == "image":
            spreads = [math.sqrt(sum(s * s for s in spreads) / len(spreads))] * len(spreads)
        rows = [row / s if s > 0 else row * 0 for row, s in zip(moved, spreads, strict=True)]
        found[:, b] = np.stack(rows, axis=1).reshape(values[:, b].shape)
    return found


def restrict(weights: Array, masks: Array) -> Array:
    """Masks (n, *space)."""
    found = np.zeros_like(weights)
    for b in range(weights.shape[1]):
        for place in itertools.product(*(range(s) for s in weights.shape[2:])):
            m = masks[(slice(None), *place)]
            w = weights[(slice(None), b, *place)] * m
            if w.sum() == 0 and m.sum() > 0:
                w = m.copy()
            if w.sum() > 0:
                found[(slice(None), b, *place)] = w / w.sum() * m.max()
    return found


def chosen(
    scores: Sequence[float], k: int, before: Sequence[bool], hysteresis: float
) -> list[bool]:
    values = [s * (1 + hysteresis) if b else s for s, b in zip(scores, before, strict=True)]
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    return [i in order[:k] and scores[i] >= 0 for i in range(len(values))]


def flux_tokens(latents: Array) -> Array:
    """2 x 2 pixels of all channels as one token, channel slowest."""
    batch, channels, height, width = latents.shape
    tokens = []
    for y in range(0, height, 2):
        for x in range(0, width, 2):
            cell = [
                latents[:, c, y + i, x + j] for c in range(channels) for i in (0, 1) for j in (0, 1)
            ]
            tokens.append(np.stack(cell, axis=-1))
    return np.stack(tokens, axis=1).reshape(batch, -1, 4 * channels)


def haar_matrix(size: int) -> Array:
    """Means, then differences, of pairs; rows of norm one.  An odd size repeats its last entry."""
    pairs = math.ceil(size / 2)
    found = np.zeros((2 * pairs, size))
    for k in range(pairs):
        for row, sign in ((k, 1.0), (pairs + k, -1.0)):
            found[row, 2 * k] += math.sqrt(0.5)
            found[row, min(2 * k + 1, size - 1)] += sign * math.sqrt(0.5)
    return found


def haar(image: Array) -> tuple[Array, Array, Array, Array]:
    """Means, differences along the width, the height, both, of (height, width)."""
    rows, columns = haar_matrix(image.shape[0]), haar_matrix(image.shape[1])
    whole = rows @ image @ columns.T
    h, w = whole.shape[0] // 2, whole.shape[1] // 2
    return whole[:h, :w], whole[:h, w:], whole[h:, :w], whole[h:, w:]


def high_share(moved: Array, cut: float) -> float:
    """(channels, height, width); the Fourier sum written out."""
    channels, height, width = moved.shape
    y, x = np.mgrid[:height, :width]
    high = total = 0.0
    for c in range(channels):
        for ky in range(height):
            for kx in range(width):
                wave = np.exp(-2j * math.pi * (ky * y / height + kx * x / width))
                energy = abs((moved[c] * wave).sum()) ** 2
                fy, fx = min(ky, height - ky) / height, min(kx, width - kx) / width
                total += energy
                high += energy if math.hypot(fy, fx) > cut else 0.0
    return high / total if total else 0.0


def box(mask: Array, height: int, width: int) -> Array:
    """Area means, on the finest grid that both sizes divide."""
    fine = np.kron(mask, np.ones((height, width)))
    tall, wide = mask.shape
    return fine.reshape(height, tall, width, wide).mean(axis=(1, 3))
