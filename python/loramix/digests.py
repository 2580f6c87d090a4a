"""What tells a source from all others, whatever it is called and wherever it is."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self, TypeAlias

from loramix.io.hashing import MODELS, Algorithm, digest_of, placeholder
from loramix.types import Adapter


@dataclass(frozen=True, slots=True)
class Digest:
    """What tells a source from all others.

    Attributes
    ----------
    file : of its tensor file, see `loramix.io.hashing`.
    base : that of the base model that its deltas are relative to; None: they are relative to none.
    """

    file: str
    base: str | None = None


_Begun: TypeAlias = dict[tuple[Path, Algorithm], Future[str]]


def digests_of(adapters: Sequence[Adapter]) -> list[Digest]:
    """Digests of sources; one read of every file, and of every base model."""
    return _digests(adapters, {})


def _digests(adapters: Sequence[Adapter], begun: _Begun) -> list[Digest]:
    bases: dict[object, str] = {}
    found = []
    for adapter in adapters:
        base, own = adapter.base, None
        if base is not None:
            key = base.path or id(base)
            own = bases[key] = bases.get(key) or base.digest()
        source = adapter.source
        known = begun.get((source.path, "sha256")) if source.path is not None else None
        found.append(Digest(known.result() if known else source.digest(), own))
    return found


class Hashing:
    """Digests of sources, made in a thread beside everything else; use as a context manager.

    A copy is made as fast as a digest: that of a file may begin before anybody knows what is in it.
    Leaving without waiting for a digest stops it.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._stop = Event()
        self._begun: _Begun = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def begin(self, path: Path, algorithm: Algorithm = "sha256") -> Future[str]:
        """The digest of a file, which may be asked for again."""
        key = path, algorithm
        if key not in self._begun:
            self._begun[key] = self._pool.submit(digest_of, path, algorithm, self._stop)
        return self._begun[key]

    def of(self, adapters: Sequence[Adapter]) -> Future[list[Digest]]:
        """What `digests_of` finds, as soon as it is there."""
        return self._pool.submit(_digests, adapters, self._begun)


def placeholders(adapters: Sequence[Adapter]) -> list[Digest]:
    """What takes the room of digests that are not known yet."""
    file, base = placeholder("sha256"), placeholder(MODELS)
    return [Digest(file, base if one.base is not None else None) for one in adapters]


def config_digest(text: str) -> str:
    """Digest of the text of an ``adapter_config.json``."""
    return hashlib.sha256(text.encode()).hexdigest()
