"""Key lists of real trainers: what stands in their files, and what it means.

Files in ``data/keys``, one per family of models.  A section is one trainer's list:

    [layout dialect]             what `load` must say of such a file
    header name=value            of the file, where only that tells
    roles lora_A.weight ...      of the stems that follow
    stem  target [swap]          target: component and canonical name, ``=`` for the stem itself,
                                 ``-`` for what is in no module table

One brace ``{0,18}`` of a stem stands for several, and ``#`` in the target for the same number;
braces in a target are the members of a fused weight, in the order of its rows.  ``swap`` says that
the halves of the rows are exchanged against the canonical name.  The names are facts, attested
by the source that each section begins with.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent / "data" / "keys"
_BRACES = re.compile(r"\{([^}]*)\}")


@dataclass(frozen=True)
class Line:
    """A stem and the canonical keys that it stands for; none: it is in no table."""

    stem: str
    roles: tuple[str, ...]
    keys: tuple[str, ...]
    swap: bool

    @property
    def names(self) -> list[str]:
        return [f"{self.stem}.{role}" for role in self.roles]


@dataclass
class KeyList:
    """A section."""

    name: str
    layout: str
    dialect: str
    header: dict[str, str] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)


def key_lists() -> list[KeyList]:
    """All sections of all files."""
    return [section for path in sorted(FOLDER.glob("*.keys")) for section in _sections(path)]


def _sections(path: Path) -> list[KeyList]:
    found: list[KeyList] = []
    roles: tuple[str, ...] = ()
    for text in path.read_text(encoding="utf-8").splitlines():
        words = text.split()
        if not words or text.startswith("#"):
            continue
        if text.startswith("["):
            layout, dialect = text.strip("[]").split()
            found.append(KeyList(f"{path.stem}-{len(found)}-{dialect}", layout, dialect))
        elif words[0] == "header":
            name, _, value = text.removeprefix("header ").partition("=")
            found[-1].header[name] = value
        elif words[0] == "roles":
            roles = tuple(words[1:])
        else:
            found[-1].lines += _lines(words, roles)
    return found


def _lines(words: list[str], roles: tuple[str, ...]) -> list[Line]:
    pattern, target, *rest = words
    match = _BRACES.search(pattern)
    numbers = match[1].split(",") if match else [""]
    lines = []
    for number in numbers:
        stem = _BRACES.sub(number, pattern)
        key = stem if target == "=" else target.replace("#", number)
        lines.append(Line(stem, roles, _members(key), rest == ["swap"]))
    return lines


def _members(key: str) -> tuple[str, ...]:
    match = _BRACES.search(key)
    if key == "-" or match is None:
        return () if key == "-" else (key,)
    return tuple(key[: match.start()] + member for member in match[1].split(","))
