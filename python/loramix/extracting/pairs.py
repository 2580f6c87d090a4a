"""Two models of one architecture, and what differs between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from loramix import _core
from loramix.batching import READ_BYTES, batches
from loramix.checkpoints import Checkpoint, naming, open_checkpoint, scaling
from loramix.errors import FormatError
from loramix.extracting.vectors import Vector, biases, norms
from loramix.formats.dialects import COMPONENTS, Dialect
from loramix.formats.layout import Layout, load_layout
from loramix.planning.output import Output
from loramix.planning.stepping import chosen
from loramix.tensors import ITEM_BYTES, Tensor
from loramix.types import StrPath, Target

_HEAD = 1 << 16
_TOLD = 3
# Last words of modules that have a weight with two axes, but rows of it where others have inputs.
_EMBEDDINGS = ("embed", "embedding", "embeddings", "embed_tokens", "wte", "wpe", "shared")


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
        found = [*biases(self.tuned, self.base, self._wanted(globs))]
        if self.layout is not None:
            own = norms(self.tuned, self.base, self.layout, dialect)
            found += [one for one in own if any(fnmatchcase(one.target.key, g) for g in globs)]
        differ = [one for one in found if _differ(one.new, one.old)]
        self.release()
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
        for batch in batches(self._wanted(globs), lambda t: 8 * t.rows * t.cols, READ_BYTES):
            for target in batch:
                old, new = self.base.weight(target.key), self.tuned.weight(target.key)
                if new is None or old is None or new.shape != old.shape:
                    apart.append(target.key)
                    continue
                both += 1
                if _differ(new, old):
                    found.append(target)
            self.release()
            step(len(batch))
        if not both:
            message = (
                f"{self.tuned.path} and {self.base.path} have no weight in common that --target "
                "allows: models of different kinds, or names that loramix does not know"
            )
            raise FormatError(message)
        if not found and not beside:
            message = f"{self.tuned.path} and {self.base.path}: none of {both} weights differs"
            raise FormatError(message)
        notes = notes_on(apart, "weights are not in both models, or have other shapes there")
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
        looked |= {one for name in looked for one in scaling.beside(name)}
        differ, unknown = [], []
        for name, tensor in self.tuned.tensors.items():
            if name in looked:
                continue
            old = self.base.tensors.get(name)
            if old is None or old.shape != tensor.shape:
                unknown.append(name)
            elif _differ(tensor, old):
                differ.append(name)
        self.release()
        return [
            *notes_on(differ, "tensors changed that no adapter can hold"),
            *notes_on(unknown, "tensors were not compared: the base has none of their name"),
        ]

    def _wanted(self, globs: Sequence[str]) -> list[Target]:
        """What factors can change, as far as the user wants it."""
        return [t for t in self._targets(self.base) if any(fnmatchcase(t.key, g) for g in globs)]

    def _targets(self, model: Checkpoint) -> list[Target]:
        """What factors can change; names must tell where there is no table."""
        if self.layout is not None:
            return list(model.targets)
        return [t for t in model.targets if t.key.rpartition(".")[2] not in _EMBEDDINGS]

    def both(self, target: Target) -> tuple[Tensor, Tensor]:
        """The weight of a target in the tuned model and in the base.

        Raises
        ------
        FormatError : parts of it are not in both.
        """
        new, old = self.tuned.weight(target.key), self.base.weight(target.key)
        if new is None or old is None or new.shape != old.shape:
            message = (
                f"{target.key}: one weight in this dialect, whose parts are not in both models; "
                "write --dialect diffusers"
            )
            raise FormatError(message)
        return new, old

    def release(self) -> None:
        """Give touched pages of both back."""
        self.tuned.release()
        self.base.release()


def notes_on(names: Sequence[str], what: str) -> list[str]:
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
