"""Text files that appear whole or not at all."""

import os
import tempfile
from pathlib import Path

from loramix.io.safetensors import umask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a temporary file beside its place, and rename it.

    Raises
    ------
    OSError : whatever was at the place is untouched.
    """
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~umask())  # mkstemp made it private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
