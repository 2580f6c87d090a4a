"""Groups with their choices become weights of the output: one step each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from loramix.errors import FormatError
from loramix.formats.dialects import Dialect
from loramix.formats.layout import Layout
from loramix.groups import Fusion, fusions
from loramix.methods import Coefficients, Composite, Method, apply
from loramix.methods.composite import site_of
from loramix.output import Output
from loramix.steps import Choice, Kind, Part, Piece, Step
from loramix.types import F64, Adapter, Group, Site, Target


@dataclass(frozen=True, slots=True)
class Item:
    """A group with what was decided for it.

    Attributes
    ----------
    method : the one that is carried out.
    coefficients : of the sum, for a method that is one; else the weights that the method gets.
    asked : the users' weights.
    """

    group: Group
    method: Method
    coefficients: F64
    asked: tuple[float, ...]
    site: Site
    rank: int | None

    @classmethod
    def of(cls, group: Group, gram: F64, choice: Choice, seed: int) -> "Item":
        """From a choice and inner products, which only some methods look at."""
        decision = choice.decision
        weights = np.array(decision.weights)
        sides = decision.sides or ("all",) * len(weights)
        method = decision.method
        if isinstance(method, Coefficients) and {"low", "high"} & set(sides):
            method = Composite(method)  # of what is left of the deltas
        if isinstance(method, Coefficients):
            inside = np.where([side != "around" for side in sides], weights, 0.0)
            weights = apply(method, gram, inside) + (weights - inside)
        site = site_of(
            method,
            gram,
            weights,
            key=group.target.key_hash,
            seed=seed,
            sides=decision.sides,
            published_sides=decision.published_sides,
        )
        return cls(group, method, weights, choice.asked, site, choice.rank)


def arrange(
    adapters: Sequence[Adapter],
    items: Sequence[Item],
    dialect: Dialect,
    layout: Layout | None,
    output: Output,
) -> list[Step]:
    """One step for every weight of the output.

    Raises
    ------
    FormatError : a weight has no name in the dialect, or the parts of a fused weight have methods
        that cannot be carried out in one weight.
    """
    table = fusions(layout) if dialect.fused else {}
    swapped = swapped_keys(layout) if dialect.fused else frozenset()
    parts: dict[str, list[tuple[Item, int]]] = {}
    targets: dict[str, Target] = {}
    for item in items:
        target, row = written_as(item.group.target, table)
        targets[target.key] = target
        parts.setdefault(target.key, []).append((item, row))
    steps = []
    for key, target in targets.items():
        decided = _parts(parts[key])
        # What is summed may stay joined as it came; everything else is decided part by part.
        fusion = None if decided else table.get(key)
        pieces = _pieces(adapters, parts[key], target, fusion)
        try:
            stem = dialect.stem(target, layout)
        except FormatError as error:
            names = sorted({adapters[piece.owner].name for piece in pieces})
            message = f"{', '.join(names)}: {error}"
            raise FormatError(message) from None
        ranks = [item.rank for item, _ in parts[key] if item.rank is not None]
        kind = _kind(decided, output, key)
        swap = key in swapped
        rank = max(ranks, default=None)
        keys = tuple(item.group.target.key for item, _ in parts[key])
        steps.append(Step(target, stem, pieces, swap, decided, kind, rank, keys))
    return steps


def _parts(parts: Sequence[tuple[Item, int]]) -> tuple[Part, ...]:
    """What methods that are no sums work on, if two adapters meet anywhere in it.

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
            asked = tuple(item.asked[i] for i in used)
            own = Group(group.target, members, owners)
            found.append(Part(own, item.method, sizes, asked, row, item.site))
    return tuple(found) if any(part.place != "anywhere" for part in found) else ()


def _kind(parts: Sequence[Part], output: Output, key: str) -> Kind:
    """How a weight is made; its parts must agree on where."""
    places = {part.place for part in parts} - {"anywhere"}
    if not places:
        return "sum"
    if places == {"weight"}:
        return "dense" if output.dense else "entries"
    several = len({part.method for part in parts if not part.alone}) > 1
    if (places == {"knots"} and not several) or places <= {"core", "bases"}:
        return "joint"
    found = ", ".join(
        f"{part.group.target.key}: {part.method.name} ({part.place})"
        for part in parts
        if part.place != "anywhere"
    )
    message = (
        f"{key} is one weight in this dialect, and these methods cannot share it ({found}): choose "
        "one method for its parts, or write --dialect diffusers"
    )
    raise FormatError(message)


def written_as(target: Target, table: Mapping[str, Fusion]) -> tuple[Target, int]:
    """The weight that a target is a part of where weights are fused, and its first row there."""
    fusion = table.get(target.key)
    if fusion is None or fusion.target.key == target.key:
        return target, 0
    row = next(row for part, row in fusion.parts if part.key == target.key)
    return fusion.target, row


def _pieces(
    adapters: Sequence[Adapter],
    parts: Sequence[tuple[Item, int]],
    target: Target,
    fusion: Fusion | None,
) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    for item, row in parts:
        group = item.group
        members = zip(group.members, group.owners, item.coefficients, item.asked, strict=True)
        pieces += [Piece(f, owner, float(c), w, row) for f, owner, c, w in members]
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


def swapped_keys(layout: Layout | None) -> frozenset[str]:
    """Targets the halves of whose rows are exchanged in original names."""
    modules = layout.modules if layout else ()
    return frozenset(f"{m.component}.{m.name}" for m in modules if m.swap)
