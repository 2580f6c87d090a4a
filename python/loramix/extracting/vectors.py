"""Biases and norms of two models: which differ, and what an adapter calls them.

No table has norms.  But they stand beside modules that a table has: where the modules below
``down_blocks.1.attentions.0`` have the same names below ``input_blocks.4.1``, so has the norm that
is there.  What stands beside nothing of the kind goes by its name, or not at all.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from loramix.checkpoints import Checkpoint
from loramix.checkpoints.naming import Stored
from loramix.errors import FormatError
from loramix.formats.dialects import Dialect, split_stem
from loramix.formats.layout import Layout, Module, flatten
from loramix.methods import Linear
from loramix.planning.arranging import spelled, swapped_keys
from loramix.planning.steps import Part, Piece, Step
from loramix.raw import Site
from loramix.tensors import Tensor
from loramix.types import BIAS, Factors, Group, Target

World: TypeAlias = Literal["name", "original", "comfy", "kohya"]


@dataclass(frozen=True, slots=True)
class Vector:
    """A parameter of one axis, or the lack of a name for it.

    Attributes
    ----------
    target : as whoever reads the adapter will know it.
    stored : its name in the tuned model.
    new, old : in both models.
    beside : the weight of the norm that it is the bias of; None for others.
    """

    target: Target
    stored: str
    new: Tensor
    old: Tensor
    beside: Target | None = None


def biases(tuned: Checkpoint, base: Checkpoint, targets: Iterable[Target]) -> Iterator[Vector]:
    """Biases of these targets that both models have, of one shape.

    A fused bias of the one may be in parts in the other.
    """
    for target in targets:
        key = f"{target.key}{BIAS}"
        new, old = tuned.weight(key), base.weight(key)
        place = tuned.place(key)
        if new is not None and old is not None and place is not None and new.shape == old.shape:
            yield Vector(Target(key, new.shape), place.name, new, old)


def norms(
    tuned: Checkpoint, base: Checkpoint, layout: Layout, dialect: Dialect
) -> Iterator[Vector]:
    """Weights and biases of norms that both models have and the dialect has a name for.

    The names of the two models may be of different codes.
    """
    siblings = _Siblings(layout)
    there = dict(_norms(base, siblings))
    for (component, path, what), (name, new) in _norms(tuned, siblings):
        _, old = there.get((component, path, what), ("", None))
        stem = siblings.stem(component, path, dialect)
        if old is None or stem is None or old.shape != new.shape:
            continue
        key = split_stem(stem).key
        weight = Target(key, new.shape)
        if what == BIAS:
            yield Vector(Target(key + BIAS, new.shape), name, new, old, beside=weight)
        else:
            yield Vector(weight, name, new, old)


def _norms(
    model: Checkpoint, siblings: "_Siblings"
) -> Iterator[tuple[tuple[str, str, str], tuple[str, Tensor]]]:
    """Component, canonical path and suffix of every norm, with its stored name and tensor."""
    stored = [
        Stored.of(shard.name(name), shard.component)
        for shard in model.shards
        for name in shard.file.tensors
    ]
    weights = {
        (one.components, one.path)
        for one in stored
        if one.role == "weight" and len(model.tensors[one.name].shape) == 1
    }
    for one in stored:
        if one.role is None or (one.components, one.path) not in weights:
            continue
        placed = siblings.canonical(one)
        if placed is not None:
            suffix = BIAS if one.role == "bias" else ""
            yield (*placed, suffix), (one.name, model.tensors[one.name])


def steps_of(
    vectors: Iterable[tuple[Vector, Factors]],
    written: Iterable[Target],
    layout: Layout | None,
    dialect: Dialect,
) -> tuple[list[Step], list[str]]:
    """One step for every vector that the dialect has a name for; stored names of the others.

    Parameters
    ----------
    vectors : with their deltas.
    written : the weights that the adapter has factors of.
    """
    targets = {target.key: target for target in written}
    swapped = swapped_keys(layout) if dialect.fused else frozenset()
    steps: list[Step] = []
    lost: list[str] = []
    for vector, factors in vectors:
        target = vector.target
        near = targets if vector.beside is None else {vector.beside.key: vector.beside}
        try:
            stem, suffix = spelled(target, near, dialect, layout)
        except FormatError:
            lost.append(vector.stored)
            continue
        group = Group(target, (factors,), (0,))
        part = Part(group, Linear(), (1.0,), (1.0,), 0, Site())
        piece = Piece(factors, 0, 1.0, 1.0, 0)
        swap = target.key.removesuffix(BIAS) in swapped
        steps.append(
            Step(target, stem, (piece,), swap, (part,), "dense", None, (target.key,), suffix)
        )
    return steps, lost


class _Siblings:
    """What the parents of modules are called in other codes.

    Parameters
    ----------
    layout : module table of the model.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._parents: dict[tuple[str, str], Mapping[World, str] | None] = {}
        for module in layout.modules:
            for parents in _parents(_worlds(module, layout)):
                for parent in set(parents.values()):
                    key = (module.component, parent)
                    known = self._parents.setdefault(key, parents)
                    if known != parents:  # nobody knows which is meant
                        self._parents[key] = None

    def canonical(self, stored: Stored) -> tuple[str, str] | None:
        """Component and canonical path of a stored parameter; None if nothing is beside it."""
        parent, _, leaf = stored.path.rpartition(".")
        for component in stored.components or tuple(self._layout.prefixes):
            found = self._parents.get((component, parent))
            if found is not None:
                return component, f"{found['name']}.{leaf}"
        return None

    def stem(self, component: str, path: str, dialect: Dialect) -> str | None:
        """What a dialect calls a parameter; None if it has no name there.

        Parameters
        ----------
        path : canonical.
        """
        parent, _, leaf = path.rpartition(".")
        naming = dialect.form.naming
        prefix = dialect.prefixes.get(component)
        found = self._parents.get((component, parent))
        if prefix is None or found is None or naming == "xlabs" or naming not in found:
            return None
        name = f"{found[naming]}.{leaf}"
        return prefix + (flatten(name) if dialect.form.flat else name)


def _worlds(module: Module, layout: Layout) -> dict[World, str]:
    """Dotted names of a module by whose they are; Kohya's is one of the others, flattened."""
    found: dict[World, str] = {
        "name": module.name, "original": module.original, "comfy": module.comfy
    }  # fmt: skip
    prefix = layout.prefixes.get(module.component)
    for name in tuple(found.values()):
        if prefix is not None and module.kohya == prefix + flatten(name):
            found.setdefault("kohya", name)
    return found


def _parents(names: Mapping[World, str]) -> Iterator[Mapping[World, str]]:
    """What is in front of the last words, as long as these are the same in all codes."""
    words = {world: name.split(".") for world, name in names.items()}
    while len({own[-1] for own in words.values()}) == 1 and all(len(w) > 1 for w in words.values()):
        words = {world: own[:-1] for world, own in words.items()}
        yield {world: ".".join(own) for world, own in words.items()}
