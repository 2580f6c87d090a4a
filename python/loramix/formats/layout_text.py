"""The text of layout files: one line per group of equal modules.

    [component kohya-prefix [name]]
    include part  [WIDTH=3072 LAST=18 ...]
    name  shape  original  [rows start+length | swap]  [world its-name [rows | swap]]  # comment

- ``name`` is the dotted module name of diffusers or transformers, ``shape`` its weight
  shape such as ``640x320x3x3``; norms have one number and are listed where names differ.
- ``original`` is the dotted name in the code that the model was published with, ``=`` if it
  equals ``name``.  Kohya files flatten it, or ``name`` where the section's header ends in
  ``name``; a prefix ``-`` says that there are no Kohya files.
- ``rows 3072+3072``: the module is these rows (start + length) of a fused original weight;
  the members of a fused weight are listed from its first row to its last.
- ``swap``: the two halves of the rows are exchanged between the original and ``name``.
- ``comfy`` and ``openclip`` begin what another code calls the module.  Rows and swap are those
  of the original unless it says its own.
- ``{0..18}`` (both ends count) and ``{to_q,to_k}`` stand for several modules. The k-th
  braces of all names step together, ``{}`` repeats those of ``name``, and a line with several
  braces means every combination.
- ``include`` reads the lines of a part (``*.part``) or of another layout.  Capital words in
  it stand for the numbers given: ``3WIDTHxWIDTH``, ``rows 2WIDTH+WIDTH``, ``{0..LAST}``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import product
from typing import Literal, TypeAlias

World: TypeAlias = Literal["name", "original", "comfy", "openclip"]
"""Whose name of a module it is: the canonical one, that of the model's own code, others'."""

_OTHERS: tuple[World, ...] = ("comfy", "openclip")
_MOST = 1000  # blocks of a model: a slip of a digit should not fill the memory
_NUMBER = re.compile(r"(\d*)([A-Z]*)")


@dataclass(frozen=True, slots=True)
class Section:
    """What the header of a section says.

    Attributes
    ----------
    component : of the model.
    prefix : of Kohya stems; None if there are no Kohya files.
    by_name : whether these flatten the canonical name instead of the original one.
    """

    component: str
    prefix: str | None
    by_name: bool


@dataclass(frozen=True, slots=True)
class Naming:
    """What the modules of a line are called in one world.

    Attributes
    ----------
    head : what precedes the first brace.
    braces : for every brace, what it stands for and the literal text behind it.
    rows : half-open rows of a fused weight of this name, None if it is not fused.
    swap : whether the halves of the rows are exchanged against the canonical name.
    """

    world: World
    head: str
    braces: tuple[tuple[tuple[str, ...], str], ...]
    rows: tuple[int, int] | None = None
    swap: bool = False

    def expand(self) -> list[str]:
        """All names, in the same order for every naming of a line."""
        steps = [[choice + literal for choice in choices] for choices, literal in self.braces]
        return [self.head + "".join(step) for step in product(*steps)]


@dataclass(frozen=True, slots=True)
class Line:
    """A group of modules of one shape.

    Attributes
    ----------
    where : file and line, for messages.
    namings : the canonical one, the original one, others.
    """

    where: str
    section: Section
    shape: tuple[int, ...]
    namings: tuple[Naming, ...]


def read_lines(file: str, text: str) -> list[Line]:
    """Take the text of a layout apart, parts included.

    Parameters
    ----------
    file : its name, for messages.

    Raises
    ------
    ValueError : a mistake in the text, with file and line.
    """
    return _Reader({}, None).read(file, text)


@dataclass(slots=True)
class _Reader:
    """The numbers that the words of a file stand for, and the section that its lines are in."""

    numbers: Mapping[str, int]
    section: Section | None

    def read(self, file: str, text: str) -> list[Line]:
        found: list[Line] = []
        for number, line in enumerate(text.splitlines(), 1):
            words = line.partition("#")[0].split()
            where = f"{file}, line {number}"
            try:
                if words[:1] == ["include"]:
                    found += self._include(words[1:])
                elif words and words[0].startswith("["):
                    self.section = _section(words)
                elif words:
                    found.append(self._line(where, words))
            except ValueError as error:
                message = f"{where}: {error}"
                raise ValueError(message) from error
        return found

    def _include(self, words: list[str]) -> list[Line]:
        part, *given = words
        folder = files("loramix.formats") / "layouts"
        names = [name for name in (f"{part}.part", f"{part}.layout") if (folder / name).is_file()]
        if "/" in part or not names:
            message = f"there is no part {part} to include"
            raise ValueError(message)
        pairs = [word.split("=") for word in given]
        inner = _Reader({word: self._number(value) for word, value in pairs}, self.section)
        found = inner.read(names[0], (folder / names[0]).read_text(encoding="utf-8"))
        self.section = inner.section
        return found

    def _line(self, where: str, words: list[str]) -> Line:
        if self.section is None:
            message = "no [component kohya-prefix] yet"
            raise ValueError(message)
        name, size, original, *rest = words
        shape = tuple(map(self._number, size.split("x")))
        canonical = self._naming("name", name, None)
        namings = [self._naming("original", name if original == "=" else original, canonical)]
        while rest:
            word, rest = rest[0], rest[1:]
            if word == "swap":
                namings[-1] = replace(namings[-1], rows=None, swap=True)
                continue
            if not rest:
                message = f"what follows {word}?"
                raise ValueError(message)
            value, rest = rest[0], rest[1:]
            if word in _OTHERS:
                other = self._naming(word, value, canonical)
                namings.append(replace(other, rows=namings[0].rows, swap=namings[0].swap))
            else:
                namings[-1] = replace(namings[-1], rows=self._rows(word, value, shape[0]))
        return Line(where, self.section, shape, (canonical, *namings))

    def _rows(self, word: str, span: str, length: int) -> tuple[int, int]:
        start, count = map(self._number, span.split("+")) if "+" in span else (0, 0)
        if word != "rows" or count != length:
            message = f"expected rows start+{length}, found {word} {span}"
            raise ValueError(message)
        return start, start + count

    def _naming(self, world: World, text: str, leader: Naming | None) -> Naming:
        """Take a name apart; empty braces are those of the leader at the same place."""
        head, *tails = text.split("{")
        expected = len(leader.braces) if leader else len(tails)
        if not len(tails) == text.count("}") == expected:
            message = f"braces do not match: {text}"
            raise ValueError(message)
        braces: list[tuple[tuple[str, ...], str]] = []
        for place, tail in enumerate(tails):
            body, _, literal = tail.partition("}")
            own = leader.braces[place][0] if leader else ()
            choices = self._choices(body) if body else own
            if not choices or len(choices) != (len(own) or len(choices)):
                message = f"{len(choices)} choices against {len(own)}: {text}"
                raise ValueError(message)
            braces.append((choices, literal))
        return Naming(world, head, tuple(braces))

    def _choices(self, body: str) -> tuple[str, ...]:
        first, dots, last = body.partition("..")
        if dots:
            span = range(self._number(first), self._number(last) + 1)
            if len(span) > _MOST:
                message = f"{len(span)} choices; {_MOST} at most"
                raise ValueError(message)
            return tuple(map(str, span))
        return tuple(str(self.numbers.get(word, word)) for word in body.split(","))

    def _number(self, text: str) -> int:
        if text.isascii() and text.isdecimal():
            return int(text)
        match = _NUMBER.fullmatch(text)
        if not match or not text or (match[2] and match[2] not in self.numbers):
            message = f"not a number: {text!r}"
            raise ValueError(message)
        return int(match[1] or 1) * self.numbers.get(match[2], 1)


def _section(words: Sequence[str]) -> Section:
    component, prefix, *rest = " ".join(words).strip("[]").split()
    if rest not in ([], ["name"]):
        message = f"after the prefix of a section: name, or nothing; found {' '.join(rest)}"
        raise ValueError(message)
    return Section(component, None if prefix == "-" else prefix, bool(rest))
