"""Tables of a recipe, read strictly: every key known, every value typed, every error placed."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

from loramix.errors import ParamError
from loramix.recipes import spelling
from loramix.spelling import hint

_T = TypeVar("_T")
Reader: TypeAlias = Callable[["Table", str], Any]
"""Takes the value of a key, or refuses it."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table.

    Attributes
    ----------
    values : as the file's parser gave them.
    where : file and place in it, for messages.
    folder : what relative paths start from.
    """

    values: Mapping[str, object] = field(repr=False)
    where: str
    folder: Path = Path()

    def make(
        self, kind: Callable[..., _T], readers: Mapping[str, Reader], needed: Collection[str] = ()
    ) -> _T:
        """An object from the keys that are there; the others keep the object's defaults.

        Parameters
        ----------
        kind : takes the keys as its parameters.
        readers : the keys there may be.
        needed : those that must be there.

        Raises
        ------
        ParamError : an unknown key, a missing one, a wrong type, or a value that `kind` refuses.
        """
        self.only(readers)
        for key in needed:
            if key not in self.values:
                message = f"{self.where}: there is no {key}"
                raise ParamError(message)
        found = {key: readers[key](self, key) for key in self.values}
        return self.placed(lambda: kind(**found))

    def only(self, known: Collection[str]) -> None:
        """Refuse keys that are not known."""
        for key in self.values:
            if key not in known:
                message = (
                    f"{self.where}: unknown key {key!r}{hint(key, known)}; known are "
                    f"{', '.join(known)}"
                )
                raise ParamError(message)

    def placed(self, call: Callable[[], _T], key: str = "") -> _T:
        """Call something; what it refuses gets the place put in front."""
        try:
            return call()
        except ParamError as error:
            message = f"{self.where}: {key}: {error}" if key else f"{self.where}: {error}"
            raise ParamError(message) from None

    def refuse(self, key: str, allowed: str) -> NoReturn:
        """Say what was found and what is allowed."""
        shown = spelling.shown(self.values[key])
        message = f"{self.where}: {spelling.shown_key(key)} = {shown}: allowed is {allowed}"
        raise ParamError(message)

    def text(self, key: str) -> str:
        """A text that is not empty."""
        value = self.values[key]
        if not isinstance(value, str) or not _readable(value):
            self.refuse(key, "a text that is not empty")
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        value = finite(self.values[key])
        if value is None:
            self.refuse(key, "a finite number")
        return value

    def integer(self, key: str) -> int:
        """A whole number, written without a point."""
        value = whole(self.values[key])
        if value is None:
            self.refuse(key, "a whole number")
        return value

    def truth(self, key: str) -> bool:
        """True or false."""
        value = self.values[key]
        if not isinstance(value, bool):
            self.refuse(key, "true or false")
        return value

    def path(self, key: str) -> Path:
        """A path, from the folder of the recipe if it is relative."""
        text = self.text(key)
        if "\0" in text:
            self.refuse(key, "a path; no path has a NUL")
        return self.folder / text

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self.values[key]
        if not isinstance(value, list) or not all(
            isinstance(one, str) and _readable(one) for one in value
        ):
            self.refuse(key, "a list of texts")
        return tuple(value)

    def numbers(self, key: str) -> float | dict[str, float]:
        """A number, or a table of numbers."""
        value = self.values[key]
        if isinstance(value, Mapping):
            inner = self.table(key)
            return {name: inner.number(name) for name in inner.values}
        if finite(value) is None:
            self.refuse(key, "a finite number, or a table of numbers")
        return self.number(key)

    def table(self, key: str) -> "Table":
        """A table inside this one."""
        value = self.values[key]
        if not isinstance(value, Mapping):
            self.refuse(key, "a table")
        return Table(value, f"{self.where}: {key}", self.folder)

    def named(self, key: str) -> "Table":
        """A table inside this one that has a name."""
        if not isinstance(self.values[key], Mapping):
            self.refuse(key, "a name with parameters, or a table with a name")
        inner = self.table(key)
        if "name" not in inner.values:
            message = f"{inner.where}: there is no name"
            raise ParamError(message)
        return inner

    def tables(self, key: str) -> tuple["Table", ...]:
        """A list of tables, numbered from 1 in messages."""
        value = self.values[key]
        if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
            self.refuse(key, f"tables: write [[{key}]] above each")
        return tuple(
            Table(one, f"{self.where}: {key} {place}", self.folder)
            for place, one in enumerate(value, 1)
        )


def _readable(text: str) -> bool:
    """Whether a text is Unicode and not empty: JSON can spell halves of characters."""
    return bool(text) and not any("\ud800" <= letter <= "\udfff" for letter in text)


def finite(value: object) -> float | None:
    """A number as a float; None if it is none, or has no finite float."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def whole(value: object) -> int | None:
    """An integer of at most 64 bits; None if it is none: TOML promises no more."""
    if not isinstance(value, int) or isinstance(value, bool) or value.bit_length() > 64:
        return None
    return value
