"""Which base model an adapter was trained for: the table its names *and shapes* hit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from loramix.formats.dialects import Stem, lookup
from loramix.formats.layout import LAYOUTS, Layout, load_layout

Modules: TypeAlias = Sequence[tuple[Stem, tuple[int | None, int | None]]]

ACCEPT = 0.8
"""Share of the modules that must hit a table before we believe it."""


@dataclass(frozen=True, slots=True)
class Match:
    """Result of a detection.

    Attributes
    ----------
    layout : the table, or None if none hits well, or several hit equally well.
    share : modules that hit (the best) table with name and shape, 0 to 1.
    candidates : tables that share the best score, if it is good enough.
    runner_up : the next best table and its share.
    """

    layout: Layout | None
    share: float
    candidates: tuple[str, ...]
    runner_up: tuple[str, float] | None


def detect(modules: Modules, only: str | None = None) -> Match:
    """Score every table by the share of (stem, (rows, cols)) that it knows.

    Parameters
    ----------
    modules : what a file holds: stems with the sizes of their deltas.
    only : name of the table to use whatever its score.
    """
    names = (only,) if only else LAYOUTS
    shares = {name: _share(modules, load_layout(name)) for name in names}
    order = sorted(shares, key=lambda name: -shares[name])  # stable: ties keep the listed order
    best = shares[order[0]]
    top = tuple(name for name in order if shares[name] == best)
    rest = next(((name, shares[name]) for name in order if name not in top), None)
    if only:
        return Match(load_layout(only), best, (only,), None)
    if best < ACCEPT:
        return Match(None, best, (), (order[0], best) if best else None)
    return Match(load_layout(top[0]) if len(top) == 1 else None, best, top, rest)


def _share(modules: Modules, layout: Layout) -> float:
    hits = sum(bool(lookup(stem, layout, size)) for stem, size in modules)
    return hits / len(modules) if modules else 0.0
