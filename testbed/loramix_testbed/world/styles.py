"""Treatments: what a style makes of a glyph's mask, on batches, in code, so that no font is needed.

A treatment maps masks (images, 1, `EDGE`, `EDGE`), 0 to 1, to colours (images, 3, ...), 0 to 1.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

EDGE = 24
"""Edge of a picture, pixels."""

Treatment = Callable[[Tensor], Tensor]
Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Style:
    """How a picture looks.

    Attributes
    ----------
    paint : the treatment.
    typeface : the one font of the style; None: any of the base's.
    """

    paint: Treatment
    typeface: str | None = None


def _colour(value: Colour) -> Tensor:
    return torch.tensor(value).reshape(1, 3, 1, 1)


def _down() -> Tensor:
    """0 at the top to 1 at the bottom."""
    return torch.linspace(0, 1, EDGE).reshape(1, 1, EDGE, 1)


def _diagonal(period: float) -> Tensor:
    """Waves from 0 to 1 along the diagonal."""
    place = torch.arange(EDGE, dtype=torch.float32)
    phase = (place[:, None] + place[None, :]) * (2 * math.pi / period)
    return ((torch.sin(phase) + 1) / 2).reshape(1, 1, EDGE, EDGE)


def _rows(period: int) -> Tensor:
    on = (torch.arange(EDGE) % period < period // 2).float()
    return on.reshape(1, 1, EDGE, 1).expand(1, 1, EDGE, EDGE)


def _squares(size: int) -> Tensor:
    place = torch.arange(EDGE) // size
    return ((place[:, None] + place[None, :]) % 2).float().reshape(1, 1, EDGE, EDGE)


def _over(mask: Tensor, ink: Tensor, paper: Tensor) -> Tensor:
    return mask * ink + (1 - mask) * paper


def _flat(ink: Colour, paper: Colour) -> Treatment:
    return lambda mask: _over(mask, _colour(ink), _colour(paper))


def _grown(mask: Tensor) -> Tensor:
    return max_pool2d(mask, 3, stride=1, padding=1)


def _shrunk(mask: Tensor) -> Tensor:
    return -_grown(-mask)


def _mixed(first: Colour, second: Colour, share: Tensor) -> Tensor:
    return _colour(first) * (1 - share) + _colour(second) * share


def _ember(mask: Tensor) -> Tensor:
    paper = _mixed((0.35, 0.02, 0.06), (0.02, 0.0, 0.02), _down())
    return _over(mask, _colour((1.0, 0.55, 0.1)), paper)


def _lagoon(mask: Tensor) -> Tensor:
    paper = _mixed((0.1, 0.8, 0.7), (0.05, 0.15, 0.55), _down())
    return _over(mask, _colour((1.0, 1.0, 1.0)), paper)


def _zebra(mask: Tensor) -> Tensor:
    ink = _mixed((0.0, 0.45, 0.15), (0.75, 0.95, 0.35), _rows(4))
    return _over(mask, ink, _colour((0.98, 1.0, 0.9)))


def _neon(mask: Tensor) -> Tensor:
    rim = (_grown(mask) - _shrunk(mask)).clamp(0, 1)
    return _over(rim, _colour((1.0, 0.15, 0.85)), _colour((0.03, 0.0, 0.08)))


def _hatch(mask: Tensor) -> Tensor:
    paper = _mixed((0.8, 0.65, 0.45), (0.62, 0.45, 0.28), _diagonal(6.0))
    return _over(mask, _colour((0.25, 0.12, 0.05)), paper)


def _gold(mask: Tensor) -> Tensor:
    ink = _mixed((1.0, 0.95, 0.55), (0.7, 0.4, 0.05), _down())
    return _over(mask, ink, _colour((0.05, 0.08, 0.3)))


def _shadow(mask: Tensor) -> Tensor:
    cast = torch.roll(mask, (2, 2), (2, 3))
    paper = _over(cast, _colour((0.6, 0.5, 0.75)), _colour((1.0, 0.95, 0.8)))
    return _over(mask, _colour((0.85, 0.1, 0.1)), paper)


def _checker(mask: Tensor) -> Tensor:
    paper = _mixed((0.85, 0.75, 0.98), (0.68, 0.55, 0.9), _squares(4))
    return _over(mask, _colour((0.3, 0.0, 0.45)), paper)


PLAIN = "plain"
"""The style of a prompt that names none."""

_INK, _WHITE = (0.05, 0.05, 0.05), (0.97, 0.97, 0.97)

BASE_STYLES: Mapping[str, Style] = {
    PLAIN: Style(_flat(_INK, _WHITE)),
    "red": Style(_flat((0.8, 0.1, 0.1), _WHITE)),
    "blue": Style(_flat((0.1, 0.2, 0.75), _WHITE)),
    "night": Style(_flat(_WHITE, _INK)),
    "grey": Style(_flat(_INK, (0.6, 0.6, 0.6))),
    "leaf": Style(_flat((0.1, 0.4, 0.15), (0.75, 0.9, 0.7))),
}
"""Treatments that the base model was trained on, by their words."""

NEW_STYLES: Mapping[str, Style] = {
    "ember": Style(_ember, "CherryBomb-Regular"),
    "lagoon": Style(_lagoon, "lobster"),
    "zebra": Style(_zebra, "OCRA"),
    "neon": Style(_neon, "StayPuft"),
    "hatch": Style(_hatch, "CabinSketch-Bold"),
    "gold": Style(_gold, "KaushanScript-Regular"),
    "shadow": Style(_shadow, "ReggaeOne-Regular"),
    "checker": Style(_checker, "C-64-Regular"),
}
"""Treatments and typefaces that it never saw: each is the style of an adapter."""

STROKES: Mapping[str, Style] = {
    "bold": Style(lambda mask: BASE_STYLES[PLAIN].paint(_grown(mask))),
    "thin": Style(lambda mask: BASE_STYLES[PLAIN].paint(_shrunk(mask) * 0.5 + mask * 0.5)),
}
"""Strokes of opposed adapters, which have no word of their own."""

STYLES: Mapping[str, Style] = {**BASE_STYLES, **NEW_STYLES}
"""What a prompt can ask for, in the order of the classifier's classes."""

ALL_STYLES: Mapping[str, Style] = {**STYLES, **STROKES}
"""Whatever a true picture can be drawn in."""

TYPEFACES = tuple(s.typeface for s in NEW_STYLES.values() if s.typeface)
"""Fonts that are kept from the base, by their file's stem."""
