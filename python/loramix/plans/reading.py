"""A file becomes a plan again: sources opened and checked, every group found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import cast, get_args

from loramix.adapters import loading
from loramix.analysis.passing import nothing, products
from loramix.analysis.strengths import Strength
from loramix.backends import backend_of
from loramix.backends.base import Backend
from loramix.checkpoints import open_checkpoint
from loramix.digests import Digest
from loramix.errors import ParamError
from loramix.formats.dialects import Dialect
from loramix.groups import align
from loramix.methods import Method, reads_gram
from loramix.planning import stepping
from loramix.planning.output import Output
from loramix.planning.steps import Choice, Plan
from loramix.plans import FORMAT
from loramix.policies.base import Decision, Side, Verdict
from loramix.recipes import choosing
from loramix.recipes.provenance import fingerprint
from loramix.recipes.reading import output, read_table
from loramix.recipes.strict import Table
from loramix.spelling import hint
from loramix.types import Adapter, Base, Group, StrPath, Weight


def load_plan(
    path: StrPath, *, threads: int | None = None, backend: str | Backend | None = None
) -> Plan:
    """Read a plan and open what it names.

    Parameters
    ----------
    backend : default: that of the plan.
    threads : see `loramix.merge`.

    Returns
    -------
    For `execute`; an unchanged file gives what `plan` gave, and the same bytes.

    Raises
    ------
    ParamError, FormatError : not a plan, or an adapter is not the file that the plan was made for,
        or its groups are not those of the plan.
    OSError : a file cannot be read.
    """
    file = Path(path)
    found = read_table(file).make(_Top, _TOP, ("plan", "adapter", "group"))
    if found.plan != FORMAT:
        message = f"{file}: a plan of format {found.plan}; this version reads {FORMAT}"
        raise ParamError(message)
    bases = _Bases()
    stack = [_opened(entry, bases) for entry in found.adapter]
    weights = tuple(entry.numbers("weight") for entry in found.adapter)
    names = [entry.text("name") for entry in found.adapter]
    groups = align(stack, split=found.split)
    rows = _by_target(found.group)
    _refuse_others(file, groups, rows)
    chosen = [_choice(rows[group.target.key], group, names, weights) for group in groups]
    decisions = tuple(choice.decision for choice in chosen)
    verdict = Verdict(decisions, found.strengths, found.notes, found.suggested)
    device = backend_of(backend or found.backend)
    made = planned(
        stack, groups, chosen, device, threads=threads,
        output=found.output, weights=weights, method=found.method, verdict=verdict,
        seed=found.seed, split=found.split,
    )  # fmt: skip
    digests = [
        Digest(entry.text("digest"), entry.text("base_digest") if adapter.base else None)
        for entry, adapter in zip(found.adapter, stack, strict=True)
    ]
    same = found.unchanged and found.unchanged == fingerprint(made, digests)
    return replace(made, portable=found.recipe) if same else made


def planned(
    stack: Sequence[Adapter],
    groups: Sequence[Group],
    chosen: Sequence[Choice],
    device: Backend,
    *,
    threads: int | None,
    output: Output,
    weights: Sequence[Weight],
    method: Mapping[str, object],
    verdict: Verdict,
    seed: int,
    split: bool,
    dialect: Dialect | None = None,
) -> Plan:
    """A plan from choices that were made before; of the sources what the methods look at.

    Parameters
    ----------
    device : what is meant to carry it out.
    others : see `loramix.planning.stepping.plan`.
    """
    if any(reads_gram(choice.decision.method) for choice in chosen):
        analysis = products(groups, stack, device, threads=threads)
    else:
        analysis = nothing(groups)
    return stepping.plan(
        stack,
        groups,
        analysis,
        chosen,
        output,
        weights=weights,
        method=method,
        verdict=verdict,
        seed=seed,
        split=split,
        backend=device.name,
        dialect=dialect,
    )


@dataclass(frozen=True, slots=True)
class _Top:
    """What stands at the top of the file."""

    plan: int
    adapter: tuple[Table, ...]
    group: tuple[Table, ...]
    version: str = ""
    seed: int = 0
    split: bool = True
    backend: str = "rust"
    method: Mapping[str, object] = field(default_factory=dict)
    output: Output = field(default_factory=Output)
    strengths: Mapping[str, Strength] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    suggested: float | None = None
    recipe: str = ""
    unchanged: str = ""


@dataclass(frozen=True, slots=True)
class _Adapter:
    name: str
    path: Path
    digest: str
    weight: Weight
    architecture: str | None = None
    skip: tuple[str, ...] = ()
    rslora: bool = False
    base: Path | None = None
    base_digest: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    """A group; what was found is carried along for reports."""

    target: str
    members: tuple[str, ...]
    method: Method
    weights: object
    asked: object = None
    sides: tuple[str, ...] = ()
    published_sides: bool = False
    rank: int | None = None
    regime: str = ""
    why: str = ""
    numbers: object = field(default_factory=dict)
    made: object = None


def _strengths(table: Table, key: str) -> dict[str, Strength]:
    inner = table.table(key)
    readers = {f.name: Table.number for f in fields(Strength)}
    return {
        branch: inner.table(branch).make(Strength, readers, tuple(readers))
        for branch in inner.values
    }


def _as_it_is(table: Table, key: str) -> object:
    return table.values[key]


_TOP = {
    "plan": Table.integer, "version": Table.text, "seed": Table.integer, "split": Table.truth,
    "backend": Table.text,
    "method": lambda table, key: dict(table.table(key).values), "output": output,
    "strengths": _strengths, "notes": Table.texts, "suggested": Table.number,
    "recipe": Table.text, "unchanged": Table.text,
    "adapter": Table.tables, "group": Table.tables,
}  # fmt: skip
_ADAPTER = {
    "name": Table.text, "path": Table.path, "digest": Table.text, "weight": Table.numbers,
    "architecture": Table.text, "skip": Table.texts, "rslora": Table.truth,
    "base": Table.path, "base_digest": Table.text,
}  # fmt: skip
_GROUP = {
    "target": Table.text, "members": Table.texts, "method": choosing.method,
    "weights": _as_it_is, "asked": _as_it_is, "sides": Table.texts,
    "published_sides": Table.truth, "rank": Table.integer,
    "regime": Table.text, "why": Table.text, "numbers": _as_it_is, "made": _as_it_is,
}  # fmt: skip


class _Bases:
    """The base models of a plan, each opened, and read for its digest, once."""

    def __init__(self) -> None:
        self._there: dict[Path, tuple[Base, str]] = {}

    def checked(self, path: Path, digest: str, where: str) -> Base:
        """A base model, if it is the one that the plan was made for."""
        if path not in self._there:
            opened = open_checkpoint(path)
            self._there[path] = opened, opened.digest()
        model, found = self._there[path]
        if found != digest:
            message = (
                f"{where}: {path} is not the base model that the plan was made for (its digest "
                "differs): make the plan again"
            )
            raise ParamError(message)
        return model


def _opened(entry: Table, bases: _Bases) -> Adapter:
    found = entry.make(_Adapter, _ADAPTER, ("name", "path", "digest", "weight"))
    base: Base | None = None
    if found.base is not None:
        base = bases.checked(found.base, found.base_digest, entry.where)
    adapter = loading.load(
        found.path, name=found.name, architecture=found.architecture, skip=found.skip,
        base=base, rslora=found.rslora,
    )  # fmt: skip
    if adapter.source.digest() != found.digest:
        message = (
            f"{entry.where}: {found.path} is not the file that the plan was made for (its digest "
            "differs): make the plan again"
        )
        raise ParamError(message)
    return adapter


def _by_target(rows: Sequence[Table]) -> dict[str, Table]:
    found: dict[str, Table] = {}
    for row in rows:
        key = row.text("target") if "target" in row.values else ""
        if key in found:
            message = f"{row.where}: {key} is there twice"
            raise ParamError(message)
        found[key] = row
    return found


def _refuse_others(file: Path, groups: Sequence[Group], rows: Mapping[str, Table]) -> None:
    keys = {group.target.key for group in groups}
    for key in sorted(rows.keys() - keys):
        message = f"{file}: group {key}: no adapter has this target{hint(key, keys)}"
        raise ParamError(message)
    for key in sorted(keys - rows.keys()):
        message = f"{file}: there is no group {key}, which the adapters have: every group is needed"
        raise ParamError(message)


def _choice(row: Table, group: Group, names: Sequence[str], weights: Sequence[Weight]) -> Choice:
    found = row.make(_Row, _GROUP, ("target", "members", "method", "weights"))
    own = tuple(names[owner] for owner in group.owners)
    if found.members != own:
        allowed = f"the adapters that have it: {', '.join(own)}; weight 0 leaves one out"
        row.refuse("members", allowed)
    each = numbers_of(row, "weights", found.weights, len(own))
    if found.sides and (len(found.sides) != len(own) or not set(found.sides) <= SIDES):
        row.refuse("sides", f"one of {', '.join(sorted(SIDES))} for each member")
    if found.rank is not None and found.rank < 1:
        row.refuse("rank", "at least 1")
    numbers = cast("Mapping[str, float]", found.numbers)
    sides = cast("tuple[Side, ...]", found.sides)
    decision = Decision(
        found.method, each, found.regime, found.why, numbers, sides, found.published_sides
    )
    if found.asked is None:
        (asked,) = stepping.asked([group], weights)
    else:
        asked = numbers_of(row, "asked", found.asked, len(own))
    return Choice(group.target, group.owners, asked, decision, found.rank)


def numbers_of(row: Table, key: str, values: object, count: int) -> tuple[float, ...]:
    """Numbers, one for each member of a group."""
    if not isinstance(values, list) or len(values) != count:
        row.refuse(key, f"{count} numbers, one for each member")
    return tuple(Table({key: value}, row.where).number(key) for value in values)


SIDES: frozenset[str] = frozenset(get_args(Side))
