"""Policies as recipes write them: a text, or a table with a name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loramix.errors import ParamError
from loramix.recipes.choosing import Scalar
from loramix.recipes.nearest import hint
from loramix.recipes.strict import Reader, Table, finite, whole

POLICIES: tuple[str, ...] = ("auto", "published")


@dataclass(frozen=True, slots=True)
class Named:
    """A policy by name; what its parameters may be, the policy says when it is made.

    Attributes
    ----------
    name : of `POLICIES`.
    parameters : by name.
    """

    name: str
    parameters: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in POLICIES:
            message = (
                f"policy {self.name!r}{hint(self.name, POLICIES)}; known are {', '.join(POLICIES)}"
            )
            raise ParamError(message)

    @property
    def plain(self) -> dict[str, object]:
        """As a table of a recipe."""
        return {"name": self.name, **self.parameters}


def policy(table: Table, key: str) -> Named:
    """A policy from ``"published:preset=dit"`` or ``{ name = "published", preset = "dit" }``."""
    value = table.values[key]
    if isinstance(value, str):
        name, _, rest = value.partition(":")
        pairs = [part.partition("=") for part in filter(None, rest.split(","))]
        found = {word: _scalar(text) for word, _, text in pairs}
        bad = next((word for word, equals, text in pairs if not (word and equals and text)), None)
        if bad is not None or len(found) < len(pairs):
            table.refuse(key, "a name, or name:parameter=value,parameter=value, each once")
        return table.placed(lambda: Named(name, found), key)
    if not isinstance(value, Mapping):
        table.refuse(key, "a name with parameters, or a table with a name")
    inner = table.table(key)
    readers: dict[str, Reader] = dict.fromkeys(inner.values, _parameter) | {"name": Table.text}
    return inner.make(_choice, readers, needed=("name",))


def _choice(name: str, **parameters: Scalar) -> Named:
    return Named(name, parameters)


def _parameter(table: Table, key: str) -> Scalar:
    value = table.values[key]
    if isinstance(value, str | bool):
        return value
    number = whole(value) if isinstance(value, int) else finite(value)
    if number is None:
        table.refuse(key, "a text, a finite number, true or false")
    return number


def _scalar(text: str) -> Scalar:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if finite(number) is not None else text
    return text
