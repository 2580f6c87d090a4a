"""Files that are no safetensors files, or only the beginning of one."""

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loramix.diagnosing.findings import Finding
from loramix.errors import FormatError

_HEAD = 512
_PICKLE = (
    "it may run any code when it is opened, so loramix does not open it",
    "get the adapter as .safetensors; where there is none, convert it on a machine that may be "
    "harmed: torch.load(FILE, weights_only=True), then safetensors.torch.save_file",
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Something else that carries the name.

    Attributes
    ----------
    format : what it is.
    start : how it begins.
    """

    format: str
    start: re.Pattern[bytes]
    what: str
    mend: str


_KINDS = (
    _Kind("pickle", re.compile(rb"PK\x03\x04(?s:.)*data\.pkl"), *_PICKLE),
    _Kind("pickle", re.compile(rb"\x80[\x02-\x05]"), *_PICKLE),
    _Kind(
        "zip", re.compile(rb"PK\x03\x04"), "an archive, or a pickle of torch",
        "unpack it, and name the .safetensors file that is in it",
    ),
    _Kind(
        "archive", re.compile(rb"\x1f\x8b|7z\xbc\xaf\x27\x1c|Rar!\x1a"), "a packed archive",
        "unpack it, and name the .safetensors file that is in it",
    ),
    _Kind(
        "gguf", re.compile(rb"GGUF"), "a GGUF file, whose tensors are quantised for other readers",
        "get the adapter as .safetensors",
    ),
    _Kind(
        "html", re.compile(rb"\s*(?:<!doctype html|<html|<\?xml|<head)", re.IGNORECASE),
        "a page of a web site instead of the file: a login or an error page was saved",
        "download it again, from the link of the file itself and with the login that it needs",
    ),
    _Kind(
        "git-lfs pointer", re.compile(rb"version https://git-lfs"),
        "a pointer of git-lfs: the file itself was never fetched",
        "run 'git lfs pull' in the repository, or download the file",
    ),
    _Kind(
        "json", re.compile(rb"\s*[{\[]"), "JSON text, such as an error message or an index",
        "name the .safetensors file, or download it again",
    ),
)  # fmt: skip


def look(path: Path) -> tuple[str, Finding | None]:
    """What a file is, by its first bytes and its length; what is wrong, if it is not whole.

    Returns
    -------
    the name of the format, and a finding unless it looks like a whole safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if size == 0:
        return "empty", Finding("container", "error", "", "the file is empty", _AGAIN)
    if not _may_be_header(head, size):
        for kind in _KINDS:
            if kind.start.match(head):
                return kind.format, Finding("container", "error", "", kind.what, kind.mend)
    return "safetensors", _truncated(path, size, head)


_AGAIN = "download or copy it again; compare its size with that of the source"


def unreadable(path: Path, error: FormatError) -> Finding:
    """What the reader says of a header that it refuses."""
    what = str(error).removeprefix(f"{path}: ")
    return Finding("container", "error", "", f"no readable header: {what}", _AGAIN)


def _may_be_header(head: bytes, size: int) -> bool:
    """Whether it begins with a length that is possible, and then JSON."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    return bool(8 + struct.unpack("<Q", head[:8])[0] <= max(size, 100 << 20))


def _truncated(path: Path, size: int, head: bytes) -> Finding | None:
    """Whether bytes that the header speaks of are not there."""
    if not _may_be_header(head, size):
        return None  # the reader says what is wrong
    (length,) = struct.unpack("<Q", head[:8])
    if 8 + length > size:
        what = f"cut off inside the header: {8 + length:,} bytes of header, {size:,} in all"
        return Finding("truncated", "error", "", what, _AGAIN)
    with path.open("rb") as file:
        file.seek(8)
        text = file.read(length)
    ends = _ends(text)
    whole = 8 + length + max(ends.values(), default=0)
    if size >= whole:
        return None
    missing = [name for name, end in ends.items() if 8 + length + end > size]
    what = (
        f"cut off: {whole - size:,} of {whole:,} bytes are missing, and with them all or a part "
        f"of {len(missing)} tensors"
    )
    return Finding("truncated", "error", min(missing), what, _AGAIN, len(missing))


def _ends(text: bytes) -> dict[str, int]:
    """Where the tensors of a header end; empty for what is no header."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    found = {}
    for name, one in header.items() if isinstance(header, Mapping) else ():
        offsets = one.get("data_offsets") if isinstance(one, Mapping) else None
        if isinstance(offsets, list) and len(offsets) == 2 and isinstance(offsets[1], int):
            found[name] = offsets[1]
    return found
