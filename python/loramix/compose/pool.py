"""A folder of adapters, and which of them are worth a forward: the short list.

Names, words that trainers wrote and what the prompt says decide first; then, from the weights,
adapters that do nothing and near-copies of better ones leave.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from loramix import groups
from loramix.adapters import loading
from loramix.analysis import passing, pooling
from loramix.backends import backend_of
from loramix.compose.fitting import Shapes, fit_of
from loramix.compose.functional.checks import check_count, check_number, number_of
from loramix.compose.labels import labels_of
from loramix.compose.wording import fitted
from loramix.compose.words import relevances, words_of
from loramix.errors import LoramixError, ParamError
from loramix.finding import find, plain_name
from loramix.types import Adapter, StrPath

_LOOKED = 3
"""So many times the short list have their weights looked at, those of the best words first."""


_Cosines: TypeAlias = Mapping[tuple[int, int], float]
"""By the numbers of both, the lower one first."""


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
        if not isinstance(self.folder, str | PathLike):
            message = f"pool: folder = {self.folder!r}: give the path of a folder"
            raise ParamError(message)
        if not isinstance(self.prompt, str):
            message = f"pool: prompt = {self.prompt!r}: give a text; empty, words decide nothing"
            raise ParamError(message)
        check_count("pool", "short", self.short)
        check_count("pool", "hold", self.hold)
        object.__setattr__(self, "weight", number_of(self.weight))
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
    fits : whether it could be: False for what is broken, no adapter, or for another model.
    """

    path: Path
    name: str
    relevance: float = 0.0
    norm: float | None = None
    left_out: str = ""
    fits: bool = True

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {
            "path": str(self.path), "name": self.name, "relevance": self.relevance,
            "norm": self.norm, "left_out": self.left_out or None,
            "fits": self.fits,
        }  # fmt: skip


@dataclass(slots=True)
class _Entry:
    """A candidate and its adapter, as far as it could be opened."""

    candidate: Candidate
    adapter: Adapter | None = None
    words: Mapping[str, float] = field(default_factory=dict)

    def leave(self, why: str, *, fits: bool = True) -> None:
        self.candidate = replace(self.candidate, left_out=why, fits=fits)

    @property
    def stays(self) -> bool:
        return not self.candidate.left_out


def short_list(
    pool: Pool,
    shapes: Shapes,
    enter: Callable[[Candidate], str],
    architecture: str | None = None,
) -> tuple[Candidate, ...]:
    """Who of a pool takes part.

    Parameters
    ----------
    shapes : of the weights of the pipeline's denoisers.
    enter : loads an adapter that has a place, best first; says why that is not possible, so that
        another one has the place, or nothing.
    architecture : see `loramix.load`.

    Returns
    -------
    All of the pool: the short list first, best first; then the others with the reason.

    Raises
    ------
    ParamError : no folder, or nothing in it that can take part.

    Notes
    -----
    Cost: the headers of all files; inner products (see `loramix.analysis.passing.products`) of
    three times as many adapters as the short list has places, and of as many again while places
    are empty.
    """
    paths = files_of(pool.folder)
    labels = labels_of([path.relative_to(pool.folder) for path in paths])
    entries = [
        _opened(Candidate(path, label), shapes, architecture)
        for path, label in zip(paths, labels, strict=True)
    ]
    fitting = [one for one in entries if one.stays]
    scores = relevances(pool.prompt, [one.words for one in fitting])
    for one, score in zip(fitting, scores, strict=True):
        one.candidate = replace(one.candidate, relevance=score)
    fitting.sort(key=lambda one: -one.candidate.relevance)
    taken: list[_Entry] = []
    while fitting and len(taken) < pool.short:
        looked, fitting = fitting[: _LOOKED * pool.short], fitting[_LOOKED * pool.short :]
        _by_weights(looked, taken, pool, enter)
    if not taken:
        why = "; ".join(f"{one.candidate.name}: {one.candidate.left_out}" for one in entries[:3])
        message = f"{pool.folder}: no adapter for this pipeline among {len(entries)}: {why}"
        raise ParamError(message)
    for one in fitting:
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


def _opened(candidate: Candidate, shapes: Shapes, architecture: str | None) -> _Entry:
    """One of the pool; what cannot be read, or is for another model, says so."""
    entry, path = _Entry(candidate), candidate.path
    try:
        file = find(path).file if path.is_file() else path
        adapter = loading.load(file, architecture=architecture)
    except (LoramixError, OSError) as error:
        entry.leave(f"it cannot be read: {fitted(str(error))}", fits=False)
        return entry
    fit = fit_of(adapter, shapes)
    if misfit := fit.misfit("this pipeline's denoiser"):
        entry.leave(misfit, fits=False)
        return entry
    entry.words = words_of(plain_name(path), adapter.metadata)
    inside = {new: adapter.targets[old] for old, new in fit.there.items()}
    entry.adapter = replace(adapter, targets=MappingProxyType(inside))
    return entry


def _by_weights(
    looked: list[_Entry], taken: list[_Entry], pool: Pool, enter: Callable[[Candidate], str]
) -> None:
    """Take some more: words first, then strength; what is bad, does nothing or is a copy leaves.

    Parameters
    ----------
    looked : of the same words or fewer than those that are taken.
    """
    sound, norms, cosines = _sound(taken, looked)
    numbers = {id(one): i for i, one in enumerate([*taken, *sound])}
    for one in sound:
        one.candidate = replace(one.candidate, norm=norms[numbers[id(one)]])
    for one in sorted(sound, key=_place):
        i = numbers[id(one)]
        places = ((other, sorted((i, numbers[id(other)]))) for other in taken)
        near = [(other, cosines[first, second]) for other, (first, second) in places]
        copies = [(other, cosine) for other, cosine in near if abs(cosine) >= pool.alike]
        if norms[i] == 0:
            one.leave("all its deltas are zero")
        elif copies:
            other, cosine = copies[0]
            one.leave(f"cosine {cosine:.3f} with {other.candidate.name}")
        elif len(taken) == pool.short:
            one.leave(f"the short list has {pool.short} places")
        elif why := enter(one.candidate):
            one.leave(why, fits=False)
        else:
            taken.append(one)


def _sound(
    taken: Sequence[_Entry], looked: Sequence[_Entry]
) -> tuple[Sequence[_Entry], list[float], _Cosines]:
    """Those whose weights are numbers, measured with those that are taken; the others say so."""
    try:
        return looked, *_measured([*taken, *looked])
    except LoramixError:
        sound = [one for one in looked if _is_sound(one)]
        return sound, *_measured([*taken, *sound])


def _is_sound(entry: _Entry) -> bool:
    try:
        _measured([entry])
    except LoramixError as error:
        entry.leave(f"it cannot be used: {error}", fits=False)
    return entry.stays


def _measured(entries: Sequence[_Entry]) -> tuple[list[float], _Cosines]:
    """Norms of adapters, and cosines of pairs, exactly.

    Raises
    ------
    FormatError : NaN or infinity in one of them.
    """
    stack = [one.adapter for one in entries if one.adapter is not None]
    if groups.agreed(stack) is None:
        # Part of a model can look like that of another one; here names and sizes fit.
        stack = [replace(one, architecture=None, candidates=()) for one in stack]
    aligned = groups.align(stack, split=True)
    analysis = passing.products(aligned, stack, backend_of("rust"))
    meetings = pooling.Meetings.of(analysis.groups, pooling.weights_of(analysis), len(stack))
    cosines = {(p.first, p.second): p.cosine or 0.0 for p in meetings.pool()}
    return [math.sqrt(energy) for energy in meetings.energy()], cosines


def _place(entry: _Entry) -> tuple[bool, float, float, Path]:
    """Order of the list: words, strength; then by name."""
    one = entry.candidate
    return (not entry.stays, -one.relevance, -(one.norm or 0.0), one.path)
