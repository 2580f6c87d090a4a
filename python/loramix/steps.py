"""What a plan is made of: the wished output, the steps, and the plan itself.

Immutable and printable; made by `loramix.planning`, carried out by `loramix.executing`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from loramix._core import VERSION
from loramix.analysis.strengths import Strength
from loramix.errors import ParamError
from loramix.formats.dialects import DIALECTS, Dialect
from loramix.formats.layout import Layout, load_layout
from loramix.methods import Method, describe
from loramix.types import (
    Adapter,
    Dtype,
    Factors,
    Group,
    RawGroup,
    RawPart,
    RawStep,
    Site,
    Target,
    Weight,
)

Kind: TypeAlias = Literal["sum", "entries", "dense", "joint"]
CODES: Mapping[str, str] = {"f32": "F32", "f16": "F16", "bf16": "BF16"}


@dataclass(frozen=True, slots=True)
class Output:
    """What the result should look like.  Give at most one of energy and max_error.

    Entry by entry methods have results of full rank.  ``dense`` writes them as they are, as dense
    differences, and leaves nothing out, so it goes with none of rank, energy and max_error.  What
    is a sum, or made in joint bases, has a low rank: its exact factors are written as ever.

    Attributes
    ----------
    rank : at most this rank per target; default: exact (the sum of the ranks, reduced to the
        numerical rank).
    energy : smallest rank that keeps this share of the squared norm, (0, 1].
    max_error : smallest rank with at most this relative error, [0, 1).
    dtype : f32, f16 or bf16; default: the widest of the inputs, bf16 over f16.
    dialect : kohya, diffusers or peft; default: that of the first input.
    dense : whether to write results of full rank as they are; the dialect must have that (kohya).
    """

    rank: int | None = None
    energy: float | None = None
    max_error: float | None = None
    dtype: Dtype | None = None
    dialect: str | None = None
    dense: bool = False

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
        if self.dense and (self.rank, self.energy, self.max_error) != (None, None, None):
            message = (
                "dense leaves nothing out; rank, energy and max_error say what to leave out: "
                "give one or the other"
            )
            raise ParamError(message)


@dataclass(frozen=True, slots=True)
class Piece:
    """One member of a step.

    Attributes
    ----------
    owner : position of its adapter in the stack.
    coefficient : what a sum multiplies it by.
    weight : what the user gave it.
    row_start : first row it covers.
    """

    factors: Factors
    owner: int
    coefficient: float
    weight: float
    row_start: int


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a step that a method which is not a sum makes of one group.

    Attributes
    ----------
    group : members of weight other than 0.
    weights : theirs.
    site : what a program needs to know of the group.
    """

    group: Group
    weights: tuple[float, ...]
    row_start: int
    site: Site

    def raw(self, mix: Sequence[float] = ()) -> RawPart:
        """What the kernels take."""
        site = replace(self.site, mix=mix) if mix else self.site
        alone = len(self.site.seen(self.weights)) < 2
        return (self.group.raw(self.weights), list(self.weights), site, self.row_start, alone)


@dataclass(frozen=True, slots=True)
class Step:
    """One weight of the output.

    Attributes
    ----------
    target : what is written, fused if the dialect fuses it.
    stem : its name in the output.
    pieces : what is summed.
    swap : whether the halves of the rows are exchanged in the output's naming.
    parts : what a method that is not a sum is applied to; empty where the result is the sum of
        the pieces.
    kind : ``sum`` of the pieces; ``entries`` decided one by one: the result has full rank;
        ``dense``: the same, written as it is; ``joint``: made in joint bases of all factors: the
        result has at most the sum of the ranks.
    """

    target: Target
    stem: str
    pieces: tuple[Piece, ...]
    swap: bool
    parts: tuple[Part, ...] = ()
    kind: Kind = "sum"

    def raw(self) -> RawGroup:
        """What the kernels take."""
        members = [p.factors.raw(p.coefficient, p.row_start) for p in self.pieces]
        return (self.target.rows, self.target.cols, members)

    def raw_stored(self) -> RawGroup:
        """The members of `group` without weights, in their rows."""
        members = [
            member.raw(1.0, part.row_start) for part in self.parts for member in part.group.members
        ]
        return (self.target.rows, self.target.cols, members)

    def raw_parts(self, mixes: Sequence[Sequence[float]] = ()) -> RawStep:
        """What the kernels of elementwise methods take; ``mixes`` are those of the parts."""
        target = self.target
        each = mixes or [()] * len(self.parts)
        parts = [part.raw(mix) for part, mix in zip(self.parts, each, strict=True)]
        return (target.rows, target.cols, target.key_hash, parts)

    def group(self) -> Group:
        """The members without their coefficients, in the order of the kernels, for messages."""
        if self.parts:
            members = tuple(m for part in self.parts for m in part.group.members)
            owners = tuple(o for part in self.parts for o in part.group.owners)
            return Group(self.target, members, owners)
        owners = tuple(p.owner for p in self.pieces)
        return Group(self.target, tuple(p.factors for p in self.pieces), owners)

    def weights(self) -> tuple[float, ...]:
        """The users' weights of the members of `group`."""
        if self.parts:
            return tuple(weight for part in self.parts for weight in part.weights)
        return tuple(p.weight for p in self.pieces)

    def largest_rank(self, output: Output) -> int:
        """Bound of the rank it may get."""
        smaller = min(self.target.rows, self.target.cols)
        if self.kind == "dense":
            return smaller
        total = sum(p.factors.rank for p in self.pieces)
        wanted = output.rank or total
        # A result of full rank can have any that is asked for.
        rank = wanted if self.kind == "entries" else min(total, wanted)
        return max(1, min(rank, smaller))

    def numbers(self, rank: int) -> int:
        """How many are written at this rank."""
        rows, cols = self.target.rows, self.target.cols
        return rows * cols if self.kind == "dense" else (rows + cols) * rank

    def tensor(self, dialect: Dialect) -> str:
        """Name of the dense difference that is written, or of up."""
        if self.kind == "dense":
            assert dialect.diff is not None  # see `planning.dialect_of`
            return self.stem + dialect.diff
        return self.stem + dialect.up


@dataclass(frozen=True, slots=True)
class Plan:
    """An immutable list of what will be done.

    Attributes
    ----------
    alpha : the one value of alpha in the whole file, for dialects that store it; None also where
        all is dense.
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
            pieces = [(step.kind, p.owner, p.row_start, p.coefficient.hex()) for p in step.pieces]
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
        rule = {"rank": self.output.rank, "energy": self.output.energy, "dense": self.output.dense}
        return {
            "version": VERSION,
            "method": describe(self.method),
            "seed": self.seed,
            "sources": sources,
            "output": {**rule, "max_error": self.output.max_error, "dtype": self.dtype},
            "auto_strength": {branch: s.scale for branch, s in self.strengths.items()},
            "decisions": self.digest(),
        }
