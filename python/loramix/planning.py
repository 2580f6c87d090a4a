"""Everything decided, nothing executed: groups and a method become steps."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loramix import analysis as analysing
from loramix._core import VERSION
from loramix.analysis import Analysis, Strength
from loramix.errors import FormatError, ParamError
from loramix.formats.dialects import COMPONENTS, DIALECTS, Dialect
from loramix.formats.layout import Layout, load_layout
from loramix.groups import Fusion, common_architecture, fusions
from loramix.methods import Elementwise, Method, describe
from loramix.types import (
    F64,
    Adapter,
    Dtype,
    Factors,
    Group,
    RawGroup,
    RawPart,
    RawStep,
    Target,
    Weight,
)

_WIDTH: dict[str, int] = {"F8_E5M2": 0, "F8_E4M3": 0, "F16": 1, "BF16": 2, "F32": 3, "F64": 3}
_NAMES: dict[int, Dtype] = {0: "bf16", 1: "f16", 2: "bf16", 3: "f32"}
CODES: Mapping[str, str] = {"f32": "F32", "f16": "F16", "bf16": "BF16"}


@dataclass(frozen=True, slots=True)
class Output:
    """What the result should look like.  Give at most one of energy and max_error.

    Attributes
    ----------
    rank : at most this rank per target; default: exact (the sum of the ranks, reduced to the
        numerical rank).
    energy : smallest rank that keeps this share of the squared norm, (0, 1].
    max_error : smallest rank with at most this relative error, [0, 1).
    dtype : f32, f16 or bf16; default: the widest of the inputs, bf16 over f16.
    dialect : kohya, diffusers or peft; default: that of the first input.
    """

    rank: int | None = None
    energy: float | None = None
    max_error: float | None = None
    dtype: Dtype | None = None
    dialect: str | None = None

    def __post_init__(self) -> None:
        checks = (
            ("rank", self.rank, self.rank is None or self.rank >= 1, "an integer of at least 1"),
            ("energy", self.energy, self.energy is None or 0 < self.energy <= 1, "in (0, 1]"),
            (
                "max_error", self.max_error,
                self.max_error is None or 0 <= self.max_error < 1, "in [0, 1)",
            ),
            ("dtype", self.dtype, self.dtype is None or self.dtype in CODES, ", ".join(CODES)),
            (
                "dialect", self.dialect,
                self.dialect is None or self.dialect in DIALECTS, ", ".join(DIALECTS),
            ),
        )  # fmt: skip
        for name, value, good, allowed in checks:
            if not good:
                message = f"{name} = {value!r}: allowed is {allowed}"
                raise ParamError(message)
        if self.energy is not None and self.max_error is not None:
            message = "energy and max_error are two ways to choose the rank: give one"
            raise ParamError(message)


@dataclass(frozen=True, slots=True)
class Piece:
    """One member of a step: factors, their coefficient, the first row they cover."""

    factors: Factors
    owner: int
    coefficient: float
    row_start: int


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a step that an elementwise method makes of one group.

    Attributes
    ----------
    group : members of weight other than 0.
    weights : theirs.
    """

    group: Group
    weights: tuple[float, ...]
    row_start: int

    def raw(self) -> RawPart:
        """What the kernels take."""
        return (
            self.group.raw(self.weights),
            list(self.weights),
            self.group.target.key_hash,
            self.row_start,
            len(self.weights) == 1,
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One weight of the output.

    Attributes
    ----------
    target : what is written, fused if the dialect fuses it.
    stem : its name in the output.
    pieces : what is summed.
    swap : whether the halves of the rows are exchanged in the output's naming.
    parts : for a method that decides entry by entry, what it is applied to; empty where the
        result is the sum of the pieces.
    """

    target: Target
    stem: str
    pieces: tuple[Piece, ...]
    swap: bool
    parts: tuple[Part, ...] = ()

    def raw(self) -> RawGroup:
        """What the kernels take."""
        members = [p.factors.raw(p.coefficient, p.row_start) for p in self.pieces]
        return (self.target.rows, self.target.cols, members)

    def raw_parts(self) -> RawStep:
        """What the kernels of elementwise methods take."""
        target = self.target
        return (target.rows, target.cols, target.key_hash, [part.raw() for part in self.parts])

    def group(self) -> Group:
        """The members without their coefficients, in the order of the kernels, for messages."""
        if self.parts:
            members = tuple(m for part in self.parts for m in part.group.members)
            owners = tuple(o for part in self.parts for o in part.group.owners)
            return Group(self.target, members, owners)
        owners = tuple(p.owner for p in self.pieces)
        return Group(self.target, tuple(p.factors for p in self.pieces), owners)

    def largest_rank(self, output: Output) -> int:
        """Bound of the rank it may get."""
        total = sum(p.factors.rank for p in self.pieces)
        # An elementwise result has full rank: what is asked for can be had.
        wanted = output.rank or total
        rank = wanted if self.parts else min(total, wanted)
        return max(1, min(rank, self.target.rows, self.target.cols))


@dataclass(frozen=True, slots=True)
class Plan:
    """An immutable list of what will be done.

    Attributes
    ----------
    alpha : the one value of alpha in the whole file, for dialects that store it.
    strengths : energy normalisation by branch, empty if it was off.
    seed : of the random draws.
    """

    steps: tuple[Step, ...] = field(repr=False)
    adapters: tuple[Adapter, ...]
    weights: tuple[Weight, ...]
    method: Method
    output: Output
    dialect: Dialect
    dtype: Dtype
    architecture: str | None
    alpha: float | None
    strengths: Mapping[str, Strength]
    seed: int = 0

    @property
    def layout(self) -> Layout | None:
        """Module table of the base model."""
        return load_layout(self.architecture) if self.architecture else None

    def digest(self) -> str:
        """Hash of every decision: two plans with one digest write the same bytes."""
        hasher = hashlib.blake2b(digest_size=16)
        for step in self.steps:
            pieces = [
                (bool(step.parts), p.owner, p.row_start, p.coefficient.hex()) for p in step.pieces
            ]
            hasher.update(repr((step.stem, step.target, pieces)).encode())
        method = (describe(self.method), self.seed)
        rule = (self.output, self.dialect.name, self.dtype, self.alpha, method)
        hasher.update(repr(rule).encode())
        return hasher.hexdigest()

    def provenance(self, digests: Sequence[str]) -> dict[str, object]:
        """Sources, recipe and decisions, as stored in the output."""
        sources = [
            # A mapping as pairs: its order counts, and sorted JSON would lose it.
            {
                "name": a.name,
                "sha256": digest,
                "weight": list(w.items()) if isinstance(w, Mapping) else w,
            }
            for a, digest, w in zip(self.adapters, digests, self.weights, strict=True)
        ]
        rule = {"rank": self.output.rank, "energy": self.output.energy}
        return {
            "version": VERSION,
            "method": describe(self.method),
            "seed": self.seed,
            "sources": sources,
            "output": {**rule, "max_error": self.output.max_error, "dtype": self.dtype},
            "auto_strength": {branch: s.scale for branch, s in self.strengths.items()},
            "decisions": self.digest(),
        }


def dialect_of(adapters: Sequence[Adapter], output: Output) -> Dialect:
    """The dialect to write: the chosen one, or that of the first input."""
    return DIALECTS[output.dialect or adapters[0].dialect]


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
    merged = analysing.coefficients(method, groups, analysis, weights)
    strengths: dict[str, Strength] = {}
    if auto_strength:
        energy = analysing.energy_coefficients(method, merged)
        strengths = analysing.strengths(groups, analysis, energy, weights, floor=floor)
        merged = [
            c * strengths[group.target.branch].scale
            for group, c in zip(groups, merged, strict=True)
        ]
    elementwise = isinstance(method, Elementwise)
    steps = _steps(adapters, groups, merged, dialect, layout, whole=not elementwise)
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


def _steps(
    adapters: Sequence[Adapter],
    groups: Sequence[Group],
    merged: Sequence[F64],
    dialect: Dialect,
    layout: Layout | None,
    *,
    whole: bool,
) -> list[Step]:
    """Steps that sum; ``whole`` joins the parts of an adapter that came fused where it can."""
    table = fusions(layout) if dialect.fused else {}
    swapped = _swapped(layout) if dialect.fused else frozenset()
    parts: dict[str, list[tuple[Group, F64, int]]] = {}
    targets: dict[str, Target] = {}
    for group, c in zip(groups, merged, strict=True):
        target, row = _written_as(group.target, table)
        targets[target.key] = target
        parts.setdefault(target.key, []).append((group, c, row))
    steps = []
    for key, target in targets.items():
        fusion = table.get(key) if whole else None
        pieces = _pieces(adapters, parts[key], target, fusion)
        try:
            stem = dialect.stem(target, layout)
        except FormatError as error:
            names = sorted({adapters[piece.owner].name for piece in pieces})
            message = f"{', '.join(names)}: {error}"
            raise FormatError(message) from None
        program = () if whole else _program_parts(parts[key])
        steps.append(Step(target, stem, pieces, key in swapped, program))
    return steps


def _program_parts(parts: Sequence[tuple[Group, F64, int]]) -> tuple[Part, ...]:
    """What an elementwise method works on, if two adapters meet anywhere in it.

    Rows that one adapter has for itself are its weighted delta: nothing there to decide.
    """
    found = []
    for group, weights, row in parts:
        used = [i for i, weight in enumerate(weights) if weight != 0]
        if used:
            members = tuple(group.members[i] for i in used)
            owners = tuple(group.owners[i] for i in used)
            sizes = tuple(float(weights[i]) for i in used)
            found.append(Part(Group(group.target, members, owners), sizes, row))
    return tuple(found) if any(len(part.weights) > 1 for part in found) else ()


def _written_as(target: Target, table: Mapping[str, Fusion]) -> tuple[Target, int]:
    fusion = table.get(target.key)
    if fusion is None or fusion.target.key == target.key:
        return target, 0
    row = next(row for part, row in fusion.parts if part.key == target.key)
    return fusion.target, row


def _pieces(
    adapters: Sequence[Adapter],
    parts: Sequence[tuple[Group, F64, int]],
    target: Target,
    fusion: Fusion | None,
) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    for group, c, row in parts:
        members = zip(group.members, group.owners, c, strict=True)
        pieces += [Piece(factors, owner, float(x), row) for factors, owner, x in members]
    if fusion is None or len(parts) == 1:
        return tuple(pieces)
    # An adapter that came fused and is treated alike in all parts stays one pair of factors.
    for owner, adapter in enumerate(adapters):
        own = [p for p in pieces if p.owner == owner]
        whole = adapter.targets.get(target)
        if whole is not None and len({p.coefficient for p in own}) == 1:
            pieces = [p for p in pieces if p.owner != owner]
            pieces.append(Piece(whole, owner, own[0].coefficient, 0))
    return tuple(sorted(pieces, key=lambda p: (p.owner, p.row_start)))


def _swapped(layout: Layout | None) -> frozenset[str]:
    modules = layout.modules if layout else ()
    return frozenset(f"{m.component}.{m.name}" for m in modules if m.swap)


def _cost(step: Step) -> int:
    rank = sum(p.factors.rank for p in step.pieces)
    return (step.target.rows + step.target.cols) * rank * rank


def _widest(adapters: Sequence[Adapter]) -> Dtype:
    dtypes = {t.dtype for a in adapters for f in a.targets.values() for t in (f.up, f.down)}
    return _NAMES[max(_WIDTH[dtype] for dtype in dtypes)]


def _alpha(steps: Sequence[Step], output: Output) -> float:
    """The most frequent rank: where it is met, factors need no rescaling."""
    counts = Counter(step.largest_rank(output) for step in steps)
    return float(max(counts, key=lambda rank: (counts[rank], rank)))


def _check_one_component(steps: Sequence[Step], dialect: Dialect) -> None:
    parts = {step.target.key.partition(".")[0] for step in steps} & set(COMPONENTS)
    if dialect.one_component and len(parts) > 1:
        message = (
            f"{' and '.join(sorted(parts))} do not go into one {dialect.name} output, which holds "
            "one part of a pipeline; write diffusers or kohya"
        )
        raise FormatError(message)
