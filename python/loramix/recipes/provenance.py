"""Where an output comes from, as it is stored in the output: enough to make it again.

Sources are named by what they are, their digests, and never by where they were.  What was done
with them is the text of a recipe, whose adapters are places in the list of sources; where no
recipe says it all, the decisions of every group.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace

from loramix._core import VERSION
from loramix.digests import Digest, config_digest
from loramix.errors import ParamError
from loramix.formats import trained
from loramix.formats.scales import CONFIG
from loramix.planning.output import Output
from loramix.planning.steps import Choice, Plan, canonical
from loramix.recipes import choosing
from loramix.types import Adapter, Weight


def provenance(plan: Plan, digests: Sequence[Digest], backend: str) -> dict[str, object]:
    """Sources, recipe and decisions, as stored in the output.

    Parameters
    ----------
    digests : of the sources.
    backend : what carried the plan out.

    Notes
    -----
    The recipe takes a few hundred bytes, decisions of groups up to 200 bytes for each group.
    """
    found: dict[str, object] = {
        "version": VERSION,
        "method": canonical(_without_none(plan.method)),
        "seed": plan.seed,
        "sources": sources(plan, digests),
        "output": _output(plan),
        "auto_strength": {b: canonical(s.scale) for b, s in plan.strengths.items()},
        "decisions": plan.digest(),
        "backend": backend,
    }
    if plan.portable:
        return {**found, "recipe": plan.portable}
    decided = decisions(plan)
    return found if decided is None else {**found, "plan": decided}


def sources(plan: Plan, digests: Sequence[Digest]) -> list[dict[str, object]]:
    """What is stored of the sources."""
    rows = zip(plan.adapters, digests, plan.weights, strict=True)
    several = len(plan.adapters) > 1
    return [_source(*row, several=several) for row in rows]


def decisions(plan: Plan) -> dict[str, object] | None:
    """What was decided for every group; None if a method has no name.

    Groups follow from the sources, in the order of their keys; equal decisions stand once.
    """
    places: dict[str, int] = {}
    groups: list[int] = []
    rows: list[object] = []
    for choice in plan.choices:
        try:
            row = canonical(_decided(choice))
        except ParamError:
            return None
        place = places.setdefault(json.dumps(row), len(places))
        rows += [row] if place == len(rows) else []
        groups.append(place)
    usual = {f.name: f.default for f in fields(Output)}
    wish = {name: v for name, v in asdict(plan.output).items() if v != usual[name]}
    return {
        "split": plan.split, "backend": plan.backend, "output": canonical(wish), "rows": rows,
        "groups": groups,
    }  # fmt: skip


def fingerprint(plan: Plan, digests: Sequence[Digest]) -> str:
    """Digest of all that is stored of a plan, whether a recipe says it or not."""
    everything = provenance(replace(plan, portable=""), digests, plan.backend)
    text = json.dumps(everything, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _source(
    adapter: Adapter, digest: Digest, weight: Weight, *, several: bool
) -> dict[str, object]:
    found: dict[str, object] = {
        "name": adapter.name,
        "digest": digest.file,
        "size": adapter.source.size,
        # A mapping as pairs: its order counts, and sorted JSON would lose it.
        "weight": canonical(list(weight.items()) if isinstance(weight, Mapping) else weight),
    }
    if CONFIG in adapter.metadata:
        found["config"] = config_digest(adapter.metadata[CONFIG])
    if adapter.architecture is not None:
        found["architecture"] = adapter.architecture
    if adapter.coverage.skipped:
        found["skip"] = list(adapter.coverage.skipped)
    if adapter.reading.rslora:
        found["rslora"] = True
    if adapter.base is not None and digest.base is not None:
        base = adapter.base
        found["base"] = {"name": base.name, "digest": digest.base, "size": base.size}
    # One source has these strings in its own header still.
    told = trained.own(adapter.metadata) if several else {}
    if told:
        found["trained"] = told
    return found


def _output(plan: Plan) -> dict[str, object]:
    wish = plan.output
    rule = {"rank": wish.rank, "energy": wish.energy, "max_error": wish.max_error}
    found: dict[str, object] = {name: canonical(value) for name, value in rule.items()}
    if wish.passes != Output().passes:
        found["passes"] = wish.passes
    return {**found, "dense": wish.dense, "dtype": plan.dtype, "dialect": plan.dialect.name}


def _decided(choice: Choice) -> dict[str, object]:
    decision = choice.decision
    found: dict[str, object] = {
        "method": choosing.plain(decision.method),
        "weights": list(decision.weights),
    }
    if decision.sides:
        found |= {"sides": list(decision.sides), "published_sides": decision.published_sides}
    if choice.rank is not None:
        found["rank"] = choice.rank
    return found


def _without_none(value: object) -> object:
    """Plain data without the keys that say nothing: files that cannot hold None agree with it."""
    if isinstance(value, Mapping):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return value
