"""Everything decided, nothing executed: groups and a method become steps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from loramix.analysis import strengths as energies
from loramix.analysis.statistics import Analysis
from loramix.analysis.strengths import Strength
from loramix.errors import FormatError, ParamError
from loramix.formats.dialects import COMPONENTS, DIALECTS, Dialect
from loramix.formats.layout import Layout, load_layout
from loramix.groups import Fusion, common_architecture, fusions
from loramix.methods import Coefficients, Composite, Elementwise, Method
from loramix.methods.composite import site_of, space_of
from loramix.steps import Kind, Output, Part, Piece, Plan, Step
from loramix.types import (
    F64,
    Adapter,
    Dtype,
    Group,
    Site,
    Target,
    Weight,
    weight_of,
)

_WIDTH: dict[str, int] = {"F8_E5M2": 0, "F8_E4M3": 0, "F16": 1, "BF16": 2, "F32": 3, "F64": 3}
_NAMES: dict[int, Dtype] = {0: "bf16", 1: "f16", 2: "bf16", 3: "f32"}


def dialect_of(adapters: Sequence[Adapter], output: Output) -> Dialect:
    """The dialect to write: the chosen one, or that of the first input.

    Raises
    ------
    ParamError : dense differences are wanted, and the clients of the dialect do not read them.
    """
    dialect = DIALECTS[output.dialect or adapters[0].dialect]
    if output.dense and dialect.diff is None:
        names = " or ".join(d.name for d in DIALECTS.values() if d.diff is not None)
        message = (
            f"dense: the clients of {dialect.name} files read no dense differences; write "
            f"--dialect {names} (ComfyUI, Forge and LyCORIS read it), or factors"
        )
        raise ParamError(message)
    return dialect


def plan(
    adapters: Sequence[Adapter],
    groups: Sequence[Group],
    analysis: Analysis,
    method: Method,
    weights: Sequence[Weight],
    output: Output,
    *,
    auto_strength: bool = False,
    floor: float | None = None,
    seed: int = 0,
) -> Plan:
    """Decide coefficients, names, type and alpha of every target."""
    dialect = dialect_of(adapters, output)
    architecture = common_architecture(adapters)
    layout = load_layout(architecture) if architecture else None
    merged = energies.coefficients(method, groups, analysis, weights)
    strengths: dict[str, Strength] = {}
    if auto_strength:
        energy = energies.energy_coefficients(method, merged)
        strengths = energies.strengths(groups, analysis, energy, weights, floor=floor)
        merged = [
            c * strengths[group.target.branch].scale
            for group, c in zip(groups, merged, strict=True)
        ]
    items = [
        _Item(
            group,
            c,
            _own(group, weights),
            site_of(method, gram, c, key=group.target.key_hash, seed=seed),
        )
        for group, c, gram in zip(groups, merged, analysis.grams, strict=True)
    ]
    steps = _steps(adapters, items, dialect, layout, _kind(method, output))
    _check_one_component(steps, dialect)
    return Plan(
        steps=tuple(sorted(steps, key=lambda s: (not s.parts, -_cost(s), s.stem))),
        adapters=tuple(adapters),
        weights=tuple(weights),
        method=method,
        output=output,
        dialect=dialect,
        dtype=output.dtype or _widest(adapters),
        architecture=architecture,
        alpha=_alpha(steps, output) if dialect.alpha else None,
        strengths=strengths,
        seed=seed,
    )


@dataclass(frozen=True, slots=True)
class _Item:
    """A group with what was decided for it."""

    group: Group
    coefficients: F64
    weights: F64
    site: Site


def _kind(method: Method, output: Output) -> Kind:
    if isinstance(method, Coefficients):
        return "sum"
    full = isinstance(method, Elementwise | Composite) and space_of(method) == "weight"
    if not full:
        return "joint"
    return "dense" if output.dense else "entries"


def _own(group: Group, weights: Sequence[Weight]) -> F64:
    return np.array([weight_of(weights[owner], group.target) for owner in group.owners])


def _steps(
    adapters: Sequence[Adapter],
    items: Sequence[_Item],
    dialect: Dialect,
    layout: Layout | None,
    kind: Kind,
) -> list[Step]:
    """One step for every weight of the output."""
    table = fusions(layout) if dialect.fused else {}
    swapped = _swapped(layout) if dialect.fused else frozenset()
    parts: dict[str, list[tuple[_Item, int]]] = {}
    targets: dict[str, Target] = {}
    for item in items:
        target, row = _written_as(item.group.target, table)
        targets[target.key] = target
        parts.setdefault(target.key, []).append((item, row))
    steps = []
    for key, target in targets.items():
        # What is summed may stay joined as it came; everything else is decided part by part.
        pieces = _pieces(adapters, parts[key], target, table.get(key) if kind == "sum" else None)
        try:
            stem = dialect.stem(target, layout)
        except FormatError as error:
            names = sorted({adapters[piece.owner].name for piece in pieces})
            message = f"{', '.join(names)}: {error}"
            raise FormatError(message) from None
        decided = () if kind == "sum" else _parts(parts[key])
        steps.append(
            Step(target, stem, pieces, key in swapped, decided, kind if decided else "sum")
        )
    return steps


def _parts(parts: Sequence[tuple[_Item, int]]) -> tuple[Part, ...]:
    """What a method that is no sum works on, if two adapters meet anywhere in it.

    Rows that one adapter has for itself are its weighted delta: nothing there to decide.
    """
    found = []
    for item, row in parts:
        group, weights = item.group, item.coefficients
        used = [i for i, weight in enumerate(weights) if weight != 0]
        if used:
            members = tuple(group.members[i] for i in used)
            owners = tuple(group.owners[i] for i in used)
            sizes = tuple(float(weights[i]) for i in used)
            found.append(Part(Group(group.target, members, owners), sizes, row, item.site))
    return tuple(found) if any(len(part.weights) > 1 for part in found) else ()


def _written_as(target: Target, table: Mapping[str, Fusion]) -> tuple[Target, int]:
    fusion = table.get(target.key)
    if fusion is None or fusion.target.key == target.key:
        return target, 0
    row = next(row for part, row in fusion.parts if part.key == target.key)
    return fusion.target, row


def _pieces(
    adapters: Sequence[Adapter],
    parts: Sequence[tuple[_Item, int]],
    target: Target,
    fusion: Fusion | None,
) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    for item, row in parts:
        group = item.group
        members = zip(group.members, group.owners, item.coefficients, item.weights, strict=True)
        pieces += [Piece(f, owner, float(c), float(w), row) for f, owner, c, w in members]
    if fusion is None or len(parts) == 1:
        return tuple(pieces)
    # An adapter that came fused and is treated alike in all parts stays one pair of factors.
    for owner, adapter in enumerate(adapters):
        own = [p for p in pieces if p.owner == owner]
        whole = adapter.targets.get(target)
        if whole is not None and len({(p.coefficient, p.weight) for p in own}) == 1:
            pieces = [p for p in pieces if p.owner != owner]
            pieces.append(replace(own[0], factors=whole, row_start=0))
    return tuple(sorted(pieces, key=lambda p: (p.owner, p.row_start)))


def _swapped(layout: Layout | None) -> frozenset[str]:
    modules = layout.modules if layout else ()
    return frozenset(f"{m.component}.{m.name}" for m in modules if m.swap)


def _cost(step: Step) -> int:
    rank = sum(p.factors.rank for p in step.pieces)
    return (step.target.rows + step.target.cols) * rank * rank


def _widest(adapters: Sequence[Adapter]) -> Dtype:
    dtypes = {t.dtype for a in adapters for f in a.targets.values() for t in f.stored}
    return _NAMES[max(_WIDTH[dtype] for dtype in dtypes)]


def _alpha(steps: Sequence[Step], output: Output) -> float | None:
    """The most frequent rank of factors: where it is met, they need no rescaling."""
    counts = Counter(step.largest_rank(output) for step in steps if step.kind != "dense")
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
