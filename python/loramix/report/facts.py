"""What a report on a stack knows, as plain data: everything in it goes to JSON as it is.

Text and HTML are made from this and nothing else.  Where a number does not exist, None stands.
"""

from typing import Any, Literal, TypedDict

from loramix.report.model import Became, Input

PairNumber = Literal["cosine", "conflict", "weighted_conflict", "excess", "lost", "overlap"]


class Entrant(Input):
    """One adapter, and what it brings.

    Attributes
    ----------
    letter : what it is called where its name has no room: A, B, C, ...
    shared : number of its targets that another adapter changes, too.
    norm : Frobenius norm of all its weighted deltas.
    interference : what the others would add to its retention in a plain sum.
    """

    letter: str
    shared: int
    norm: float | None
    interference: float | None


class Fate(Became):
    """What became of one adapter.

    Attributes
    ----------
    letter : of the adapter.
    """

    letter: str


class Pair(TypedDict):
    """Two adapters over the groups that both change.

    Attributes
    ----------
    first, second : positions of the adapters, first < second.
    groups : number of those groups.
    cosine : exact.
    conflict, weighted_conflict, excess, excess_error, clash, lost, lost_excess, lost_error,
        overlap : see `loramix.analysis.pooling.Signs`; shares, 0 to 1, the excesses signed.
    significant : whether the excess is more, either way, than chance and low rank explain.
    """

    first: int
    second: int
    groups: int
    cosine: float | None
    conflict: float | None
    weighted_conflict: float | None
    excess: float | None
    excess_error: float | None
    clash: float | None
    lost: float | None
    lost_excess: float | None
    lost_error: float | None
    overlap: float | None
    significant: bool


class Extreme(TypedDict):
    """The pair of a block that stands out in a number.

    Attributes
    ----------
    first, second : positions of the adapters.
    significant : see `Pair`.
    """

    first: int
    second: int
    value: float
    significant: bool


class Choice(TypedDict):
    """What is done in a block.

    Attributes
    ----------
    method : the most frequent one of its groups that have something to decide.
    letter : its letter in this report.
    mixed : whether there are others.
    counts : number of groups by method.
    """

    method: str
    letter: str
    mixed: bool
    counts: dict[str, int]


class Block(TypedDict):
    """Groups of one block of the model.

    Attributes
    ----------
    name : part of their keys, component included.
    section : what it stands under, e.g. ``unet.down_blocks.1``.
    branch : which of the two energies it counts towards.
    groups : number of its groups.
    shared : number of those with two members or more.
    pairs : all pairs of the stack, in the order of the report's pairs.
    extremes : by number (cosine, excess, overlap), the pair where it is largest, either way.
    energy : for every adapter, the share of its energy that is here, 0 to 1.
    choice : None without a plan.
    """

    name: str
    section: str
    branch: Literal["model", "text_encoder"]
    groups: int
    shared: int
    pairs: list[Pair]
    extremes: dict[str, Extreme]
    energy: list[float | None]
    choice: Choice | None


class GroupRow(TypedDict):
    """One group.

    Attributes
    ----------
    target : its key.
    block : position of its block.
    shape : of the weight.
    owners : positions of the adapters that change it.
    weights : the users', for every member.
    planned : what the method gets, for every member; empty without a plan.
    norms : of the weighted deltas.
    pairs : of its members.
    method, letter : None without a plan.
    regime, why, numbers, sides : see `Decision`; empty without a plan.
    rank, error : of what was written; None where it was not, or only as a part of a fused weight.
    """

    target: str
    block: int
    shape: list[int]
    owners: list[int]
    weights: list[float]
    planned: list[float]
    norms: list[float | None]
    pairs: list[Pair]
    method: str | None
    letter: str | None
    regime: str
    why: str
    numbers: dict[str, float | None]
    sides: list[str]
    rank: int | None
    error: float | None


class Used(TypedDict):
    """A method of the plan.

    Attributes
    ----------
    groups : number of groups that it is chosen for.
    alone : number of those with one member, where nothing had to be decided.
    """

    method: str
    letter: str
    groups: int
    alone: int


class Energy(TypedDict):
    """How strong an adapter is in a branch: norms.

    Attributes
    ----------
    given : of its deltas with the users' weights.
    planned : with the weights that the plan gives it; None without a plan.
    kept : length of the result along it; None without a result.
    """

    adapter: int
    branch: Literal["model", "text_encoder"]
    given: float | None
    planned: float | None
    kept: float | None


class Bin(TypedDict):
    """Targets whose relative error is in [low, high)."""

    low: float
    high: float
    count: int


class Worst(TypedDict):
    """One of the targets with the largest error.

    Attributes
    ----------
    norm : of the merged delta; None for a copy.
    """

    target: str
    error: float
    rank: int
    norm: float | None


class Certificate(TypedDict):
    """What the file lost against what was meant, measured after re-opening it.

    Attributes
    ----------
    relative : error of the whole file.
    exact : number of targets without any error.
    median : of the relative errors of the targets.
    bins : the others, by half decades.
    worst : up to ten, largest first.
    """

    relative: float
    targets: int
    exact: int
    median: float
    bins: list[Bin]
    worst: list[Worst]


class Overview(TypedDict):
    """All of it.

    Attributes
    ----------
    verdict : one sentence.
    architecture : the base model, if it is known.
    samples : rows, and columns, of the blocks whose signs were looked at; None: all entries; 0:
        none.
    shared : number of groups with two members or more.
    pairs : (0, 1), (0, 2), ..., (1, 2), ...
    compatibility : see `loramix.analysis.compat.Compatibility`; None for one adapter.
    methods : most frequent first.
    strengths : energy normalisation by branch.
    became : what became of the adapters; empty without a result.
    warnings : one line each.
    recipe : text that makes this again.
    """

    version: str
    verdict: str
    architecture: str | None
    samples: int | None
    adapters: list[Entrant]
    shared: int
    pairs: list[Pair]
    compatibility: dict[str, Any] | None
    blocks: list[Block]
    groups: list[GroupRow]
    methods: list[Used]
    energy: list[Energy]
    strengths: dict[str, dict[str, float]]
    became: list[Fate]
    certificate: Certificate | None
    warnings: list[str]
    recipe: str | None
