"""Text files, and other small ones, that appear whole or not at all."""

import os
import tempfile
from pathlib import Path

from loramix.errors import OutputError
from loramix.io.disk import umask


def refuse_place(path: Path) -> None:
    """Refuse a place where no file can be.

    Raises
    ------
    OutputError : it is a folder, or its folder does not exist.
    """
    if path.is_dir():
        message = f"{path} is a folder; name a file in it"
        raise OutputError(message)
    if not path.absolute().parent.is_dir():
        message = f"{path}: the folder {path.parent} does not exist; create it first"
        raise OutputError(message)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a temporary file beside its place, and rename it.

    Raises
    ------
    OutputError : the place is a folder, or its folder does not exist.
    OSError : whatever was at the place is untouched.
    """
    refuse_place(path)
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~umask())  # mkstemp made it private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
