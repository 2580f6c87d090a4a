"""The modules of known base models: canonical names, shapes, original and Kohya names.

A layout file holds one model as text, one line per group of equal modules:

    [component kohya-prefix]
    name  shape  original  [rows start+length]  [swap]      # comment

- ``name`` is the dotted module name of diffusers or transformers, ``shape`` its weight
  shape such as ``640x320x3x3``.
- ``original`` is the dotted name that Kohya files flatten, ``=`` if it equals ``name``.
- ``rows 3072+3072``: the module is these rows (start + length) of a fused original weight;
  the members of a fused weight are listed from its first row to its last.
- ``swap``: the two halves of the rows are exchanged between the original and ``name``.
- ``{0..18}`` (both ends count) and ``{to_q,to_k}`` stand for several modules. The k-th
  braces of ``name`` and ``original`` step together, ``{}`` in ``original`` repeats the
  other side, and a line with several braces means every combination.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType

LAYOUTS: tuple[str, ...] = ("sd15", "sdxl", "flux1")


@dataclass(frozen=True, slots=True)
class Module:
    """One weight-bearing Linear or Conv module.

    Attributes
    ----------
    component : ``unet``, ``transformer``, ``text_encoder`` or ``text_encoder_2``.
    name : canonical dotted name inside the component.
    shape : weight shape, ``(out, in)`` or ``(out, in, *kernel)``.
    original : dotted name in the original model code; shared by the members of a fused one.
    kohya : the whole Kohya stem, prefix included.
    rows : half-open rows of the fused original weight, ``None`` if the original is not fused.
    swap : whether the halves of the rows are exchanged against the original.
    """

    component: str
    name: str
    shape: tuple[int, ...]
    original: str
    kohya: str
    rows: tuple[int, int] | None = None
    swap: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """All modules of one model, in file order, with the lookups a reader needs.

    Attributes
    ----------
    name : one of ``LAYOUTS``.
    modules : every module.
    prefixes : component to Kohya prefix, e.g. ``text_encoder`` to ``lora_te1_``.
    by_key : ``(component, flatten(name))`` to module.
    by_kohya : Kohya stem to its modules; several if the original is fused, in row order.
        A flattened original name without its prefix is found as ``prefix + name``.
    """

    name: str
    modules: tuple[Module, ...] = field(repr=False)
    prefixes: Mapping[str, str]
    by_key: Mapping[tuple[str, str], Module] = field(repr=False)
    by_kohya: Mapping[str, tuple[Module, ...]] = field(repr=False)


def flatten(name: str) -> str:
    """Replace the dots of a module name by underscores, as Kohya stems do."""
    return name.replace(".", "_")


@cache
def load_layout(name: str) -> Layout:
    """Read and expand a layout of this package.

    Raises
    ------
    ValueError : ``name`` is not in ``LAYOUTS``, or there is a mistake in its file.

    Examples
    --------
    >>> sdxl = load_layout("sdxl")
    >>> sdxl.by_key["unet", "mid_block_attentions_0_proj_in"].kohya
    'lora_unet_middle_block_1_proj_in'
    """
    if name not in LAYOUTS:
        message = f"unknown layout {name!r}; known: {', '.join(LAYOUTS)}"
        raise ValueError(message)
    path = files("loramix.formats") / "layouts" / f"{name}.layout"
    return parse_layout(name, path.read_text(encoding="utf-8"))


def parse_layout(name: str, text: str) -> Layout:
    """Expand the text of a layout file, in the grammar at the head of this module.

    Raises
    ------
    ValueError : a mistake in the text, with file name and line number.
    """
    component = ""
    prefixes: dict[str, str] = {}
    by_key: dict[tuple[str, str], Module] = {}
    by_kohya: dict[str, tuple[Module, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.partition("#")[0].split()
        try:
            if fields and fields[0].startswith("["):
                component, prefix = " ".join(fields).strip("[]").split()
                prefixes[component] = prefix
            elif fields:
                _index(_modules(component, prefixes, fields), by_key, by_kohya)
        except ValueError as error:
            message = f"{name}.layout, line {number}: {error}"
            raise ValueError(message) from error
    return Layout(
        name=name,
        modules=tuple(by_key.values()),
        prefixes=MappingProxyType(prefixes),
        by_key=MappingProxyType(by_key),
        by_kohya=MappingProxyType(by_kohya),
    )


def _modules(component: str, prefixes: Mapping[str, str], fields: list[str]) -> list[Module]:
    if component not in prefixes:
        message = "no [component kohya-prefix] yet"
        raise ValueError(message)
    name, size, original, *rest = fields
    prefix, shape = prefixes[component], tuple(map(int, size.split("x")))
    rows, swap = _relation(rest, shape[0])
    return [
        Module(component, new, shape, old, prefix + flatten(old), rows, swap)
        for new, old in _expand(name, name if original == "=" else original)
    ]


def _relation(words: list[str], length: int) -> tuple[tuple[int, int] | None, bool]:
    swap = words[-1:] == ["swap"]
    words = words[:-1] if swap else words
    if not words:
        return None, swap
    word, span = words
    start, count = map(int, span.split("+"))
    if word != "rows" or count != length:
        message = f"expected rows start+{length}, found {word} {span}"
        raise ValueError(message)
    return (start, start + count), swap


def _expand(name: str, original: str) -> list[tuple[str, str]]:
    (head, *tails), (old_head, *old_tails) = name.split("{"), original.split("{")
    if not len(tails) == len(old_tails) == name.count("}") == original.count("}"):
        message = f"braces do not match: {name} {original}"
        raise ValueError(message)
    pairs = [(head, old_head)]
    for tail, old_tail in zip(tails, old_tails, strict=True):
        choices, literal = _choices(tail)
        old_choices, old_literal = _choices(old_tail)
        old_choices = old_choices or choices
        if not choices or len(choices) != len(old_choices):
            message = f"{len(choices)} choices against {len(old_choices)}: {name} {original}"
            raise ValueError(message)
        steps = [(a + literal, b + old_literal) for a, b in zip(choices, old_choices, strict=True)]
        pairs = [(a + x, b + y) for a, b in pairs for x, y in steps]
    return pairs


def _choices(tail: str) -> tuple[list[str], str]:
    body, _, literal = tail.partition("}")
    first, dots, last = body.partition("..")
    if dots:
        return [str(i) for i in range(int(first), int(last) + 1)], literal
    return body.split(",") if body else [], literal


def _index(
    modules: list[Module],
    by_key: dict[tuple[str, str], Module],
    by_kohya: dict[str, tuple[Module, ...]],
) -> None:
    for module in modules:
        key = module.component, flatten(module.name)
        members = by_kohya.get(module.kohya, ())
        start = module.rows[0] if module.rows else 0
        if key in by_key or start != (sum(m.shape[0] for m in members) if members else 0):
            message = f"{module.name} is listed already, or leaves a gap in {module.original}"
            raise ValueError(message)
        by_key[key] = module
        by_kohya[module.kohya] = (*members, module)


def fits(found: Sequence[Module], size: tuple[int | None, int | None]) -> bool:
    """Whether a delta of ``(rows, cols)`` has the shape of the weight these modules make up.

    What is None fits.
    """
    if not found:
        return False
    rows, cols = sum(module.shape[0] for module in found), math.prod(found[0].shape[1:])
    return size[0] in (None, rows) and size[1] in (None, cols)
