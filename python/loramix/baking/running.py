"""Adapters merged into the weights of a base model."""

import json
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from loramix.analysis.passing import SAMPLES
from loramix.analysis.statistics import Analysis
from loramix.analyzing import Analyzed
from loramix.arguments import check_threads
from loramix.backends import backend_of
from loramix.backends.base import Backend
from loramix.baking.adding import Added, Adder, Strip, Survival, strips_of
from loramix.baking.fitting import absent, refuse_types, touches
from loramix.checkpoints import Checkpoint, open_checkpoint
from loramix.checkpoints.checkpoint import Shard
from loramix.checkpoints.writing import ModelPlace
from loramix.deciding import Opened, Ticker, Wish, policy_for
from loramix.digests import Digest, digests_of, placeholders
from loramix.errors import ParamError
from loramix.formats import trained
from loramix.formats.dialects import Dialect
from loramix.formats.dialects.forms import Form, Vectors
from loramix.formats.layout import Layout
from loramix.groups import common_architecture
from loramix.methods import Level, Method, Space
from loramix.opening import open_all, open_recipe, refuse_twice
from loramix.planning.output import Output
from loramix.planning.steps import Plan, Step
from loramix.policies.base import Policy
from loramix.recipes.provenance import provenance
from loramix.recipes.reading import read_recipe
from loramix.recipes.recipe import Recipe
from loramix.recipes.rules import Rule
from loramix.types import Adapter, Progress, StrPath, Target, Weight


@dataclass(frozen=True, slots=True)
class _Stored(Dialect):
    """The rows of a base weight are written where they are, under the names that they have."""

    def stem(self, target: Target, layout: Layout | None) -> str:  # noqa: ARG002 - not needed
        return target.key


_TARGETS = _Stored(
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


def bake(  # noqa: PLR0913 - what merge takes, but for the output
    base: StrPath | Checkpoint,
    sources: Sequence[StrPath | Adapter] = (),
    method: str | Method | Policy = "auto",
    *,
    path: StrPath,
    recipe: Recipe | StrPath | None = None,
    weights: Sequence[Weight] | None = None,
    sparsify: str | Method | None = None,
    refine: Level = "none",
    space: Space = "weight",
    rules: Sequence[Rule] = (),
    auto_strength: bool = False,
    floor: float | None = None,
    samples: int | None = SAMPLES,
    analysis: Analysis | Analyzed | StrPath | None = None,
    seed: int = 0,
    threads: int | None = None,
    backend: str | Backend | None = None,
    progress: Progress | None = None,
    architecture: str | None = None,
    skip: Sequence[str] = (),
    rslora: bool = False,
    force: bool = False,
) -> Baked:
    """Merge adapters into a base model: every weight becomes ``round(W + delta)``.

    The deltas are those of `merge`, of full rank where the method makes them so: nothing is cut.
    They are added in f32 (f64 to F64 weights) and rounded once, to the nearest number of the
    weight's type; everything else is copied byte by byte.  The files are read back before they
    get their names.

    Parameters
    ----------
    base : see `open_checkpoint`: a file, a sharded model, or the folder of a pipeline; or what it
        returned.  Deltas that are relative to base weights are relative to these, unless a loaded
        adapter or the recipe has a base of its own.
    path : a file for a file; for anything else a new folder, with shards, index, configs and
        whatever else is beside them, but hidden files and weights in other forms.
    recipe : a file, or what `read_recipe` made of it, instead of sources, method and the options
        of both; what it says of the rank and the type of an adapter does not matter here.
    sources, method, weights, sparsify, refine, space, rules, auto_strength, floor, samples,
    analysis, seed, threads, backend, progress, skip : see `merge`.
    architecture : see `load`; for the sources that are paths, and for the base.
    rslora : see `load`; for the sources that are paths.
    force : add to fp8 weights, too, where hardly anything survives the rounding.

    Returns
    -------
    What was written, with the share of every delta that survived the rounding.

    Raises
    ------
    FormatError : a target that the base does not have in its shape, weights of types that cannot
        be added to, and whatever `merge` refuses.
    ShapeError, ParamError, OutputError, OSError : nothing was written.

    Notes
    -----
    Cost: one read and one write of the model, one read to check it; ``2 R`` flops per entry for
    deltas of rank R.  Resident: a few strips of 16 MB, and whole deltas where the method makes
    them entry by entry, see `merge`.

    Examples
    --------
    >>> import loramix
    >>> baked = loramix.bake("model.safetensors", ["style.safetensors"], weights=[0.8],
    ...                      path="styled.safetensors")  # doctest: +SKIP
    """
    check_threads(threads)
    model = base if isinstance(base, Checkpoint) else open_checkpoint(base)
    model = model.read_as(architecture)
    if recipe is not None:
        if sources:
            message = "a recipe names its adapters: give sources or a recipe"
            raise ParamError(message)
        stack, wish, device = _following(recipe, model, backend)
    else:
        policy = policy_for(
            method, sparsify=sparsify, refine=refine, space=space, auto_strength=auto_strength,
            floor=floor,
        )  # fmt: skip
        there = analysis.analysis if isinstance(analysis, Analyzed) else analysis
        wish = Wish(policy, tuple(rules), Output(dense=True), seed, samples, there)
        device = backend_of(backend or "rust")
        refuse_twice(sources)
        loaded = open_all(sources, architecture=architecture, skip=skip, base=model, rslora=rslora)
        stack = Opened.of(loaded, weights, wish, dialect=_TARGETS)
    known = common_architecture(stack.adapters)
    if known is not None and known != model.architecture:
        model = model.read_as(known)
    with ModelPlace(Path(path), model) as place:
        ticker = Ticker(progress, 3 * len(stack.groups))
        plan = stack.plan(wish, device, ticker, threads)
        return _Baking(plan, model, device, threads).run(place, ticker, force=force)


def _following(
    recipe: Recipe | StrPath, model: Checkpoint, backend: str | Backend | None
) -> tuple[Opened, Wish, Backend]:
    found = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    wish = replace(Wish.of(found), output=Output(dense=True))
    device = backend_of(found.backend if backend is None else backend)
    adapters, weights = open_recipe(found, model)
    return Opened.of(adapters, weights, wish, dialect=_TARGETS), wish, device


class _Baking:
    """One run."""

    def __init__(self, plan: Plan, model: Checkpoint, device: Backend, threads: int | None) -> None:
        self._plan = plan
        self._model = model
        self._device = device
        self._threads = threads

    def run(self, place: ModelPlace, ticker: Ticker, *, force: bool) -> Baked:
        """Add, write, check; the result appears at the end."""
        steps = [replace(step, rank=None) for step in self._plan.steps if _changes(step)]
        if not steps:
            asked = any(any(choice.asked) for choice in self._plan.choices)
            what = (
                f"{self._plan.method['name']} makes all deltas 0" if asked else "all weights are 0"
            )
            message = f"{what}: nothing to add"
            raise ParamError(message)
        found, missing = touches(self._model, steps)
        if missing:
            raise absent(missing, self._plan, self._model)
        refuse_types(self._model, found, force=force)
        work = [(shard, strips_of(shard, found)) for shard in self._model.shards]
        work = [(shard, own) for shard, own in work if any(strip.touch for strip in own)]
        ticker.total = ticker.done + sum(len(own) for _, own in work)
        adder = Adder(self._plan.adapters, self._device, self._threads, ticker.add)
        rows: list[BakedRow] = []
        sums: list[Survival] = []
        with ThreadPoolExecutor(1) as hashing:
            sources = hashing.submit(digests_of, self._others())
            for shard, own in work:
                digest = hashing.submit(shard.file.sha256)
                done = self._shard(shard, own, place, adder, (sources, digest))
                for key, each in _by_target(done).items():
                    total = Survival.total([added.sums for added in each])
                    sums.append(total)
                    rows.append(_row(shard, each[0], key, total))
        left = place.commit()
        notes = [f"{name} is not in the new model: it holds the old weights" for name in left]
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
        room = self._strings(shard, placeholders(self._others()), "0" * 64)
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
        origin: dict[str, object] = {"name": shard.path.name, "sha256": digest}
        if trained.KEY in old:
            origin[trained.KEY] = old[trained.KEY]
        kept = {name: value for name, value in old.items() if name not in trained.HASHES}
        return {**kept, trained.KEY: json.dumps({**made, "base": origin}, sort_keys=True)}


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
