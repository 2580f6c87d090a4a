"""An output made again from what it says of itself, and compared."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loramix._core import VERSION
from loramix.arguments import check_threads
from loramix.errors import OutputError
from loramix.finding import find, text_of
from loramix.formats.scales import CONFIG
from loramix.io.safetensors import SafetensorsFile
from loramix.reproducing.comparing import Comparison, compare
from loramix.reproducing.folders import compare_models
from loramix.reproducing.looking import Output, look_at
from loramix.reproducing.making import Again, Made, Means, again
from loramix.types import Progress, StrPath


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of making an output again.

    Attributes
    ----------
    path : the file that was compared.
    again : where the new one is; None if it was not kept.
    version : of the loramix that made the file.
    sources : what was found, by name: the base model that was baked into, tensor files in the order
        of the stack; of a difference the two models.
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
    path : what loramix wrote: a file, a PEFT folder, a baked model in a folder.
    sources : folders, searched with all below them, or files; names do not matter, digests do.
    base : the model that was baked into, or that deltas of sources are relative to, if it is in
        none of these folders; it must be the same, too.
    output : where the new one goes, a folder for a folder; None: into a temporary place, and away
        after the comparison.  That of a model is beside it, since it is large.
    backend : default: that of the file.
    threads, progress : see `loramix.merge`.

    Raises
    ------
    FormatError : the file was not made by loramix, or does not say how.
    LoramixError : sources are missing; with their names and digests.
    OutputError : ``output`` is the file itself.
    OSError : a file cannot be read or written.

    Notes
    -----
    The same loramix gives the same bytes on the same kind of machine: other vector units round
    matrix products otherwise, see DESIGN.md.  Memory is that of what made it.

    Examples
    --------
    >>> loramix.reproduce("ab.safetensors", ["downloads"]).identical  # doctest: +SKIP
    True
    """
    check_threads(threads)
    there = look_at(path)
    if output is not None and Path(output).exists() and there.holds(Path(output)):
        message = f"{output} is the file to compare with; write to another place"
        raise OutputError(message)
    means = Means(sources, base, backend, threads, progress)
    ready = again(there.records, means)
    with ExitStack() as leaving:
        place = None if output is None else Path(output)
        if place is None:
            beside = there.root.absolute().parent if there.is_model else None
            folder = leaving.enter_context(
                tempfile.TemporaryDirectory(prefix=".loramix-", dir=beside)
            )
            place = Path(folder, "again" if ready.folder else "again.safetensors")
        made = ready.write(place)
        if there.is_model:
            comparison = compare_models(there.root, place)
        else:
            comparison = _compared(there, place, made.architecture, threads)
    return Reproduction(
        path=Path(path),
        again=None if output is None else place,
        version=there.records[0].version,
        sources=ready.sources,
        comparison=comparison,
        notes=_notes(there, ready, made, comparison, backend),
    )


def _compared(
    there: Output, place: Path, architecture: str | None, threads: int | None
) -> Comparison:
    made = find(place)
    texts = text_of(there.config) if there.config is not None else None
    # A tensor file that was taken out of its folder has lost its config, see the notes.
    new_text = text_of(made.config) if made.config and texts is not None else None
    return compare(
        SafetensorsFile(there.root), SafetensorsFile(made.file), (texts, new_text),
        architecture=architecture, threads=threads,
    )  # fmt: skip


def _notes(
    there: Output, ready: Again, made: Made, comparison: Comparison, backend: str | None
) -> tuple[str, ...]:
    """What explains differences, or was not looked at."""
    record = there.records[0]
    found = []
    if ready.folder and not there.is_model and there.config is None:
        found.append(f"there is no {CONFIG} beside it: only the tensor file was compared")
    if record.version != VERSION:
        found.append(
            f"made by loramix {record.version}, this is {VERSION}: bytes may differ, and those of "
            "the header do"
        )
    if backend is not None and backend != record.backend:
        found.append(f"made on {record.backend}, now on {backend}: bytes may differ")
    if record.decisions and record.decisions != made.plan.digest():
        found.append("what is done with some groups is not what was done then")
    elif comparison.tensors and record.version == VERSION:
        found.append(
            "the same is done with every group: another kind of machine rounds otherwise, or the "
            "file was changed"
        )
    return tuple(found)
