"""Groups with their choices become weights of the output: one step each."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

import numpy as np

from loramix.errors import FormatError
from loramix.formats.dialects import Dialect
from loramix.formats.layout import Layout
from loramix.groups import Fusion, fusions
from loramix.methods import (
    Average,
    Coefficients,
    Composite,
    Linear,
    Method,
    Subspace,
    apply,
)
from loramix.methods.composite import site_of, space_of
from loramix.planning.joining import joined
from loramix.planning.output import Output
from loramix.planning.steps import FULL, Choice, Kind, Part, Piece, Step
from loramix.raw import Side, Site
from loramix.tensors import F64
from loramix.types import BIAS, MODULATION, Adapter, Group, Target


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
        method = _of_vector(decision.method) if group.target.is_vector else decision.method
        summed = _as_sum(cast("Hashable", method))
        if summed is not None and {"low", "high"} & set(decision.sides):
            method, summed = Composite(summed), None  # of what is left of the deltas
        if summed is not None:
            known = decision.weights, decision.sides
            if summed.reads_gram:
                weights, site = _summed(summed, gram, *known)
            else:
                weights, site = _summed_blindly(cast("Hashable", summed), *known)
            return cls(group, method, weights, choice.asked, site, choice.rank)
        weights = np.array(decision.weights)
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


def _summed(
    method: Coefficients, gram: F64, sizes: tuple[float, ...], sides: tuple[Side, ...]
) -> tuple[F64, Site]:
    """Coefficients of all members, and where those are that the sum has."""
    weights = np.array(sizes)
    inside = np.where([side != "around" for side in sides or ("all",) * len(sizes)], weights, 0.0)
    found = apply(method, gram, inside) + (weights - inside)
    own = zip(sides, found, strict=bool(sides))
    return found, Site(sides=tuple(side for side, weight in own if weight != 0))


@lru_cache(maxsize=64)  # most groups of a stack are alike where nobody looks at the deltas
def _summed_blindly(
    method: Hashable, sizes: tuple[float, ...], sides: tuple[Side, ...]
) -> tuple[F64, Site]:
    unknown = np.full((len(sizes), len(sizes)), np.nan)
    found, site = _summed(cast("Coefficients", method), unknown, sizes, sides)
    found.setflags(write=False)  # many share it
    return found, site


@lru_cache(maxsize=64)  # protocols take Python 3.11 long, and every group asks
def _as_sum(method: Hashable) -> Coefficients | None:
    return method if isinstance(method, Coefficients) else None


def _of_vector(method: Method) -> Method:
    """A vector has one direction: methods on joint bases or singular values become sums.

    Means become means.
    """
    joint = not isinstance(method, Coefficients) and (
        isinstance(method, Subspace) or space_of(method) != "weight"
    )
    if not joint:
        return method
    return Average() if method.mean else Linear()


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
    table = fusions(layout, partial=dialect.partial) if dialect.fused else {}
    swapped = swapped_keys(layout) if dialect.fused else frozenset()
    parts: dict[str, list[tuple[Item, int]]] = {}
    targets: dict[str, Target] = {}
    for item in items:
        target, row = written_as(item.group.target, table)
        targets[target.key] = target
        parts.setdefault(target.key, []).append((item, row))
    steps: list[Step] = []
    refused: list[str] = []
    for key, target in targets.items():
        ranks = [item.rank for item, _ in parts[key] if item.rank is not None]
        rank = max(ranks, default=None)
        full = _is_full(parts[key], target, output, rank)
        decided = _parts(parts[key], whole=full or target.is_vector)
        # What is summed may stay joined as it came; everything else is decided part by part.
        fusion = None if decided else table.get(key)
        pieces = _pieces(adapters, parts[key], target, fusion)
        try:
            stem, suffix = spelled(target, targets, dialect, layout)
            embedding = _is_embedding(pieces, dialect, target)
        except FormatError as error:
            names = sorted({adapters[piece.owner].name for piece in pieces})
            refused.append(f"{', '.join(names)}: {error}")
            continue
        kind = "dense" if target.is_vector else _kind(decided, output, key, full=full)
        swap = key.removesuffix(BIAS) in swapped
        keys = tuple(item.group.target.key for item, _ in parts[key])
        steps.append(Step(target, stem, pieces, swap, decided, kind, rank, keys, suffix, embedding))
    if refused:
        more = f" ({len(refused) - 1} more like it)" if len(refused) > 1 else ""
        raise FormatError(refused[0] + more)
    return steps


def refuse_one_name(adapters: Sequence[Adapter], steps: Sequence[Step], dialect: Dialect) -> None:
    """Refuse two weights that would be written under one name.

    A module of another shape than its table says is none of that model, so it is no group with the
    one whose name it has.

    Raises
    ------
    FormatError : there are two, with the shapes that tell them apart.
    """
    taken: dict[str, Step] = {}
    for step in steps:
        for name in step.tensors(dialect):
            first = taken.setdefault(name, step)
            if first is not step:
                one, other = (_told(adapters, own) for own in (first, step))
                message = (
                    f"{name} would be two weights: {one}, and {other}. One of them was trained on "
                    "another model, or on a changed one; leave its modules out with --skip 'GLOB'"
                )
                raise FormatError(message)


def _told(adapters: Sequence[Adapter], step: Step) -> str:
    """A weight with its shape, and one of those that change it."""
    return f"one of shape {list(step.target.shape)} in {adapters[step.pieces[0].owner].name}"


def spelled(
    target: Target, targets: Mapping[str, Target], dialect: Dialect, layout: Layout | None
) -> tuple[str, str]:
    """Stem of a target, and what follows it if it is a vector.

    Raises
    ------
    FormatError : the dialect has no name for it.
    """
    if not target.is_vector:
        return dialect.stem(target, layout), ""
    how, module = dialect.vectors, target.key.removesuffix(BIAS).removesuffix(MODULATION)
    weight = targets.get(module)
    if target.key.endswith(MODULATION):
        what, suffix = "a modulation", how.modulation
    elif target.key == module:
        what, suffix = "the weight of a norm", how.norm
    elif weight is not None and weight.is_vector:
        what, suffix = "the bias of a norm", how.norm_bias
    else:
        what = "a bias" if how.lone_bias else "a bias without factors beside it"
        suffix = how.bias if how.lone_bias or weight is not None else None
    if suffix is None:
        message = (
            f"{target.key}: the clients of {dialect.name} files read no difference of {what}; "
            "write --dialect kohya, or leave it out with --skip"
        )
        raise FormatError(message)
    return dialect.stem(Target(module, target.shape), layout), suffix


def _is_embedding(pieces: Sequence[Piece], dialect: Dialect, target: Target) -> bool:
    found = any(piece.factors.family == "embedding" for piece in pieces)
    if found and dialect.embedding is None:
        message = (
            f"{target.key}: the clients of {dialect.name} files read no factors of embeddings; "
            "write --dialect peft, or leave it out with --skip"
        )
        raise FormatError(message)
    return found


def _parts(parts: Sequence[tuple[Item, int]], *, whole: bool) -> tuple[Part, ...]:
    """What methods that are no sums work on, if two adapters meet anywhere in it.

    Rows that one adapter has for itself are its weighted delta: nothing there to decide.

    Parameters
    ----------
    whole : whether it is added up entry by entry in any case.
    """
    if not whole and all(_as_sum(cast("Hashable", item.method)) for item, _ in parts):
        return ()
    found = []
    for item, row in parts:
        group, weights = item.group, item.coefficients
        method, site = item.method, item.site
        used = [i for i, weight in enumerate(weights) if weight != 0]
        if whole and not used:  # zeros are written, too
            used, method, site = list(range(len(weights))), Linear(), Site()
        if used:
            members = tuple(group.members[i] for i in used)
            owners = tuple(group.owners[i] for i in used)
            sizes = tuple(float(weights[i]) for i in used)
            asked = tuple(item.asked[i] for i in used)
            own = Group(group.target, members, owners)
            found.append(Part(own, method, sizes, asked, row, site))
    return tuple(found) if whole or any(part.place != "anywhere" for part in found) else ()


def _is_full(
    parts: Sequence[tuple[Item, int]], target: Target, output: Output, rank: int | None
) -> bool:
    """Whether a weight is made of deltas of full rank: sums of these are sums of entries."""
    members = (member for item, _ in parts for member in item.group.members)
    cut = (rank or output.rank) is not None and output.energy is None and output.max_error is None
    large = min(target.rows, target.cols) >= FULL
    return large and (cut or output.dense) and any(one.identity is not None for one in members)


def _kind(parts: Sequence[Part], output: Output, key: str, *, full: bool) -> Kind:
    """How a weight is made; its parts must agree on where.

    Parameters
    ----------
    full : whether what is summed is of full rank.
    """
    places = {part.place for part in parts} - {"anywhere"}
    if not places and not full:
        return "sum"
    if places <= {"weight"}:
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
    return tuple(sorted(joined(pieces), key=lambda p: (p.owner, p.row_start)))


def swapped_keys(layout: Layout | None) -> frozenset[str]:
    """Targets the halves of whose rows are exchanged in original names."""
    modules = layout.modules if layout else ()
    return frozenset(f"{m.component}.{m.name}" for m in modules if m.swap)
