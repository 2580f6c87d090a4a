"""Predictions by frequency: Haar wavelets and the share of high frequencies."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loramix.compose.functional.arrays import Array, library_of, like, wide
from loramix.compose.functional.checks import check_count, check_number
from loramix.errors import ParamError
from loramix.tensors import F64


@dataclass(frozen=True, slots=True)
class Bands:
    """A prediction as wavelet coefficients.

    Attributes
    ----------
    parts : 1 + 3 * levels arrays (batch, channels, *frames, height, width), coarse to fine: the
        means, then for every level the differences along the width, the height and both.
    sizes : height and width before every halving, the first one first.
    """

    parts: tuple[Array, ...]
    sizes: tuple[tuple[int, int], ...]


def haar(prediction: Array, levels: int = 1) -> Bands:
    """Orthonormal Haar wavelets along height and width.

    Parameters
    ----------
    prediction : (..., height, width), any floating type.
    levels : how often the means are halved again, at least 1.  An odd size is filled up by its
        last row or column.

    Returns
    -------
    Float32 (float64 for float64).  With even sizes the squared norm of the parts is that of the
    prediction.

    Raises
    ------
    ParamError : levels below 1.
    """
    check_count("haar", "levels", levels)
    low = wide(prediction)
    parts: list[Array] = []
    sizes: list[tuple[int, int]] = []
    for _ in range(levels):
        sizes.append((int(low.shape[-2]), int(low.shape[-1])))
        low, *fine = _split(low)
        parts = [*fine, *parts]
    return Bands((low, *parts), tuple(sizes))


def unhaar(bands: Bands) -> Array:
    """The prediction of its wavelet coefficients: what `haar` undoes, up to rounding."""
    low, rest = bands.parts[0], bands.parts[1:]
    for number, (height, width) in enumerate(reversed(bands.sizes)):
        low = _join(low, *rest[3 * number : 3 * number + 3])[..., :height, :width]
    return low


def _split(image: Array) -> tuple[Array, Array, Array, Array]:
    xp = library_of(image)
    if image.shape[-2] % 2:
        image = xp.concatenate((image, image[..., -1:, :]), axis=-2)
    if image.shape[-1] % 2:
        image = xp.concatenate((image, image[..., -1:]), axis=-1)
    a, b = image[..., ::2, ::2], image[..., ::2, 1::2]
    c, d = image[..., 1::2, ::2], image[..., 1::2, 1::2]
    return (a + b + c + d) / 2, (a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2


def _join(low: Array, across: Array, down: Array, both: Array) -> Array:
    xp = library_of(low)
    left = xp.stack(((low + across + down + both) / 2, (low + across - down - both) / 2), axis=-2)
    right = xp.stack(((low - across + down - both) / 2, (low - across - down + both) / 2), axis=-2)
    # (..., h, 2, w) twice: rows interleave on one axis, columns on another.
    whole = xp.stack((left, right), axis=-1)
    height, width = low.shape[-2:]
    return whole.reshape((*low.shape[:-2], 2 * height, 2 * width))


def high_share(prediction: Array, base: Array, *, cut: float = 0.25) -> Array:
    """Share of high frequencies in what an adapter changes.

    The squared norm of the Fourier coefficients of ``prediction - base`` whose frequency
    ``sqrt(fy^2 + fx^2)`` is above the cut, over that of all.

    Parameters
    ----------
    prediction, base : (batch, channels, *frames, height, width) of one shape.
    cut : in cycles per latent pixel, [0, 0.7072]; 0.5 is the highest along an axis.

    Returns
    -------
    (batch,), in [0, 1]; 0 where nothing is changed.

    Notes
    -----
    A score of ours that needs no data, in place of lists of adapters by hand.
    Cost: one Fourier transform; memory: three channels in float32.
    """
    check_number("high_share", "cut", cut, high=0.7072)
    high, total = 0.0, 0.0
    often, above = (like(one, prediction) for one in _frequencies(prediction, cut))
    xp = library_of(often)
    for channel in range(prediction.shape[1]):  # one at a time: coefficients need more memory
        size = xp.abs(xp.fft.rfft2(wide(prediction[:, channel]) - base[:, channel]))
        energy = size * size * often
        axes = tuple(range(1, energy.ndim))
        total = total + xp.sum(energy, axis=axes)
        high = high + xp.sum(energy * above, axis=axes)
    return high / xp.where(total == 0, xp.ones_like(total), total)


def _frequencies(prediction: Array, cut: float) -> tuple[F64, F64]:
    """How many of all coefficients those of a real transform are, and which are above the cut."""
    height, width = prediction.shape[-2:]
    fy, fx = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    own = (fx == 0) | (fx == 0.5)  # their mirror images are among them
    often = np.tile(np.where(own, 1.0, 2.0), (height, 1))
    return often, (np.hypot(fy[:, None], fx[None, :]) > cut).astype(np.float64)


def combine_bands(stack: Iterable[Bands], weights: Sequence[Any]) -> Bands:
    """Weighted sums of wavelet coefficients.

    Parameters
    ----------
    stack : n predictions as bands, which are asked for one at a time.
    weights : for every part of the bands (n, batch).

    Raises
    ------
    ParamError : no predictions.
    """
    total: list[Array] = []
    sizes: tuple[tuple[int, int], ...] = ()
    for number, bands in enumerate(stack):
        shape = (-1,) + (1,) * (bands.parts[0].ndim - 1)
        scaled = [
            part * table[number].reshape(shape)
            for part, table in zip(bands.parts, weights, strict=True)
        ]
        total = [a + b for a, b in zip(total, scaled, strict=True)] if total else scaled
        sizes = bands.sizes
    if not total:
        message = "bands: none given; at least one prediction is needed"
        raise ParamError(message)
    return Bands(tuple(total), sizes)
