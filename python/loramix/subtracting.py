"""Two models of one architecture, weight by weight."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from loramix import _core
from loramix.analysis.statistics import Analysis
from loramix.arranging import swapped_keys, written_as
from loramix.batching import READ_BYTES, batches
from loramix.checkpoints import Checkpoint, naming, open_checkpoint
from loramix.errors import FormatError
from loramix.formats.dialects import COMPONENTS, Dialect
from loramix.formats.layout import Layout, load_layout
from loramix.groups import fusions
from loramix.output import Output
from loramix.planning import chosen
from loramix.steps import Piece, Plan, Step
from loramix.types import (
    F32,
    ITEM_BYTES,
    Adapter,
    Coverage,
    Dtype,
    Factors,
    StrPath,
    Target,
    Tensor,
)
from loramix.vectors import Vector, biases, norms, steps_of

_NAMES: Mapping[str, Dtype] = {"F16": "f16", "BF16": "bf16"}
_ALPHA = 32.0
_HEAD = 1 << 16
_TOLD = 3
# Last words of modules that have a weight with two axes, but rows of it where others have inputs.
_EMBEDDINGS = ("embed", "embedding", "embeddings", "embed_tokens", "wte", "wpe", "shared")


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

    def sha256(self) -> str:
        """Digest of the model."""
        return self._model.sha256()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models of one architecture."""

    tuned: Checkpoint
    base: Checkpoint
    layout: Layout | None

    @classmethod
    def of(cls, tuned: StrPath, base: StrPath, architecture: str | None) -> "Pair":
        """Open both as the same.

        Raises
        ------
        FormatError : they are different models.
        """
        models = [open_checkpoint(path, architecture=architecture) for path in (tuned, base)]
        known = [model.architecture for model in models]
        if known[0] == known[1]:
            return cls(models[0], models[1], load_layout(known[0]) if known[0] else None)
        for name in filter(None, known):  # names may be shared, and what is there few
            models = [open_checkpoint(path, architecture=name) for path in (tuned, base)]
            if all(model.match >= naming.ACCEPT for model in models):
                return cls(models[0], models[1], load_layout(name))
        one, other = (name or "of no known architecture" for name in known)
        message = (
            f"{tuned} is {one} and {base} is {other}: the difference of two models needs two of "
            "one architecture (say which with --architecture)"
        )
        raise FormatError(message)

    def dialect(self, output: Output) -> Dialect:
        """How to spell the adapter."""
        named = all(t.key.partition(".")[0] in COMPONENTS for t in self.base.targets)
        kohya = self.layout is not None and any(m.kohya for m in self.layout.modules)
        usual = "kohya" if kohya else "diffusers" if named else "peft"
        return chosen(output, usual, self.layout)

    def vectors(
        self, globs: Sequence[str], dialect: Dialect
    ) -> tuple[list[Vector], frozenset[str]]:
        """Biases and norms that differ, and the stored names of all that were compared."""
        wanted = [t for t in self._targets(self.base) if any(fnmatchcase(t.key, g) for g in globs)]
        found = [*biases(self.tuned, self.base, wanted)]
        if self.layout is not None:
            own = norms(self.tuned, self.base, self.layout, dialect)
            found += [one for one in own if any(fnmatchcase(one.target.key, g) for g in globs)]
        differ = [one for one in found if _differ(one.new, one.old)]
        self._release()
        return differ, frozenset(one.stored for one in found)

    def changed(
        self, globs: Sequence[str], step: Callable[[int], None], *, beside: int
    ) -> tuple[list[Target], list[str]]:
        """Targets whose weights differ, and notes on those that cannot be told.

        Parameters
        ----------
        beside : how many biases and norms differ.

        Raises
        ------
        FormatError : no target is in both, or nothing differs.
        """
        found: list[Target] = []
        both = 0
        apart = []
        wanted = [t for t in self._targets(self.base) if any(fnmatchcase(t.key, g) for g in globs)]
        for batch in batches(wanted, lambda t: 8 * t.rows * t.cols, READ_BYTES):
            for target in batch:
                old, new = self.base.weight(target.key), self.tuned.weight(target.key)
                if new is None or old is None or new.shape != old.shape:
                    apart.append(target.key)
                    continue
                both += 1
                if _differ(new, old):
                    found.append(target)
            self._release()
            step(len(batch))
        if not both:
            message = (
                f"{self.tuned.path} and {self.base.path} have no weight in common that --targets "
                "allows: models of different kinds, or names that loramix does not know"
            )
            raise FormatError(message)
        if not found and not beside:
            message = f"{self.tuned.path} and {self.base.path}: none of {both} weights differs"
            raise FormatError(message)
        notes = _notes(apart, "weights are not in both models, or have other shapes there")
        notes += [f"{both - len(found)} of {both} weights did not change"] * (both > len(found))
        return found, notes

    def others(self, compared: frozenset[str]) -> list[str]:
        """Notes on what changed and has no place in an adapter: embeddings, some norms.

        Parameters
        ----------
        compared : names of biases and norms, see `vectors`.
        """
        targets = self._targets(self.tuned)
        looked = {p.name for t in targets for p in self.tuned.places(t.key)} | compared
        differ, unknown = [], []
        for name, tensor in self.tuned.tensors.items():
            if name in looked:
                continue
            old = self.base.tensors.get(name)
            if old is None or old.shape != tensor.shape:
                unknown.append(name)
            elif _differ(tensor, old):
                differ.append(name)
        self._release()
        return [
            *_notes(differ, "tensors changed that no adapter can hold"),
            *_notes(unknown, "tensors were not compared: the base has none of their name"),
        ]

    def plan(
        self,
        changed: Sequence[Target],
        vectors: Sequence[Vector],
        output: Output,
        dialect: Dialect,
        notes: Sequence[str],
    ) -> Plan:
        """One step for every weight of the adapter."""
        written = self._written(changed, dialect)
        joined = self._joined(vectors, dialect)
        beside = [(one, self._of(one.target, one.new, one.old)) for one in joined]
        held, lost = steps_of(beside, written, self.layout, dialect)
        if not written and not held:
            message = (
                f"{self.tuned.path} and {self.base.path}: only biases and norms differ, and "
                f"{dialect.name} files cannot hold those ({', '.join(lost[:_TOLD])}); write "
                "--dialect kohya"
            )
            raise FormatError(message)
        swapped = swapped_keys(self.layout) if dialect.fused else frozenset()
        members = {target: self._difference(target) for target in written}
        steps = [
            Step(
                target,
                dialect.stem(target, self.layout),
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
                self._adapter(self.tuned, dialect, members),
                self._adapter(self.base, dialect, {}),
            ),
            weights=(1.0, -1.0),
            method={"name": "extract"},
            choices=(),
            output=output,
            dialect=dialect,
            dtype=output.dtype or self._dtype([*written, *(one.target for one in joined)]),
            architecture=self.layout.name if self.layout else None,
            alpha=float(output.rank or _ALPHA) if dialect.alpha else None,
            strengths={},
            analysis=Analysis(()),
            notes=(
                *notes,
                *_notes(
                    lost,
                    f"biases and norms changed, which no client reads from {dialect.name} files",
                ),
            ),
        )

    def _targets(self, model: Checkpoint) -> list[Target]:
        """What factors can change; names must tell where there is no table."""
        if self.layout is not None:
            return list(model.targets)
        return [t for t in model.targets if t.key.rpartition(".")[2] not in _EMBEDDINGS]

    def _written(self, changed: Sequence[Target], dialect: Dialect) -> list[Target]:
        table = fusions(self.layout) if dialect.fused else {}
        return list(dict.fromkeys(written_as(target, table)[0] for target in changed))

    def _joined(self, vectors: Sequence[Vector], dialect: Dialect) -> list[Vector]:
        """With the biases of fused weights instead of those of their parts, if they are fused.

        Raises
        ------
        FormatError : some parts of a fused bias are not in both models.
        """
        table = fusions(self.layout) if dialect.fused else {}
        found: dict[str, Vector] = {}
        for vector in vectors:
            target, _ = written_as(vector.target, table)
            if target != vector.target:
                new, old = self._both(target)
                vector = Vector(target, vector.stored, new, old)
            found.setdefault(target.key, vector)
        return list(found.values())

    def _difference(self, target: Target) -> Factors:
        return self._of(target, *self._both(target))

    def _both(self, target: Target) -> tuple[Tensor, Tensor]:
        new, old = self.tuned.weight(target.key), self.base.weight(target.key)
        if new is None or old is None or new.shape != old.shape:
            message = (
                f"{target.key}: one weight in this dialect, whose parts are not in both models; "
                "write --dialect diffusers"
            )
            raise FormatError(message)
        return new, old

    def _of(self, target: Target, new: Tensor, old: Tensor) -> Factors:
        """The difference of two tensors as a delta."""
        delta = Tensor.made(target.shape, partial(self._subtract, new, old, target))
        return Factors.of_dense(delta, target.key, f"{self.tuned.path} - {self.base.path}")

    def _subtract(self, new: Tensor, old: Tensor, target: Target) -> F32:
        """The difference in f32, rounded once; the pages of both weights are given back."""
        views = [(t.dtype, np.frombuffer(t.data, dtype=np.uint8)) for t in (new, old)]
        out = np.empty(math.prod(target.shape), dtype="<f4")
        try:
            _core.dense_combine(views, [1.0, -1.0], out.view(np.uint8), dtype="F32")
        except _core.CoreError as error:
            reason = "NaN or infinity in one of the models, or a type that cannot be subtracted"
            message = f"{target.key}: {reason} ({new.dtype} - {old.dtype}: {error.args[1]})"
            raise FormatError(message) from error
        self._release()
        return out.reshape(target.shape)

    def _adapter(
        self, model: Checkpoint, dialect: Dialect, targets: Mapping[Target, Factors]
    ) -> Adapter:
        return Adapter(
            name=model.path.resolve().name.removesuffix(".safetensors"),
            dialect=dialect.name,
            architecture=model.architecture,
            candidates=(),
            match=model.match,
            targets=MappingProxyType(dict(targets)),
            metadata=MappingProxyType({}),
            coverage=Coverage(len(model.tensors)),
            source=_Origin(model),
        )

    def _dtype(self, targets: Sequence[Target]) -> Dtype:
        """The type of most of the tuned weights."""
        weights = (self.tuned.weight(target.key) for target in targets)
        counts = Counter(_NAMES.get(w.dtype, "f32") for w in weights if w is not None)
        return max(sorted(counts) or ["f32"], key=lambda name: counts[name])

    def _release(self) -> None:
        self.tuned.release()
        self.base.release()


def _notes(names: Sequence[str], what: str) -> list[str]:
    """One line that names the first few."""
    if not names:
        return []
    more = ", ..." if len(names) > _TOLD else ""
    return [f"{len(names)} {what} ({', '.join(names[:_TOLD])}{more})"]


def _differ(new: Tensor, old: Tensor) -> bool:
    """Whether two tensors differ in any bit, the wider of them rounded to the type of the other."""
    if new.dtype == old.dtype:
        one, two = (np.frombuffer(t.data, dtype=np.uint8) for t in (new, old))
        if not np.array_equal(one[:_HEAD], two[:_HEAD]):  # which mostly tells
            return True
        return not np.array_equal(one[_HEAD:], two[_HEAD:])
    if new.dtype not in ITEM_BYTES or old.dtype not in ITEM_BYTES:
        return True
    wide, narrow = (old, new) if ITEM_BYTES[old.dtype] >= ITEM_BYTES[new.dtype] else (new, old)
    rounded = np.empty(narrow.size, dtype=np.uint8)
    view = (wide.dtype, np.frombuffer(wide.data, dtype=np.uint8))
    try:
        _core.dense_combine([view], [1.0], rounded, dtype=narrow.dtype)
    except _core.CoreError:  # NaN, infinity or overflow: told when the difference is made
        return True
    return not np.array_equal(rounded, np.frombuffer(narrow.data, dtype=np.uint8))
