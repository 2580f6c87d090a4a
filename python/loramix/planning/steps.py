"""What a plan is made of: choices, steps, and the plan itself.

Immutable and printable; made by `loramix.planning`, carried out by `loramix.executing`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from loramix.analysis.statistics import Analysis
from loramix.analysis.strengths import Strength
from loramix.formats.dialects import Dialect
from loramix.formats.layout import Layout, load_layout
from loramix.methods import Coefficients, Method, Subspace, describe
from loramix.methods.composite import space_of
from loramix.planning.output import CODES, Output
from loramix.policies.base import Decision
from loramix.raw import RawGroup, RawPart, RawStep, Site
from loramix.tensors import ITEM_BYTES, Dtype
from loramix.types import Adapter, Factors, Group, Target, Weight

Kind: TypeAlias = Literal["sum", "entries", "dense", "joint", "difference"]

FULL = 512
"""Smaller side of a weight from which on what has full rank is merged entry by entry."""


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
class Choice:
    """What was decided for one group.

    Attributes
    ----------
    owners : for each member, the position of its adapter in the stack.
    asked : the users' weights of the members.
    rank : at most this rank; None: that of the whole output.
    """

    target: Target
    owners: tuple[int, ...]
    asked: tuple[float, ...]
    decision: Decision
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a step that are made of one group.

    Attributes
    ----------
    group : members of weight other than 0.
    weights : theirs; the coefficients, where the method is a sum.
    asked : the users' weights of them.
    site : what a program needs to know of the group.
    """

    group: Group
    method: Method
    weights: tuple[float, ...]
    asked: tuple[float, ...]
    row_start: int
    site: Site

    @property
    def alone(self) -> bool:
        """Whether the method sees one member at most: its weighted delta, whatever the method."""
        return len(self.site.seen(self.weights)) < 2

    @property
    def place(self) -> Literal["anywhere", "weight", "knots", "core", "bases"]:
        """Where the method works; sums are the same everywhere, ``bases`` is for rules on cores."""
        if self.alone or isinstance(self.method, Coefficients):
            return "anywhere"
        return "bases" if isinstance(self.method, Subspace) else space_of(self.method)

    def raw(self, mix: Sequence[float] = ()) -> RawPart:
        """What the kernels take."""
        site = replace(self.site, mix=mix) if mix else self.site
        return (self.group.raw(self.weights), list(self.weights), site, self.row_start, self.alone)


@dataclass(frozen=True, slots=True)
class Step:
    """One weight of the output.

    Attributes
    ----------
    target : what is written, fused if the dialect fuses it.
    stem : its name in the output.
    pieces : what is summed.
    swap : whether the halves of the rows are exchanged in the output's naming.
    parts : what methods that are not all sums are applied to; empty where the result is the sum
        of the pieces.
    rank : at most this rank; None: that of the whole output.
    kind : ``sum`` of the pieces; ``entries`` decided one by one: the result has full rank;
        ``dense``: the same, written as it is; ``joint``: made in joint bases of all factors: the
        result has at most the sum of the ranks; ``difference``: the one piece is a dense
        difference, of which factors are sought.
    keys : of the groups that are in it.
    suffix : what its one tensor has behind the stem; empty: that of the dialect.
    embedding : whether it is the table of an embedding, whose sides are written transposed.
    """

    target: Target
    stem: str
    pieces: tuple[Piece, ...]
    swap: bool
    parts: tuple[Part, ...] = ()
    kind: Kind = "sum"
    rank: int | None = None
    keys: tuple[str, ...] = ()
    suffix: str = ""
    embedding: bool = False

    @property
    def method(self) -> Method | None:
        """The one method of all parts; None for a sum, and where parts have different ones."""
        methods = {part.method for part in self.parts if not part.alone}
        return methods.pop() if len(methods) == 1 else None

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
            return tuple(weight for part in self.parts for weight in part.asked)
        return tuple(p.weight for p in self.pieces)

    def largest_rank(self, output: Output) -> int:
        """Bound of the rank it may get."""
        smaller = min(self.target.rows, self.target.cols)
        if self.kind == "dense":
            return smaller
        total = sum(p.factors.rank for p in self.pieces)
        wanted = self.rank or output.rank
        if self.kind == "entries":
            # A result of full rank can have any that is asked for, and may need all of it.
            rank = wanted or (smaller if output.is_open else total)
        else:
            rank = min(total, wanted or total)
        return max(1, min(rank, smaller))

    def numbers(self, rank: int) -> int:
        """How many are written at this rank."""
        rows, cols = self.target.rows, self.target.cols
        return rows * cols if self.kind == "dense" else (rows + cols) * rank

    def bytes(self, output: Output, dtype: Dtype) -> int:
        """What it takes in memory beside the inputs: the result, and the entries on the way."""
        size = self.numbers(self.largest_rank(output)) * ITEM_BYTES[CODES[dtype]]
        entries = self.target.rows * self.target.cols * ITEM_BYTES["F32"]
        return size + (entries if self.kind in ("entries", "dense", "difference") else 0)

    @property
    def is_full(self) -> bool:
        """Whether a member has full rank, and is so large that its entries are less work."""
        sides = min(self.target.rows, self.target.cols)
        members = (member for part in self.parts for member in part.group.members)
        return sides >= FULL and any(member.identity is not None for member in members)

    @property
    def made(self) -> int:
        """Bytes of its factors that are computed when they are used."""
        members = self.group().members
        return sum(side.size for one in members for side in one.sides if side.is_made)

    def tensors(self, dialect: Dialect) -> tuple[str, ...]:
        """Names of what is written: the dense difference, or up and down."""
        if self.kind == "dense":
            suffix = self.suffix or dialect.diff
            assert suffix is not None  # see `planning.dialect_of`
            return (self.stem + suffix,)
        sides = (dialect.up, dialect.down)
        if self.embedding:
            assert dialect.embedding is not None  # see `arranging`
            sides = dialect.embedding
        return tuple(self.stem + side for side in sides)


@dataclass(frozen=True, slots=True)
class Plan:
    """An immutable list of what will be done.

    Attributes
    ----------
    alpha : the one value of alpha in the whole file, for dialects that store it; None also where
        all is dense.
    method : name and parameters of the method, or of the policy that chose one per group.
    choices : what was decided for every group, and why.
    strengths : energy normalisation by branch, empty if it was off.
    analysis : what the decisions were made from, as far as it was needed.
    notes : what a user should know of the decisions.
    suggested : largest strength at which the result should be applied, if the policy has a view.
    seed : of the random draws.
    split : whether weights that the original code fuses were decided part by part.
    recipe : text of a recipe that asks for the same; empty if none can.
    portable : the same with places in the stack instead of paths, for the output, see
        `loramix.recipes.provenance`; empty also where a recipe does not say everything.
    rules : what the rules of the user say of which targets, see `loramix.recipes.rules.Resolved`.
    backend : name of what is meant to carry it out.
    """

    steps: tuple[Step, ...] = field(repr=False)
    adapters: tuple[Adapter, ...]
    weights: tuple[Weight, ...]
    method: Mapping[str, object]
    choices: tuple[Choice, ...] = field(repr=False)
    output: Output
    dialect: Dialect
    dtype: Dtype
    architecture: str | None
    alpha: float | None
    strengths: Mapping[str, Strength]
    analysis: Analysis = field(repr=False, compare=False)
    notes: tuple[str, ...] = ()
    suggested: float | None = None
    seed: int = 0
    split: bool = True
    recipe: str = field(default="", repr=False, compare=False)
    portable: str = field(default="", repr=False, compare=False)
    rules: tuple[tuple[str, ...], ...] = field(default=(), repr=False, compare=False)
    backend: str = "rust"

    @property
    def layout(self) -> Layout | None:
        """Module table of the base model."""
        return load_layout(self.architecture) if self.architecture else None

    def steps_by_group(self) -> dict[str, Step]:
        """The step that a group is made in, by the key of the group."""
        return {key: step for step in self.steps for key in step.keys}

    def digest(self) -> str:
        """Hash of every decision: two plans with one digest write the same bytes."""
        hasher = hashlib.blake2b(digest_size=16)
        for step in self.steps:
            pieces = [(step.kind, p.owner, p.row_start, p.coefficient.hex()) for p in step.pieces]
            parts = [(describe(part.method), asdict(part.site)) for part in step.parts]
            parts = canonical(parts)
            hasher.update(repr((step.stem, step.target, step.rank, pieces, parts)).encode())
        wish = canonical(asdict(self.output))
        rule = (wish, self.dialect.name, self.dtype, self.alpha, self.seed)
        hasher.update(repr(rule).encode())
        return hasher.hexdigest()


def canonical(value: object) -> Any:  # noqa: ANN401 - plain data
    """Plain data in which equal numbers are alike: a file may give 1.0 back where 1 was said."""
    if isinstance(value, Mapping):
        return {key: canonical(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(one) for one in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value
