"""From stems to targets: which weight of the model every delta of a file changes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from loramix import _core
from loramix.errors import FormatError
from loramix.formats.dialects import Stem, lookup
from loramix.formats.layout import Hit, Layout, flatten
from loramix.types import Factors, Target

_SAME = 1e-5  # of the norm: factors of one delta, multiplied out in two ways


@dataclass(frozen=True, slots=True)
class Delta:
    """One delta of a file, under the name it has there."""

    stem: Stem
    factors: Factors

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.factors.up.shape[0], math.prod(self.factors.down.shape[1:])


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
    """A target with the modules that it covers: canonical key to rows of the delta."""

    target: Target
    factors: Factors
    parts: dict[str, tuple[int, int]]


def targets_of(deltas: Sequence[Delta], layout: Layout | None, where: str) -> Targeting:
    """What every delta changes.

    One module may have several names in one file.  Copies count once, also where one name is that
    of a fused weight and the others are those of its parts.

    Parameters
    ----------
    layout : module table of the base model; None: names stay what they are.
    where : the file, for messages.

    Raises
    ------
    FormatError : two deltas change one module, differently.
    """
    worlds: list[str] = []
    pieces: list[_Piece] = []
    for delta in deltas:
        hit = lookup(delta.stem, layout, delta.size) if layout else None
        if hit is not None:
            worlds.append(hit.world)
        pieces += _pieces(delta, hit, layout)
    kept, copies = _without_copies(pieces, where)
    found = {piece.target.key: piece for piece in kept}
    targets = {found[key].target: found[key].factors for key in sorted(found)}
    return Targeting(targets, tuple(worlds), copies)


def _pieces(delta: Delta, hit: Hit | None, layout: Layout | None) -> list[_Piece]:
    factors = delta.factors
    if hit is None or layout is None:
        target = Target(delta.stem.key, (factors.up.shape[0], *factors.down.shape[1:]))
        return [_Piece(target, factors, {target.key: (0, target.rows)})]
    if hit.swapped:
        factors = replace(factors, up=factors.up.with_halves_swapped())
    first = hit.modules[0]
    targets = [Target(f"{m.component}.{m.name}", m.shape) for m in hit.modules]
    ends = list(accumulate(target.rows for target in targets))
    rows = {t.key: (end - t.rows, end) for t, end in zip(targets, ends, strict=True)}
    if len(targets) == 1:
        return [_Piece(targets[0], factors, rows)]
    original = layout.hits[first.component, flatten(first.original)]
    if original.modules == hit.modules:
        whole = Target(f"{first.component}.{first.original}", (delta.size[0], *first.shape[1:]))
        return [_Piece(whole, factors, rows)]
    # The members of a weight that no dialect writes in one piece: apart from the start.
    return [
        _Piece(target, factors.rows(*rows[target.key]), {target.key: (0, target.rows)})
        for target in targets
    ]


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
