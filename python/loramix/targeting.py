"""From stems to targets: which weight of the model every delta of a file changes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from loramix import _core
from loramix.errors import FormatError, ShapeError
from loramix.formats.dialects import Stem, lookup
from loramix.formats.families import Draft, Place
from loramix.formats.layout import Hit, Layout, Module, flatten
from loramix.types import BIAS, MODULATION, Base, Factors, Target, Tensor

_SAME = 1e-5  # of the norm: factors of one delta, multiplied out in two ways
_SUFFIXES = {"weight": "", "norm": "", "bias": BIAS, "modulation": MODULATION}


@dataclass(frozen=True, slots=True)
class Delta:
    """One delta of a file, under the name it has there."""

    stem: Stem
    draft: Draft

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Rows and columns, as far as its tensors tell."""
        return self.draft.rows, self.draft.cols

    @property
    def suffix(self) -> str:
        """What the key of the target has behind that of the module."""
        return _SUFFIXES[self.draft.part]


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
    deltas: Sequence[Delta], layout: Layout | None, where: str, base: Base | None = None
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
        known, hit = _located(delta, layout)
        if hit is not None:
            worlds.append(hit.world)
        pieces += _pieces(known, hit, _Place(layout, where, base))
    kept, copies = _without_copies(pieces, where)
    found = {piece.target.key: piece for piece in kept}
    targets = {found[key].target: found[key].factors for key in sorted(found)}
    return Targeting(targets, tuple(worlds), copies)


def _located(delta: Delta, layout: Layout | None) -> tuple[Delta, Hit | None]:
    """Modules that a delta changes, and the reading of its tensors that fits them."""
    hit = lookup(delta.stem, layout, delta.size) if layout else None
    if layout and hit is None and delta.draft.other is not None:
        other = Delta(delta.stem, delta.draft.other)
        hit = lookup(other.stem, layout, other.size)
        return (other, hit) if hit else (delta, None)
    return delta, hit


@dataclass(frozen=True, slots=True)
class _Place:
    """Where deltas come from, and what they are looked up in."""

    layout: Layout | None
    where: str
    base: Base | None


def _pieces(delta: Delta, hit: Hit | None, place: _Place) -> list[_Piece]:
    modules = hit.modules if hit is not None else ()
    swap = hit is not None and hit.swapped
    key = _key(delta, modules)
    whole = _is_whole(modules, place.layout)
    if not whole and place.base is not None and delta.draft.base != "no":
        message = (
            f"{place.where}: {delta.stem.text} is relative to weights of the base model that it "
            "has no name of its own for; leave it out with --skip"
        )
        raise FormatError(message)
    weight = _weight(delta, key, place.base, place.where, swap=swap)
    if delta.draft.base == "optional" and weight is None:
        return []
    target = Target(key, _shape(delta, modules, weight, place.where))
    turned = delta.draft.transposed and len(target.shape) == 2
    factors = delta.draft.make(Place(key, target.shape, weight, turned))
    if swap:
        factors = replace(factors, up=factors.up.with_halves_swapped())
    rows = _rows(modules, delta.suffix) or {key: (0, target.rows)}
    if whole:
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


def _is_whole(modules: Sequence[Module], layout: Layout | None) -> bool:
    """Whether it is one module, or all members of a weight that the original model fuses."""
    if len(modules) < 2 or layout is None:
        return True
    first = modules[0]
    return layout.hits[first.component, flatten(first.original)].modules == tuple(modules)


def _rows(modules: Sequence[Module], suffix: str) -> dict[str, tuple[int, int]]:
    """Canonical key to half-open rows of what the modules make up."""
    ends = list(accumulate(module.shape[0] for module in modules))
    starts = [0, *ends][:-1]
    keys = [f"{module.component}.{module.name}{suffix}" for module in modules]
    return dict(zip(keys, zip(starts, ends, strict=True), strict=True))


def _key(delta: Delta, modules: Sequence[Module]) -> str:
    if not modules:
        return delta.stem.key + delta.suffix
    first = modules[0]
    name = first.name if len(modules) == 1 else first.original
    return f"{first.component}.{name}{delta.suffix}"


def _weight(delta: Delta, key: str, base: Base | None, where: str, *, swap: bool) -> Tensor | None:
    """The base weight that a delta is relative to, in the order of rows of the file."""
    if base is None or delta.draft.base == "no":
        return None
    weight = base.weight(key)
    if weight is None and delta.draft.base == "needed":
        message = (
            f"{where}: {delta.stem.text} is relative to the base weight {key}, which the base "
            "model does not have: is it the one that the file was trained on?"
        )
        raise FormatError(message)
    return weight.with_halves_swapped() if swap and weight is not None else weight


def _shape(
    delta: Delta, modules: Sequence[Module], weight: Tensor | None, where: str
) -> tuple[int, ...]:
    """Shape of the target: that of the table, of the base weight, or of the delta itself.

    Raises
    ------
    ShapeError : the delta has another size.
    """
    draft = delta.draft
    if draft.part in ("bias", "modulation"):
        assert draft.shape is not None  # vectors are differences as they are
        return draft.shape
    known: tuple[int, ...] | None = None
    if len(modules) == 1:
        known = modules[0].shape
    elif modules:
        rows = sum(module.shape[0] for module in modules)
        known = (rows, *modules[0].shape[1:])
    if weight is not None:
        turned = draft.transposed and len(weight.shape) == 2
        there = weight.shape[::-1] if turned else weight.shape
        if known is not None and there != known:
            message = (
                f"{where}: the base weight of {delta.stem.text} has shape {list(there)}, but the "
                f"model has {list(known)} there"
            )
            raise ShapeError(message)
        known = there
    shape = known if known is not None else draft.shape
    assert shape is not None  # whoever does not know it needs a base
    if not _fits(draft, shape):
        message = (
            f"{where}: {delta.stem.text} is of a weight of shape {list(shape)}, its tensors are of "
            f"{draft.rows or 'any'} rows and {draft.cols or 'any'} columns"
        )
        raise ShapeError(message)
    return shape


def _fits(draft: Draft, shape: Sequence[int]) -> bool:
    if (draft.part == "norm") != (len(shape) == 1):
        return False
    return draft.rows in (None, shape[0]) and draft.cols in (None, math.prod(shape[1:]))


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
