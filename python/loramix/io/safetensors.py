"""Safetensors files, read over a memory map.

A tensor's bytes are touched only when somebody uses them, and their pages can be given back
(`release`), so a process that works through a file group by group stays small.
"""

import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from loramix import _core
from loramix.errors import FormatError
from loramix.io.hashing import Algorithm, digest_of, digest_of_bytes
from loramix.tensors import Tensor

# The buffer protocol has no name before Python 3.12.
Buffer: TypeAlias = Any

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

    def digest(self, algorithm: Algorithm = "sha256") -> str:
        """Digest of the whole file."""
        if self.path is None:
            return digest_of_bytes(self._view, algorithm)
        return digest_of(self.path, algorithm)


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
