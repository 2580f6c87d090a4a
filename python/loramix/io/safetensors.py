"""Safetensors files: a lazy reader over a memory map, and a streaming writer.

The reader touches a tensor's bytes only when somebody uses them and can give the pages back
(`release`), so a process that works through a file group by group stays small.  The writer
reserves the header, streams tensors in any order, fills the header in, syncs, and renames.
"""

import contextlib
import errno
import hashlib
import json
import mmap
import os
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event, Thread
from types import MappingProxyType
from typing import Any, TypeAlias

from loramix import _core
from loramix.errors import FormatError, OutputError
from loramix.tensors import Tensor

# The buffer protocol has no name before Python 3.12.
Buffer: TypeAlias = Any
Named: TypeAlias = tuple[str, str, tuple[int, ...], Buffer]
"""Name, type, shape and bytes of a tensor."""
# Type, shape, and the half-open bytes after the header.
_Entry: TypeAlias = tuple[str, tuple[int, ...], int, int]

_SYNC_BYTES = 8 << 20
_HASH_BYTES = 32 << 20
"""Hashed in one call: between two of them the thread waits for whoever runs Python."""
_BUFFER_BYTES = 1 << 20
"""Gathered before they are written: they stay in the cache of a core."""
_SMALL_BYTES = 8
"""Tensors of one number are read at once: every reader of adapters wants them."""


class SafetensorsFile:
    """A mapped file.

    Attributes
    ----------
    path : the file, or None for bytes in memory.
    tensors : name to tensor, in file order.
    metadata : the header's strings.
    size : bytes of the file.

    Raises
    ------
    FormatError : anything wrong with the header: truncated, overlapping, duplicate, ...
    """

    __slots__ = ("_map", "_view", "metadata", "path", "size", "tensors")

    def __init__(self, path: Path | None, data: Buffer | None = None) -> None:
        self.path = path
        self._map: mmap.mmap | None = None
        if data is None:
            if path is None:
                message = "either a path or data"
                raise TypeError(message)
            self._map, data = _map(path)
        self._view = memoryview(data).toreadonly()
        self.size = len(self._view)
        try:
            entries, metadata = _core.read_header(self._view)
        except _core.CoreError as error:
            message = f"{path or 'data'}: {error.args[1]}"
            raise FormatError(message) from error
        small = [(start, end) for _, _, _, start, end in entries if end - start <= _SMALL_BYTES]
        read = _read(path, small) if self._map is not None and path is not None else {}
        tensors = {
            name: Tensor(dtype, tuple(shape), read.get((start, end)) or self._view[start:end])
            for name, dtype, shape, start, end in entries
        }
        self.tensors: Mapping[str, Tensor] = MappingProxyType(tensors)
        self.metadata: Mapping[str, str] = MappingProxyType(dict(metadata))

    def release(self) -> None:
        """Give touched pages back to the system; they are read again when needed."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def sha256(self) -> str:
        """Digest of the whole file."""
        if self.path is None:
            return hashlib.sha256(self._view).hexdigest()
        return sha256_of(self.path)


def sha256_of(path: Path, stop: Event | None = None) -> str:
    """Digest of a file, mapped piece by piece so that its pages do not count.

    Parameters
    ----------
    stop : is set when nobody wants it any more.

    Raises
    ------
    CancelledError : nobody does.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        number = file.fileno()
        size = os.fstat(number).st_size
        for at in range(0, size, _HASH_BYTES):
            if stop is not None and stop.is_set():
                raise CancelledError
            length = min(_HASH_BYTES, size - at)
            with mmap.mmap(number, length, access=mmap.ACCESS_READ, offset=at) as piece:
                digest.update(piece)
    return digest.hexdigest()


def _map(path: Path) -> tuple[mmap.mmap | None, Buffer]:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return None, b""  # an empty file cannot be mapped; the header parser refuses it
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return mapped, mapped


def _read(path: Path, spans: Sequence[tuple[int, int]]) -> dict[tuple[int, int], memoryview]:
    """Bytes of a file by where they start and end, beside the map.

    In the map each of a thousand numbers between the tensors would bring a hundred kilobytes of its
    neighbours with it.
    """
    found = {}
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for run in _runs(spans):
            first, last = run[0][0], run[-1][1]
            file.seek(first)
            data = memoryview(file.read(last - first) or b"")
            for start, end in run:
                if start < end and end - first <= len(data):
                    found[start, end] = data[start - first : end - first]
    return found


def _runs(spans: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Spans in their order, those together of which each begins where the one before ends."""
    runs: list[list[tuple[int, int]]] = []
    for span in spans:
        if runs and runs[-1][-1][1] == span[0]:
            runs[-1].append(span)
        else:
            runs.append([span])
    return runs


class SafetensorsWriter:
    """Writes a file whose header is known only at the end.

    Until `commit` whatever was at `path` is untouched; `close` without it leaves nothing behind.

    Parameters
    ----------
    path : where the file goes.
    header_bytes : room for the header; what is not used is filled with spaces.
    """

    def __init__(self, path: Path, header_bytes: int) -> None:
        self.path = path
        self._entries: dict[str, _Entry] = {}
        self._room = -(-header_bytes // 8) * 8
        self._offset = 0
        try:
            number, name = tempfile.mkstemp(
                prefix=f".{path.name}.", suffix=".part", dir=path.parent
            )
        except OSError as error:
            raise _explain(error, path, 0) from error
        self.temporary = Path(name)
        self._file = os.fdopen(number, "wb", buffering=0)
        self._file.seek(8 + self._room)
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._flusher = _Flusher(number)

    def close(self) -> None:
        """Stop; what was not committed is removed."""
        self._flusher.stop()
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self.temporary.unlink()

    def add(self, tensors: Iterable[Named]) -> None:
        """Append tensors."""
        views, at = [], self._offset
        for name, dtype, shape, data in tensors:
            view = memoryview(data).cast("B")
            self._entries[name] = dtype, shape, at, at + len(view)
            views.append(view)
            at += len(view)
        self._append(views, at - self._offset)

    def begin(self, name: str, dtype: str, shape: tuple[int, ...], size: int) -> None:
        """Announce one tensor of so many bytes; `append` brings them, in pieces."""
        self._entries[name] = dtype, shape, self._offset, self._offset + size

    def append(self, data: Buffer) -> None:
        """Append bytes of the tensor that was announced last."""
        view = memoryview(data).cast("B")
        self._append([view], len(view))

    def written(self, names: Iterable[str]) -> list[memoryview]:
        """Bytes of tensors that were added, as they are in the file now."""
        mapped = memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        first = 8 + self._room
        entries = (self._entries[name] for name in names)
        return [mapped[first + start : first + end] for _, _, start, end in entries]

    def finish(self, metadata: Mapping[str, str]) -> SafetensorsFile:
        """Write the header; the file is complete but hidden, and on its way to the disk.

        Returns
        -------
        The hidden file, opened for checks.

        Raises
        ------
        OutputError : the header needs more than the reserved room.
        """
        encoded = _header(self._entries, metadata)
        if len(encoded) > self._room:
            message = f"{self.path}: header of {len(encoded)} bytes, {self._room} were reserved"
            raise OutputError(message)
        self._file.seek(0)
        self._write([memoryview(struct.pack("<Q", self._room) + encoded.ljust(self._room))])
        self._flusher.wrote(_SYNC_BYTES)
        return SafetensorsFile(self.temporary)

    def commit(self) -> None:
        """Wait for the disk, and put the finished file in its place, atomically."""
        self._flusher.stop()
        os.fsync(self._file.fileno())
        self._file.close()
        self.temporary.chmod(0o666 & ~umask())  # mkstemp made it private
        self.temporary.replace(self.path)
        _sync_folder(self.path.parent)

    def _append(self, views: Iterable[memoryview], size: int) -> None:
        self._write(views)
        self._offset += size
        self._flusher.wrote(size)

    def _write(self, views: Iterable[memoryview]) -> None:
        """Write pieces one after the other, gathered in a buffer.

        The system copies slowly from pages that are not mapped yet, or not in a cache: with the
        buffer between it takes two thirds of the time.
        """
        room, filled = self._buffer, 0
        for view in views:
            left = view
            while left:
                part = left[: len(room) - filled]
                room[filled : filled + len(part)] = part
                filled += len(part)
                left = left[len(part) :]
                if filled == len(room):
                    self._put(room)
                    filled = 0
        self._put(room[:filled])

    def _put(self, view: memoryview) -> None:
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _explain(error, self.path, self._file.tell()) from error


class MemoryWriter:
    """The same file as bytes in memory."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._data = bytearray()

    def add(self, tensors: Iterable[Named]) -> None:
        """Append tensors."""
        for name, dtype, shape, data in tensors:
            start = len(self._data)
            self._data += memoryview(data).cast("B")
            self._entries[name] = dtype, shape, start, len(self._data)

    def written(self, names: Iterable[str]) -> list[memoryview]:
        """Bytes of tensors that were added."""
        entries = (self._entries[name] for name in names)
        return [memoryview(bytes(self._data[start:end])) for _, _, start, end in entries]

    def finish(self, metadata: Mapping[str, str]) -> SafetensorsFile:
        """The finished file."""
        header = _header(self._entries, metadata)
        header = header.ljust(-(-len(header) // 8) * 8)
        self._data[:0] = struct.pack("<Q", len(header)) + header
        self._file = SafetensorsFile(None, bytes(self._data))
        self._data.clear()
        return self._file

    def commit(self) -> SafetensorsFile:
        """The finished file."""
        assert self._file is not None, "finish first"
        return self._file


def _header(entries: Mapping[str, _Entry], metadata: Mapping[str, str]) -> bytes:
    rows = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": (start, end)}
        for name, (dtype, shape, start, end) in entries.items()
    }
    return json.dumps({"__metadata__": dict(metadata), **rows}, separators=(",", ":")).encode()


def header_room(entries: Sequence[tuple[str, int]], metadata: Mapping[str, str]) -> int:
    """Bytes that are enough for the header of tensors (name, number of axes)."""
    axis = len("4294967295,")
    fixed = len('"":{"dtype":"F8_E4M3","shape":[],"data_offsets":[,]},') + 2 * 20
    names = json.dumps([name for name, _ in entries], separators=("", ":"))
    axes = sum(count for _, count in entries)
    tensors = len(names) - len("[]") + len(entries) * fixed + axes * axis
    return tensors + len(json.dumps({"__metadata__": dict(metadata)})) + 16


class _Flusher:
    """Starts writing to disk while the next tensors are computed, so the last sync is short."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._pending = 0
        self._wake = Event()
        self._stopping = False
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def wrote(self, count: int) -> None:
        self._pending += count
        if self._pending >= _SYNC_BYTES:
            self._pending = 0
            self._wake.set()

    def stop(self) -> None:
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


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _explain(error: OSError, path: Path, needed: int) -> OSError:
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
