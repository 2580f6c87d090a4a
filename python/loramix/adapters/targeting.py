"""From stems to targets: which weight of the model every delta of a file changes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loramix import _core
from loramix.adapters.deltas import Delta
from loramix.errors import FormatError
from loramix.formats.layout import Hit, Layout, Module, flatten
from loramix.types import Factors, Target, Weights

_SAME = 1e-5  # of the norm: factors of one delta, multiplied out in two ways


@dataclass(frozen=True, slots=True)
class Targeting:
    """What the deltas of a file change.

    Attributes
    ----------
    targets : in order of their keys.
    worlds : whose names the stems are, for those that a module table has.
    copies : how many deltas were there already, under another name, and are not counted again.
    """

    targets: dict[Target, Factors]
    worlds: tuple[str, ...]
    copies: int

    def notes(self) -> list[str]:
        """What a user should hear about, one line each."""
        text = f"{self.copies} deltas are there under two names: counted once"
        return [text] if self.copies else []


@dataclass(frozen=True, slots=True)
class _Piece:
    """A target, and the rows of its delta that each module has, by canonical key."""

    target: Target
    factors: Factors
    parts: dict[str, tuple[int, int]]


def targets_of(
    deltas: Sequence[Delta], layout: Layout | None, where: str, base: Weights | None = None
) -> Targeting:
    """What every delta changes.

    One module may have several names in one file.  Copies count once, also where one name is that
    of a fused weight and the others are those of its parts.

    Parameters
    ----------
    layout : module table of the base model; None: names stay what they are.
    where : the file, for messages.
    base : weights of the base model, for deltas that are relative to them.

    Raises
    ------
    FormatError : two deltas change one module, differently; a weight that the base does not have.
    ShapeError : a delta that does not fit its weight.
    """
    worlds: list[str] = []
    pieces: list[_Piece] = []
    for delta in deltas:
        known, hit = delta.find(layout)
        if hit is not None:
            worlds.append(hit.world)
        pieces += _pieces(known, hit, layout, where, base)
    kept, copies = _without_copies(pieces, where)
    found = {piece.target.key: piece for piece in kept}
    targets = {found[key].target: found[key].factors for key in sorted(found)}
    return Targeting(targets, tuple(worlds), copies)


def _pieces(
    delta: Delta, hit: Hit | None, layout: Layout | None, where: str, base: Weights | None
) -> list[_Piece]:
    if hit is None or layout is None:
        placed = delta.at(delta.stem.key + delta.suffix, None, base, where)
        return [_Piece(*placed, {placed[0].key: (0, placed[0].rows)})] if placed else []
    first, rows = hit.modules[0], _rows(hit.modules, delta.suffix)
    name = first.name if len(rows) == 1 else first.original
    key = f"{first.component}.{name}{delta.suffix}"
    shape = (sum(module.shape[0] for module in hit.modules), *first.shape[1:])
    placed = delta.at(key, shape, base, where, parts=list(rows), swapped=hit.swapped)
    if placed is None:
        return []
    target, factors = placed
    if _is_whole(hit.modules, layout):
        return [_Piece(target, factors, rows)]
    # The members of a weight that no dialect writes in one piece: apart from the start.
    return [
        _Piece(
            Target(part, (end - start, *target.shape[1:])),
            factors.rows(start, end),
            {part: (0, end - start)},
        )
        for part, (start, end) in rows.items()
    ]


def _is_whole(modules: Sequence[Module], layout: Layout) -> bool:
    """Whether it is one module, or all members of a weight that the original model fuses."""
    if len(modules) == 1:
        return True
    first = modules[0]
    original = layout.hits[first.component, flatten(first.original)]
    return original.modules == tuple(modules)


def _rows(modules: Sequence[Module], suffix: str) -> dict[str, tuple[int, int]]:
    """Canonical key to half-open rows of what the modules make up."""
    found, start = {}, 0
    for module in modules:
        end = start + module.shape[0]
        found[f"{module.component}.{module.name}{suffix}"] = start, end
        start = end
    return found


def _without_copies(pieces: Sequence[_Piece], where: str) -> tuple[list[_Piece], int]:
    """Pieces of which no two cover a module: the fused ones first, so that parts are the copies."""
    covered: dict[str, _Piece] = {}
    kept: list[_Piece] = []
    for piece in sorted(pieces, key=lambda piece: -len(piece.parts)):
        there = [key for key in piece.parts if key in covered]
        for key in there:
            _refuse_unequal(covered[key], piece, key, where)
        if not there:
            kept.append(piece)
            covered |= dict.fromkeys(piece.parts, piece)
    return kept, len(pieces) - len(kept)


def _refuse_unequal(old: _Piece, new: _Piece, key: str, where: str) -> None:
    """Two names of one module must mean one delta.

    ComfyUI adds a fused weight and its parts up, others use one of them; two whole names of one
    weight nobody adds up.  So nobody can say what such a file means.
    """
    one, two = (piece.factors.rows(*piece.parts[key]) for piece in (old, new))
    if _identical(one, two) or _equal(one, two):
        return
    message = (
        f"{where}: {one.keys[0]} and {two.keys[0]} both change {key}, differently; leave one "
        "out with --skip"
    )
    raise FormatError(message)


def _identical(one: Factors, two: Factors) -> bool:
    same = one.up.data == two.up.data and one.down.data == two.down.data
    return same and one.scale == two.scale


def _equal(one: Factors, two: Factors) -> bool:
    """Whether the deltas agree although their factors do not, as after fusing parts."""
    cols = math.prod(one.down.shape[1:])
    if math.prod(two.down.shape[1:]) != cols:
        return False
    meant, written = ([(f.up.shape[0], cols, [f.raw()])] for f in (one, two))
    ((gap, norm),) = _core.difference(meant, written)
    return gap <= _SAME * norm
