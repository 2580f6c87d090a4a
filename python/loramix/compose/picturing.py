"""The weights of a run as a picture: a row for each adapter, a column for each step."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from loramix.compose.accounts import Run, Step
from loramix.compose.functional.checks import check_count
from loramix.errors import ParamError
from loramix.report.cells import printable, shorten
from loramix.tensors import F32, F64

if TYPE_CHECKING:
    from PIL.Image import Image

_CELL = 104
"""Pixels of the longer side of a map."""
_GAP = 8
_LEFT = 190
_TOP = 44
_BOTTOM = 58
_SIZE = 14
_LETTERS = 22
_SCALE = (320, 14)
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 30), (110, 110, 110)
_RESTS = (232, 232, 232)
_BROKEN = (214, 39, 40)
# Viridis (Smith and van der Walt, CC0) at five places: brighter is more, in grey too.
_COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])


def picture_of(run: Run, *, image: int = 0, columns: int = 8) -> "Image":
    """Draw who was active where and when.

    One scale of colours for all maps, from the least to the largest weight, with its numbers
    below; exact zeros are grey, what is no number red.  The last column is the mean over all
    steps.  Where the base has a share, outside masks, it has the last row.  Maps of videos are
    means over their frames.

    Parameters
    ----------
    run : with at least one step and one adapter.
    image : which of the pictures that were made together.
    columns : steps that are shown, at least 1, spread over the run; the first and the last are
        among them.

    Returns
    -------
    A picture of Pillow's (which comes with diffusers).

    Raises
    ------
    ParamError : nothing to show, or no such picture.
    """
    from PIL import Image, ImageDraw

    check_count("picture_of", "columns", columns)
    if not run.steps or not run.adapters:
        message = "a run without steps or adapters has no weights to show"
        raise ParamError(message)
    if not 0 <= image < run.map.shape[1]:
        message = f"image = {image}: the run made {run.map.shape[1]}, counted from 0"
        raise ParamError(message)
    picks = np.unique(np.linspace(0, len(run.steps) - 1, min(columns, len(run.steps))).round())
    shown = [run.steps[int(i)] for i in picks]
    weights = [_shares(step, image) for step in shown]
    mean = Step(0, 0.0, 0, run.map)
    maps = [_flat(one) for one in (*weights, _shares(mean, image))]
    names = run.adapters
    if any((one[-1] > 0).any() for one in maps):
        names = (*names, "base")
    else:
        maps = [one[:-1] for one in maps]
    heads = [(f"step {step.number}", f"t = {step.timestep:.4g}") for step in shown]
    heads.append(("mean", f"{len(run.steps)} steps"))
    low, high = _range(maps)
    wide, tall = _cell(maps)
    width = max(_LEFT + len(maps) * (wide + _GAP) + _GAP, _LEFT + _SCALE[0] + 190)
    height = _TOP + len(names) * (tall + _GAP) + _BOTTOM
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    font, small = _font(_SIZE), _font(_SIZE - 2)
    for column, (top, under) in enumerate(heads):
        x = _LEFT + column * (wide + _GAP)
        draw.text((x, 6), top, _INK, font)
        draw.text((x, 24), under, _FAINT, small)
    for row, name in enumerate(_short(names)):
        y = _TOP + row * (tall + _GAP)
        share = float(maps[-1][row].mean())
        draw.text((_GAP, y + tall // 2 - 18), name, _INK, font)
        draw.text((_GAP, y + tall // 2 + 2), f"mean weight {share:.3f}", _FAINT, small)
        for column, one in enumerate(maps):
            cell = Image.fromarray(_painted(one[row], low, high))
            cell = cell.resize((wide, tall), Image.Resampling.NEAREST)
            page.paste(cell, (_LEFT + column * (wide + _GAP), y))
    ramp = np.broadcast_to(np.linspace(low, high, _SCALE[0]), _SCALE[::-1])
    y = height - _BOTTOM + 14
    page.paste(Image.fromarray(_painted(ramp, low, high, zeros=False)), (_LEFT, y))
    draw.text((_LEFT, y + 18), f"{low:.3f}", _FAINT, small)
    draw.text((_LEFT + _SCALE[0] - 36, y + 18), f"{high:.3f}", _FAINT, small)
    draw.text((_GAP, y - 2), "weight", _INK, font)
    words = (
        (_RESTS, "0: takes no part", any((one == 0).any() for one in maps)),
        (_BROKEN, "NaN: overflow", not all(np.isfinite(one).all() for one in maps)),
    )
    for line, (colour, word) in enumerate((c, w) for c, w, there in words if there):
        x, down = _LEFT + _SCALE[0] + 24, y + 20 * line
        draw.rectangle((x, down, x + 13, down + 13), colour)
        draw.text((x + 20, down - 1), word, _FAINT, small)
    return page


def _short(names: Sequence[str]) -> list[str]:
    """Names that have room; where two would be alike, with the number of their row."""
    found = [shorten(printable(name), _LETTERS) for name in names]
    return [
        shorten(f"{row}. {printable(name)}", _LETTERS) if found.count(short) > 1 else short
        for row, (name, short) in enumerate(zip(names, found, strict=True), 1)
    ]


def _shares(step: Step, image: int) -> F32:
    """(n + 1, *grid), weights of adapters and what they leave to the base."""
    return np.concatenate((step.weights[:, image], step.base[None, image]))


def _flat(weights: F32) -> F32:
    """(n, rows, columns) from (n, *grid): frames averaged, one cell where there is no grid."""
    while weights.ndim > 3:
        weights = weights.mean(axis=1)
    return weights.reshape(*weights.shape, *(1,) * (3 - weights.ndim))


def _range(maps: list[F32]) -> tuple[float, float]:
    """The least and the largest weight above 0; apart where all are equal."""
    values = np.concatenate([one[np.isfinite(one) & (one > 0)].ravel() for one in maps])
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if high - low > 1e-3:
        return low, high
    return max(low - 0.05, 0.0), max(high, min(high + 0.05, 1.0))


def _cell(maps: list[F32]) -> tuple[int, int]:
    """Width and height of the maps, in the shape of the largest grid."""
    rows, columns = max((one.shape[1:] for one in maps), key=lambda shape: shape[0] * shape[1])
    longest = max(rows, columns)
    return max(round(_CELL * columns / longest), 40), max(round(_CELL * rows / longest), 40)


def _painted(
    values: F32 | F64, low: float, high: float, *, zeros: bool = True
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(rows, columns, 3), colours of weights."""
    broken = ~np.isfinite(values)
    place = np.clip((np.where(broken, low, values) - low) / (high - low), 0, 1)
    place *= len(_COLOURS) - 1
    left = np.minimum(place.astype(int), len(_COLOURS) - 2)
    part = (place - left)[..., None]
    colours = _COLOURS[left] * (1 - part) + _COLOURS[left + 1] * part
    if zeros:
        colours = np.where((values == 0)[..., None], np.array(_RESTS), colours)
    colours = np.where(broken[..., None], np.array(_BROKEN), colours)
    return np.asarray(colours.round().astype(np.uint8))


def _font(size: int) -> Any:  # noqa: ANN401 - Pillow's
    from PIL import ImageFont

    return ImageFont.load_default(size)
