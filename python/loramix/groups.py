"""Align adapters by target, at the finest slices that they share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loramix.errors import FormatError, ShapeError
from loramix.formats.dialects import partial_of
from loramix.formats.layout import Layout, Module, load_layout
from loramix.types import BIAS, Adapter, Factors, Group, Target


@dataclass(frozen=True, slots=True)
class Fusion:
    """A weight that the original model code fuses.

    Attributes
    ----------
    target : the fused weight.
    parts : canonical targets of its rows, with the first row of each.
    """

    target: Target
    parts: tuple[tuple[Target, int], ...]


def fusions(layout: Layout | None, *, partial: bool = False) -> dict[str, Fusion]:
    """Fused weights of a layout and their biases, by the key of every part and of the whole.

    Parameters
    ----------
    partial : only the first members, where those have a name of their own.
    """
    found: dict[str, Fusion] = {}
    for modules in layout.by_kohya.values() if layout else ():
        if len(modules) > 1:
            fusion = _fusion(modules)
            if partial:
                fusion = _first_members(fusion)
            for one in (fusion, _of_bias(fusion)):
                keys = [one.target.key, *(part.key for part, _ in one.parts)]
                found.update(dict.fromkeys(keys, one))
    return found


def _first_members(fusion: Fusion) -> Fusion:
    name, count = partial_of(fusion.target.key)
    parts = fusion.parts[:count]
    rows = sum(part.rows for part, _ in parts)
    return Fusion(Target(name, (rows, *fusion.target.shape[1:])), parts)


def _of_bias(fusion: Fusion) -> Fusion:
    """The same of the biases: they are fused as the rows are."""
    parts = tuple((_bias(part), row) for part, row in fusion.parts)
    return Fusion(_bias(fusion.target), parts)


def _bias(target: Target) -> Target:
    return Target(target.key + BIAS, target.shape[:1])


def _fusion(modules: Sequence[Module]) -> Fusion:
    first = modules[0]
    rows = sum(module.shape[0] for module in modules)
    whole = Target(f"{first.component}.{first.original}", (rows, *first.shape[1:]))
    parts = tuple(
        (Target(f"{m.component}.{m.name}", m.shape), m.rows[0] if m.rows else 0) for m in modules
    )
    return Fusion(whole, parts)


def agreed(adapters: Sequence[Adapter]) -> str | None:
    """The base model that all adapters of a known one can be for; None if there is no such.

    What fits several equally well goes with an adapter that fits one, or else with one that had
    a reason not to be taken for its first candidate.
    """
    known = [a for a in adapters if a.architecture]
    sure = {a.architecture for a in known if len(a.candidates) < 2}
    found = sure or {a.architecture for a in known}
    if len(found) > 1 and not sure:
        found = {a.architecture for a in known if a.architecture != a.candidates[0]}
    if len(found) != 1:
        return None
    (name,) = found
    return name if all(name in (a.architecture, *a.candidates) for a in known) else None


def common_architecture(adapters: Sequence[Adapter]) -> str | None:
    """The base model of the stack.

    Raises
    ------
    FormatError : adapters of different models.
    """
    common = agreed(adapters)
    known = [a for a in adapters if a.architecture]
    if common is not None or not known:
        return common
    first = known[0]
    other = next(a for a in known if a.architecture != first.architecture)
    message = (
        f"{other.name} is for {other.architecture} ({100 * other.match:.3g} % of its modules "
        f"fit), {first.name} for {first.architecture} ({100 * first.match:.3g} %): adapters of "
        "different base models cannot be merged"
    )
    raise FormatError(message)


def align(adapters: Sequence[Adapter], *, split: bool) -> tuple[Group, ...]:
    """Groups of the stack, in order of their keys.

    A fused weight stays one group if every adapter that touches it holds it fused and ``split``
    is false; otherwise it becomes one group per part.

    Parameters
    ----------
    split : whether the output wants the parts.

    Raises
    ------
    FormatError : adapters of different models.
    ShapeError : one target, two shapes.
    """
    architecture = common_architecture(adapters)
    table = fusions(load_layout(architecture) if architecture else None)
    keys = [{target.key for target in adapter.targets} for adapter in adapters]
    apart = {
        fusion.target.key
        for fusion in set(table.values())
        if split or any(part.key in held for held in keys for part, _ in fusion.parts)
    }
    slots: dict[str, list[tuple[int, Target, Factors]]] = {}
    for owner, adapter in enumerate(adapters):
        for target, factors in _slices(adapter.targets, table, apart):
            slots.setdefault(target.key, []).append((owner, target, factors))
    return tuple(_group(slots[key], adapters) for key in sorted(slots))


def _slices(
    targets: Mapping[Target, Factors], table: Mapping[str, Fusion], apart: set[str]
) -> list[tuple[Target, Factors]]:
    found: list[tuple[Target, Factors]] = []
    for target, factors in targets.items():
        if target.key in apart:
            parts = table[target.key].parts
            found += [(part, factors.rows(at, at + part.rows)) for part, at in parts]
        else:
            found.append((target, factors))
    return found


def _group(members: Sequence[tuple[int, Target, Factors]], adapters: Sequence[Adapter]) -> Group:
    first_owner, first, _ = members[0]
    for owner, target, factors in members[1:]:
        if target.shape != first.shape:
            if _are_alike(first, target):  # kernels are written flat, and 1 x 1 ones left out
                first = max(first, target, key=lambda one: len(one.shape))
                continue
            message = (
                f"{first.key}: {adapters[first_owner].name} changes a weight of shape "
                f"{list(first.shape)}, {adapters[owner].name} one of {list(target.shape)} "
                f"({factors.keys[0]}); the adapters were trained on different models"
            )
            raise ShapeError(message)
    return Group(first, tuple(f for _, _, f in members), tuple(o for o, _, _ in members))


def _are_alike(one: Target, other: Target) -> bool:
    """Whether two shapes are one weight of an unknown model with a kernel and without."""
    flat = min(len(one.shape), len(other.shape)) == 2
    return flat and (one.rows, one.cols) == (other.rows, other.cols)
