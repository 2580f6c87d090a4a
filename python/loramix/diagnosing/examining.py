"""The public call: a file, whatever it is, becomes a diagnosis."""

import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path

from loramix.checkpoints import lent
from loramix.diagnosing import container
from loramix.diagnosing.findings import Diagnosis, Finding, in_order
from loramix.diagnosing.rules import RULES
from loramix.diagnosing.subject import Subject, subject_of
from loramix.errors import FormatError
from loramix.finding import Found, find, text_of
from loramix.formats.layout import load_layout
from loramix.formats.scales import CONFIG
from loramix.io.safetensors import SafetensorsFile
from loramix.types import Base, Reading, StrPath

_CHUNK = 1 << 20


def doctor(
    path: StrPath,
    *,
    architecture: str | None = None,
    skip: Sequence[str] = (),
    base: Base | StrPath | None = None,
    rslora: bool = False,
) -> Diagnosis:
    """Say what is wrong with a file, and how to mend it.  Nothing is changed.

    Parameters
    ----------
    path : a file, or what else `load` takes; files that `load` refuses, too.
    architecture, skip, base, rslora : see `load`.

    Raises
    ------
    ParamError : no such architecture.
    FormatError : the base is no model.
    OSError : there is no file, or it cannot be read.

    Notes
    -----
    All of the file is read, tensor by tensor: the time of a copy, and 48 MB beside a tensor.

    Examples
    --------
    >>> import loramix
    >>> for one in loramix.doctor("style.safetensors").findings:  # doctest: +SKIP
    ...     print(one.severity, one.where, one.what, one.mend)
    """
    if architecture is not None:
        load_layout(architecture)  # says what is known
    reading = Reading(lent(base), rslora)
    try:
        found = find(path)
    except FormatError as error:
        what = str(error).removeprefix(f"{path}: ")
        unnamed = Finding("container", "error", "", what, "name a file of tensors")
        return Diagnosis(str(path), "folder", 0, findings=(unnamed,))
    size = found.file.stat().st_size
    kind, wrong = container.look(found.file)
    if wrong is not None:
        return Diagnosis(str(found.file), kind, size, findings=(wrong,))
    try:
        file = SafetensorsFile(found.file)
    except FormatError as error:
        wrong = container.unreadable(found.file, error)
        return Diagnosis(str(found.file), "unknown", size, findings=(wrong,))
    subject, broken = _subject(file, found, architecture, skip, reading)
    findings = in_order((*broken, *(one for rule in RULES.values() for one in rule(subject))))
    return Diagnosis(
        str(found.file), kind, size, len(subject.tensors), subject.architecture, subject.dialect,
        subject.share, findings,
    )  # fmt: skip


def _subject(
    file: SafetensorsFile,
    found: Found,
    architecture: str | None,
    skip: Sequence[str],
    reading: Reading,
) -> tuple[Subject, tuple[Finding, ...]]:
    """The file taken apart, with its config unless that is no text."""
    strings = dict(file.metadata)
    broken: tuple[Finding, ...] = ()
    if found.config is not None:
        try:
            strings[CONFIG] = text_of(found.config)
        except FormatError as error:
            broken = (Finding("container", "error", CONFIG, str(error), "write it as UTF-8"),)

    def digest() -> str:
        return _digest(found.file)

    path = found.file.parent if found.config is not None else found.file
    subject = subject_of(
        file, path, strings, architecture=architecture, skip=skip, reading=reading, digest=digest
    )
    return subject, broken


def _digest(file: Path) -> str:
    """Sha256 of what follows the header, as trainers store it in ``sshs_model_hash``."""
    hasher = hashlib.sha256()
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        opened.seek(8 + length)
        while chunk := opened.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()
