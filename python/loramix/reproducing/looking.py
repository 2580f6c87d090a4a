"""What a user wants to be made again: its files, and what they say of themselves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loramix import finding
from loramix.checkpoints.finding import find as find_model
from loramix.errors import FormatError, ModelError
from loramix.formats import trained
from loramix.io.safetensors import SafetensorsFile
from loramix.recipes.records import Record, read_record
from loramix.types import StrPath


@dataclass(frozen=True, slots=True)
class Output:
    """What loramix wrote.

    Attributes
    ----------
    root : its file, or the folder of a model.
    config : of an adapter in PEFT's form.
    records : of a model in several files one for each that says something.
    """

    root: Path
    config: Path | None
    records: tuple[Record, ...]

    @property
    def is_model(self) -> bool:
        """Whether it was baked."""
        return self.records[0].verb == "bake"

    def holds(self, place: Path) -> bool:
        """Whether something is the output, or a folder that it is the content of."""
        return place.samefile(self.root) or (
            self.root.is_file() and place.samefile(self.root.parent)
        )


def look_at(path: StrPath) -> Output:
    """Find an output and read what it says.

    Raises
    ------
    FormatError : loramix did not make it, or it does not say how.
    OSError : there is nothing, or it cannot be read.
    """
    try:
        there = finding.find(path)
    except ModelError:
        return _model(path)
    record = read_record(SafetensorsFile(there.file).metadata, str(path))
    if record.base is None or record.base.place is None:
        return Output(there.file, there.config, (record,))
    if Path(path).is_dir():
        return _model(path)
    message = (
        f"{path}: one file of a baked model, {record.base.place} in its folder: name the folder, "
        "which is made again as a whole"
    )
    raise FormatError(message)


def _model(path: StrPath) -> Output:
    """A model in a folder."""
    found = find_model(Path(path))
    headers = {part.path: SafetensorsFile(part.path).metadata for part in found.parts}
    told = {file: strings for file, strings in headers.items() if trained.KEY in strings}
    if not told:
        message = f"{path}: made by something else: no header in it has anything of loramix"
        raise FormatError(message)
    records = [(file, read_record(strings, str(file))) for file, strings in told.items()]
    return Output(found.root, None, _last(records, path))


def _last(told: Sequence[tuple[Path, Record]], path: StrPath) -> tuple[Record, ...]:
    """Records of the last run; files that it did not change may have those of earlier ones.

    Raises
    ------
    FormatError : no run was into a folder, or nothing says which was the last.
    """
    placed = [(file, one) for file, one in told if one.base is not None and one.base.place]
    if not placed:
        message = f"{told[0][0]}: a file of a model, but its header is that of an adapter or a file"
        raise FormatError(message)
    earlier = [_run(one) for file, record in placed for one in _history(record, str(file))]
    last = [(file, one) for file, one in placed if _run(one) not in earlier] or placed
    first, record = last[0]
    other = next((file for file, one in last if _run(one) != _run(record)), None)
    if other is not None:
        message = (
            f"{path}: {first.name} and {other.name} were made by different runs of loramix bake, "
            "and nothing says which was the last: make it again from the original model with all "
            "adapters"
        )
        raise FormatError(message)
    return tuple(one for _, one in last)


def _history(record: Record, where: str) -> Iterator[Record]:
    """What was done before to the file that something was baked into."""
    while record.base is not None and record.base.history is not None:
        record = read_record({trained.KEY: record.base.history}, where)
        yield record


def _run(record: Record) -> tuple[Any, ...]:
    """What all files of one run say alike."""
    base = (record.base.name, record.base.architecture) if record.base is not None else None
    return (record.version, record.sources, record.decisions, record.seed, record.backend, base)
