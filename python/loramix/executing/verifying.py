"""The check of a written file: what is in it against what was meant, target by target."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TypeAlias

import numpy as np

from loramix import _core
from loramix.backends.base import Factored
from loramix.batching import READ_BYTES, batches, bytes_of
from loramix.errors import OutputError
from loramix.executing.accounting import Share, shares
from loramix.executing.copying import arrived, measured
from loramix.formats.layout import Layout, flatten
from loramix.planning.output import CODES
from loramix.planning.steps import Plan, Step
from loramix.raw import RawGroup
from loramix.refusals import with_names
from loramix.tensors import ITEM_BYTES
from loramix.types import Adapter, Factors, Target

# Relative rounding of a factor's entries; a delta has two factors, a measurement has noise.
_EPSILON = {"f32": 2.0**-22, "bf16": 2.0**-8, "f16": 2.0**-10}
_Found: TypeAlias = Mapping[str, list[tuple[Factors, int]]]
_SLACK = 3.0
_SKETCH_SLACK = 6.0  # a sketch has fewer independent numbers
FLOOR = 4e-6
"""Relative error of f32 products, below which nothing can be measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one target.

    Attributes
    ----------
    target : its key.
    members : how many adapters change it.
    rank : of what was written; the smaller side of a dense difference.
    dense : whether it was written as a dense difference.
    norm : Frobenius norm of the merged delta; None: it is a copy, to the last digit, and nobody
        looked.
    cut : relative error of the cut to that rank.
    error : relative error of the file against what was meant, measured after re-opening it.
    shares : what became of every adapter that changes it; empty for such a copy.
    """

    target: str
    members: int
    rank: int
    dense: bool
    norm: float | None
    cut: float
    error: float
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was carried out.

    Attributes
    ----------
    copied : whether its one pair was written as it is, see `loramix.executing.copying`.
    """

    step: Step
    made: Factored
    copied: bool = False

    @property
    def dense(self) -> bool:
        """Whether it is written as a dense difference."""
        return self.step.kind == "dense"


def verify(
    plan: Plan,
    written: Adapter,
    done: Sequence[Done],
    threads: int | None,
    step: Callable[[int], None],
) -> tuple[Row, ...]:
    """Measure, for every target, how far the file is from what was meant."""
    found = _read_back(written, plan.layout)
    rows: list[Row] = []
    for _, items in groupby(done, key=lambda item: bool(item.made.sketch)):
        for batch in batches(items, partial(_read, plan), READ_BYTES):
            rows += _compare(plan, found, batch, threads)
            release(plan)
            written.release()
            step(len(batch))
    return tuple(rows)


def _compare(plan: Plan, found: _Found, batch: Sequence[Done], threads: int | None) -> list[Row]:
    """Rows of a batch, in order; copies that arrived need no arithmetic."""
    read = [(item, _members(plan, found, item)) for item in batch]
    there = [
        item.copied and len(members) == 1 and arrived(plan, item.step, members[0][0])
        for item, members in read
    ]
    rest = [pair for pair, same in zip(read, there, strict=True) if not same]
    rounded = [item.step for item, _ in rest if item.copied]
    made = iter(measured(rounded, threads) if rounded else ())
    pairs = []
    for item, members in rest:
        target = item.step.target
        raw = [factors.raw(1.0, row) for factors, row in members]
        known = replace(item, made=next(made)) if item.copied else item
        pairs.append((known, (target.rows, target.cols, raw)))
    gaps = _gaps(pairs, threads) if pairs else []
    rows = (_row(plan, item, *gap) for (item, _), gap in zip(pairs, gaps, strict=True))
    return [_copied(item) if same else next(rows) for item, same in zip(batch, there, strict=True)]


def _members(plan: Plan, found: _Found, item: Done) -> list[tuple[Factors, int]]:
    members = found.get(item.step.tensors(plan.dialect)[0])
    if members is None:
        message = f"{item.step.stem} is missing from the file just written"
        raise OutputError(message)
    return members


def _copied(item: Done) -> Row:
    return Row(item.step.target.key, 1, item.made.rank, item.dense, None, 0.0, 0.0, ())


def _read_back(written: Adapter, layout: Layout | None) -> _Found:
    """The factors of a file and their first rows, by the name of their first tensor.

    A tensor that the reader takes apart has several.
    """
    found: dict[str, list[tuple[Target, Factors]]] = {}
    for target, factors in written.targets.items():
        found.setdefault(factors.keys[0], []).append((target, factors))
    return {
        name: [(factors, _row_of(target, layout) if len(own) > 1 else 0) for target, factors in own]
        for name, own in found.items()
    }


def _row_of(target: Target, layout: Layout | None) -> int:
    component, _, name = target.key.partition(".")
    module = layout.by_key[component, flatten(name)] if layout else None
    return module.rows[0] if module and module.rows else 0


def _gaps(pairs: Sequence[tuple[Done, RawGroup]], threads: int | None) -> list[tuple[float, float]]:
    """Norms of (meant - written, meant), estimated by random sums."""
    read_back = [group for _, group in pairs]
    groups = [item.step.group() for item, _ in pairs]
    if not pairs[0][0].made.sketch:
        meant = [item.step.raw() for item, _ in pairs]
        compare = partial(_core.difference, meant, read_back, threads=threads)
        return with_names(groups, compare)
    keys = [item.step.target.key_hash for item, _ in pairs]
    sketches = with_names(groups, partial(_core.sketch, read_back, keys, threads=threads))
    found = []
    for (item, _), sketch in zip(pairs, sketches, strict=True):
        wanted = np.array(item.made.sketch)
        gap = np.array(sketch) - wanted
        found.append((float(np.linalg.norm(gap)), float(np.linalg.norm(wanted))))
    return found


def _read(plan: Plan, item: Done) -> int:
    """Bytes that the comparison touches."""
    written = item.step.numbers(item.made.rank) * ITEM_BYTES[CODES[plan.dtype]]
    return bytes_of(item.step.group()) + written


def _row(plan: Plan, item: Done, gap: float, norm: float) -> Row:
    made = item.made
    size = max(made.norm, made.rounding)
    allowed = made.cut * made.norm + (_EPSILON[plan.dtype] + FLOOR) * size
    slack = _SKETCH_SLACK if made.sketch else _SLACK
    if not gap <= slack * allowed:
        message = (
            f"{item.step.target.key}: what was written differs from what was meant by "
            f"{gap:.3g} (norm {norm:.3g}, allowed {slack * allowed:.3g}); nothing was kept. "
            "Values too small for the type? Try --dtype bf16 or f32"
        )
        raise OutputError(message)
    members = len({piece.owner for piece in item.step.pieces})
    # Over the exact norm: dividing by an estimate would add a percent on average.
    error = gap / made.norm if made.norm > 0 else 0.0
    found = shares(item.step, made)
    key = item.step.target.key
    return Row(key, members, made.rank, item.dense, made.norm, made.cut, error, found)


def release(plan: Plan) -> None:
    """Give the pages of the inputs back."""
    for adapter in plan.adapters:
        adapter.release()
