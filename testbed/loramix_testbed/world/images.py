"""True pictures: masks of glyphs, jittered, treated."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from loramix_testbed.places import ASSETS
from loramix_testbed.world.styles import ALL_STYLES, EDGE, TYPEFACES
from loramix_testbed.world.symbols import SYMBOLS


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks of all glyphs, uint8.

    Attributes
    ----------
    base : (fonts, symbols, cell, cell).
    style : (typefaces, symbols, cell, cell).
    """

    base: Tensor
    style: Tensor


@cache
def masks() -> Masks:
    """The committed masks."""
    with np.load(ASSETS / "masks.npz") as file:
        return Masks(torch.from_numpy(file["base"]), torch.from_numpy(file["style"]))


def pictures(symbols: list[str], styles: list[str], generator: torch.Generator) -> Tensor:
    """A true picture for every pair of a symbol and a style, (n, 3, `EDGE`, `EDGE`) in -1 to 1.

    The font where the style leaves it open, the place, the size and the angle are random.
    """
    store = masks()
    drawn = torch.randint(len(store.base), (len(symbols),), generator=generator)
    chosen = [
        _mask(store, symbol, style, int(font))
        for symbol, style, font in zip(symbols, styles, drawn, strict=True)
    ]
    placed = _jittered(torch.stack(chosen).float()[:, None] / 255, generator)
    out = torch.empty(len(symbols), 3, EDGE, EDGE)
    for style in dict.fromkeys(styles):
        rows = [row for row, name in enumerate(styles) if name == style]
        out[rows] = ALL_STYLES[style].paint(placed[rows])
    return out * 2 - 1


def _mask(store: Masks, symbol: str, style: str, font: int) -> Tensor:
    place = SYMBOLS.index(symbol)
    typeface = ALL_STYLES[style].typeface
    if typeface is None:
        return store.base[font, place]
    return store.style[TYPEFACES.index(typeface), place]


def _jittered(cells: Tensor, generator: torch.Generator) -> Tensor:
    """Cells as pictures: turned by up to 4 degrees, 0.9 to 1.1 times the size, moved by a pixel."""
    count = len(cells)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    angle = uniform(-0.07, 0.07)
    size = uniform(0.9, 1.1) * (EDGE / 26)
    across, down = uniform(-0.09, 0.09), uniform(-0.09, 0.09)
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    matrix = torch.stack([cos, -sin, across, sin, cos, down], dim=1).reshape(count, 2, 3)
    doubled = affine_grid(matrix, [count, 1, 2 * EDGE, 2 * EDGE], align_corners=False)
    large = grid_sample(cells, doubled, mode="bilinear", align_corners=False)
    return torch.nn.functional.avg_pool2d(large, 2)
