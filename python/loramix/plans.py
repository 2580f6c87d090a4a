"""Plans as files: everything that was decided, to read, to edit, and to carry out later."""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast, get_args

from loramix import __version__, adapters, placing, planning
from loramix.analysis.passing import nothing, products
from loramix.analysis.strengths import Strength
from loramix.backends import backend_of
from loramix.backends.base import Backend
from loramix.errors import FormatError, ParamError
from loramix.formats import scales
from loramix.groups import align
from loramix.methods import reads_gram
from loramix.output import Output
from loramix.policies.base import Decision, Side, Verdict
from loramix.recipes import choosing, spelling
from loramix.recipes.nearest import hint
from loramix.recipes.strict import Table
from loramix.steps import Choice, Plan, Step
from loramix.types import Adapter, Group, StrPath, Weight

FORMAT = 1
_HEAD = """\
# A plan of loramix {version}: what will be done with every group of weights, and why.
#   loramix merge --plan {name} -o OUT.safetensors
# does exactly this.  Change method, weights, sides and rank of a group, [output] and seed as you
# like; regime, why, numbers and made say what was found, and are not read.
"""


def save_plan(plan: Plan, path: StrPath) -> Path:
    """Write a plan as TOML, or as JSON if the name ends in ``.json``.

    Parameters
    ----------
    path : its folder must exist; a file that is there is replaced, at once and as a whole.

    Raises
    ------
    ParamError : an adapter of the plan has no file, or a method has no name.
    OSError : the file cannot be written.
    """
    target = Path(path)
    tables = as_tables(plan, target.parent)
    if target.suffix == ".json":
        text = json.dumps(tables, indent=1) + "\n"
    else:
        head = _HEAD.format(version=__version__, name=target.name)
        text = f"{head}\n{spelling.document(tables)}"
    placing.write_text(target, text)
    return target


def as_tables(plan: Plan, folder: Path = Path()) -> dict[str, object]:
    """A plan as plain data.

    Parameters
    ----------
    folder : where the file will be; sources in it or below are named from there.
    """
    names = _names(plan.adapters)
    steps = _steps_of(plan)
    found: dict[str, object] = {
        "plan": FORMAT,
        "version": __version__,
        "seed": plan.seed,
        "split": plan.split,
        "method": _plain(plan.method),
        "output": _given(plan.output),
        "strengths": {branch: asdict(one) for branch, one in plan.strengths.items()},
        "notes": list(plan.notes),
        "adapter": [
            _adapter(one, name, weight, folder)
            for one, name, weight in zip(plan.adapters, names, plan.weights, strict=True)
        ],
        "group": [_group(choice, names, steps, plan) for choice in plan.choices],
    }
    if plan.suggested is not None:
        found["suggested"] = plan.suggested
    return {key: value for key, value in found.items() if value not in ({}, [])}


def _plain(value: object) -> Any:  # noqa: ANN401 - what JSON and TOML can hold
    """Without what TOML cannot hold: a key that is missing says the same."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value


def _given(output: Output) -> dict[str, object]:
    """What was asked for; the rest follows from the inputs."""
    defaults = {f.name: f.default for f in fields(output)}
    return {name: v for name, v in asdict(output).items() if v != defaults[name]}


def _names(stack: Sequence[Adapter]) -> list[str]:
    """Names that tell the adapters apart."""
    found: list[str] = []
    for adapter in stack:
        name, count = adapter.name, 1
        while name in found:
            count += 1
            name = f"{adapter.name} ({count})"
        found.append(name)
    return found


def _adapter(adapter: Adapter, name: str, weight: Weight, folder: Path) -> dict[str, object]:
    path = adapter.source.path
    if path is None:
        message = f"{adapter.name} is in memory: save it first, a plan names files"
        raise ParamError(message)
    found: dict[str, object] = {
        "name": name,
        "path": _from(path.parent if scales.CONFIG in adapter.metadata else path, folder),
        "sha256": adapter.source.sha256(),
        "weight": dict(weight) if isinstance(weight, Mapping) else weight,
    }
    if adapter.architecture is not None:
        found["architecture"] = adapter.architecture
    if adapter.coverage.skipped:
        found["skip"] = list(adapter.coverage.skipped)
    return found


def _from(path: Path, folder: Path) -> str:
    """Relative to the folder if it is inside, so that both can be moved together."""
    near = os.path.relpath(path, folder)
    return os.path.realpath(path) if near.startswith("..") else near


def _steps_of(plan: Plan) -> dict[str, Step]:
    """The step that makes a group, by the group's key."""
    found = {step.target.key: step for step in plan.steps}
    for step in plan.steps:
        found.update({key: step for key in step.keys})
    return found


def _group(
    choice: Choice, names: Sequence[str], steps: Mapping[str, Step], plan: Plan
) -> dict[str, object]:
    decision, step = choice.decision, steps[choice.target.key]
    found: dict[str, object] = {
        "target": choice.target.key,
        "members": [names[owner] for owner in choice.owners],
        "method": choosing.plain(decision.method),
        "weights": list(decision.weights),
    }
    if decision.sides:
        found["sides"] = list(decision.sides)
    if choice.rank is not None:
        found["rank"] = choice.rank
    found["regime"], found["why"] = decision.regime, decision.why
    found["numbers"] = dict(decision.numbers)
    found["made"] = {
        "shape": list(choice.target.shape),
        "rank": step.largest_rank(plan.output),
        "space": choosing.plain(decision.method).get("space", "weight"),
        "as": step.kind,
        "bytes": step.bytes(plan.output, plan.dtype),
    }
    return {key: value for key, value in found.items() if value not in ("", {})}


def load_plan(
    path: StrPath, *, threads: int | None = None, backend: str | Backend = "rust"
) -> Plan:
    """Read a plan and open what it names.

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
    top = Table(_parsed(file), str(file), file.parent)
    found = top.make(dict, _TOP, ("plan", "adapter", "group"))
    if found["plan"] != FORMAT:
        message = f"{file}: a plan of format {found['plan']}; this version reads {FORMAT}"
        raise ParamError(message)
    entries = top.tables("adapter")
    stack = [_opened(entry) for entry in entries]
    weights = tuple(entry.numbers("weight") for entry in entries)
    names = [entry.text("name") for entry in entries]
    groups = align(stack, split=found.get("split", True))
    rows = {row.text("target"): row for row in top.tables("group")}
    _refuse_others(file, groups, rows)
    chosen = [_choice(rows[group.target.key], group, names, weights) for group in groups]
    verdict = Verdict(
        tuple(choice.decision for choice in chosen),
        found.get("strengths", {}),
        found.get("notes", ()),
        found.get("suggested"),
    )
    if any(reads_gram(choice.decision.method) for choice in chosen):
        analysis = products(groups, stack, backend_of(backend), threads=threads)
    else:
        analysis = nothing(groups)
    return planning.plan(
        stack, groups, analysis, chosen, found.get("output", Output()),
        weights=weights, method=found.get("method", {}), verdict=verdict,
        seed=found.get("seed", 0), split=found.get("split", True),
    )  # fmt: skip


def _parsed(file: Path) -> Mapping[str, object]:
    data = file.read_bytes()
    try:
        if file.suffix == ".json":
            found = json.loads(data)
        else:
            found = tomllib.loads(data.decode())
    except (ValueError, UnicodeDecodeError) as error:
        message = (
            f"{file}: {error}; expected a plan in {'JSON' if file.suffix == '.json' else 'TOML'}"
        )
        raise FormatError(message) from None
    if not isinstance(found, dict):
        message = f"{file}: not a plan"
        raise FormatError(message)
    return found


def _output(table: Table, key: str) -> Output:
    readers = {
        "rank": Table.integer, "energy": Table.number, "max_error": Table.number,
        "dtype": Table.text, "dialect": Table.text, "dense": Table.truth,
    }  # fmt: skip
    return table.table(key).make(Output, readers)


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
    "method": lambda table, key: dict(table.table(key).values), "output": _output,
    "strengths": _strengths, "notes": Table.texts, "suggested": Table.number,
    "adapter": Table.tables, "group": Table.tables,
}  # fmt: skip
_ADAPTER = {
    "name": Table.text, "path": Table.path, "sha256": Table.text, "weight": Table.numbers,
    "architecture": Table.text, "skip": Table.texts,
}  # fmt: skip
_GROUP = {
    "target": Table.text, "members": Table.texts, "method": choosing.method,
    "weights": _as_it_is, "sides": Table.texts, "rank": Table.integer, "regime": Table.text,
    "why": Table.text, "numbers": _as_it_is, "made": _as_it_is,
}  # fmt: skip


def _opened(entry: Table) -> Adapter:
    found = entry.make(dict, _ADAPTER, ("name", "path", "sha256", "weight"))
    adapter = adapters.load(
        found["path"],
        name=found["name"],
        architecture=found.get("architecture"),
        skip=found.get("skip", ()),
    )
    if adapter.source.sha256() != found["sha256"]:
        message = (
            f"{entry.where}: {found['path']} is not the file that the plan was made for (its "
            "sha256 differs): make the plan again"
        )
        raise ParamError(message)
    return adapter


def _refuse_others(file: Path, groups: Sequence[Group], rows: Mapping[str, Table]) -> None:
    keys = {group.target.key for group in groups}
    for key in rows.keys() - keys:
        message = f"{file}: group {key}: no adapter has this target{hint(key, keys)}"
        raise ParamError(message)
    for key in sorted(keys - rows.keys()):
        message = f"{file}: there is no group {key}, which the adapters have: every group is needed"
        raise ParamError(message)


def _choice(row: Table, group: Group, names: Sequence[str], weights: Sequence[Weight]) -> Choice:
    found = row.make(dict, _GROUP, ("target", "members", "method", "weights"))
    own = tuple(names[owner] for owner in group.owners)
    if found["members"] != own:
        row.refuse(
            "members", f"the adapters that have it, {', '.join(own)}; weight 0 leaves one out"
        )
    sizes = found["weights"]
    if not isinstance(sizes, list) or len(sizes) != len(own):
        row.refuse("weights", f"{len(own)} numbers, one for each member")
    each = tuple(Table({"weights": size}, row.where).number("weights") for size in sizes)
    sides = found.get("sides", ())
    if sides and (len(sides) != len(own) or not set(sides) <= set(get_args(Side))):
        row.refuse("sides", f"one of {', '.join(get_args(Side))} for each member")
    if found.get("rank", 1) < 1:
        row.refuse("rank", "at least 1")
    decision = Decision(
        found["method"], each, found.get("regime", ""), found.get("why", ""),
        cast("Mapping[str, float]", found.get("numbers", {})), sides,
    )  # fmt: skip
    (asked,) = planning.asked([group], weights)
    return Choice(group.target, group.owners, asked, decision, found.get("rank"))
