"""An output made again from what it says of itself, and compared."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from glob import escape
from pathlib import Path

from loramix._core import VERSION
from loramix.adapters import loading
from loramix.arguments import check_threads
from loramix.backends import backend_of
from loramix.backends.base import Backend
from loramix.deciding import Opened, Ticker, Wish
from loramix.errors import FormatError, ModelError, OutputError, ParamError
from loramix.finding import Found, find, text_of
from loramix.formats.scales import CONFIG
from loramix.io.safetensors import SafetensorsFile
from loramix.merging import execute
from loramix.planning.steps import Plan
from loramix.plans.recalling import recall
from loramix.recipes.records import Record, SourceRecord, read_record
from loramix.reproducing.comparing import Comparison, compare
from loramix.reproducing.sourcing import Sourced, find_bases, find_sources
from loramix.types import Adapter, Base, Progress, Reading, StrPath


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of making an output again.

    Attributes
    ----------
    path : the file that was compared.
    again : where the new one is; None if it was not kept.
    version : of the loramix that made the file.
    sources : tensor files that were found, by name, in the order of the stack.
    comparison : whether the two are identical, and what differs.
    notes : what a user should know of differences.
    """

    path: Path
    again: Path | None
    version: str
    sources: tuple[tuple[str, Path], ...]
    comparison: Comparison
    notes: tuple[str, ...] = field(default=())

    @property
    def identical(self) -> bool:
        """Whether every byte is the same."""
        return self.comparison.identical

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "path": str(self.path),
            "again": str(self.again) if self.again else None,
            "version": self.version,
            "sources": [{"name": name, "path": str(path)} for name, path in self.sources],
            **asdict(self.comparison),
            "notes": self.notes,
        }


def reproduce(
    path: StrPath,
    sources: Sequence[StrPath],
    *,
    base: StrPath | None = None,
    output: StrPath | None = None,
    backend: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Reproduction:
    """Make an output again from its sources, as its header says, and compare the bytes.

    Parameters
    ----------
    path : a file or a PEFT folder that loramix wrote.
    sources : folders, searched with all below them, or files; names do not matter, sha256 do.
    base : the model that deltas of sources are relative to, if there is one and it is in none of
        these folders; it must be the same, too.
    output : where the new one goes, a folder for the PEFT dialect; None: into a temporary place,
        and away after the comparison.
    backend : default: that of the file.
    threads, progress : see `loramix.merge`.

    Raises
    ------
    FormatError : the file was not made by loramix, or does not say how.
    LoramixError : sources are missing; with their names and sha256.
    OutputError : ``output`` is the file itself.
    OSError : a file cannot be read or written.

    Notes
    -----
    The same loramix gives the same bytes on the same kind of machine: other vector units round
    matrix products otherwise, see DESIGN.md.

    Examples
    --------
    >>> loramix.reproduce("ab.safetensors", ["downloads"]).identical  # doctest: +SKIP
    True
    """
    check_threads(threads)
    there = _found(path)
    file, config = there.file, there.config
    old = SafetensorsFile(file)
    record = read_record(old.metadata, str(path))
    if output is not None and Path(output).exists() and _holds(Path(output), file):
        message = f"{output} is the file to compare with; write to another place"
        raise OutputError(message)
    found = find_sources(record.sources, sources)
    stack = _opened(record.sources, found, find_bases(record.sources, sources, base))
    plan = _plan(record, stack, backend, threads)
    texts = text_of(config) if config is not None else None
    with ExitStack() as leaving:
        if output is None:
            folder = leaving.enter_context(tempfile.TemporaryDirectory(prefix="loramix-"))
            name = "again" if plan.dialect.folder else "again.safetensors"
            place = Path(folder, name)
        else:
            place = Path(output)
        device = _device(backend, record.backend)
        merged = execute(plan, place, threads=threads, backend=device, progress=progress)
        made = find(place)
        # A tensor file that was taken out of its folder has lost its config, see the notes.
        new_text = text_of(made.config) if made.config and texts is not None else None
        comparison = compare(
            old, SafetensorsFile(made.file), (texts, new_text),
            architecture=merged.adapter.architecture, threads=threads,
        )  # fmt: skip
    return Reproduction(
        path=Path(path),
        again=None if output is None else place,
        version=record.version,
        sources=tuple((r.name, s.path) for r, s in zip(record.sources, found, strict=True)),
        comparison=comparison,
        notes=_notes(record, plan, comparison, backend, lost=plan.dialect.folder and not config),
    )


def _found(path: StrPath) -> Found:
    try:
        return find(path)
    except ModelError:
        message = (
            f"{path}: a model in a folder, and what loramix bake made is made again by loramix "
            "bake: loramix inspect names what went in"
        )
        raise FormatError(message) from None


def _holds(place: Path, file: Path) -> bool:
    """Whether something is a file, or its folder."""
    return place.samefile(file) or place.samefile(file.parent)


def _opened(
    records: Sequence[SourceRecord], found: Sequence[Sourced], bases: Mapping[str, Base]
) -> list[Adapter]:
    """Adapters as they were read then; a file that is two sources is opened twice."""
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
        base = bases[record.base.sha256] if record.base is not None else None
        stack.append(
            loading.read(
                opened, record.name, strings, architecture=record.architecture, skip=skip,
                reading=Reading(base, record.rslora),
            )
        )  # fmt: skip
    return stack


def _plan(
    record: Record, stack: Sequence[Adapter], backend: str | None, threads: int | None
) -> Plan:
    recipe = record.recipe
    if recipe is None:
        assert record.plan is not None  # `read_record` sees to it
        device = _device(backend, str(record.plan.values.get("backend", "rust")))
        return recall(record, stack, device, threads=threads)
    device = _device(backend, recipe.backend)
    try:
        wish = Wish.of(recipe)
        rows = zip(recipe.adapters, stack, strict=True)
        weights = [entry.weights(adapter.architecture, adapter.keys) for entry, adapter in rows]
        opened = Opened.of(stack, weights, wish)
        return opened.plan(wish, device, Ticker(None, 0), threads)
    except ParamError as error:  # it is the file that is wrong, and not what the user asks for
        raise FormatError(str(error)) from None


def _device(wished: str | None, stored: str) -> Backend:
    """What the user wants to calculate with, or what the file was made with."""
    if wished is not None:
        return backend_of(wished)
    try:
        return backend_of(stored)
    except ParamError as error:
        message = f"made with a backend that is not here: {error}; --backend names another"
        raise FormatError(message) from None


def _notes(
    record: Record, plan: Plan, comparison: Comparison, backend: str | None, *, lost: bool
) -> tuple[str, ...]:
    """What explains differences, or was not looked at.

    Parameters
    ----------
    lost : whether the file has no config, though its dialect has one.
    """
    found = []
    if lost:
        found.append(f"there is no {CONFIG} beside it: only the tensor file was compared")
    if record.version != VERSION:
        found.append(
            f"made by loramix {record.version}, this is {VERSION}: bytes may differ, and those of "
            "the header do"
        )
    if backend is not None and backend != record.backend:
        found.append(f"made on {record.backend}, now on {backend}: bytes may differ")
    if record.decisions and record.decisions != plan.digest():
        found.append("what is done with some groups is not what was done then")
    elif comparison.tensors and record.version == VERSION:
        found.append(
            "the same is done with every group: another kind of machine rounds otherwise, or the "
            "file was changed"
        )
    return tuple(found)
