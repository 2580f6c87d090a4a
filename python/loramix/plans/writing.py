"""A plan becomes a file."""

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from loramix import __version__
from loramix.adapters.loading import place_of
from loramix.digests import Digest, digests_of
from loramix.errors import ParamError
from loramix.io.text import write_text
from loramix.planning.output import Output
from loramix.planning.steps import Choice, Plan, Step
from loramix.plans import FORMAT
from loramix.recipes import choosing, spelling
from loramix.recipes.provenance import fingerprint
from loramix.types import Adapter, StrPath, Weight, weight_of

_HEAD = """\
# A plan of loramix {version}: what will be done with every group of weights, and why.
#   loramix merge --plan {name} -o {place}
# does exactly this.  Change method, weights, sides and rank of a group, [output] and seed as you
# like; regime, why, numbers and made say what was found, and are not read.  The recipe says where
# the decisions come from; the output has it instead of them as long as nothing is changed.
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
        place = "OUT" if plan.dialect.folder else "OUT.safetensors"
        head = _HEAD.format(version=__version__, name=shlex.quote(target.name), place=place)
        text = f"{head}\n{spelling.document(tables)}"
    write_text(target, text)
    return target


def as_tables(plan: Plan, folder: Path = Path()) -> dict[str, object]:
    """A plan as plain data.

    Parameters
    ----------
    folder : where the file will be; sources in it or below are named from there.
    """
    names, digests = _names(plan.adapters), digests_of(plan.adapters)
    steps = plan.steps_by_group()
    found: dict[str, object] = {
        "plan": FORMAT,
        "version": __version__,
        "seed": plan.seed,
        "split": plan.split,
        "backend": plan.backend,
        "method": _plain(plan.method),
        "output": _given(plan.output),
        "strengths": {branch: asdict(one) for branch, one in plan.strengths.items()},
        "notes": list(plan.notes),
        "adapter": [
            _adapter(one, name, weight, folder, digest)
            for one, name, weight, digest in zip(
                plan.adapters, names, plan.weights, digests, strict=True
            )
        ],
        "group": [_group(choice, names, steps, plan) for choice in plan.choices],
    }
    if plan.suggested is not None:
        found["suggested"] = plan.suggested
    if plan.portable:
        found["recipe"], found["unchanged"] = plan.portable, fingerprint(plan, digests)
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


def _adapter(
    adapter: Adapter, name: str, weight: Weight, folder: Path, digest: Digest
) -> dict[str, object]:
    path = place_of(adapter)
    if path is None:
        message = f"{adapter.name} is in memory: save it first, a plan names files"
        raise ParamError(message)
    if adapter.base is not None and adapter.base.path is None:
        message = (
            f"{adapter.name} is relative to a base model in memory: save that first, a plan names "
            "files"
        )
        raise ParamError(message)
    found: dict[str, object] = {
        "name": name,
        "path": _from(path, folder),
        "digest": digest.file,
        "weight": dict(weight) if isinstance(weight, Mapping) else weight,
    }
    if adapter.architecture is not None:
        found["architecture"] = adapter.architecture
    if adapter.coverage.skipped:
        found["skip"] = list(adapter.coverage.skipped)
    if adapter.reading.rslora:
        found["rslora"] = True
    if adapter.base is not None and adapter.base.path is not None:
        found |= {"base": _from(adapter.base.path, folder), "base_digest": digest.base}
    return found


def _from(path: Path, folder: Path) -> str:
    """Relative to the folder if it is inside, so that both can be moved together."""
    near = os.path.relpath(path, folder)
    return os.path.realpath(path) if near.startswith("..") else near


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
    usual = tuple(weight_of(plan.weights[owner], choice.target) for owner in choice.owners)
    if choice.asked != usual:
        found["asked"] = list(choice.asked)
    if decision.sides:
        found["sides"] = list(decision.sides)
        found["published_sides"] = decision.published_sides
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
        "backend": plan.backend,
    }
    return {key: value for key, value in found.items() if value not in ("", {})}
