"""The report of a merge as plain data: what ``--json`` prints and the text is made from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, TypedDict

from loramix import __version__
from loramix.executing.accounting import Share
from loramix.executing.running import Merged
from loramix.executing.verifying import Row
from loramix.planning.steps import Plan
from loramix.report.naming import method_name
from loramix.types import Adapter, Weight


class Input(TypedDict):
    """One adapter that went in.

    Attributes
    ----------
    weight : a number, or numbers by globs of target keys.
    match : share of its targets that the table of the architecture holds, 0 to 1.
    ranks : smallest and largest.
    skipped : tensors left out on request.
    """

    name: str
    path: str | None
    size: int
    weight: float | dict[str, float]
    architecture: str | None
    candidates: list[str]
    match: float
    dialect: str
    targets: int
    ranks: tuple[int, int]
    dtypes: list[str]
    skipped: list[str]
    notes: list[str]


class Written(TypedDict):
    """What was written.

    Attributes
    ----------
    path : as the user gave it; None if the result was kept in memory.
    file : the tensor file itself.
    ranks : smallest and largest of the factors; None if there are none.
    dense : number of targets that were written as dense differences.
    cut : what limited the rank: rank, energy and max_error, None where not given.
    """

    path: str | None
    file: str | None
    size: int
    dialect: str
    dtype: str
    architecture: str | None
    targets: int
    ranks: tuple[int, int] | None
    dense: int
    cut: dict[str, float | None]


class Groups(TypedDict):
    """How the adapters meet.

    Attributes
    ----------
    shared_by : number of adapters (as text: JSON has no other keys) to number of targets.
    """

    targets: int
    shared_by: dict[str, int]


class Became(TypedDict):
    """What became of one adapter, over all targets or in one.

    Attributes
    ----------
    adapter : its name.
    retention : ``<M, delta> / (w |delta|^2)``: 1 if all of it is in the result M.
    cosine : of the weighted delta and the result.
    interference : what the others would add to its retention in a plain sum.
    """

    adapter: str
    retention: float
    cosine: float
    interference: float


class Error(TypedDict):
    """Relative errors against what was meant, measured on the written file.

    Attributes
    ----------
    relative : of the whole file.
    worst : the largest of one target.
    target : its key.
    """

    relative: float
    worst: float
    target: str


class Report(TypedDict):
    """All of it.

    Attributes
    ----------
    method : name and parameters of the method or policy.
    chosen : number of groups by method, most frequent first; of groups of one member: "alone".
    policy_notes : what the policy wants to be known.
    suggested : largest strength at which the result should be applied, if the policy has a view.
    auto_strength : scale, norm, reference and cosine by branch; empty if it was off.
    seconds : wall time.
    adapters : what became of those that change anything.
    rows : one for each target: target, members, rank, dense, norm, cut, error, adapters.
    """

    version: str
    inputs: list[Input]
    method: dict[str, object]
    chosen: dict[str, int]
    policy_notes: list[str]
    suggested: float | None
    auto_strength: dict[str, dict[str, float]]
    output: Written
    groups: Groups
    error: Error
    adapters: list[Became]
    seconds: float
    rows: list[dict[str, Any]]


def report_of(merged: Merged, *, seconds: float) -> Report:
    """Plain data about a finished merge."""
    plan = merged.plan
    worst = max(merged.log, key=lambda row: row.error)
    shared = Counter(row.members for row in merged.log)
    return Report(
        version=__version__,
        inputs=[input_of(*pair) for pair in zip(plan.adapters, plan.weights, strict=True)],
        method=dict(plan.method),
        chosen=_chosen(plan),
        policy_notes=list(plan.notes),
        suggested=plan.suggested,
        auto_strength={branch: asdict(found) for branch, found in plan.strengths.items()},
        output=_written(merged),
        groups=Groups(
            targets=len(merged.log),
            shared_by={str(n): shared[n] for n in sorted(shared, reverse=True)},
        ),
        error=Error(relative=merged.error, worst=worst.error, target=worst.target),
        adapters=became(plan.adapters, merged.shares),
        seconds=seconds,
        rows=[_row(plan.adapters, row) for row in merged.log],
    )


def _chosen(plan: Plan) -> dict[str, int]:
    found = Counter(
        method_name(choice.decision.method)
        if sum(weight != 0 for weight in choice.decision.weights) > 1
        else "alone"
        for choice in plan.choices
    )
    return dict(found.most_common())


def input_of(adapter: Adapter, weight: Weight) -> Input:
    """Plain data about one adapter."""
    dtypes = {t.dtype.lower() for f in adapter.targets.values() for t in f.stored}
    ranks = [factors.rank for factors in adapter.targets.values()]
    path = adapter.source.path
    return Input(
        name=adapter.name,
        path=str(path) if path else None,
        size=adapter.source.size,
        weight=dict(weight) if isinstance(weight, Mapping) else weight,
        architecture=adapter.architecture,
        candidates=list(adapter.candidates),
        match=adapter.match,
        dialect=adapter.dialect,
        targets=len(adapter.targets),
        ranks=(min(ranks), max(ranks)),
        dtypes=sorted(dtypes),
        skipped=list(adapter.coverage.skipped),
        notes=list(adapter.coverage.notes),
    )


def _written(merged: Merged) -> Written:
    plan = merged.plan
    ranks = [row.rank for row in merged.log if not row.dense]
    rule = plan.output
    file = merged.adapter.source.path
    return Written(
        path=str(merged.path) if merged.path else None,
        file=str(file) if file else None,
        size=merged.adapter.source.size,
        dialect=plan.dialect.name,
        dtype=plan.dtype,
        architecture=plan.architecture,
        targets=len(merged.log),
        ranks=(min(ranks), max(ranks)) if ranks else None,
        dense=len(merged.log) - len(ranks),
        cut={"rank": rule.rank, "energy": rule.energy, "max_error": rule.max_error},
    )


def became(adapters: Sequence[Adapter], shares: Sequence[Share]) -> list[Became]:
    """Plain data about what became of the adapters."""
    return [
        Became(
            adapter=adapters[one.owner].name,
            retention=one.retention,
            cosine=one.cosine,
            interference=one.interference,
        )
        for one in shares
    ]


def _row(adapters: Sequence[Adapter], row: Row) -> dict[str, Any]:
    facts = {f.name: getattr(row, f.name) for f in fields(row) if f.name != "shares"}
    return {**facts, "adapters": became(adapters, row.shares)}
