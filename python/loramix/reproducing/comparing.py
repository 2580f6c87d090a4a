"""Two outputs byte by byte, and where they differ, by how much."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loramix import _core
from loramix.adapters import loading
from loramix.batching import READ_BYTES, batches, bytes_of
from loramix.errors import LoramixError
from loramix.formats.scales import CONFIG
from loramix.io.safetensors import SafetensorsFile
from loramix.refusals import with_names
from loramix.types import Adapter, Group

_CHUNK = 1 << 22
LAYOUT = "layout"
"""What differs where all strings and tensors are the same: order, or padding of the header."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two outputs.

    Attributes
    ----------
    identical : every byte is the same.
    header : names of strings of the header that differ, and of the config; or `LAYOUT`.
    tensors : names of tensors that differ, or that one of them lacks.
    files : of a model in a folder those without tensors that differ, or that one of them lacks.
    total : number of tensors.
    error : relative Frobenius norm of the difference of all deltas, estimated; differences below
        4e-6 cannot be measured, only seen.  None: nothing to measure, or targets of one only.
    worst : the target with the largest relative difference, and that.
    """

    identical: bool
    header: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    total: int = 0
    error: float | None = None
    worst: tuple[str, float] | None = None


def compare(
    one: SafetensorsFile,
    other: SafetensorsFile,
    configs: tuple[str | None, str | None] = (None, None),
    *,
    architecture: str | None = None,
    threads: int | None = None,
) -> Comparison:
    """Compare two files.

    Parameters
    ----------
    configs : texts of the ``adapter_config.json`` of both, where they are to be compared.
    architecture : base model of both, for measuring deltas.

    Notes
    -----
    Cost: reads both once; where tensors differ, deltas are measured on eight random vectors.
    """
    same = configs[0] == configs[1]
    if (
        same
        and one.path is not None
        and other.path is not None
        and same_bytes(one.path, other.path)
    ):
        return Comparison(identical=True, total=len(one.tensors))
    header, tensors = differences(one, other, [] if same else [CONFIG])
    measured = _measured(one, other, configs, architecture, threads) if tensors else (None, None)
    error, worst = measured
    return Comparison(
        identical=False,
        header=tuple(header),
        tensors=tuple(tensors),
        total=len(one.tensors),
        error=error,
        worst=worst,
    )


def differences(
    one: SafetensorsFile, other: SafetensorsFile, more: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Strings and tensors that differ, of files that do."""
    names = one.metadata.keys() | other.metadata.keys()
    header = [key for key in sorted(names) if one.metadata.get(key) != other.metadata.get(key)]
    header += more
    tensors = [name for name in sorted({*one.tensors, *other.tensors}) if _differ(one, other, name)]
    return header if header or tensors else [LAYOUT], tensors


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two files are the same, byte by byte."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while chunk := first.read(_CHUNK):
            if chunk != second.read(_CHUNK):
                return False
    return True


def _differ(one: SafetensorsFile, other: SafetensorsFile, name: str) -> bool:
    first, second = one.tensors.get(name), other.tensors.get(name)
    if first is None or second is None:
        return True
    if (first.dtype, first.shape) != (second.dtype, second.shape):
        return True
    for at in range(0, first.size, _CHUNK):
        mine, its = (
            np.frombuffer(t.data[at : at + _CHUNK], dtype=np.uint8) for t in (first, second)
        )
        if not np.array_equal(mine, its):
            return True
        one.release()
        other.release()
    return False


def _measured(
    one: SafetensorsFile,
    other: SafetensorsFile,
    configs: tuple[str | None, str | None],
    architecture: str | None,
    threads: int | None,
) -> tuple[float | None, tuple[str, float] | None]:
    """How far the deltas are from each other, over all and at worst."""
    try:
        first, second = (
            loading.read(file, "", _strings(file, text), architecture=architecture)
            for file, text in zip((one, other), configs, strict=True)
        )
        if set(first.targets) != set(second.targets):
            return None, None
        rows = list(_gaps(first, second, threads))
    except LoramixError:  # whatever it is, it is no adapter any more, and its tensors are named
        return None, None
    norm = math.fsum(size**2 for _, _, size in rows)
    gap = math.fsum(difference**2 for _, difference, _ in rows)
    worst = max(((key, _share(gap, size)) for key, gap, size in rows), key=lambda row: row[1])
    return _share(math.sqrt(gap), math.sqrt(norm)), worst


def _share(gap: float, norm: float) -> float:
    return gap / norm if norm > 0 else math.inf if gap > 0 else 0.0


def _gaps(one: Adapter, other: Adapter, threads: int | None) -> Iterator[tuple[str, float, float]]:
    """Key, norm of the difference and norm of every target."""
    pairs = [
        (Group(target, (factors,), (0,)), Group(target, (other.targets[target],), (0,)))
        for target, factors in one.targets.items()
    ]
    for batch in batches(pairs, lambda pair: sum(map(bytes_of, pair)), READ_BYTES):
        found = _differences(batch, threads)
        for (group, _), (gap, norm) in zip(batch, found, strict=True):
            yield group.target.key, gap, norm
        one.release()
        other.release()


def _differences(
    batch: Sequence[tuple[Group, Group]], threads: int | None
) -> list[tuple[float, float]]:
    first, second = [a.raw() for a, _ in batch], [b.raw() for _, b in batch]
    groups = [group for group, _ in batch]
    return with_names(groups, lambda: _core.difference(first, second, threads=threads))


def _strings(file: SafetensorsFile, config: str | None) -> dict[str, str]:
    return {**file.metadata, **({CONFIG: config} if config is not None else {})}
