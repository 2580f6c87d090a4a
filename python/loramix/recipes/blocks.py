"""Block weights: a string of numbers, one for each block of the base model (LBW).

``1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0`` has 17 numbers, so it is for Stable Diffusion 1.5: the first
for the text encoders (BASE), the others for blocks of the UNet.  The numbers multiply the weight
of the adapter.  Targets of blocks that a form does not name keep it, as in sd-scripts;
sd-webui-lora-block-weight sets them to 0.

==== ============= =====================================================
 12  sdxl          BASE IN04 IN05 IN07 IN08 MID OUT00..OUT05
 17  sd15          BASE IN01 IN02 IN04 IN05 IN07 IN08 MID OUT03..OUT11
 20  sdxl          BASE IN00..IN08 MID OUT00..OUT08 (with convolutions)
 26  sd15          BASE IN00..IN11 MID OUT00..OUT11 (with convolutions)
 57  flux1         D00..D18 S00..S37 (double, then single blocks)
 58  flux1         BASE (all the rest), then the 57
 61  flux1         CLIP T5 IN, the 57, OUT
==== ============= =====================================================

What each name stands for is in ``tables/*.blocks`` and in docs/RECIPES.md.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

from loramix.errors import ParamError
from loramix.recipes.block_tables import BlockTable, load_table, load_tables
from loramix.spelling import hint

_UNIFORM: Mapping[str, float] = MappingProxyType({"ALL": 1.0, "NONE": 0.0, "ALL0.5": 0.5})
_SD15: Mapping[str, str] = MappingProxyType({
    "INS": "BASE IN01 IN02 IN04",
    "IND": "BASE IN05 IN07 IN08",
    "INALL": "BASE IN01 IN02 IN04 IN05 IN07 IN08",
    "MIDD": "BASE IN05 IN07 IN08 MID OUT03 OUT04 OUT05 OUT06",
    "OUTD": "BASE OUT03 OUT04 OUT05 OUT06",
    "OUTS": "BASE OUT07 OUT08 OUT09 OUT10 OUT11",
    "OUTALL": "BASE OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11",
})  # fmt: skip
"""Blocks that the presets of sd-webui-lora-block-weight leave at 1; all others are 0."""

PRESETS: tuple[str, ...] = (*_UNIFORM, *_SD15)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """A number for each block.

    Attributes
    ----------
    architecture : the base model whose blocks these are.
    numbers : names of blocks and their numbers, in the order of the string.
    """

    architecture: str
    numbers: tuple[tuple[str, float], ...]

    @property
    def weight(self) -> dict[str, float]:
        """Globs of target keys to numbers, as `loramix.merge` takes a weight."""
        globs = load_table(self.architecture).globs
        return {glob: number for name, number in self.numbers for glob in globs[name]}

    def block_of(self, key: str) -> str | None:
        """Name of the block that a target is in; None if no number is for it."""
        globs = load_table(self.architecture).globs
        for name, _ in self.numbers:
            if any(fnmatchcase(key, glob) for glob in globs[name]):
                return name
        return None

    def refuse_strangers(self, keys: Sequence[str]) -> None:
        """Refuse targets of which none is in a block: the numbers would do nothing.

        Raises
        ------
        ParamError : no key has a number.
        """
        if any(self.block_of(key) for key in keys):
            return
        such = f", such as {keys[0]}" if keys else ""
        message = (
            f"blocks: {len(self.numbers)} numbers for the blocks of {self.architecture}, and none "
            f"of the adapter's {len(keys)} targets is in one{such}; if it is for another model, "
            "give weights by globs of targets, in a recipe"
        )
        raise ParamError(message)

    def rows(self, keys: Sequence[str]) -> list[tuple[str, str, str]]:
        """The resolved table: block, number, how many of the targets are in it.

        The last row counts targets for which there is no number, if there are any; their block
        is ``-``.
        """
        found = [self.block_of(key) for key in keys]
        rows = [(name, f"{number:g}", str(found.count(name))) for name, number in self.numbers]
        rest = found.count(None)
        return rows + ([("-", "1", str(rest))] if rest else [])


def parse(text: str, architecture: str | None = None) -> BlockWeights:
    """Read a block weight string, or the name of a preset.

    Parameters
    ----------
    text : numbers of any sign with commas between them, or a name of `PRESETS`.
    architecture : the base model of the adapter; None: the one that has as many numbers.

    Raises
    ------
    ParamError : not a number, a count that no form has, an unknown preset, or one that the
        architecture does not have or that needs one.

    Examples
    --------
    >>> parse("1,0,0,0,0,0,0,1,1,1,1,1").weight["unet.mid_block.*"]
    0.0
    """
    items = [item.strip() for item in text.split(",")]
    if len(items) == 1 and not _NUMBER.fullmatch(items[0]):
        return _preset(items[0], architecture)
    numbers = [_number(item, place) for place, item in enumerate(items, 1)]
    tables = _tables(architecture)
    for table in tables:
        if len(numbers) in table.forms:
            names = table.forms[len(numbers)]
            return BlockWeights(table.architecture, tuple(zip(names, numbers, strict=True)))
    allowed = "; ".join(f"{table.architecture} takes {_counts(table)}" for table in tables)
    message = f"blocks: {len(numbers)} numbers; {allowed}"
    raise ParamError(message)


def mapping(text: str, architecture: str | None = None) -> dict[str, float]:
    """`BlockWeights.weight` of a string; see `parse`."""
    return parse(text, architecture).weight


def check(text: str) -> None:
    """Refuse what no architecture has: the count of numbers decides, presets belong to several.

    Raises
    ------
    ParamError : see `parse`.
    """
    parse(text, "sd15" if text.strip() in PRESETS else None)


def _number(item: str, place: int) -> float:
    number = float(item) if _NUMBER.fullmatch(item) else math.nan
    if not math.isfinite(number):
        message = (
            f"blocks: number {place} is {item!r}: allowed is a finite number of any sign "
            "(R, U and X of other tools stand for random or later ones: write numbers)"
        )
        raise ParamError(message)
    return number


def _tables(architecture: str | None) -> tuple[BlockTable, ...]:
    tables = load_tables()
    known = [table.architecture for table in tables]
    if architecture is not None and architecture not in known:
        message = (
            f"blocks: there is no table for {architecture}; known are {', '.join(known)}; for "
            "other models give weights by globs of targets"
        )
        raise ParamError(message)
    return tables if architecture is None else (load_table(architecture),)


def _counts(table: BlockTable) -> str:
    *most, last = sorted(table.forms)
    return f"{', '.join(map(str, most))} or {last}"


def _preset(name: str, architecture: str | None) -> BlockWeights:
    if name not in PRESETS:
        message = (
            f"blocks: no preset {name!r}{hint(name, PRESETS)}; known are {', '.join(PRESETS)}; "
            "or give numbers with commas between them"
        )
        raise ParamError(message)
    if name in _SD15:
        architecture = architecture or "sd15"
    if architecture is None:
        message = f"blocks: the preset {name} needs the base model: say which architecture"
        raise ParamError(message)
    table = _tables(architecture)[0]
    if name in _SD15 and architecture != "sd15":
        message = (
            f"blocks: the preset {name} is for sd15; {architecture} takes {_counts(table)} "
            f"numbers, or {', '.join(_UNIFORM)}"
        )
        raise ParamError(message)
    chosen = _SD15[name].split() if name in _SD15 else []
    numbers = tuple((one, _UNIFORM.get(name, float(one in chosen))) for one in table.full)
    return BlockWeights(architecture, numbers)
