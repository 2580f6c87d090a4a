"""A folder of adapters, and which of them are worth a forward: the short list.

Names, words that trainers wrote and what the prompt says decide first; then, from the weights,
adapters that do nothing and near-copies of better ones leave.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from loramix import groups
from loramix.adapters import loading
from loramix.analysis import passing, pooling
from loramix.backends import backend_of
from loramix.compose.functional.checks import check_count, check_number
from loramix.errors import FormatError, LoramixError, ParamError
from loramix.finding import find
from loramix.formats import trained
from loramix.types import Adapter, StrPath

_WORD = re.compile(r"[^\W_]+")
_LOOKED = 3
"""So many times the short list have their weights looked at, those of the best words first."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A folder of adapters, given in place of a list.

    Parameters
    ----------
    folder : ``.safetensors`` files and PEFT folders in it, at any depth.
    prompt : what the words of the adapters are compared with.  Empty: words decide nothing.
    short : adapters on the short list, at least 1: those that every step tries.
    hold : adapters whose weights are in the denoisers at a time, at least 1.  Others wait in
        temporary files, and the one that was not used for longest makes room.
    weight : of every delta.
    alike : absolute cosine from which the weaker of two adapters is a copy, (0, 1].
    """

    folder: StrPath
    prompt: str = ""
    short: int = 8
    hold: int = 4
    weight: float = 1.0
    alike: float = 0.9

    def __post_init__(self) -> None:
        check_count("pool", "short", self.short)
        check_count("pool", "hold", self.hold)
        check_number("pool", "weight", self.weight, low=-math.inf)
        check_number("pool", "alike", self.alike, above=True, high=1)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One adapter of a pool.

    Attributes
    ----------
    path : file or folder.
    name : for reports.
    relevance : of its words for the prompt, at least 0; see `relevances`.
    norm : Frobenius norm of all its deltas; None: not looked at.
    left_out : why it is not on the short list; empty: it is.
    """

    path: Path
    name: str
    relevance: float = 0.0
    norm: float | None = None
    left_out: str = ""

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "path": str(self.path), "name": self.name, "relevance": self.relevance,
            "norm": self.norm, "left_out": self.left_out or None,
        }  # fmt: skip


@dataclass(slots=True)
class _Entry:
    """A candidate and its adapter, as far as it could be opened."""

    candidate: Candidate
    adapter: Adapter | None = None
    words: Mapping[str, float] = field(default_factory=dict)

    def leave(self, why: str) -> None:
        self.candidate = replace(self.candidate, left_out=why)

    @property
    def stays(self) -> bool:
        return not self.candidate.left_out


def short_list(
    pool: Pool, keys: Mapping[str, tuple[int, ...]], architecture: str | None = None
) -> tuple[Candidate, ...]:
    """Who of a pool takes part.

    Parameters
    ----------
    keys : shapes of the weights of the pipeline's denoisers by canonical key.
    architecture : see `loramix.load`.

    Returns
    -------
    All of the pool: the short list first, best first; then the others with the reason.

    Raises
    ------
    ParamError : no folder, or nothing in it that the pipeline has layers for.

    Notes
    -----
    Cost: the headers of all files; inner products (see `loramix.analysis.passing.products`) of
    three times as many adapters as the short list has places.
    """
    entries = [_opened(path, keys, architecture) for path in files_of(pool.folder)]
    fitting = [one for one in entries if one.stays]
    if not fitting:
        why = "; ".join(f"{one.candidate.name}: {one.candidate.left_out}" for one in entries[:3])
        message = f"{pool.folder}: no adapter for this pipeline among {len(entries)}: {why}"
        raise ParamError(message)
    scores = relevances(pool.prompt, [one.words for one in fitting])
    for one, score in zip(fitting, scores, strict=True):
        one.candidate = replace(one.candidate, relevance=score)
    fitting.sort(key=lambda one: -one.candidate.relevance)
    _by_weights(fitting[: _LOOKED * pool.short], pool)
    for one in fitting[_LOOKED * pool.short :]:
        one.leave("its words say less of the prompt than those of others")
    order = sorted(entries, key=_place)
    return tuple(one.candidate for one in order)


def files_of(folder: StrPath) -> tuple[Path, ...]:
    """The adapters in a folder by name: files, and PEFT folders.

    Raises
    ------
    ParamError : no folder, or none in it.
    """
    root = Path(folder)
    if not root.is_dir():
        message = f"{folder}: a pool is a folder with adapters; this is none"
        raise ParamError(message)
    visible = [
        path
        for path in sorted(root.rglob("*.safetensors"))
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    found = [p.parent if (p.parent / "adapter_config.json").exists() else p for p in visible]
    if not found:
        message = f"{folder}: no .safetensors file in it"
        raise ParamError(message)
    return tuple(dict.fromkeys(found))


def relevances(prompt: str, words: Sequence[Mapping[str, float]]) -> tuple[float, ...]:
    """How much adapters have to say about a prompt.

    ``sum over the words v of the prompt: own[i, v] ln(1 + n / n_v)`` with n_v the adapters that
    have the word: what all have tells nothing apart.

    Parameters
    ----------
    words : for every adapter its words, in lower case, with a number in (0, 1] each; see
        `words_of`.
    """
    asked = set(_split(prompt))
    common = {word: sum(word in own for own in words) for word in asked}
    return tuple(
        math.fsum(
            own[word] * math.log1p(len(words) / common[word]) for word in sorted(asked & own.keys())
        )
        for own in words
    )


def words_of(name: str, strings: Mapping[str, str]) -> dict[str, float]:
    """Words of an adapter: 1 for those of its name, title and triggers; tags by their share.

    Parameters
    ----------
    strings : of its header.
    """
    said = trained.own(strings)
    found = _tags(strings.get(trained.TAGS, ""))
    for text in (name, said.get("title", ""), said.get("trigger", "")):
        found |= dict.fromkeys(_split(text), 1.0)
    return found


def _split(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _tags(text: str) -> dict[str, float]:
    """Words of a table of tags by dataset, as shares of the most frequent one."""
    try:
        table = json.loads(text) if text else {}
    except ValueError:
        return {}  # a stranger's string
    counts: dict[str, float] = {}
    for tags in table.values() if isinstance(table, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            for word in _split(str(tag)):
                if isinstance(count, int | float) and count > 0:
                    counts[word] = counts.get(word, 0.0) + count
    top = max(counts.values(), default=1.0)
    return {word: count / top for word, count in counts.items()}


def _opened(path: Path, keys: Mapping[str, tuple[int, ...]], architecture: str | None) -> _Entry:
    """One of the pool; what cannot be read, or is for another model, says so."""
    name = path.stem if path.is_file() else path.name
    entry = _Entry(Candidate(path, name))
    try:
        file = find(path).file if path.is_file() else path
        adapter = loading.load(file, architecture=architecture)
    except (LoramixError, OSError) as error:
        entry.leave(f"it cannot be read: {error}")
        return entry
    if not any(keys.get(target.key) == target.shape for target in adapter.targets):
        entry.leave("it has no layer of this pipeline's denoiser")
        return entry
    entry.adapter, entry.words = adapter, words_of(name, adapter.metadata)
    return entry


def _by_weights(entries: list[_Entry], pool: Pool) -> None:
    """Fill the short list: words first, then strength; what does nothing or is a copy leaves."""
    norms, cosines = _measured([one.adapter for one in entries if one.adapter is not None])
    for one, norm in zip(entries, norms, strict=True):
        one.candidate = replace(one.candidate, norm=norm)
    order = sorted(range(len(entries)), key=lambda i: (-entries[i].candidate.relevance, -norms[i]))
    taken: list[int] = []
    for i in order:
        copies = [(j, c) for j in taken if abs(c := cosines[min(i, j), max(i, j)]) >= pool.alike]
        if norms[i] == 0:
            entries[i].leave("all its deltas are zero")
        elif copies:
            other, cosine = copies[0]
            entries[i].leave(f"cosine {cosine:.3f} with {entries[other].candidate.name}")
        elif len(taken) == pool.short:
            entries[i].leave(f"the short list has {pool.short} places")
        else:
            taken.append(i)
    if not taken:
        message = f"{pool.folder}: all deltas of its adapters are zero"
        raise ParamError(message)


def _measured(stack: Sequence[Adapter]) -> tuple[list[float], dict[tuple[int, int], float]]:
    """Norms of adapters, and cosines of pairs, exactly.

    Raises
    ------
    ParamError : adapters of several models.
    """
    try:
        aligned = groups.align(stack, split=True)
    except FormatError as error:
        message = f"adapters of the pool do not go together: {error}"
        raise ParamError(message) from error
    analysis = passing.products(aligned, stack, backend_of("rust"))
    meetings = pooling.Meetings.of(analysis.groups, pooling.weights_of(analysis), len(stack))
    cosines = {(p.first, p.second): p.cosine or 0.0 for p in meetings.pool()}
    return [math.sqrt(energy) for energy in meetings.energy()], cosines


def _place(entry: _Entry) -> tuple[bool, float, float, str]:
    one = entry.candidate
    return (not entry.stays, -one.relevance, -(one.norm or 0.0), str(one.path))
