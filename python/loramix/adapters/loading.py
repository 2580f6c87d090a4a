"""From a file to an adapter: every tensor used, left out on request, or refused."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from types import MappingProxyType

from loramix.adapters import turning
from loramix.adapters.deltas import Delta
from loramix.adapters.drafting import Drafting
from loramix.adapters.targeting import targets_of
from loramix.checkpoints import lent
from loramix.errors import FormatError
from loramix.finding import find, text_of
from loramix.formats import scales
from loramix.formats.detect import ACCEPT, Match, detect
from loramix.formats.dialects import convention
from loramix.formats.layout import load_layout
from loramix.io.safetensors import SafetensorsFile
from loramix.tensors import Tensor
from loramix.types import Adapter, Base, Coverage, Reading, Source, StrPath


def load(
    path: StrPath,
    *,
    name: str | None = None,
    architecture: str | None = None,
    skip: Sequence[str] = (),
    base: Base | StrPath | None = None,
    rslora: bool = False,
) -> Adapter:
    """Open an adapter: a ``.safetensors`` file, or a folder that holds one.

    The file is mapped; a tensor's bytes are read when something uses them.

    Parameters
    ----------
    path : file, or folder such as PEFT writes (``adapter_model.safetensors`` with
        ``adapter_config.json``), or what a hub cache has; see `loramix.finding.find`.
    name : for reports; default: the name of the file or folder.
    architecture : base model, if names and shapes cannot tell: one of
        `loramix.formats.layout.LAYOUTS`, or the path of a module table of your own (``.layout``).
    skip : globs of tensor names to leave out.
    base : the model that the file was trained on, see `open_checkpoint`: its weights are looked at
        where a delta is relative to them (DoRA, (IA)3, OFT, BOFT, GLoRA).  Such a delta is W' - W,
        computed when it is used; at weight w it adds ``w (W' - W)``.  Nothing else of it is read,
        but its header where names and shapes of the file fit several models.
    rslora : whether the scale is alpha over the root of the rank in all of the file; no tensor
        says so, and only PEFT's config does.

    Raises
    ------
    FormatError : not a safetensors file, tensors of no family, no base where one is needed.
    ParamError : no such architecture; `rslora` for a file without alpha.
    ShapeError : factors that do not fit each other, or not their weight.
    OSError : the file cannot be read.
    """
    if architecture is not None:
        load_layout(architecture)  # says what is known
    found = find(path)
    opened = SafetensorsFile(found.file)
    metadata = dict(opened.metadata)
    if found.config is not None:
        metadata[scales.CONFIG] = text_of(found.config)
    return read(
        opened, name or found.name, metadata,
        architecture=architecture, skip=skip, reading=Reading(lent(base), rslora),
    )  # fmt: skip


def place_of(adapter: Adapter) -> Path | None:
    """What to name to open it again: its file, or its folder where a config belongs to it."""
    path = adapter.source.path
    return path.parent if path is not None and scales.CONFIG in adapter.metadata else path


def resolve(adapter: Adapter, architecture: str) -> Adapter:
    """The same adapter, read as one for this base model."""
    return read(
        adapter.source,
        adapter.name,
        adapter.metadata,
        architecture=architecture,
        skip=[escape(name) for name in adapter.coverage.skipped],
        reading=adapter.reading,
    )


def read(
    file: Source,
    name: str,
    metadata: Mapping[str, str],
    *,
    architecture: str | None = None,
    skip: Sequence[str] = (),
    reading: Reading | None = None,
) -> Adapter:
    """Turn an open file into an adapter.  See `load`."""
    where = str(file.path or name)
    skipped = tuple(n for n in file.tensors if any(fnmatchcase(n, glob) for glob in skip))
    dropped = frozenset(skipped)
    left = [n for n in file.tensors if n not in dropped]
    reading = reading or Reading()
    drafting = Drafting(file, where, scales.configs(metadata, where), reading)
    deltas = turning.settled(drafting.deltas(left))
    if not deltas:
        out = f", of which --skip leaves {len(skipped)} out" if skipped else ""
        message = f"{where}: no pair of LoRA factors among its {len(file.tensors)} tensors{out}"
        raise FormatError(message)
    # Norms and modulations are in no table: they say nothing of the model.
    known = [one for one in deltas if one.draft.part == "weight"] or deltas
    match = _detected(known, architecture, metadata, reading.base)
    if architecture is not None and match.share == 0:
        message = f"{where}: none of its {len(known)} modules fits {architecture}"
        raise FormatError(message)
    asked = _Asked(reading.base, match.layout.name if match.layout else None)
    found = targets_of(deltas, match.layout, where, asked if reading.base is not None else None)
    turned = turning.notes_on(turning.turned_of(found.targets))
    notes = (*drafting.notes(), *turned, *_match_notes(match, len(known)), *found.notes())
    stems = [one.stem for one in deltas]
    architecture = match.layout.name if match.layout else None
    return Adapter(
        name=name,
        dialect=convention(stems, found.worlds, left, architecture, metadata),
        architecture=architecture,
        candidates=match.candidates,
        match=match.share,
        targets=MappingProxyType(found.targets),
        metadata=MappingProxyType(dict(metadata)),
        coverage=Coverage(len(left), skipped, notes),
        source=file,
        runner_up=match.runner_up,
        reading=reading,
        base=asked.lent,
    )


class _Asked:
    """A base model by the names of an adapter's architecture; notes whether it gave anything."""

    def __init__(self, base: Base | None, architecture: str | None) -> None:
        self._base = base
        self._architecture = architecture
        self._named: Base | None = None
        self.lent: Base | None = None

    @property
    def name(self) -> str:
        """Of the model."""
        return self._base.name if self._base is not None else ""

    def weight(self, key: str) -> Tensor | None:
        """That of a target; the model is opened when the first is wanted."""
        if self._named is None and self._base is not None:
            self._named = self._base.read_as(self._architecture)
        found = self._named.weight(key) if self._named is not None else None
        if found is not None:
            self.lent = self._named
        return found


def _detected(
    deltas: Sequence[Delta],
    architecture: str | None,
    metadata: Mapping[str, str],
    base: Base | None,
) -> Match:
    """The architecture of deltas; where several fit equally well, that of the base model."""
    found = _named(deltas, architecture, metadata)
    if found.layout is None and found.candidates and base is not None:
        known = base.architecture
        if known in found.candidates:
            decided = _named(deltas, known, metadata)
            because = "the base model is one"
            return replace(decided, candidates=found.candidates, because=because)
    return found


def _named(deltas: Sequence[Delta], architecture: str | None, metadata: Mapping[str, str]) -> Match:
    """The architecture of deltas, of which some can be read in two ways."""
    found = detect([(one.stem, one.size) for one in deltas], architecture, metadata)
    if found.share >= ACCEPT or not any(one.draft.other for one in deltas):
        return found
    other = detect([(one.stem, one.turned.size) for one in deltas], architecture, metadata)
    return other if other.share > found.share else found


def _match_notes(match: Match, pairs: int) -> list[str]:
    """What a user should know about the base model: at most two lines."""
    names, notes = ", ".join(match.candidates), []
    if len(match.candidates) > 1:
        reason = f": {match.because}" if match.because else ""
        taken = f"taken for {match.layout.name}" if match.layout else "--architecture decides"
        notes.append(f"fits {names} equally well; {taken}{reason}")
    if match.layout and match.hits < pairs:
        missed = pairs - match.hits
        notes.append(f"{missed} of {pairs} modules are not in the table of {match.layout.name}")
    return notes
