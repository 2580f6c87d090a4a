"""Rows of tables from measured cells."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loramix_testbed.judging.intervals import Interval, interval

Cells = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """A method on all stacks of a kind and a size.

    Attributes
    ----------
    both, content, style : shares of pictures in which the judge finds what was asked for.
    distance : to the truth.
    beyond, energy : of colours; see `Measured`.
    kid, diversity : means over prompts.
    cost : evaluations of the denoiser per step.
    kept : how much of an adapter is in the result, a mean over adapters; None: nothing is merged.
    """

    kind: str
    size: int
    method: str
    both: Interval
    content: Interval
    style: Interval
    distance: Interval
    beyond: Interval
    energy: Interval
    kid: float
    diversity: float
    cost: float
    kept: float | None
    pictures: int


def rows(cells: Iterable[Mapping[str, Any]], half: str) -> list[Row]:
    """A row for every kind, size and method of a half, in that order, best accuracy first."""
    groups: dict[tuple[str, int, str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        if cell["half"] == half:
            groups.setdefault((cell["kind"], cell["size"], cell["method"]), []).append(cell)
    found = [_row(key, group) for key, group in groups.items()]
    return sorted(found, key=lambda row: (row.kind, row.size, -row.both.mean, row.method))


def both_of(prompt: Mapping[str, Any]) -> NDArray[np.float64]:
    """1 where content and style are right."""
    pairs = zip(prompt["content"], prompt["style_right"], strict=True)
    return np.array([float(content and style) for content, style in pairs])


def _row(key: tuple[str, int, str], cells: Cells) -> Row:
    kind, size, method = key
    prompts = [prompt for cell in cells for prompt in cell["prompts"]]

    def of(name: str) -> Interval:
        return interval([np.array(prompt[name], float) for prompt in prompts])

    return Row(
        kind=kind,
        size=size,
        method=method,
        both=interval([both_of(prompt) for prompt in prompts]),
        content=of("content"),
        style=of("style_right"),
        distance=of("distance"),
        beyond=of("beyond"),
        energy=of("energy"),
        kid=float(np.mean([prompt["kid"] for prompt in prompts])),
        diversity=float(np.mean([prompt["diversity"] for prompt in prompts])),
        cost=float(np.mean([cell["cost"] for cell in cells])),
        kept=_kept(cells),
        pictures=sum(len(prompt["content"]) for prompt in prompts),
    )


def _kept(cells: Cells) -> float | None:
    values = [value for cell in cells for value in cell.get("kept", ())]
    return float(np.mean(values)) if values else None


def ahead(
    cells: Iterable[Mapping[str, Any]],
    half: str,
    kind: str,
    size: int,
    pair: tuple[str, str],
    value: Callable[[Mapping[str, Any]], NDArray[np.float64]] = both_of,
) -> Interval:
    """By how much the first of two methods is ahead, picture by picture: the noise is the same."""
    by_method: dict[str, dict[tuple[str, int], NDArray[np.float64]]] = {name: {} for name in pair}
    for cell in cells:
        if (cell["half"], cell["kind"], cell["size"]) != (half, kind, size):
            continue
        if cell["method"] in by_method:
            for place, prompt in enumerate(cell["prompts"]):
                by_method[cell["method"]][cell["stack"], place] = value(prompt)
    first, second = (by_method[name] for name in pair)
    return interval([first[key] - second[key] for key in first])
