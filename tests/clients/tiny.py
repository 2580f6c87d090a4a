"""What stands between a tiny model and the package: module table, adapters, deltas by hand.

The table of a tiny model is the built-in one of its architecture with other sizes: the same
names, fused weights and exchanged halves, but only the blocks that are there.  What an adapter
means is worked out in float64 and added to the weights, without the package.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

import torch
from formats.builders import Built, Tensors, Truth, pair, spell

from loramix.formats.layout import Layout, Module, flatten, load_layout

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = dict[str, Shape]
Choose: TypeAlias = Callable[[Module], bool]
_BLOCK = re.compile(r"transformer_blocks\.(\d+)\.")


def layers_of(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Layers that take an adapter, by their names."""
    kinds = torch.nn.Linear | torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d
    for name, layer in model.named_modules():
        if isinstance(layer, kinds):
            yield name, layer


def among(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name matches one of these globs."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def table_of(architecture: str, component: str, model: torch.nn.Module, path: Path) -> Layout:
    """Write the module table of a tiny model as a user's file, and read it.

    Raises
    ------
    KeyError : the model has a layer that the built-in table does not know.
    """
    full = load_layout(architecture)
    known = {m.name: m for m in full.modules if m.component == component}
    shapes = {name: tuple(layer.weight.shape) for name, layer in layers_of(model)}
    tiny = [_resized(name, shape, known, shapes) for name, shape in shapes.items()]
    prefix = full.prefixes[component]
    by_name = all(m.kohya == f"{prefix}{flatten(m.name)}" for m in known.values())
    lines = [f"[{component} {prefix or '-'}{' name' if by_name else ''}]"]
    ends: dict[str, int] = {}
    for module in sorted(tiny, key=lambda m: m.rows or (0, 0)):
        start = ends.get(module.original, 0)
        ends[module.original] = start + module.shape[0]
        lines.append(_line(module, start))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return load_layout(str(path))


def _resized(name: str, shape: Shape, known: Mapping[str, Module], shapes: Shapes) -> Module:
    """Find the layer in the full table; the last block is that of the full model."""
    if not name.startswith("transformer_blocks."):
        return replace(known[name], shape=shape)
    mine, theirs = (
        max(int(found[1]) for found in map(_BLOCK.match, names) if found)
        for names in (shapes, known)
    )
    if not name.startswith(f"transformer_blocks.{mine}."):
        return replace(known[name], shape=shape)

    def here(text: str) -> str:
        return text.replace(f".{theirs}.", f".{mine}.", 1)

    found = known[name.replace(f".{mine}.", f".{theirs}.", 1)]
    aliases = tuple(replace(alias, name=here(alias.name)) for alias in found.aliases)
    return replace(found, name=name, shape=shape, original=here(found.original), aliases=aliases)


def _line(module: Module, start: int) -> str:
    """One line of a layout file; what is fused begins at row ``start`` of it."""
    words = [module.name, "x".join(map(str, module.shape)), module.original]
    words += [f"rows {start}+{module.shape[0]}"] if module.rows else []
    words += ["swap"] if module.swap else []
    words += [f"{alias.world} {alias.name}" for alias in module.aliases]
    return "  ".join(words)


@dataclass(frozen=True, slots=True)
class Spelling:
    """How an input names its tensors.

    Attributes
    ----------
    stem : of a module; modules with the same stem are fused.
    style : see `formats.builders.spell`.
    alpha : whether an alpha tensor carries the scale; otherwise it is one.
    original : whether rows are in the order of the original code, halves included.
    """

    stem: Callable[[Module], str]
    style: str
    alpha: bool
    original: bool = True


SPELLINGS: Mapping[str, Spelling] = {
    "kohya": Spelling(lambda m: str(m.kohya), ".lora_{}.weight", alpha=True),
    "comfyui": Spelling(lambda m: f"diffusion_model.{m.comfy}", "AB", alpha=True),
    "peft": Spelling(lambda m: f"base_model.model.{m.original}", "AB", alpha=False),
    "diffusers": Spelling(lambda m: f"{m.component}.{m.name}", "AB", alpha=False, original=False),
}


def adapter(
    layout: Layout, spelling: Spelling, choose: Choose, seed: int, *, ranks: Sequence[int],
    scales: Sequence[float],
) -> Built:  # fmt: skip
    """A random adapter of all fused weights of which a module is chosen.

    Parameters
    ----------
    ranks, scales : taken in turn, one for each weight; scales need ``spelling.alpha``.
    """
    fused: dict[str, list[Module]] = {}
    for module in layout.modules:
        fused.setdefault(spelling.stem(module), []).append(module)
    tensors: Tensors = {}
    truth: Truth = {}
    for index, (stem, members) in enumerate(fused.items()):
        if not any(map(choose, members)):
            continue
        first = members[0]
        rows = sum(m.shape[0] for m in members)
        cols = int(torch.Size(first.shape[1:]).numel())
        scale = scales[index % len(scales)] if spelling.alpha else 1.0
        one = pair(rows, cols, ranks[index % len(ranks)], seed + index, scale)
        tensors |= spell(stem, one, spelling.style, first.shape, alpha=spelling.alpha)
        start = 0
        for member in members:
            end = start + member.shape[0]
            part = one.swapped() if member.swap and spelling.original else one.rows(start, end)
            truth[f"{member.component}.{member.name}"] = [part]
            start = end
    return Built(tensors, truth)


def add_by_hand(model: torch.nn.Module, component: str, truth: Truth) -> None:
    """Add deltas to the weights of a model: summed in float64, rounded once."""
    layers = dict(layers_of(model))
    with torch.no_grad():
        for key, pairs in truth.items():
            weight = layers[key.removeprefix(f"{component}.")].weight
            delta = torch.from_numpy(sum(one.dense() for one in pairs)).reshape(weight.shape)
            weight.copy_((weight.double() + delta).float())
