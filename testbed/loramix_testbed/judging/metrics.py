"""What is measured of pictures whose truth is known."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loramix_testbed.judging.judge import Seen, judge
from loramix_testbed.world.images import pictures
from loramix_testbed.world.styles import STYLES
from loramix_testbed.world.symbols import SYMBOLS

TRUE = 48
"""True pictures that a prompt's are compared with."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Of the pictures of one prompt.

    Attributes
    ----------
    content, style : whether the judge names the symbol, the style that was asked for.
    distance : to the nearest of `TRUE` true pictures, over feature maps as LPIPS does it; 0 is
        one of them; the method ``truth`` shows what fresh true pictures have.
    beyond : mean of what colours have beyond black and white, before they are cut; 1 is half of
        the way from black to white.
    energy : standard deviation of the colours, relative to that of the truth.
    kid : unbiased kernel distance of the features to the truth's.
    diversity : mean distance of the features of two pictures, relative to the truth's.
    """

    content: NDArray[np.bool_]
    style: NDArray[np.bool_]
    distance: NDArray[np.float64]
    beyond: NDArray[np.float64]
    energy: NDArray[np.float64]
    kid: float
    diversity: float


@dataclass(frozen=True, slots=True)
class _Truth:
    seen: Seen
    deviation: float


def measure(drawn: Tensor, symbol: str, style: str) -> Measured:
    """Measure the pictures of a prompt, (n, 3, 24, 24), at least two."""
    true = _truth(symbol, style)
    with torch.no_grad():
        seen = judge()(drawn)
    return Measured(
        content=(seen.symbol.argmax(1) == SYMBOLS.index(symbol)).numpy(),
        style=(seen.style.argmax(1) == list(STYLES).index(style)).numpy(),
        distance=_distances(seen, true.seen).amin(1).double().numpy(),
        beyond=(drawn.abs() - 1).clamp(min=0).mean((1, 2, 3)).double().numpy(),
        energy=(drawn.clamp(-1, 1).flatten(1).std(1) / true.deviation).double().numpy(),
        kid=_kernel_distance(seen.features, true.seen.features),
        diversity=_spread(seen.features) / _spread(true.seen.features),
    )


def true_pictures(symbol: str, style: str, seed: int) -> Tensor:
    """`TRUE` true pictures; those of seed 0 are what others are compared with."""
    place = SYMBOLS.index(symbol) * len(STYLES) + list(STYLES).index(style)
    generator = torch.Generator().manual_seed(9000 + place + 10_000 * seed)
    return pictures([symbol] * TRUE, [style] * TRUE, generator)


@cache
def _truth(symbol: str, style: str) -> _Truth:
    true = true_pictures(symbol, style, 0)
    with torch.no_grad():
        seen = judge()(true)
    return _Truth(seen, float(true.flatten(1).std(1).mean()))


def _distances(seen: Seen, true: Seen) -> Tensor:
    """(pictures, true pictures): squared gaps of unit feature vectors, a mean over all places."""
    total = torch.zeros(len(seen.features), len(true.features))
    for ours, theirs in zip(seen.maps, true.maps, strict=True):
        a = torch.nn.functional.normalize(ours, dim=1).flatten(1)
        b = torch.nn.functional.normalize(theirs, dim=1).flatten(1)
        places = ours.shape[2] * ours.shape[3]
        total += (2 - 2 * (a @ b.T) / places) / len(seen.maps)
    return total.clamp(min=0)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """The usual cubic kernel, on unit vectors."""
    a, b = (torch.nn.functional.normalize(side.double(), dim=1) for side in (a, b))
    cubed: Tensor = (a @ b.T + 1) ** 3
    return cubed


def _kernel_distance(ours: Tensor, theirs: Tensor) -> float:
    """Kernel inception distance, unbiased, on the judge's features."""
    n, m = len(ours), len(theirs)
    within, among = _kernel(ours, ours), _kernel(theirs, theirs)
    first = (within.sum() - within.trace()) / (n * (n - 1))
    second = (among.sum() - among.trace()) / (m * (m - 1))
    return float(first + second - 2 * _kernel(ours, theirs).mean())


def _spread(features: Tensor) -> float:
    count = len(features)
    return float(torch.cdist(features, features).sum() / (count * (count - 1)))
