"""What differs between two adapters: deltas first, then how they are written down."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType

import numpy as np

from loramix.arguments import check_threads
from loramix.diffing.judging import Verdict, judge, tolerance_of, types_of
from loramix.diffing.measuring import Pair, TargetPair, compare, pair_of
from loramix.diffing.telling import Value, fields_of
from loramix.errors import ParamError
from loramix.opening import open_all
from loramix.types import Adapter, Base, StrPath


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
    fields : of those that are JSON objects in both the fields that differ, by name of the string,
        see `loramix.diffing.telling.fields_of`.
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
    fields: Mapping[str, Mapping[str, Value]] = field(default_factory=dict, repr=False)

    @property
    def same(self) -> bool:
        """Whether the deltas are equal within the tolerance, however they are written down."""
        return self.verdict in ("same", "rounding")

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        plain = replace(
            self,
            facts=dict(self.facts),
            metadata=dict(self.metadata),
            fields={name: dict(own) for name, own in self.fields.items()},
        )
        return {**asdict(plain), "same": self.same}


def diff(
    first: StrPath | Adapter,
    second: StrPath | Adapter,
    *,
    tolerance: float | None = None,
    threads: int | None = None,
    architecture: str | None = None,
    skip: Sequence[str] = (),
    base: Base | StrPath | None = None,
    rslora: bool = False,
) -> Difference:
    """Compare two adapters by what they do, whatever their dialects and types.

    Parameters
    ----------
    first, second : files, folders or loaded adapters.
    tolerance : relative difference of a target, [0, 2], up to which it is the same; default: what
        rounding to the narrower of the types of the two files takes.
    threads : default all cores.
    architecture, skip, base, rslora : see `load`; for both, where they are paths.

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
    check_threads(threads)
    if tolerance is not None and not 0 <= tolerance <= 2:
        message = f"tolerance = {tolerance}: allowed is [0, 2]"
        raise ParamError(message)
    a, b = open_all([first, second], architecture=architecture, skip=skip, base=base, rslora=rslora)
    sums, targets, only = compare(a, b, threads)
    limit = tolerance_of(a, b) if tolerance is None else tolerance
    strings = _metadata(a, b)
    told = {name: fields_of(*pair) for name, pair in strings.items()}
    total = pair_of(*np.sum(sums, axis=0).tolist())
    verdict, sentence = judge((a, b), total, targets, only, limit, given=tolerance is not None)
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
        metadata=MappingProxyType(strings),
        fields=MappingProxyType({name: own for name, own in told.items() if own is not None}),
    )


def _facts(a: Adapter, b: Adapter) -> dict[str, tuple[str, str]]:
    """What is written down differently."""
    each = [
        {
            "architecture": one.architecture or " or ".join(one.candidates) or "unknown",
            "dialect": one.dialect,
            "dtypes": "+".join(types_of(one)).lower(),
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
