"""Whether an adapter is for a model: which of its targets the model has, in their sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from loramix.compose.components import key_of
from loramix.formats.layout import load_layout
from loramix.groups import Fusion, fusions
from loramix.types import Adapter, Target

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Sizes of the weights of a model by canonical key."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a model has of an adapter.

    Attributes
    ----------
    there : targets that it has, and how it writes their sizes.
    unequal : a target that it has in another size: key, size in the adapter, size in the model.
    whose : which base model the adapter is for, as far as its names and sizes say, in words.
    """

    there: Mapping[Target, Target]
    unequal: tuple[str, tuple[int, ...], tuple[int, ...]] | None
    whose: str

    def misfit(self, what: str) -> str:
        """Why the adapter is for another model; empty: it is for this one.

        Parameters
        ----------
        what : the model, for the message.
        """
        other = f"; it is {self.whose}"
        if self.unequal is not None:
            key, own, theirs = self.unequal
            return f"{key} is {_sized(own)} in it, and {_sized(theirs)} in {what}{other}"
        return "" if self.there else f"it has no layer of {what}{other}"


def fit_of(adapter: Adapter, shapes: Shapes) -> Fit:
    """Compare an adapter with a model.

    A weight that the original code of the model fuses is there if one of its parts is.
    """
    layout = load_layout(adapter.architecture) if adapter.architecture else None
    table = fusions(layout)
    there: dict[Target, Target] = {}
    unequal = None
    for target in adapter.targets:
        for part in _parts(target, table):
            theirs = shapes.get(part.key)
            if theirs is not None and _plain(theirs) == _plain(part.shape):
                there[target] = Target(target.key, theirs) if part is target else target
                break
            if theirs is not None and unequal is None:
                unequal = part.key, part.shape, theirs
    whose = f"for an unknown model with {next((t.key for t in adapter.targets), 'nothing')}"
    if layout is not None:
        whose = f"for {layout.name} ({100 * adapter.match:.3g} % of its modules fit)"
    return Fit(there, unequal, whose)


def shapes_of(parts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Sizes of the weights of components, which are given by name."""
    return {
        key_of(component, part, name.removesuffix(".base_layer")): size
        for component, part in parts.items()
        for name, layer in part.named_modules()
        if (size := _size(layer)) is not None
    }


def _size(layer: Any) -> tuple[int, ...] | None:  # noqa: ANN401 - torch's
    """Of a layer's weight; what is quantised is stored in another one."""
    import torch

    if isinstance(layer, torch.nn.Linear):
        return (layer.out_features, layer.in_features)
    weight = getattr(layer, "weight", None)
    return tuple(weight.shape) if isinstance(weight, torch.Tensor) else None


def _parts(target: Target, table: Mapping[str, Fusion]) -> tuple[Target, ...]:
    fusion = table.get(target.key)
    if fusion is None or fusion.target.key != target.key:
        return (target,)
    return tuple(part for part, _ in fusion.parts)


def _plain(size: tuple[int, ...]) -> tuple[int, ...]:
    """Without sizes of 1 at the end: convolutions of 1 x 1 are written without them, too."""
    return size if size[-1:] != (1,) else _plain(size[:-1])


def _sized(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
