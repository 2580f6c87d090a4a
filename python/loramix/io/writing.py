"""Safetensors files, written tensor by tensor.

The header is reserved, tensors are streamed in any order, the header is filled in, the file synced
and renamed.
"""

import contextlib
import json
import mmap
import os
import struct
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from loramix import _core
from loramix.errors import OutputError
from loramix.io.disk import Flusher, explain, sync_folder, umask
from loramix.io.safetensors import Buffer, SafetensorsFile

Announced: TypeAlias = tuple[str, str, tuple[int, ...], int]
"""Name, type, shape and number of bytes of a tensor."""
Named: TypeAlias = tuple[str, str, tuple[int, ...], Buffer]
"""Name, type, shape and bytes of a tensor."""
# Type, shape, and the half-open bytes after the header.
_Entry: TypeAlias = tuple[str, tuple[int, ...], int, int]


class Writer(ABC):
    """Where tensors go, in the order in which their room is reserved."""

    @abstractmethod
    def reserve(self, tensors: Iterable[Announced]) -> None:
        """Make room for tensors, one behind the other; `fill` brings their bytes."""

    @abstractmethod
    def fill(self, first: str, data: Iterable[Buffer]) -> None:
        """Write the bytes of tensors that were reserved together, from the first on.

        In any thread, beside others.
        """

    @abstractmethod
    def written(self, names: Iterable[str]) -> list[memoryview]:
        """Bytes of tensors that are filled, as they are now."""

    @abstractmethod
    def finish(self, metadata: Mapping[str, str]) -> SafetensorsFile:
        """Complete the header."""

    def add(self, tensors: Iterable[Named]) -> None:
        """Append tensors."""
        there = list(tensors)
        if there:
            self.reserve((n, dtype, shape, memoryview(d).nbytes) for n, dtype, shape, d in there)
            self.fill(there[0][0], [data for *_, data in there])


class SafetensorsWriter(Writer):
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
            raise explain(error, path, 0) from error
        self.temporary = Path(name)
        self._file = os.fdopen(number, "wb", buffering=0)
        self._at = 0  # where the next bytes of what was begun go
        self._flusher = Flusher(number)

    def close(self) -> None:
        """Stop; what was not committed is removed."""
        self._flusher.stop()
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self.temporary.unlink()

    def reserve(self, tensors: Iterable[Announced]) -> None:
        """Make room for tensors, one behind the other; `fill` brings their bytes."""
        for name, dtype, shape, size in tensors:
            self._entries[name] = dtype, shape, self._offset, self._offset + size
            self._offset += size

    def fill(self, first: str, data: Iterable[Buffer]) -> None:
        """Write the bytes of tensors that were reserved together, from the first on.

        In any thread, beside others.
        """
        _, _, at, _ = self._entries[first]
        self._write([memoryview(one).cast("B") for one in data], 8 + self._room + at)

    def begin(self, name: str, dtype: str, shape: tuple[int, ...], size: int) -> None:
        """Announce one tensor of so many bytes; `append` brings them, in pieces."""
        self._at = 8 + self._room + self._offset
        self.reserve([(name, dtype, shape, size)])

    def append(self, data: Buffer) -> None:
        """Append bytes of the tensor that was announced last."""
        view = memoryview(data).cast("B")
        self._write([view], self._at)
        self._at += len(view)

    def written(self, names: Iterable[str]) -> list[memoryview]:
        """Bytes of tensors, as they are in the file now."""
        mapped = memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))
        first = 8 + self._room
        entries = (self._entries[name] for name in names)
        return [mapped[first + start : first + end] for _, _, start, end in entries]

    def finish(self, metadata: Mapping[str, str]) -> SafetensorsFile:
        """Write the header; the file is hidden, and on its way to the disk.

        Returns
        -------
        The hidden file, opened for checks; where bytes are not filled in yet, it has zeros.

        Raises
        ------
        OutputError : the header needs more than the reserved room.
        """
        encoded = _header(self._entries, metadata)
        if len(encoded) > self._room:
            message = f"{self.path}: header of {len(encoded)} bytes, {self._room} were reserved"
            raise OutputError(message)
        self._write([memoryview(struct.pack("<Q", self._room) + encoded.ljust(self._room))], 0)
        size = 8 + self._room + self._offset
        if os.fstat(self._file.fileno()).st_size < size:
            os.truncate(self.temporary, size)
        return SafetensorsFile(self.temporary)

    def commit(self) -> None:
        """Wait for the disk, and put the finished file in its place, atomically."""
        self._flusher.stop()
        os.fsync(self._file.fileno())
        self._file.close()
        self.temporary.chmod(0o666 & ~umask())  # mkstemp made it private
        self.temporary.replace(self.path)
        sync_folder(self.path.parent)

    def _write(self, views: Sequence[memoryview], at: int) -> None:
        try:
            _core.write_at(self.temporary, at, views)
        except OSError as error:
            raise explain(error, self.path, at) from error
        self._flusher.wrote(sum(map(len, views)))


class MemoryWriter(Writer):
    """The same file as bytes in memory."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._data = bytearray()

    def reserve(self, tensors: Iterable[Announced]) -> None:
        """Make room for tensors, one behind the other; `fill` brings their bytes."""
        for name, dtype, shape, size in tensors:
            start = len(self._data)
            self._data += bytes(size)
            self._entries[name] = dtype, shape, start, start + size

    def fill(self, first: str, data: Iterable[Buffer]) -> None:
        """Write the bytes of tensors that were reserved together, from the first on."""
        _, _, at, _ = self._entries[first]
        for view in (memoryview(one).cast("B") for one in data):
            self._data[at : at + len(view)] = view
            at += len(view)

    def written(self, names: Iterable[str]) -> list[memoryview]:
        """Bytes of tensors that were added."""
        entries = (self._entries[name] for name in names)
        return [memoryview(bytes(self._data[start:end])) for _, _, start, end in entries]

    def finish(self, metadata: Mapping[str, str]) -> SafetensorsFile:
        """The finished file; all its bytes must be there."""
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
