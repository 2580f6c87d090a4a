"""The modules of known base models: canonical names, shapes, and what else they are called.

One text file per model in ``layouts/``; `loramix.formats.layout_text` has their grammar.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from loramix.errors import FormatError, ParamError
from loramix.formats.layout_text import Line, Naming, World, read_lines

LAYOUTS: tuple[str, ...] = (
    "sd15", "sd21", "sdxl", "sd3_medium", "sd35_medium", "sd35_large", "flux1", "flux2_dev",
    "flux2_klein_4b", "flux2_klein_9b", "chroma", "z_image", "lumina2", "qwen_image",
    "wan21_t2v_1_3b", "wan21_t2v_14b", "wan21_i2v_14b", "wan21_vace_1_3b", "wan22_ti2v_5b",
    "ltx_video_2b", "ltx_video_13b", "hunyuan_video", "ace_step_v1", "ace_step_1_5", "llama3_8b",
    "qwen2_5_7b",
)  # fmt: skip

SUFFIX = ".layout"
"""Ends the name of a user's own layout file, wherever an architecture may be named."""

# Kohya numbers text encoders by the trainer's own count, which is not that of the pipeline:
# T5 is te3 in sd-scripts, and the second text encoder of FLUX.1.
_NUMBERED = {"lora_te3_": "text_encoder_3"}


@dataclass(frozen=True, slots=True)
class Alias:
    """What another code than the original one calls a module.

    Attributes
    ----------
    world : whose name it is.
    name : dotted name; shared by the members of a fused weight.
    rows : half-open rows of that fused weight, None if it is not fused.
    """

    world: World
    name: str
    rows: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Module:
    """One weight: of a Linear or Conv module, or of a norm.

    Attributes
    ----------
    component : ``unet``, ``transformer``, ``text_encoder`` or ``text_encoder_2``; a language
        model is a ``transformer``.
    name : canonical dotted name inside the component.
    shape : weight shape, ``(out, in)`` or ``(out, in, *kernel)``; ``(out,)`` for a norm.
    original : dotted name in the original model code; shared by the members of a fused one.
    kohya : the whole Kohya stem, prefix included; None where there are no Kohya files.
    rows : half-open rows of the fused original weight, ``None`` if the original is not fused.
    swap : whether the halves of the rows are exchanged against the original and all aliases.
    aliases : what it is called elsewhere, where that is neither ``name`` nor ``original``.
    """

    component: str
    name: str
    shape: tuple[int, ...]
    original: str
    kohya: str | None
    rows: tuple[int, int] | None = None
    swap: bool = False
    aliases: tuple[Alias, ...] = ()

    @property
    def comfy(self) -> str:
        """Dotted name in the model classes of ComfyUI: the original one, mostly."""
        return next((a.name for a in self.aliases if a.world == "comfy"), self.original)


@dataclass(frozen=True, slots=True)
class Hit:
    """What a name stands for in a layout.

    Attributes
    ----------
    modules : one, or the members of a fused weight in the order of its rows.
    swapped : whether the halves of the rows are exchanged against the canonical name.
    world : whose name it is; the first of name, original, comfy, openclip if they agree.
    """

    modules: tuple[Module, ...]
    swapped: bool
    world: World


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """All modules of one model, in file order, with the lookups a reader needs.

    Attributes
    ----------
    name : one of ``LAYOUTS``, or the path of a user's file.
    modules : every Linear and Conv module.
    norms : norms whose names differ between worlds; others need no table.
    prefixes : component to Kohya prefix, e.g. ``text_encoder`` to ``lora_te1_``; None where
        there are no Kohya files.
    by_key : ``(component, flatten(name))`` to module, norms included.
    by_kohya : Kohya stem to its modules; several if the original is fused, in row order.
        A flattened original name without its prefix is found as ``prefix + name``.
    hits : ``(component, flattened name)`` of any world to what it stands for.
    """

    name: str
    modules: tuple[Module, ...] = field(repr=False)
    norms: tuple[Module, ...] = field(repr=False)
    prefixes: Mapping[str, str | None]
    by_key: Mapping[tuple[str, str], Module] = field(repr=False)
    by_kohya: Mapping[str, tuple[Module, ...]] = field(repr=False)
    hits: Mapping[tuple[str, str], Hit] = field(repr=False)

    def find(
        self,
        flat: str,
        component: str | None = None,
        size: tuple[int | None, int | None] = (None, None),
    ) -> Hit | None:
        """Look a whole name up, in every world.

        Parameters
        ----------
        flat : flattened name without prefix; hyphens are kept.
        component : None: the network, or whatever component has the name.
        size : (rows, columns) of the weight, None where unknown; what has another size is no hit.

        Examples
        --------
        >>> hit = load_layout("flux1").find("double_blocks_0_img_attn_qkv", size=(9216, 3072))
        >>> [module.name for module in hit.modules][0], hit.world
        ('transformer_blocks.0.attn.to_q', 'original')
        """
        for own in self._components(component):
            hit = self.hits.get((own, flat))
            if hit is not None and fits(hit.modules, size):
                return hit
        return None

    def _components(self, component: str | None) -> Iterable[str]:
        if component is None:
            return self.prefixes  # the network is the first section
        if component in self.prefixes:
            return (component,)
        numbered = (
            c for c, prefix in self.prefixes.items() if _NUMBERED.get(prefix or "") == component
        )
        return tuple(numbered)


def flatten(name: str) -> str:
    """Replace the dots of a module name by underscores, as Kohya stems do."""
    return name.replace(".", "_")


def is_architecture(name: str) -> bool:
    """Whether it names a layout of this package, or a file that may be one."""
    return name in LAYOUTS or name.endswith(SUFFIX)


@cache
def load_layout(name: str) -> Layout:
    """Read and expand a layout; a file is read once in a process.

    Parameters
    ----------
    name : one of ``LAYOUTS``, or the path of a file that ends in ``.layout``.

    Raises
    ------
    FormatError : a mistake in the file, with its line.
    ParamError : neither of the two.
    OSError : the file cannot be read.

    Examples
    --------
    >>> sdxl = load_layout("sdxl")
    >>> sdxl.by_key["unet", "mid_block_attentions_0_proj_in"].kohya
    'lora_unet_middle_block_1_proj_in'
    """
    return parse_layout(name, text_of(name))


def text_of(name: str) -> str:
    """The text of a layout.  See `load_layout`."""
    if name in LAYOUTS:
        path = files("loramix.formats") / "layouts" / f"{name}{SUFFIX}"
        return path.read_text(encoding="utf-8")
    if name.endswith(SUFFIX):
        try:
            return Path(name).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            message = f"{name}: not UTF-8 text ({error.reason} at byte {error.start})"
            raise FormatError(message) from error
    message = (
        f"architecture {name!r}; known are {', '.join(LAYOUTS)}, and module tables of your "
        f"own in files whose names end in {SUFFIX}"
    )
    raise ParamError(message)


def parse_lines(name: str, text: str) -> list[Line]:
    """The lines of a layout's text, not expanded.

    Raises
    ------
    FormatError : a mistake in the text, with file name and line number.
    """
    file = name if name.endswith(SUFFIX) else f"{name}{SUFFIX}"
    try:
        return read_lines(file, text)
    except ValueError as error:
        raise FormatError(str(error)) from error


def parse_layout(name: str, text: str) -> Layout:
    """Expand the text of a layout file.

    Raises
    ------
    FormatError : a mistake in the text, with file name and line number.
    """
    index = _Index()
    for line in parse_lines(name, text):
        try:
            index.add(line)
        except ValueError as error:
            message = f"{line.where}: {error}"
            raise FormatError(message) from error
    modules = tuple(index.by_key.values())
    return Layout(
        name=name,
        modules=tuple(m for m in modules if len(m.shape) > 1),
        norms=tuple(m for m in modules if len(m.shape) == 1),
        prefixes=MappingProxyType(index.prefixes),
        by_key=MappingProxyType(index.by_key),
        by_kohya=MappingProxyType(index.by_kohya),
        hits=MappingProxyType(index.hits()),
    )


class _Index:
    """The lookups of a layout while its lines are added."""

    def __init__(self) -> None:
        self.prefixes: dict[str, str | None] = {}
        self.by_key: dict[tuple[str, str], Module] = {}
        self.by_kohya: dict[str, tuple[Module, ...]] = {}
        self.named: dict[tuple[str, str], _Named] = {}

    def add(self, line: Line) -> None:
        """Add the modules of a line."""
        self.prefixes.setdefault(line.section.component, line.section.prefix)
        for module in _modules(line):
            key = module.component, flatten(module.name)
            if key in self.by_key:
                message = f"{module.name} is listed already"
                raise ValueError(message)
            self.by_key[key] = module
            self._name(module, "name", module.name, None)
            self._name(module, "original", module.original, module.rows)
            for alias in module.aliases:
                self._name(module, alias.world, alias.name, alias.rows)
            if module.kohya is not None and len(module.shape) > 1:
                self.by_kohya[module.kohya] = (*self.by_kohya.get(module.kohya, ()), module)

    def hits(self) -> dict[tuple[str, str], Hit]:
        """What every name stands for."""
        return {
            key: Hit(tuple(named.members), named.swapped, named.world)
            for key, named in self.named.items()
        }

    def _name(self, module: Module, world: World, name: str, rows: tuple[int, int] | None) -> None:
        key = module.component, flatten(name)
        swapped = module.swap and world != "name"
        start = rows[0] if rows else 0
        old = self.named.get(key)
        if old is None:
            self.named[key] = _Named(world, swapped, [module], [rows])
            complete = start == 0
        elif old.rows[-1] == rows and old.members[-1] is module:
            complete = old.swapped == swapped  # two worlds, one name
        else:
            complete = rows is not None and old.world == world and old.end == start
            old.members.append(module)
            old.rows.append(rows)
        if not complete:
            message = f"{name} of {module.name} stands for something else already, or has a gap"
            raise ValueError(message)


@dataclass(slots=True)
class _Named:
    """The modules of one name while lines are added."""

    world: World
    swapped: bool
    members: list[Module]
    rows: list[tuple[int, int] | None]

    @property
    def end(self) -> int:
        """Where the rows that are listed end; -1 if it is not a fused weight."""
        last = self.rows[-1]
        return last[1] if last else -1


def _modules(line: Line) -> list[Module]:
    canonical, original, *others = line.namings
    component, prefix = line.section.component, line.section.prefix
    names = canonical.expand()
    originals = original.expand()
    aliases = list(zip(*(_aliases(other) for other in others), strict=True)) or [()] * len(names)
    flat = names if line.section.by_name else originals
    return [
        Module(
            component,
            name,
            line.shape,
            old,
            None if prefix is None else prefix + flatten(stem),
            original.rows,
            original.swap,
            more,
        )
        for name, old, stem, more in zip(names, originals, flat, aliases, strict=True)
    ]


def _aliases(naming: Naming) -> list[Alias]:
    return [Alias(naming.world, name, naming.rows) for name in naming.expand()]


def fits(found: Sequence[Module], size: tuple[int | None, int | None]) -> bool:
    """Whether a delta of ``(rows, cols)`` has the shape of the weight these modules make up.

    A size that is None is not known, and fits.
    """
    rows, cols = size
    if not found:
        return False
    first, *more = found
    return (rows is None or rows == first.shape[0] + sum(module.shape[0] for module in more)) and (
        cols is None or cols == math.prod(first.shape[1:])
    )
