"""The figure of quality against cost, as SVG, without any library."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from loramix_testbed.report.summary import Row

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 480, 56, 150, 20, 48
_LINE = 13
"""Height of a name."""
_NAME = 60
"""Width of most names."""


@dataclass(frozen=True, slots=True)
class _Point:
    """A method: its name, where it is, and how high its name stands."""

    name: str
    x: float
    y: float
    label: float


def quality_against_cost(rows: Sequence[Row]) -> str:
    """Both-accuracy, a mean over the sizes, against evaluations of the denoiser per step.

    Parameters
    ----------
    rows : of one kind, all sizes.
    """
    means = _means(rows)
    dearest = max(cost for _, cost, _ in means) * 1.1
    best = math.ceil(max(both for _, _, both in means) * 10 + 0.5) / 10
    parts = [_axes(dearest, best)]
    parts += [_drawn(point) for point in _apart(_placed(means, dearest, best))]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="12" fill="#222">'
        "<title>Quality against inference cost</title>"
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>' + "".join(parts) + "</svg>\n"
    )


def _means(rows: Sequence[Row]) -> list[tuple[str, float, float]]:
    """Name, mean cost and mean accuracy of every method that has all sizes."""
    sizes = {row.size for row in rows}
    found = []
    for name in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == name]
        if {row.size for row in own} == sizes and name != "truth":
            mean = sum(row.both.mean for row in own) / len(own)
            found.append((name, sum(row.cost for row in own) / len(own), mean))
    return found


def _placed(means: Sequence[tuple[str, float, float]], dearest: float, best: float) -> list[_Point]:
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM - _TOP
    found = []
    for name, cost, both in means:
        y = _TOP + height * (1 - both / best)
        found.append(_Point(name, _LEFT + width * cost / dearest, y, y))
    return found


def _apart(points: Sequence[_Point]) -> list[_Point]:
    """Names of one column one below the other, as near to their points as there is room."""
    found: list[_Point] = []
    for near in _columns(points):
        column = sorted(near, key=lambda p: (p.y, p.name))
        lowest = float(_HEIGHT - _BOTTOM - 4)
        labels: list[float] = [lowest - _LINE * (len(column) - 1 - i) for i in range(len(column))]
        last = -math.inf
        for i, point in enumerate(column):
            labels[i] = last = max(last + _LINE, min(labels[i], point.y))
        found += [_Point(p.name, p.x, p.y, label) for p, label in zip(column, labels, strict=True)]
    return found


def _columns(points: Sequence[_Point]) -> list[list[_Point]]:
    """Points whose names would stand in one another."""
    found: list[list[_Point]] = []
    for point in sorted(points, key=lambda p: p.x):
        if found and point.x - found[-1][0].x < _NAME:
            found[-1].append(point)
        else:
            found.append([point])
    return found


def _drawn(point: _Point) -> str:
    x, y, label = point.x, point.y, point.label
    return (
        f'<path d="M{x:.1f} {y:.1f}L{x + 20:.1f} {label:.1f}" stroke="#bbb"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#2563a8"/>'
        f'<text x="{x + 23:.1f}" y="{label + 4:.1f}">{html.escape(point.name)}</text>'
    )


def _axes(dearest: float, best: float) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" stroke="#888" fill="none"/>',
        f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 10}" text-anchor="middle">'
        "evaluations of the denoiser per step</text>",
        f'<text x="14" y="{bottom / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {bottom / 2:.0f})">both right</text>',
    ]
    for tenth in range(round(best * 10) + 1):
        y = bottom - (bottom - _TOP) * tenth / 10 / best
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.0f}" text-anchor="end">{tenth / 10}</text>')
    for cost in range(2, int(dearest) + 1, 2):
        x = _LEFT + (right - _LEFT) * cost / dearest
        parts.append(f'<text x="{x:.0f}" y="{bottom + 16}" text-anchor="middle">{cost}</text>')
    return "".join(parts)
