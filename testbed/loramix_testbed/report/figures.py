"""The figure of quality against cost, as SVG, without any library."""

import html
from collections.abc import Sequence

from loramix_testbed.report.summary import Row

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 420, 56, 48


def quality_against_cost(rows: Sequence[Row]) -> str:
    """Both-accuracy, a mean over the sizes, against evaluations of the denoiser per step.

    Parameters
    ----------
    rows : of one kind, all sizes.
    """
    points = _points(rows)
    dearest = max(cost for _, cost, _ in points) * 1.15
    parts = [_axes(dearest)]
    for name, cost, both in sorted(points, key=lambda point: point[2]):
        x = _LEFT + (_WIDTH - _LEFT - 140) * cost / dearest
        y = _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - 20) * both
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#2563a8"/>'
            f'<text x="{x + 8:.1f}" y="{y + 4:.1f}">{html.escape(name)}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="12" fill="#222">'
        "<title>Quality against inference cost</title>"
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>' + "".join(parts) + "</svg>\n"
    )


def _points(rows: Sequence[Row]) -> list[tuple[str, float, float]]:
    """Name, mean cost and mean accuracy of every method that has all sizes."""
    sizes = {row.size for row in rows}
    found = []
    for name in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == name]
        if {row.size for row in own} == sizes and name != "truth":
            mean = sum(row.both.mean for row in own) / len(own)
            found.append((name, sum(row.cost for row in own) / len(own), mean))
    return found


def _axes(dearest: float) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - 140
    parts = [
        f'<path d="M{_LEFT} 20V{bottom}H{right}" stroke="#888" fill="none"/>',
        f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 10}" text-anchor="middle">'
        "evaluations of the denoiser per step</text>",
        f'<text x="14" y="{bottom / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 14 {bottom / 2:.0f})">both right, mean over sizes</text>',
    ]
    for tenth in range(0, 11, 2):
        y = bottom - (bottom - 20) * tenth / 10
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.0f}" text-anchor="end">{tenth / 10}</text>')
    for cost in range(2, int(dearest) + 1, 2):
        x = _LEFT + (right - _LEFT) * cost / dearest
        parts.append(f'<text x="{x:.0f}" y="{bottom + 16}" text-anchor="middle">{cost}</text>')
    return "".join(parts)
