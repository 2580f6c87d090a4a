"""The difference of two models as a plan: one step for every weight of the adapter."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from loramix import _core
from loramix.analysis.statistics import Analysis
from loramix.checkpoints import Checkpoint
from loramix.errors import FormatError
from loramix.extracting.pairs import Pair, notes_on
from loramix.extracting.vectors import Vector, steps_of
from loramix.formats.dialects import Dialect
from loramix.groups import fusions
from loramix.planning.arranging import swapped_keys, written_as
from loramix.planning.output import Output
from loramix.planning.steps import Piece, Plan, Step
from loramix.recipes.records import EXTRACT
from loramix.tensors import F32, Dtype, Tensor
from loramix.types import Adapter, Coverage, Factors, Target

_NAMES: Mapping[str, Dtype] = {"F16": "f16", "BF16": "bf16"}
_ALPHA = 32.0
ALL = ("*",)
"""Globs of every target."""


class _Origin:
    """The files of a model, as an adapter's source."""

    def __init__(self, model: Checkpoint) -> None:
        self.path: Path | None = None
        self.size = model.size
        self.tensors: Mapping[str, Tensor] = {}
        self.metadata: Mapping[str, str] = {}
        self._model = model

    def release(self) -> None:
        """Give touched pages back."""
        self._model.release()

    def digest(self) -> str:
        """That of the model."""
        return self._model.digest()


def plan_of(
    pair: Pair,
    changed: Sequence[Target],
    vectors: Sequence[Vector],
    output: Output,
    dialect: Dialect,
    notes: Sequence[str],
    *,
    targets: Sequence[str] = ALL,
) -> Plan:
    """One step for every weight of the adapter.

    Parameters
    ----------
    targets : globs of what was looked at, for whoever makes it again.
    """
    written = _written(pair, changed, dialect)
    joined = _joined(pair, vectors, dialect)
    beside = [(one, _difference(pair, one.target, one.new, one.old)) for one in joined]
    held, lost = steps_of(beside, written, pair.layout, dialect)
    if not written and not held:
        message = (
            f"{pair.tuned.path} and {pair.base.path}: only biases and norms differ, and "
            f"{dialect.name} files cannot hold those ({', '.join(lost[:3])}); write "
            "--dialect kohya"
        )
        raise FormatError(message)
    swapped = swapped_keys(pair.layout) if dialect.fused else frozenset()
    members = {target: _difference(pair, target, *pair.both(target)) for target in written}
    steps = [
        Step(
            target,
            dialect.stem(target, pair.layout),
            (Piece(factors, 0, 1.0, 1.0, 0),),
            swap=target.key in swapped,
            kind="difference",
            keys=(target.key,),
        )
        for target, factors in members.items()
    ]
    order = sorted(steps, key=lambda s: (-s.target.rows * s.target.cols, s.stem))
    order += sorted(held, key=lambda s: s.stem)
    members |= {step.target: step.pieces[0].factors for step in held}
    return Plan(
        steps=tuple(order),
        adapters=(
            _adapter(pair.tuned, dialect, members),
            _adapter(pair.base, dialect, {}),
        ),
        weights=(1.0, -1.0),
        method={"name": EXTRACT, **({"targets": list(targets)} if tuple(targets) != ALL else {})},
        choices=(),
        output=output,
        dialect=dialect,
        dtype=output.dtype or _dtype(pair, [*written, *(one.target for one in joined)]),
        architecture=pair.layout.name if pair.layout else None,
        alpha=float(output.rank or _ALPHA) if dialect.alpha else None,
        strengths={},
        analysis=Analysis(()),
        notes=(
            *notes,
            *notes_on(
                lost,
                f"biases and norms changed, which no client reads from {dialect.name} files",
            ),
        ),
    )


def _written(pair: Pair, changed: Sequence[Target], dialect: Dialect) -> list[Target]:
    table = fusions(pair.layout) if dialect.fused else {}
    return list(dict.fromkeys(written_as(target, table)[0] for target in changed))


def _joined(pair: Pair, vectors: Sequence[Vector], dialect: Dialect) -> list[Vector]:
    """With the biases of fused weights instead of those of their parts, if they are fused.

    Raises
    ------
    FormatError : some parts of a fused bias are not in both models.
    """
    table = fusions(pair.layout) if dialect.fused else {}
    found: dict[str, Vector] = {}
    for vector in vectors:
        target, _ = written_as(vector.target, table)
        if target != vector.target:
            new, old = pair.both(target)
            vector = Vector(target, vector.stored, new, old)
        found.setdefault(target.key, vector)
    return list(found.values())


def _difference(pair: Pair, target: Target, new: Tensor, old: Tensor) -> Factors:
    """The difference of two tensors as a delta."""
    delta = Tensor.made(target.shape, partial(_subtract, pair, new, old, target))
    return Factors.of_dense(delta, target.key, f"{pair.tuned.path} - {pair.base.path}")


def _subtract(pair: Pair, new: Tensor, old: Tensor, target: Target) -> F32:
    """The difference in f32, rounded once; the pages of both weights are given back."""
    views = [(t.dtype, np.frombuffer(t.data, dtype=np.uint8)) for t in (new, old)]
    out = np.empty(math.prod(target.shape), dtype="<f4")
    try:
        _core.dense_combine(views, [1.0, -1.0], out.view(np.uint8), dtype="F32")
    except _core.CoreError as error:
        reason = "NaN or infinity in one of the models, or a type that cannot be subtracted"
        message = f"{target.key}: {reason} ({new.dtype} - {old.dtype}: {error.args[1]})"
        raise FormatError(message) from error
    pair.release()
    return out.reshape(target.shape)


def _adapter(model: Checkpoint, dialect: Dialect, targets: Mapping[Target, Factors]) -> Adapter:
    return Adapter(
        name=model.name,
        dialect=dialect.name,
        architecture=model.architecture,
        candidates=(),
        match=model.match,
        targets=MappingProxyType(dict(targets)),
        metadata=MappingProxyType({}),
        coverage=Coverage(len(model.tensors)),
        source=_Origin(model),
    )


def _dtype(pair: Pair, targets: Sequence[Target]) -> Dtype:
    """The type of most of the tuned weights."""
    weights = (pair.tuned.weight(target.key) for target in targets)
    counts = Counter(_NAMES.get(w.dtype, "f32") for w in weights if w is not None)
    return max(sorted(counts) or ["f32"], key=lambda name: counts[name])
