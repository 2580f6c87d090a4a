"""A plan of targets carried out on a base model: add, write, check, put in place."""

import json
import math
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from loramix.backends.base import Backend
from loramix.baking.adding import Adder
from loramix.baking.fitting import absent, scalings_of, touches
from loramix.baking.stripping import Added, Strip, Survival, strips_of
from loramix.checkpoints import Checkpoint
from loramix.checkpoints.checkpoint import Shard
from loramix.checkpoints.writing import ModelPlace
from loramix.deciding import Ticker
from loramix.digests import Digest, Hashing, placeholders
from loramix.errors import ParamError
from loramix.formats import trained
from loramix.formats.dialects import Dialect
from loramix.formats.dialects.forms import Form, Vectors
from loramix.formats.layout import Layout
from loramix.io.hashing import MODELS, placeholder
from loramix.planning.steps import Plan, Step
from loramix.recipes.provenance import provenance
from loramix.types import Adapter, Target


@dataclass(frozen=True, slots=True)
class _Stored(Dialect):
    """The rows of a base weight are written where they are, under the names that they have."""

    def stem(self, target: Target, layout: Layout | None) -> str:  # noqa: ARG002 - not needed
        return target.key


TARGETS = _Stored(
    name="base", up="", down="", diff="", alpha=False, fused=False, partial=False,
    one_component=False, folder=False, header="none", vectors=Vectors("", "", "", ""),
    embedding=("", ""), form=Form("name", "", flat=False, roles="peft"), prefixes={},
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BakedRow:
    """What became of one target.

    Attributes
    ----------
    target : its key.
    stored : name of the tensor that holds it, in the model's files.
    dtype : of that.
    members : how many adapters change it.
    norm : Frobenius norm of the delta.
    survival : share of the delta's energy that survived the rounding to that type, at most 1.
    cosine : of the delta and what the weight moved by.
    """

    target: str
    stored: str
    dtype: str
    members: int
    norm: float
    survival: float
    cosine: float


@dataclass(frozen=True, slots=True)
class Baked:
    """A finished model.

    Attributes
    ----------
    path : the file or folder.
    log : one row per target, in the order of the model's files.
    total : of all targets together.
    plan : what was executed.
    base : the model that it was made of.
    notes : what a user should know.
    """

    path: Path
    log: tuple[BakedRow, ...] = field(repr=False)
    total: Survival
    plan: Plan = field(repr=False)
    base: Checkpoint = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def survival(self) -> float:
        """Share of the energy of all deltas that survived the rounding, at most 1."""
        return self.total.share

    @property
    def cosine(self) -> float:
        """Of all deltas and what the weights moved by."""
        return self.total.cosine


class Baking:
    """One run: a plan of `TARGETS` on a model."""

    def __init__(self, plan: Plan, model: Checkpoint, device: Backend, threads: int | None) -> None:
        self._plan = plan
        self._model = model
        self._device = device
        self._threads = threads

    def run(
        self, place: ModelPlace, ticker: Ticker, *, force: bool, hashing: Hashing | None = None
    ) -> Baked:
        """Add, write, check; the result appears at the end.

        Parameters
        ----------
        hashing : makes the digests of model and adapters, where it is at them already.
        """
        steps = [replace(step, rank=None) for step in self._plan.steps if _changes(step)]
        if not steps:
            asked = any(any(choice.asked) for choice in self._plan.choices)
            who = (
                f"{self._plan.method['name']} makes all deltas 0" if asked else "all weights are 0"
            )
            message = f"{who}: nothing to add"
            raise ParamError(message)
        found, missing = touches(self._model, steps)
        if missing:
            raise absent(missing, self._plan, self._model)
        scalings = scalings_of(self._model, found, force=force)
        work = [(shard, strips_of(shard, found)) for shard in self._model.shards]
        work = [(shard, own) for shard, own in work if any(strip.touch for strip in own)]
        ticker.total = ticker.done + sum(len(own) for _, own in work)
        adder = Adder(self._plan.adapters, self._device, self._threads, ticker.add, scalings)
        rows: list[BakedRow] = []
        sums: list[Survival] = []
        with ExitStack() as stack:
            hashing = hashing or stack.enter_context(Hashing())
            sources = hashing.of(self._others())
            for shard, own in work:
                digest = hashing.begin(shard.path, MODELS)
                done = self._shard(shard, own, place, adder, (sources, digest))
                for key, each in _by_target(done).items():
                    total = Survival.total([added.sums for added in each])
                    sums.append(total)
                    rows.append(_row(shard, each[0], key, total))
        left = place.commit()
        notes = [f"{name} is not in the new model: it holds the old weights" for name in left]
        if adder.beyond:
            notes.append(
                f"{adder.beyond} entries would be beyond the largest number of their type and "
                "scale, and are that number"
            )
        untouched = len(self._plan.steps) - len(steps)
        if untouched:
            notes.append(f"{untouched} targets have weight 0 and stay as they are")
        return Baked(
            place.path, tuple(rows), Survival.total(sums), self._plan, self._model, tuple(notes)
        )

    def _shard(
        self,
        shard: Shard,
        own: Sequence[Strip],
        place: ModelPlace,
        adder: Adder,
        digests: "tuple[Future[list[Digest]], Future[str]]",
    ) -> list[Added]:
        room = self._strings(shard, placeholders(self._others()), placeholder(MODELS))
        writer = place.writer(shard, room)
        done = adder.write(shard, own, writer)
        sources, digest = digests
        strings = self._strings(shard, sources.result(), digest.result())
        adder.verify(shard, writer.finish(strings), done)
        return done

    def _others(self) -> list[Adapter]:
        """The sources; that deltas are relative to the base itself goes without saying."""
        adapters = self._plan.adapters
        own = self._model.path
        return [
            replace(a, base=None) if a.base is not None and a.base.path == own else a
            for a in adapters
        ]

    def _strings(self, shard: Shard, sources: Sequence[Digest], digest: str) -> dict[str, str]:
        """Header metadata of a file: those of the base, and where it comes from."""
        old = dict(shard.file.metadata)
        made = provenance(self._plan, sources, self._device.name)
        del made["output"]  # of an adapter
        kept = {name: value for name, value in old.items() if name not in trained.HASHES}
        told = {**made, "base": self._origin(shard, digest)}
        return {**kept, trained.KEY: json.dumps(told, sort_keys=True)}

    def _origin(self, shard: Shard, digest: str) -> dict[str, object]:
        """What is stored of the file of the base that a file was made of."""
        model = self._model
        found: dict[str, object] = {
            "name": model.name, "digest": digest, "size": shard.file.size,
        }  # fmt: skip
        if model.architecture is not None:
            found["architecture"] = model.architecture
        if model.root.is_dir():
            found["place"] = shard.path.relative_to(model.root).as_posix()
        if trained.KEY in shard.file.metadata:
            found[trained.KEY] = shard.file.metadata[trained.KEY]
        return found


def _changes(step: Step) -> bool:
    """Whether anything is added; not where all weights are 0."""
    return step.kind != "sum" or any(piece.coefficient != 0 for piece in step.pieces)


def _by_target(done: Sequence[Added]) -> dict[str, list[Added]]:
    found: dict[str, list[Added]] = {}
    for added in done:
        if added.strip.touch is not None:
            found.setdefault(added.strip.touch.step.target.key, []).append(added)
    return found


def _row(shard: Shard, added: Added, key: str, total: Survival) -> BakedRow:
    touch = added.strip.touch
    members = {piece.owner for piece in touch.step.pieces} if touch is not None else set()
    name = added.strip.name
    dtype = shard.file.tensors[name].dtype
    return BakedRow(
        key, shard.name(name), dtype, len(members), math.sqrt(total.delta), total.share,
        total.cosine,
    )  # fmt: skip
