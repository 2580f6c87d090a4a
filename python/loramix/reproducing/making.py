"""What a record asks for, ready to be made again: an adapter, a difference, a baked model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path

from loramix.adapters import loading
from loramix.backends import backend_of
from loramix.backends.base import Backend
from loramix.baking.writing import TARGETS, Baking
from loramix.checkpoints.writing import ModelPlace
from loramix.deciding import Opened, Ticker, Wish
from loramix.errors import FormatError, ParamError
from loramix.extracting.pairs import Pair
from loramix.extracting.running import subtract
from loramix.extracting.subtracting import ALL
from loramix.formats.dialects import Dialect
from loramix.formats.layout import load_layout
from loramix.formats.scales import CONFIG
from loramix.io.safetensors import SafetensorsFile
from loramix.merging import execute
from loramix.planning.output import Output
from loramix.planning.steps import Plan
from loramix.plans.recalling import recall
from loramix.recipes.reading import output as read_output
from loramix.recipes.records import BaseRecord, Record, SourceRecord
from loramix.reproducing.models import bases_of, find_models, find_origin
from loramix.reproducing.sourcing import Sourced, find_sources
from loramix.types import Adapter, Base, Progress, Reading, StrPath


@dataclass(frozen=True, slots=True)
class Means:
    """Where sources are looked for, and what calculates.

    Attributes
    ----------
    places, base, backend, threads, progress : see `loramix.reproduce`.
    """

    places: Sequence[StrPath]
    base: StrPath | None = None
    backend: str | None = None
    threads: int | None = None
    progress: Progress | None = None

    def device(self, stored: str) -> Backend:
        """What the user wants to calculate with, or what the file was made with.

        Raises
        ------
        ParamError, FormatError : it is not here; whoever said it.
        """
        if self.backend is not None:
            return backend_of(self.backend)
        try:
            return backend_of(stored)
        except ParamError as error:
            message = f"made with a backend that is not here: {error}; --backend names another"
            raise FormatError(message) from None


@dataclass(frozen=True, slots=True)
class Made:
    """What was made again.

    Attributes
    ----------
    plan : what was carried out.
    architecture : of the adapter; None also for models.
    """

    plan: Plan
    architecture: str | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """What will be made again; its sources are there.

    Attributes
    ----------
    sources : tensor files, and models, by the names that they had.
    folder : whether it is one.
    write : makes it at a place.
    """

    sources: tuple[tuple[str, Path], ...]
    folder: bool
    write: Callable[[Path], Made]


def again(records: Sequence[Record], means: Means) -> Again:
    """Find what is needed, and decide as it was decided.

    Parameters
    ----------
    records : at least one; of a baked model in several files those of all.

    Raises
    ------
    LoramixError : sources are missing, with their names and digests.
    FormatError : the record does not fit them.
    OSError : see `find_sources`.
    """
    if not means.places:
        message = "no sources: name the folders or files to look for them in"
        raise ParamError(message)
    verb = records[0].verb
    if verb == "bake":
        return _model(records, means)
    return _difference(records[0], means) if verb == "extract" else _adapter(records[0], means)


def _adapter(record: Record, means: Means) -> Again:
    found, stack = _stack(record, means)
    plan = _plan(record, stack, means)

    def write(place: Path) -> Made:
        device = means.device(record.backend)
        merged = execute(
            plan, place, threads=means.threads, backend=device, progress=means.progress
        )
        return Made(plan, merged.adapter.architecture)

    return Again(_named(record, found), plan.dialect.folder, write)


def _difference(record: Record, means: Means) -> Again:
    wanted = [BaseRecord(one.name, one.digest, one.size) for one in record.sources]
    found = find_models(wanted, means.places)
    architecture = record.sources[0].architecture
    tuned, base = (
        replace(found[one.digest].read_as(architecture), name=one.name) for one in wanted
    )
    layout = load_layout(architecture) if architecture is not None else None
    pair = Pair(tuned, base, layout)
    assert record.plan is not None  # `read_record` sees to it
    wish = read_output(record.plan, "output") if "output" in record.plan.values else Output()
    targets = _targets(record)

    def write(place: Path) -> Made:
        made = subtract(
            pair, wish, place, targets=targets, threads=means.threads, progress=means.progress
        )
        return Made(made.plan, made.adapter.architecture)

    sources = ((tuned.name, tuned.path), (base.name, base.path))
    return Again(sources, pair.dialect(wish).folder, write)


def _targets(record: Record) -> Sequence[str]:
    """Globs of what was looked at."""
    found = record.method.get("targets", ALL)
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) for one in found):
        message = f"targets = {found!r} in the header: allowed is a list of globs"
        raise FormatError(message)
    return found


def _model(records: Sequence[Record], means: Means) -> Again:
    record = records[0]
    origins = [one.base for one in records if one.base is not None]
    model = find_origin(origins, means.places, means.base).read_as(origins[0].architecture)
    found, stack = _stack(record, means, model)
    plan = _plan(record, stack, means, TARGETS)

    def write(place: Path) -> Made:
        device = means.device(record.backend)
        ticker = Ticker(means.progress, 0)
        with ModelPlace(place, model) as room:
            # What was forced then is not asked for again.
            Baking(plan, model, device, means.threads).run(room, ticker, force=True)
        return Made(plan)

    named = ((model.name, model.path), *_named(record, found))
    return Again(named, model.root.is_dir(), write)


def _named(record: Record, found: Sequence[Sourced]) -> tuple[tuple[str, Path], ...]:
    rows = zip(record.sources, found, strict=True)
    return tuple((one.name, source.path) for one, source in rows)


def _stack(
    record: Record, means: Means, own: Base | None = None
) -> tuple[tuple[Sourced, ...], list[Adapter]]:
    """Adapters as they were read then, and where they are.

    Parameters
    ----------
    own : the base model of those that name no other one.
    """
    found = find_sources(record.sources, means.places)
    # What is baked into is not what another model of a source is.
    named = means.base if own is None else None
    bases = find_models(bases_of(record.sources), means.places, named)
    return found, _opened(record.sources, found, bases, own)


def _opened(
    records: Sequence[SourceRecord],
    found: Sequence[Sourced],
    bases: Mapping[str, Base],
    own: Base | None,
) -> list[Adapter]:
    """Adapters; a file that is two sources is opened twice."""
    taken: set[Path] = set()
    stack = []
    for record, source in zip(records, found, strict=True):
        # One file is one source to whoever names files; here two that were alike have become one.
        twice = source.path in taken
        data = source.path.read_bytes() if twice else None
        opened = SafetensorsFile(None if twice else source.path, data)
        taken.add(source.path)
        strings: Mapping[str, str] = opened.metadata
        if source.config is not None:
            strings = {**strings, CONFIG: source.config}
        skip = [escape(name) for name in record.skip]
        base = bases[record.base.digest] if record.base is not None else own
        stack.append(
            loading.read(
                opened, record.name, strings, architecture=record.architecture, skip=skip,
                reading=Reading(base, record.rslora),
            )
        )  # fmt: skip
    return stack


def _plan(
    record: Record, stack: Sequence[Adapter], means: Means, dialect: Dialect | None = None
) -> Plan:
    """What was decided then.

    Parameters
    ----------
    dialect : `TARGETS` for a model; None: that of the output.
    """
    recipe = record.recipe
    if recipe is None:
        assert record.plan is not None  # `read_record` sees to it
        device = means.device(str(record.plan.values.get("backend", "rust")))
        return recall(record, stack, device, threads=means.threads, dialect=dialect)
    device = means.device(recipe.backend)
    try:
        wish = Wish.of(recipe)
        if dialect is not None:
            wish = replace(wish, output=Output(dense=True))
        rows = zip(recipe.adapters, stack, strict=True)
        weights = [entry.weights(adapter.architecture, adapter.keys) for entry, adapter in rows]
        opened = Opened.of(stack, weights, wish, dialect=dialect)
        return opened.plan(wish, device, Ticker(None, 0), means.threads)
    except ParamError as error:  # it is the file that is wrong, and not what the user asks for
        raise FormatError(str(error)) from None
