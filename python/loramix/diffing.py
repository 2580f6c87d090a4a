"""What differs between two adapters: deltas first, then how they are written down."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np

from loramix import _core
from loramix.backends import backend_of
from loramix.batching import READ_BYTES, batches, bytes_of
from loramix.errors import ParamError
from loramix.groups import align
from loramix.opening import open_all
from loramix.refusals import with_names
from loramix.types import Adapter, Group, StrPath

Verdict: TypeAlias = Literal["same", "rounding", "factor", "factors", "different"]
Sizes: TypeAlias = tuple[float, float]

FLOOR = 4e-6
"""Relative difference below which deltas are equal: that of products in f32."""
# Both factors are rounded, by half a unit in the last place at most.
_ROUNDING: Mapping[str, float] = {
    "F64": 2.0**-52, "F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7,
    "F8_E4M3": 2.0**-3, "F8_E5M2": 2.0**-2,
}  # fmt: skip
_TILE = 1 << 20
"""Entries that are multiplied out at a time, where factors are as large as the weight."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two deltas of one target, or of all targets together.

    Attributes
    ----------
    norms : Frobenius norms of the first and the second.
    difference : ``|first - second|`` over the larger norm, [0, 2]; 0 where both are zero.
    cosine : of the angle between them, [-1, 1]; None where one is zero.
    ratio : the number c for which ``c * second`` is next to the first; None where one is zero.
    apart : ``|first - c * second| / |first|``, [0, 1]: what no factor explains; 1 where one is
        zero and the other is not.
    """

    norms: Sizes
    difference: float
    cosine: float | None
    ratio: float | None
    apart: float


@dataclass(frozen=True, slots=True)
class TargetPair:
    """One target that both adapters change.

    Attributes
    ----------
    target : its key.
    ranks : of the first and the second.
    scales : likewise, alpha / rank.
    """

    target: str
    ranks: tuple[int, int]
    scales: Sizes
    pair: Pair


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two adapters.

    Attributes
    ----------
    names, paths : of the first and the second.
    verdict : ``same``: equal deltas; ``rounding``: equal within the tolerance; ``factor``: one is
        the other times a number; ``factors``: likewise, with another number for each target;
        ``different``.
    sentence : the verdict in words.
    tolerance : largest relative difference of a target that counts as rounding.
    total : all targets together; those that one adapter lacks are zero there.
    targets : those that both change, the most different first.
    only : keys of those that only the first, only the second changes by more than zero.
    facts : what else differs, by name: architecture, dialect, dtypes, ranks.
    metadata : strings of the headers that differ; None where one has none of that name.
    """

    names: tuple[str, str]
    paths: tuple[str | None, str | None]
    verdict: Verdict
    sentence: str
    tolerance: float
    total: Pair
    targets: tuple[TargetPair, ...] = field(repr=False)
    only: tuple[tuple[str, ...], tuple[str, ...]]
    facts: Mapping[str, tuple[str, str]]
    metadata: Mapping[str, tuple[str | None, str | None]] = field(repr=False)

    @property
    def same(self) -> bool:
        """Whether the deltas are equal within the tolerance, however they are written down."""
        return self.verdict in ("same", "rounding")

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        plain = replace(self, facts=dict(self.facts), metadata=dict(self.metadata))
        return {**asdict(plain), "same": self.same}


def diff(
    first: StrPath | Adapter,
    second: StrPath | Adapter,
    *,
    tolerance: float | None = None,
    threads: int | None = None,
    architecture: str | None = None,
    skip: Sequence[str] = (),
) -> Difference:
    """Compare two adapters by what they do, whatever their dialects and types.

    Parameters
    ----------
    first, second : files, folders or loaded adapters.
    tolerance : relative difference of a target, [0, 2], up to which it is the same; default: what
        rounding to the narrower of the types of the two files takes.
    threads : default all cores.
    architecture, skip : see `load`; for both, where they are paths.

    Raises
    ------
    ParamError : a tolerance out of its range.
    FormatError, ShapeError, OSError : see `load`; names of an unknown model in two dialects
        cannot be compared.

    Notes
    -----
    Exact: no random vectors, no differences of large numbers.  Cost: one read of both files,
    2 (rows + cols) R^2 flops in f64 and O(R^3) for each target, R the sum of both ranks; targets
    whose factors are as large as the weight are multiplied out instead, tile by tile.

    Examples
    --------
    >>> import loramix
    >>> loramix.diff("mine.safetensors", "converted.safetensors").sentence  # doctest: +SKIP
    'the same deltas'
    """
    if tolerance is not None and not 0 <= tolerance <= 2:
        message = f"tolerance = {tolerance}: allowed is [0, 2]"
        raise ParamError(message)
    a, b = open_all([first, second], architecture=architecture, skip=skip)
    sums, targets, only = _compare(a, b, threads)
    limit = _tolerance(a, b) if tolerance is None else tolerance
    total = _pair(*np.sum(sums, axis=0).tolist())
    verdict, sentence = _judge((a, b), total, targets, only, limit, given=tolerance is not None)
    return Difference(
        names=(a.name, b.name),
        paths=(_path(a), _path(b)),
        verdict=verdict,
        sentence=sentence,
        tolerance=limit,
        total=total,
        targets=tuple(sorted(targets, key=lambda one: (-one.pair.difference, one.target))),
        only=only,
        facts=MappingProxyType(_facts(a, b)),
        metadata=MappingProxyType(_metadata(a, b)),
    )


Squares: TypeAlias = tuple[float, float, float, float]
"""|a|^2, |b|^2, <a, b>, |a - b|^2."""
Only: TypeAlias = tuple[tuple[str, ...], tuple[str, ...]]


def _compare(
    a: Adapter, b: Adapter, threads: int | None
) -> tuple[list[Squares], list[TargetPair], Only]:
    """All groups: their squares, what is known of shared ones, and keys of the others."""
    groups = _groups(a, b)
    sums: list[Squares] = []
    targets: list[TargetPair] = []
    only: tuple[list[str], list[str]] = ([], [])
    for group, squares in zip(groups, _squares(groups, (a, b), threads), strict=True):
        sums.append(squares)
        if len(group.owners) == 2:
            x, y = group.members
            targets.append(
                TargetPair(group.target.key, (x.rank, y.rank), (x.scale, y.scale), _pair(*squares))
            )
        elif max(squares) > 0:  # a delta of zero is as good as none
            only[group.owners[0]].append(group.target.key)
    return sums, targets, (tuple(only[0]), tuple(only[1]))


def _groups(a: Adapter, b: Adapter) -> list[Group]:
    """Targets side by side; what has two shapes, or two base models, has no counterpart."""
    if a.architecture and b.architecture and a.architecture != b.architecture:
        return [*align([a], split=False), *(_second(g) for g in align([b], split=False))]
    shapes = {target.key: target.shape for target in b}
    clash = {t.key for t in a if shapes.get(t.key, t.shape) != t.shape}
    alike = [_without(one, clash) for one in (a, b)]
    others = [_without(one, {t.key for t in one} - clash) for one in (a, b)]
    return [
        *align(alike, split=False),
        *align(others[:1], split=False),
        *(_second(group) for group in align(others[1:], split=False)),
    ]


def _without(adapter: Adapter, keys: set[str]) -> Adapter:
    left = {target: f for target, f in adapter.targets.items() if target.key not in keys}
    return replace(adapter, targets=MappingProxyType(left))


def _second(group: Group) -> Group:
    return replace(group, owners=(1,))


def _squares(
    groups: Sequence[Group], adapters: Sequence[Adapter], threads: int | None
) -> list[Squares]:
    found: list[Squares] = []
    for dense, alike in groupby(groups, key=_is_large):
        for batch in batches(alike, bytes_of, READ_BYTES):
            work = _by_entries if dense else _in_bases
            found += with_names(batch, partial(work, batch, threads))
            for adapter in adapters:
                adapter.source.release()
    return found


def _is_large(group: Group) -> bool:
    """Whether joint bases would be no smaller than the weight."""
    rank = sum(member.rank for member in group.members)
    return rank >= min(group.target.rows, group.target.cols)


def _in_bases(batch: Sequence[Group], threads: int | None) -> list[Squares]:
    weights = [np.ones(len(group.members)) for group in batch]
    bases = backend_of("rust").cores([group.raw() for group in batch], weights, threads=threads)
    found = []
    for group, one in zip(batch, bases, strict=True):
        cores = dict(zip(group.owners, one.cores, strict=True))
        nothing = np.zeros(one.cores.shape[1:])
        x, y = cores.get(0, nothing), cores.get(1, nothing)
        gap = x - y
        sums = ((x * x).sum(), (y * y).sum(), (x * y).sum(), (gap * gap).sum())
        found.append(_floats(*map(float, sums)))
    return found


def _by_entries(batch: Sequence[Group], threads: int | None) -> list[Squares]:
    return [_multiplied_out(group, threads) for group in batch]


def _multiplied_out(group: Group, threads: int | None) -> Squares:
    rows, cols = group.target.rows, group.target.cols
    height = max(1, min(rows, _TILE // cols))
    total = np.zeros(4)
    for start in range(0, rows, height):
        stop = min(rows, start + height)
        tiles = [np.zeros((stop - start, cols), dtype=np.float32) for _ in range(2)]
        for owner, member in zip(group.owners, group.members, strict=True):
            raw = (rows, cols, [member.raw()])
            _core.expand(raw, start, stop, tiles[owner], threads=threads)
        x, y = (tile.astype(np.float64) for tile in tiles)
        gap = x - y
        total += ((x * x).sum(), (y * y).sum(), (x * y).sum(), (gap * gap).sum())
    if not np.isfinite(total).all():
        _core.gram([group.raw()], threads=threads)  # which refuses it by name
    return _floats(*total.tolist())


def _floats(a: float, b: float, inner: float, gap: float) -> Squares:
    return a, b, inner, gap


def _pair(a: float, b: float, inner: float, gap: float) -> Pair:
    norms = math.sqrt(a), math.sqrt(b)
    larger = max(norms)
    difference = math.sqrt(gap) / larger if larger > 0 else 0.0
    if min(norms) == 0:
        return Pair(norms, difference, None, None, float(larger > 0))
    cosine = min(1.0, max(-1.0, inner / norms[0] / norms[1]))
    ratio = inner / b
    # |a - c b|^2 = |a - b|^2 - (c - 1)^2 |b|^2: no digits are lost where c is near 1.
    rest = gap - (ratio - 1) ** 2 * b
    return Pair(norms, difference, cosine, ratio, math.sqrt(max(rest, 0.0) / a))


def _tolerance(a: Adapter, b: Adapter) -> float:
    return max(FLOOR, *(_ROUNDING[dtype] for one in (a, b) for dtype in _types(one)))


def _types(adapter: Adapter) -> list[str]:
    found = {t.dtype for factors in adapter.targets.values() for t in factors.stored}
    return sorted(found)


def _judge(
    adapters: tuple[Adapter, Adapter],
    total: Pair,
    targets: Sequence[TargetPair],
    only: Only,
    limit: float,
    *,
    given: bool,
) -> tuple[Verdict, str]:
    """The verdict, and a sentence that says it."""
    a, b = adapters
    if a.architecture and b.architecture and a.architecture != b.architecture:
        return "different", f"for different base models: {a.architecture} and {b.architecture}"
    if any(only) or not targets:
        counts = " and ".join(
            f"{len(keys)} targets only in {'the first' if i == 0 else 'the second'}"
            for i, keys in enumerate(only) if keys
        )  # fmt: skip
        return "different", f"different: {counts or 'no targets in common'}"
    worst = max(one.pair.difference for one in targets)
    if worst <= min(FLOOR, limit):
        return "same", "the same deltas"
    if worst <= limit:
        within = f"within {limit:.2g}" if given else f"up to rounding to {_narrowest(a, b)}"
        return (
            "rounding",
            f"the same deltas {within}; the largest relative difference is {worst:.2g}",
        )
    factors = [one for one in targets if one.pair.norms != (0.0, 0.0)]
    if all(one.pair.apart <= max(limit, FLOOR) for one in factors):
        return _up_to_factors(total, factors, limit)
    far = sum(one.pair.difference > limit for one in targets)
    return "different", (
        f"different: {far} of {len(targets)} targets, {total.difference:.2g} of the norm in all"
    )


def _up_to_factors(total: Pair, targets: Sequence[TargetPair], limit: float) -> tuple[Verdict, str]:
    """Where every target is the other's times a number: one number, or several."""
    ratios = [one.pair.ratio or 0.0 for one in targets]
    by_scale = all(
        math.isclose(one.pair.ratio or 0.0, one.scales[0] / one.scales[1], rel_tol=max(limit, 1e-3))
        for one in targets
        if one.scales[1] != 0
    )
    why = "; their scales (alpha / rank) differ by just that" if by_scale else ""
    ratio = total.ratio or 0.0
    if all(abs(own - ratio) <= max(limit, FLOOR) * abs(ratio) for own in ratios):
        return "factor", f"the same up to a factor: the first is {ratio:.4g} x the second{why}"
    return "factors", (
        f"the same up to factors that differ by target: the first is {min(ratios):.4g} to "
        f"{max(ratios):.4g} x the second{why}"
    )


def _narrowest(a: Adapter, b: Adapter) -> str:
    return max((*_types(a), *_types(b)), key=lambda dtype: _ROUNDING[dtype]).lower()


def _facts(a: Adapter, b: Adapter) -> dict[str, tuple[str, str]]:
    """What is written down differently."""
    each = [
        {
            "architecture": one.architecture or " or ".join(one.candidates) or "unknown",
            "dialect": one.dialect,
            "dtypes": "+".join(_types(one)).lower(),
            "ranks": _ranks(one),
            "targets": str(len(one.targets)),
        }
        for one in (a, b)
    ]
    return {
        name: (each[0][name], each[1][name]) for name in each[0] if each[0][name] != each[1][name]
    }


def _ranks(adapter: Adapter) -> str:
    counts = Counter(factors.rank for factors in adapter.targets.values())
    return ", ".join(f"{rank} ({counts[rank]})" for rank in sorted(counts))


def _metadata(a: Adapter, b: Adapter) -> dict[str, tuple[str | None, str | None]]:
    names = sorted({*a.metadata, *b.metadata})
    pairs = {name: (a.metadata.get(name), b.metadata.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _path(adapter: Adapter) -> str | None:
    return str(adapter.source.path) if adapter.source.path else None
