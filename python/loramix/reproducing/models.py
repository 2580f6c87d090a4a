"""Base models found again by the digests of their files, whatever they are called now."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from loramix.checkpoints import Checkpoint, open_checkpoint
from loramix.checkpoints.finding import find
from loramix.errors import FormatError, LoramixError
from loramix.finding import INDEX, PIPELINE
from loramix.io.hashing import MODELS, digest_of, together
from loramix.recipes.records import BaseRecord, OriginRecord, SourceRecord
from loramix.reproducing.sourcing import files_below, size_of
from loramix.types import StrPath


def find_models(
    wanted: Iterable[BaseRecord], places: Sequence[StrPath], named: StrPath | None = None
) -> dict[str, Checkpoint]:
    """Find whole models by their digests.

    Parameters
    ----------
    places : folders, searched with all below them, or files.
    named : where the user says that one is.

    Returns
    -------
    Opened, by digest, under the names that they had.

    Raises
    ------
    LoramixError : one is not there, with its name and digest.
    OSError : a place does not exist, or a file of the right size cannot be read.

    Notes
    -----
    Cost: files, and all files of a model together, are read where their sizes fit.
    """
    found: dict[str, Checkpoint] = {}
    for record in dict.fromkeys(wanted):
        if record.digest in found:
            continue
        near = _models(places) if named is None else iter([Path(named)])
        path = next((path for path in near if _is_model(path, record)), None)
        if path is None:
            told = f"{record.name} ({record.digest}{size_of(record)})"
            raise LoramixError(_missing(told, places, named))
        found[record.digest] = replace(open_checkpoint(path), name=record.name)
    return found


def bases_of(wanted: Sequence[SourceRecord]) -> list[BaseRecord]:
    """The models that deltas of sources are relative to."""
    return [one.base for one in wanted if one.base is not None]


def find_origin(
    files: Sequence[OriginRecord], places: Sequence[StrPath], named: StrPath | None = None
) -> Checkpoint:
    """Find the model that was baked into, by those of its files that were changed.

    Parameters
    ----------
    files : at least one; all of one model.
    places, named : see `find_models`.

    Returns
    -------
    Opened, under the name that it had.

    Raises
    ------
    LoramixError : it is not there, with its name and digest.
    OSError : see `find_models`.

    Notes
    -----
    What was not changed is not looked at: it is in the output as it was.
    """
    first = files[0]
    near = _roots(places, first) if named is None else iter([Path(named)])
    path = next((path for path in near if _is_origin(path, files)), None)
    if path is None:
        told = "; ".join(_told(one) for one in files)
        raise LoramixError(_missing(told, places, named))
    return replace(open_checkpoint(path), name=first.name)


def _missing(told: str, places: Sequence[StrPath], named: StrPath | None) -> str:
    if named is not None:
        return f"{named} is not the base model {told}: say where it is with --base"
    where = ", ".join(map(str, places))
    return f"the base model {told} is not in {where}: say where it is with --base"


def _told(one: OriginRecord) -> str:
    name = one.name if one.place is None else f"{one.name}/{one.place}"
    return f"{name} ({one.digest}{size_of(one)})"


def _models(places: Sequence[StrPath]) -> Iterator[Path]:
    """Whatever may be a model: files, and folders of several."""
    for place in map(Path, places):
        yield from files_below(place)
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
    return together([digest_of(part.path, MODELS) for part in parts]) == record.digest


def _roots(places: Sequence[StrPath], file: OriginRecord) -> Iterator[Path]:
    """Files, or folders that have a file where this one was."""
    inside = PurePosixPath(file.place).parts if file.place is not None else ()
    for place in map(Path, places):
        for path in files_below(place):
            if not inside:
                yield path
            elif path.absolute().parts[-len(inside) :] == inside:
                yield path.absolute().parents[len(inside) - 1]


def _is_origin(path: Path, files: Sequence[OriginRecord]) -> bool:
    """Whether these are the files that a model has in their places."""
    try:
        found = find(path)
    except FormatError:  # a folder in which nothing, or too much, could be meant
        return False
    folder = files[0].place is not None
    if found.folder != folder:
        return False
    return all(_is_file(found.root / one.place if one.place else found.root, one) for one in files)


def _is_file(path: Path, one: OriginRecord) -> bool:
    if not path.is_file() or one.size not in (None, path.stat().st_size):
        return False
    return digest_of(path, MODELS) == one.digest
