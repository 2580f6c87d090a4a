"""How many modules of a file a layout could hold at most, without expanding it.

A layout has hundreds of modules and a few dozen lines.  Names with their numbers left out are
enough to see that most models are out of the question: reading all lines costs a tenth of
expanding them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from types import MappingProxyType
from typing import TypeAlias

from loramix.formats.layout import flatten, parse_lines, text_of
from loramix.formats.layout_text import Naming

Size: TypeAlias = tuple[int | None, int | None]
"""Rows and columns of a delta, None where they are not known."""

_NUMBERS = re.compile(r"[0-9#]+")


@dataclass(frozen=True, slots=True)
class Sketch:
    """A layout, roughly.

    Attributes
    ----------
    components : that it lists.
    sizes : flattened name of any world with # for numbers, to the sizes that it may have; rows
        are None for fused weights.
    """

    components: frozenset[str]
    sizes: Mapping[str, frozenset[Size]]

    def most(self, names: Mapping[tuple[str, Size], int]) -> int:
        """How many of the modules of a file can be in the layout: at least as many as are.

        Parameters
        ----------
        names : how often each `pattern` is there with each size.
        """
        return sum(
            count
            for (name, size), count in names.items()
            if any(_agree(size, own) for own in self.sizes.get(name, ()))
        )


def pattern(flat: str) -> str:
    """A flattened name with # for numbers."""
    return _NUMBERS.sub("#", flat)


def patterns(names: Iterable[tuple[str, Size]]) -> Counter[tuple[str, Size]]:
    """How often each `pattern` is among flattened names, with each size."""
    return Counter((pattern(flat), size) for flat, size in names)


@cache
def sketch(name: str) -> Sketch:
    """Sketch a layout of this package."""
    sizes: dict[str, set[Size]] = {}
    components = set()
    for line in parse_lines(name, text_of(name)):
        components.add(line.section.component)
        cols = prod(line.shape[1:])
        for rough, fused in {(one, n.rows is not None) for n in line.namings for one in _all(n)}:
            sizes.setdefault(rough, set()).add((None if fused else line.shape[0], cols))
    fixed = {rough: frozenset(own) for rough, own in sizes.items()}
    return Sketch(frozenset(components), MappingProxyType(fixed))


def _all(naming: Naming) -> set[str]:
    """The patterns of all names; a range of numbers makes one of them."""
    names = {naming.head}
    for choices, literal in naming.braces:
        names = {name + choice + literal for name in names for choice in _patterns(choices)}
    return {pattern(flatten(name)) for name in names}


@cache
def _patterns(choices: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(pattern, choices))


def _agree(one: Size, other: Size) -> bool:
    return all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))
