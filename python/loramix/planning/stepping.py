"""Everything decided, nothing executed: groups and decisions become steps."""

from collections import Counter
from collections.abc import Mapping, Sequence

from loramix.analysis.statistics import Analysis
from loramix.errors import FormatError, ParamError
from loramix.formats.dialects import (
    COMPONENTS,
    Dialect,
    client_for,
    default_dialect,
    dialect_for,
    refuse_unread,
    writable,
)
from loramix.formats.layout import Layout, load_layout
from loramix.groups import common_architecture
from loramix.methods import describe
from loramix.planning.arranging import Item, arrange, refuse_one_name
from loramix.planning.output import Output
from loramix.planning.steps import Choice, Plan, Step
from loramix.policies.base import Verdict
from loramix.tensors import Dtype
from loramix.types import Adapter, Group, Weight, weight_of

_WIDTH: dict[str, int] = {"F8_E5M2": 0, "F8_E4M3": 0, "F16": 1, "BF16": 2, "F32": 3, "F64": 3}
_NAMES: dict[int, Dtype] = {0: "bf16", 1: "f16", 2: "bf16", 3: "f32"}
_KINDS = ("sum", "joint", "entries", "dense")


def dialect_of(adapters: Sequence[Adapter], output: Output) -> Dialect:
    """The dialect to write: the chosen one, that of the chosen client, or that of the first input.

    Raises
    ------
    FormatError : adapters of different models.
    ParamError : the model has no files in this dialect, or none that the client loads; or dense
        differences are wanted, and the readers of the dialect know none.
    """
    architecture = common_architecture(adapters)
    layout = load_layout(architecture) if architecture else None
    return chosen(output, default_dialect(adapters[0].dialect, layout), layout)


def chosen(output: Output, usual: str, layout: Layout | None) -> Dialect:
    """The dialect that an output asks for.

    Parameters
    ----------
    usual : name of the dialect where it asks for none.
    layout : module table of the base model.

    Raises
    ------
    ParamError : see `dialect_of`.
    """
    name = output.dialect
    if output.client is not None:
        best = client_for(output.client, layout, usual).dialect
        if name not in (None, best):
            message = (
                f"--for {output.client} writes the dialect {best}, --dialect says {name}: give "
                "one of the two"
            )
            raise ParamError(message)
        name = best
    dialect = dialect_for(name or usual, layout)
    if output.dense and dialect.diff is None:
        possible = (dialect_for(other, layout) for other in writable(layout))
        names = " or ".join(d.name for d in possible if d.diff is not None)
        message = (
            f"dense: the clients of {dialect.name} files read no dense differences; write "
            f"--dialect {names} (ComfyUI, Forge and LyCORIS read it), or factors"
        )
        raise ParamError(message)
    return dialect


def asked(groups: Sequence[Group], weights: Sequence[Weight]) -> tuple[tuple[float, ...], ...]:
    """The users' weights of the members of every group."""
    return tuple(
        tuple(weight_of(weights[owner], group.target) for owner in group.owners) for group in groups
    )


def choices(
    groups: Sequence[Group], weights: Sequence[Sequence[float]], verdict: Verdict
) -> tuple[Choice, ...]:
    """What a policy decided, group by group."""
    rows = zip(groups, weights, verdict.decisions, strict=True)
    return tuple(Choice(g.target, g.owners, tuple(w), decision) for g, w, decision in rows)


def plan(
    adapters: Sequence[Adapter],
    groups: Sequence[Group],
    analysis: Analysis,
    chosen: Sequence[Choice],
    output: Output,
    *,
    weights: Sequence[Weight],
    method: Mapping[str, object],
    verdict: Verdict,
    seed: int = 0,
    split: bool = True,
    backend: str = "rust",
    dialect: Dialect | None = None,
) -> Plan:
    """Decide coefficients, names, type and alpha of every target.

    Parameters
    ----------
    chosen : one for each group.
    weights, method : what the user asked for, for reports.
    verdict : likewise, what the policy says of the whole stack.
    split : whether fused weights are groups of their parts.
    backend : name of what is meant to carry it out.
    dialect : to write; default: see `dialect_of`.
    """
    dialect = dialect or dialect_of(adapters, output)
    architecture = common_architecture(adapters)
    layout = load_layout(architecture) if architecture else None
    rows = zip(groups, analysis.grams, chosen, strict=True)
    items = [Item.of(group, gram, choice, seed) for group, gram, choice in rows]
    steps = arrange(adapters, items, dialect, layout, output)
    _check_one_component(steps, dialect)
    if dialect.up:  # what goes into a base model has places, and no names
        refuse_one_name(adapters, steps, dialect)
    if output.client is not None and layout is not None:
        client = client_for(output.client, layout, dialect.name)
        refuse_unread(client, layout, [step.target for step in steps])
    return Plan(
        steps=tuple(sorted(steps, key=_order)),
        adapters=tuple(adapters),
        weights=tuple(weights),
        method=method,
        choices=tuple(chosen),
        output=output,
        dialect=dialect,
        dtype=output.dtype or _widest(adapters),
        architecture=architecture,
        alpha=_alpha(steps, output) if dialect.alpha else None,
        strengths=verdict.strengths,
        notes=verdict.notes,
        suggested=verdict.suggested,
        seed=seed,
        split=split,
        analysis=analysis,
        backend=backend,
    )


def _order(step: Step) -> tuple[int, str, int, int, str]:
    """What is made in one batch stands together, the largest first."""
    method = repr(describe(step.method)) if step.method is not None else ""
    return (_KINDS.index(step.kind), method, step.rank or 0, -_cost(step), step.stem)


def _cost(step: Step) -> int:
    rank = sum(p.factors.rank for p in step.pieces)
    return (step.target.rows + step.target.cols) * rank * rank


def _widest(adapters: Sequence[Adapter]) -> Dtype:
    dtypes = {t.dtype for a in adapters for f in a.targets.values() for t in f.stored}
    return _NAMES[max(_WIDTH[dtype] for dtype in dtypes)]


def _alpha(steps: Sequence[Step], output: Output) -> float | None:
    """The most frequent rank of factors, or alpha of copies: there they need no rescaling."""
    pairs = [step for step in steps if step.kind != "dense"]
    counts: Counter[float] = Counter(step.largest_rank(output) for step in pairs)
    if output.verbatim:
        alone = [step.pieces[0] for step in pairs if len(step.pieces) == 1]
        stored = (abs(one.coefficient) * one.factors.scale * one.factors.rank for one in alone)
        counts = Counter(alpha for alpha in stored if alpha > 0) or counts
    if not counts:
        return None
    return float(max(counts, key=lambda rank: (counts[rank], rank)))


def _check_one_component(steps: Sequence[Step], dialect: Dialect) -> None:
    parts = {step.target.key.partition(".")[0] for step in steps} & set(COMPONENTS)
    if dialect.one_component and len(parts) > 1:
        message = (
            f"{' and '.join(sorted(parts))} do not go into one {dialect.name} output, which holds "
            "one part of a pipeline; write diffusers or kohya"
        )
        raise FormatError(message)
