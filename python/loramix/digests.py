"""What tells a source from all others, whatever it is called and wherever it is."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from loramix.types import Adapter


@dataclass(frozen=True, slots=True)
class Digest:
    """What tells a source from all others.

    Attributes
    ----------
    file : sha256 of its tensor file.
    base : that of the base model that its deltas are relative to; None: they are relative to none.
    """

    file: str
    base: str | None = None


def digests_of(adapters: Sequence[Adapter]) -> list[Digest]:
    """Digests of sources; one read of every file, and of every base model."""
    bases: dict[object, str] = {}
    found = []
    for adapter in adapters:
        base, own = adapter.base, None
        if base is not None:
            key = base.path or id(base)
            own = bases[key] = bases.get(key) or base.sha256()
        found.append(Digest(adapter.source.sha256(), own))
    return found


def placeholders(adapters: Sequence[Adapter]) -> list[Digest]:
    """What takes the room of digests that are not known yet."""
    return [Digest("0" * 64, "0" * 64 if one.base is not None else None) for one in adapters]


def config_digest(text: str) -> str:
    """Digest of the text of an ``adapter_config.json``."""
    return hashlib.sha256(text.encode()).hexdigest()
