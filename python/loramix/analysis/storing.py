"""An analysis as JSON text and back: whatever it depends on is stored with it and compared."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from typing import Any, NoReturn

import numpy as np

from loramix._core import VERSION
from loramix.analysis.statistics import (
    Analysis,
    DeltaStatistics,
    GroupStatistics,
    PairStatistics,
)
from loramix.digests import config_digest, digests_of
from loramix.errors import FormatError
from loramix.formats.scales import CONFIG
from loramix.types import Adapter, Target

FORMAT = "loramix analysis"
STATISTICS = 1
"""Version of the file, and of the definitions of what is in it."""

_ORDERS = 64


@dataclass(frozen=True, slots=True)
class Input:
    """One adapter, as it was read.

    Attributes
    ----------
    name : for messages; no part of the key.
    digest : of its file.
    config : sha256 of the PEFT config that its scales are from; empty if there is none.
    architecture : the base model that its names were read as.
    skipped : names of the tensors that were left out.
    base : digest of the model that its deltas are relative to; empty if they are relative to none.
    rslora : whether its scale was taken to be alpha over the root of the rank.
    """

    name: str
    digest: str
    config: str
    architecture: str | None
    skipped: tuple[str, ...]
    base: str = ""
    rslora: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """What an analysis depends on.

    Attributes
    ----------
    inputs : in the order of the stack.
    samples : see `Analysis`.
    version : of the package.
    statistics : version of the statistics.
    """

    inputs: tuple[Input, ...]
    samples: int | None
    version: str = VERSION
    statistics: int = STATISTICS

    @property
    def key(self) -> str:
        """Digest of all of it but the names."""
        plain = asdict(self)
        for one in plain["inputs"]:
            del one["name"]
            for name in ("base", "rslora"):  # most have none
                if not one[name]:
                    del one[name]
        return hashlib.sha256(_text(plain).encode()).hexdigest()


def origin_of(adapters: Sequence[Adapter], samples: int | None) -> Origin:
    """What an analysis of this stack depends on; one read of all files."""
    inputs = (
        Input(
            a.name,
            digest.file,
            config_digest(a.metadata[CONFIG]) if CONFIG in a.metadata else "",
            a.architecture,
            a.coverage.skipped,
            digest.base or "",
            a.reading.rslora,
        )
        for a, digest in zip(adapters, digests_of(adapters), strict=True)
    )
    return Origin(tuple(inputs), samples)


def to_json(analysis: Analysis, origin: Origin) -> str:
    """The text of a file.  Numbers are written so that the same ones are read back."""
    groups = [
        {
            "target": group.target.key,
            "shape": group.target.shape,
            "owners": group.owners,
            "gram": group.gram.ravel().tolist(),
            "deltas": [astuple(delta) for delta in group.deltas],
            "pairs": [astuple(pair) for pair in group.pairs],
        }
        for group in analysis.groups
    ]
    head = {"format": FORMAT, "key": origin.key, "origin": asdict(origin)}
    return _text({**head, "groups": groups}) + "\n"


def from_json(text: str, name: str, expected: Origin) -> Analysis:
    """The analysis in a text.

    Parameters
    ----------
    name : of the file, for messages.
    expected : what it has to depend on.

    Raises
    ------
    FormatError : no such file, or one of other inputs, options or versions.
    """
    plain = _parsed(text, name)
    stored = _origin(plain, name)
    if stored.key != expected.key:
        message = f"{name}: {_difference(stored, expected)}; make it again: loramix analyze"
        raise FormatError(message)
    if plain["key"] != stored.key:
        message = f"{name}: the key is not that of what the file says it depends on: it was edited"
        raise FormatError(message)
    read = _Reader(name)
    groups = (read.group(one, at, len(stored.inputs)) for at, one in enumerate(plain["groups"]))
    return Analysis(tuple(groups), stored.samples, stored.key)


def read_origin(text: str, name: str) -> Origin:
    """What the analysis in a text depends on.

    Raises
    ------
    FormatError : see `from_json`.
    """
    return _origin(_parsed(text, name), name)


def _text(plain: object) -> str:
    return json.dumps(plain, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _parsed(text: str, name: str) -> Mapping[str, Any]:
    try:
        plain = json.loads(text)
    except ValueError as error:
        message = f"{name}: not JSON ({error})"
        raise FormatError(message) from error
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        message = f"{name}: not an analysis of loramix, which begins with the format {FORMAT!r}"
        raise FormatError(message)
    for field, kind in (("key", str), ("origin", dict), ("groups", list)):
        if not isinstance(plain.get(field), kind):
            message = f"{name}: {field} is missing or of the wrong type"
            raise FormatError(message)
    return plain


def _origin(plain: Mapping[str, Any], name: str) -> Origin:
    origin = plain["origin"]
    try:
        inputs = tuple(
            Input(**{**one, "skipped": tuple(one["skipped"])}) for one in origin["inputs"]
        )
        return Origin(**{**origin, "inputs": inputs})
    except (KeyError, TypeError) as error:
        message = f"{name}: the origin of the analysis cannot be read ({error})"
        raise FormatError(message) from error


def _difference(stored: Origin, expected: Origin) -> str:
    """The first thing in which two origins differ, in words."""
    for old, new, what in (
        (stored.statistics, expected.statistics, "statistics version"),
        (stored.version, expected.version, "loramix"),
    ):
        if old != new:
            return f"made by {what} {old}, this is {new}"
    if stored.samples != expected.samples:
        return f"made from {_looked(stored)}, wanted are {_looked(expected)}"
    if len(stored.inputs) != len(expected.inputs):
        return f"made of {len(stored.inputs)} adapters, given are {len(expected.inputs)}"
    digests = [[one.digest for one in origin.inputs] for origin in (stored, expected)]
    if digests[0] != digests[1] and sorted(digests[0]) == sorted(digests[1]):
        return "made of the same adapters in another order"
    pairs = zip(stored.inputs, expected.inputs, strict=True)
    return next(
        f"adapter {place} ({new.name}): {_change(old, new)}"
        for place, (old, new) in enumerate(pairs, 1)
        if replace(old, name="") != replace(new, name="")
    )


def _looked(origin: Origin) -> str:
    return "all entries" if origin.samples is None else f"{origin.samples} samples"


def _change(old: Input, new: Input) -> str:
    if old.digest != new.digest:
        return f"its content is not that of {old.name}, which the analysis was made of"
    if old.config != new.config:
        return f"its {CONFIG} is another one"
    if old.architecture != new.architecture:
        return f"it was read as one for {old.architecture}, now for {new.architecture}"
    if old.base != new.base:
        return "it is relative to another base model now (--base)"
    if old.rslora != new.rslora:
        return f"it was read {'with' if old.rslora else 'without'} --rslora"
    counts = f"{len(old.skipped)} tensors, now without {len(new.skipped)}"
    return f"it was read without {counts}, or others (--skip)"


class _Reader:
    """Groups of one file; refuses what is not as `to_json` writes it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def group(self, plain: object, at: int, adapters: int) -> GroupStatistics:
        names = {"target", "shape", "owners", "gram", "deltas", "pairs"}
        if not isinstance(plain, dict) or plain.keys() != names:
            self._refuse(f"group {at}", f"has not exactly the fields {', '.join(sorted(names))}")
        key = plain["target"]
        where = f"group {at} ({key})"
        if not isinstance(key, str):
            self._refuse(where, "has a target that is no text")
        shape, owners = (self._integers(plain[x], f"{where}: {x}") for x in ("shape", "owners"))
        n = len(owners)
        if len(shape) < 1 or min(shape) < 1:
            self._refuse(where, f"has the shape {list(shape)}")
        if n < 1 or any(not 0 <= owner < adapters for owner in owners):
            self._refuse(where, f"has owners {list(owners)} in a stack of {adapters} adapters")
        gram = self._numbers(plain["gram"], n * n, f"{where}: gram")
        met = [(i, j) for i in range(n) for j in range(i + 1, n)]
        rows = self._rows(plain["deltas"], n, f"{where}: deltas")
        deltas = tuple(self._delta(row, f"{where}: delta {i}") for i, row in enumerate(rows))
        rows = self._rows(plain["pairs"], len(met), f"{where}: pairs")
        pairs = tuple(
            self._pair(row, place, f"{where}: pair {place}")
            for row, place in zip(rows, met, strict=True)
        )
        square = np.array(gram, dtype=np.float64).reshape(n, n)
        return GroupStatistics(Target(key, shape), owners, square, deltas, pairs)

    def _delta(self, row: object, where: str) -> DeltaStatistics:
        count = len(fields(DeltaStatistics))
        if not isinstance(row, list) or len(row) != count:
            self._refuse(where, f"has not {count} parts")
        (rank,) = self._integers(row[:1], where)
        norm, stable, effective, participation, density = self._numbers(row[1:6], 5, where)
        orders = self._numbers(row[6], _ORDERS, where)
        return DeltaStatistics(rank, norm, stable, effective, participation, density, orders)

    def _pair(self, row: object, place: tuple[int, int], where: str) -> PairStatistics:
        count = len(fields(PairStatistics))
        if not isinstance(row, list) or len(row) != count:
            self._refuse(where, f"has not {count} parts")
        whole = self._integers(row[:5], where)
        if whole[:2] != place:
            self._refuse(where, f"is of members {whole[0]} and {whole[1]}")
        return PairStatistics(*whole, *self._numbers(row[5:], count - 5, where))

    def _rows(self, plain: object, count: int, where: str) -> list[object]:
        if not isinstance(plain, list) or len(plain) != count:
            self._refuse(where, f"is no list of {count}")
        return plain

    def _integers(self, plain: object, where: str) -> tuple[int, ...]:
        if not isinstance(plain, list) or any(type(x) is not int or x < 0 for x in plain):
            self._refuse(where, "holds something else than whole numbers")
        return tuple(plain)

    def _numbers(self, plain: object, count: int, where: str) -> tuple[float, ...]:
        if not isinstance(plain, list) or len(plain) != count:
            self._refuse(where, f"is no list of {count} numbers")
        if any(type(x) is not float or not math.isfinite(x) for x in plain):
            self._refuse(where, "holds something else than finite numbers")
        return tuple(plain)

    def _refuse(self, where: str, what: str) -> NoReturn:
        message = f"{self._name}: {where} {what}; make it again: loramix analyze"
        raise FormatError(message)
