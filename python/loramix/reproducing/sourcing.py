"""Sources found again by what they are: their digests, whatever they are called now."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loramix.digests import config_digest
from loramix.errors import FormatError, LoramixError, ParamError
from loramix.finding import text_of
from loramix.formats.scales import CONFIG
from loramix.io.hashing import digest_of
from loramix.recipes.records import BaseRecord, OriginRecord, SourceRecord
from loramix.types import StrPath

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
            digest = digest_of(file, "sha256") if fitting else ""
            for place, one in fitting:
                if one.digest == digest:
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
    """Find files by their digests.

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
    below = (files_below(Path(place), search.unreadable) for place in places)
    files = dict.fromkeys(file for each in below for file in each)
    for file in sorted(files, key=lambda file: not _is_called(file, names)):  # stable
        if not search.missing:
            break
        search.look(file)
    if search.missing:
        raise LoramixError(_missing(search, places))
    return tuple(search.found[place] for place in range(len(wanted)))


def files_below(place: Path, unreadable: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """A file, or the tensor files in a folder and below it; links to folders are not followed.

    Parameters
    ----------
    unreadable : called for folders that cannot be read; None: they are left out.

    Raises
    ------
    OSError : there is nothing.
    """
    if not place.is_dir():
        place.stat()  # says what is wrong with it
        yield place
        return
    for folder, below, names in os.walk(place, onerror=unreadable):
        below.sort()
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(_SUFFIX))


def _is_called(file: Path, names: set[str]) -> bool:
    return file.name.removesuffix(_SUFFIX) in names or file.parent.name in names


def _readable(config: Path) -> str | None:
    try:
        return text_of(config)
    except (FormatError, FileNotFoundError):
        return None


def _missing(search: _Search, places: Sequence[StrPath]) -> str:
    missing = [one for _, one in search.missing]
    listed = "; ".join(f"{one.name} ({one.digest}{size_of(one)})" for one in missing)
    shown = search.notes[:_SHOWN]
    more = [f"{len(search.notes) - _SHOWN} more notes"] if len(search.notes) > _SHOWN else []
    notes = "".join(f". {note}" for note in (*shown, *more))
    return (
        f"{len(missing)} of {len(search.wanted)} sources are not in "
        f"{', '.join(map(str, places))}: {listed}{notes}"
    )


def size_of(one: SourceRecord | BaseRecord | OriginRecord) -> str:
    """Its bytes, for messages; empty where nobody knows."""
    return f", {one.size} bytes" if one.size is not None else ""
