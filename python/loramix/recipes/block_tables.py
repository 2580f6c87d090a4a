"""Block tables: which targets the numbers of block weight strings stand for.

One text file for each architecture, in ``tables/``; the grammar is at the head of ``sd15.blocks``.
Sources: sd-webui-lora-block-weight (names and order of 12, 17, 20, 26 and 61), the ``--lbws`` of
sd-scripts (which modules a block has; SDXL's time and size embeddings in IN00), the Inspire Pack
for ComfyUI (58: a base that is all the rest, then the blocks).  Ours: SD 1.5's time embedding in
IN00 as well, conv_out in the last OUT, since no tool gives it a number, and which ends of FLUX.1
are IN and OUT, by their names.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from types import MappingProxyType

TABLES: tuple[str, ...] = ("sd15", "sdxl", "flux1")


@dataclass(frozen=True, slots=True, eq=False)
class BlockTable:
    """The blocks of one architecture.

    Attributes
    ----------
    architecture : one of ``TABLES``.
    forms : how many numbers a string may have, to the names of their blocks in order; the last
        form is the most complete.
    globs : name of a block to globs of its targets' keys.  Each is a key, or what a key begins
        with and a star, and no key matches those of two blocks of a form.
    """

    architecture: str
    forms: Mapping[int, tuple[str, ...]]
    globs: Mapping[str, tuple[str, ...]] = field(repr=False)

    @property
    def full(self) -> tuple[str, ...]:
        """Names of the most complete form: every target is in exactly one block."""
        return self.forms[max(self.forms)]


@cache
def load_table(architecture: str) -> BlockTable:
    """Read the table of an architecture.

    Raises
    ------
    ValueError : a mistake in the table, with file name and line number.
    """
    path = files("loramix.recipes") / "tables" / f"{architecture}.blocks"
    return parse_table(architecture, path.read_text(encoding="utf-8"))


def load_tables() -> tuple[BlockTable, ...]:
    """All of them."""
    return tuple(map(load_table, TABLES))


def parse_table(architecture: str, text: str) -> BlockTable:
    """Expand the text of a table.

    Raises
    ------
    ValueError : a mistake in the text, with file name and line number.
    """
    globs: dict[str, tuple[str, ...]] = {}
    forms: dict[int, tuple[str, ...]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        try:
            if words[:1] == ["form"]:
                forms[int(words[1])] = _form(words, globs)
            elif words:
                globs.update(_blocks(words, globs))
        except ValueError as error:
            message = f"{architecture}.blocks, line {number}: {error}"
            raise ValueError(message) from error
    return BlockTable(architecture, MappingProxyType(forms), MappingProxyType(globs))


_SPAN = re.compile(r"([A-Z]*)([0-9]+)\.\.\1([0-9]+)")
_BRACES = re.compile(r"([A-Z]+)\{([0-9]+)\.\.([0-9]+)\}")
_GLOB = re.compile(r"[A-Za-z0-9_.]+\*?")


def _blocks(
    words: list[str], before: Mapping[str, object]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    name, *globs = words
    braces = _BRACES.fullmatch(name)
    for number in range(int(braces[2]), int(braces[3]) + 1) if braces else (None,):
        one = name if number is None or braces is None else f"{braces[1]}{number:02}"
        own = tuple(glob.replace("{}", str(number)) for glob in globs)
        bad = [glob for glob in own if not _GLOB.fullmatch(glob)]
        if one in before or bad or not own:
            message = f"{one}: listed twice, no glob, or a glob that is no prefix: {bad}"
            raise ValueError(message)
        yield one, own


def _form(words: list[str], globs: Mapping[str, object]) -> tuple[str, ...]:
    _, count, *spans = words
    names: list[str] = []
    for span in spans:
        found = _SPAN.fullmatch(span)
        first, last = (int(found[2]), int(found[3])) if found else (0, -1)
        names += [f"{found[1]}{i:02}" for i in range(first, last + 1)] if found else [span]
    unknown = [name for name in names if name not in globs]
    if unknown or len(names) != int(count) or len(set(names)) != len(names):
        message = f"{len(names)} names, expected {count}; not in the table: {unknown}"
        raise ValueError(message)
    return tuple(names)
