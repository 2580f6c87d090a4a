"""Files on their way to the disk: flushing beside other work, permissions, what went wrong."""

import contextlib
import errno
import os
from pathlib import Path
from threading import Event, Thread

SYNC_BYTES = 8 << 20
"""Written between two calls that send them to the disk."""


class Flusher:
    """Starts writing to disk while the next tensors are computed, so the last sync is short.

    Parameters
    ----------
    number : of the open file.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._pending = 0
        self._wake = Event()
        self._stopping = False
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def wrote(self, count: int) -> None:
        """So many bytes more are to go."""
        self._pending += count
        if self._pending >= SYNC_BYTES:
            self._pending = 0
            self._wake.set()

    def stop(self) -> None:
        """Nothing more will be written; waits for what is on its way."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        sync = getattr(os, "fdatasync", os.fsync)
        while self._wake.wait() and not self._stopping:
            self._wake.clear()
            with contextlib.suppress(OSError):  # the last fsync reports it to the caller
                sync(self._number)


def umask() -> int:
    """Permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Send the names in a folder to the disk, where that can be asked for."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def explain(error: OSError, path: Path, needed: int) -> OSError:
    """The same class of error, saying which file, how much, and what to try."""
    reason = error.strerror or str(error)
    advice = "choose another folder with -o"
    if error.errno == errno.ENOSPC:
        reason = f"disk full after {needed / 1e6:.1f} MB"
        advice = "free some space, choose another folder, or lower --rank; nothing was written"
    elif not path.parent.is_dir():
        reason = f"the folder {path.parent} does not exist"
        advice = "create it or choose another one"
    message = f"cannot write: {reason}; {advice}"
    return type(error)(error.errno, message, str(path))
