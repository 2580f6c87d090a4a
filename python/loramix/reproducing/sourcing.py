"""Sources found again by what they are: their digests, whatever they are called now."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from loramix.checkpoints import open_checkpoint
from loramix.checkpoints.finding import digest_of, find
from loramix.digests import config_digest
from loramix.errors import FormatError, LoramixError, ParamError
from loramix.finding import INDEX, PIPELINE, text_of
from loramix.formats.scales import CONFIG
from loramix.recipes.records import BaseRecord, SourceRecord
from loramix.types import Base, StrPath

_SUFFIX = ".safetensors"
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Sourced:
    """A source that was found.

    Attributes
    ----------
    path : its tensor file.
    config : text of the config that belongs to it; None: it had none.
    """

    path: Path
    config: str | None = None


@dataclass(slots=True)
class _Search:
    """What is found so far, and what nearly was."""

    wanted: Sequence[SourceRecord]
    found: dict[int, Sourced] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[tuple[int, SourceRecord]]:
        return [(i, one) for i, one in enumerate(self.wanted) if i not in self.found]

    def look(self, file: Path) -> None:
        """Take a file for every source that it is."""
        try:
            size = file.stat().st_size
            fitting = [(i, one) for i, one in self.missing if one.size in (None, size)]
            digest = _digest(file) if fitting else ""
            for place, one in fitting:
                if one.sha256 == digest:
                    self._take(place, one, file)
        except OSError as error:
            self.unreadable(error)

    def unreadable(self, error: OSError) -> None:
        """Note what could not be looked at."""
        self.notes.append(f"{error.filename} cannot be read ({error.strerror or error})")

    def _take(self, place: int, one: SourceRecord, file: Path) -> None:
        if one.config is None:
            self.found[place] = Sourced(file)
            return
        config = file.with_name(CONFIG)
        text = _readable(config)
        if text is not None and config_digest(text) == one.config:
            self.found[place] = Sourced(file, text)
        else:
            self.notes.append(f"{file} has its tensors, but not the {CONFIG} that it had")


def find_sources(wanted: Sequence[SourceRecord], places: Sequence[StrPath]) -> tuple[Sourced, ...]:
    """Find files by their sha256.

    Parameters
    ----------
    places : folders, searched with all below them, or files.

    Returns
    -------
    One for each source, in their order.

    Raises
    ------
    LoramixError : some are not there; with their names and digests.
    ParamError : nothing to look in.
    OSError : a place does not exist.

    Notes
    -----
    Cost: reads files of the same size, those that are called like a source first, until all are
    found.  Links to folders are not followed.
    """
    if not places:
        message = "no sources: name the folders or files to look for them in"
        raise ParamError(message)
    search = _Search(wanted)
    names = {one.name for one in wanted}
    files = dict.fromkeys(file for place in places for file in _files(Path(place), search))
    for file in sorted(files, key=lambda file: not _is_called(file, names)):  # stable
        if not search.missing:
            break
        search.look(file)
    if search.missing:
        raise LoramixError(_missing(search, places))
    return tuple(search.found[place] for place in range(len(wanted)))


def find_bases(
    wanted: Sequence[SourceRecord], places: Sequence[StrPath], named: StrPath | None = None
) -> dict[str, Base]:
    """Find the base models that deltas of sources are relative to, by their sha256.

    Parameters
    ----------
    places : folders, searched with all below them, or files.
    named : where the user says that it is.

    Returns
    -------
    By sha256; empty where no source needs one.

    Raises
    ------
    LoramixError : one is not there, with its name and digest.
    OSError : a place does not exist.

    Notes
    -----
    Cost: as `find_sources`; of models in several files, too, the sizes must fit before they are
    read.
    """
    found: dict[str, Base] = {}
    for record in dict.fromkeys(one.base for one in wanted if one.base is not None):
        near = _models(places) if named is None else iter([Path(named)])
        path = next((path for path in near if _is_model(path, record)), None)
        if path is None:
            where = ", ".join(map(str, places)) if named is None else str(named)
            message = (
                f"the base model {record.name} (sha256 {record.sha256}{_size(record)}) is not "
                f"{'in ' if named is None else ''}{where}: say where it is with --base"
            )
            raise LoramixError(message)
        found[record.sha256] = replace(open_checkpoint(path), name=record.name)
    return found


def _models(places: Sequence[StrPath]) -> Iterator[Path]:
    """Whatever may be a model: files, and folders of several."""
    search = _Search(())
    for place in map(Path, places):
        yield from _files(place, search)
        folders = (Path(folder) for folder, _, _ in os.walk(place))
        yield from (folder for folder in folders if _is_pipeline(folder))


def _is_pipeline(folder: Path) -> bool:
    """Whether a folder is more than the one file in it."""
    index = next(folder.glob(f"*{INDEX}"), None)
    return index is not None or (folder / PIPELINE).is_file()


def _is_model(path: Path, record: BaseRecord) -> bool:
    try:
        parts = find(path).parts
    except FormatError:  # a folder of something else
        return False
    size = sum(part.path.stat().st_size for part in parts)
    if record.size not in (None, size):
        return False
    return digest_of([_digest(part.path) for part in parts]) == record.sha256


def _files(place: Path, search: _Search) -> Iterator[Path]:
    if not place.is_dir():
        place.stat()  # says what is wrong with it
        yield place
        return
    for folder, below, names in os.walk(place, onerror=search.unreadable):
        below.sort()
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(_SUFFIX))


def _is_called(file: Path, names: set[str]) -> bool:
    return file.name.removesuffix(_SUFFIX) in names or file.parent.name in names


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _readable(config: Path) -> str | None:
    try:
        return text_of(config)
    except (FormatError, FileNotFoundError):
        return None


def _missing(search: _Search, places: Sequence[StrPath]) -> str:
    missing = [one for _, one in search.missing]
    listed = "; ".join(f"{one.name} (sha256 {one.sha256}{_size(one)})" for one in missing)
    shown = search.notes[:_SHOWN]
    more = [f"{len(search.notes) - _SHOWN} more notes"] if len(search.notes) > _SHOWN else []
    notes = "".join(f". {note}" for note in (*shown, *more))
    return (
        f"{len(missing)} of {len(search.wanted)} sources are not in "
        f"{', '.join(map(str, places))}: {listed}{notes}"
    )


def _size(one: SourceRecord | BaseRecord) -> str:
    return f", {one.size} bytes" if one.size is not None else ""
