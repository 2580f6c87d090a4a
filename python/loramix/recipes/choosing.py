"""Methods as recipes write them: a text, or a table with a name."""

import dataclasses
from dataclasses import replace
from typing import Any, Literal, TypeAlias, cast, get_args, get_origin, get_type_hints

from loramix.errors import ParamError
from loramix.methods import METHODS, Composite, Level, Method, Space, describe, method_of
from loramix.methods.composite import LEVELS, SPACES
from loramix.recipes.strict import Reader, Table, finite, whole
from loramix.spelling import hint

Scalar: TypeAlias = str | int | float | bool
_WRAPPERS = ("knots", "core")


def method(table: Table, key: str) -> Method:
    """A method from ``"ties:density=0.3"`` or ``{ name = "ties", density = 0.3 }``.

    ``{ name = "knots", inner = { name = "ties" } }`` is the method inside in another space;
    ``sparsify``, ``refine`` and ``space`` may stand beside the parameters of any method.

    Raises
    ------
    ParamError : no such method or parameter, a value out of its range, or a modifier that does
        not go with the method; with the place in the file.
    """
    value = table.values[key]
    if isinstance(value, str):
        return table.placed(lambda: method_of(value), key)
    inner = table.named(key)
    name = inner.text("name")
    if name in _WRAPPERS:
        return _wrapped(inner, cast("Space", name))
    if name not in METHODS:
        known = (*METHODS, *_WRAPPERS)
        message = f"{inner.where}: method {name!r}{hint(name, known)}; known are {', '.join(known)}"
        raise ParamError(message)
    return _plain(inner, name)


def _wrapped(table: Table, within: Space) -> Method:
    def make(
        *,
        name: str,  # noqa: ARG001 - a key of the table like any other
        inner: Method,
        sparsify: Method | None = None,
        refine: Level = "none",
    ) -> Method:
        return composed(inner, sparsify, refine, within)

    readers = {"name": Table.text, "inner": method, "sparsify": method, "refine": level}
    return table.make(make, readers, needed=("inner",))


def _plain(table: Table, name: str) -> Method:
    kind = cast("Any", METHODS[name])
    hints = get_type_hints(kind)
    # `lambda` is a word of Python, so the field has another name.
    fields = {f.name.rstrip("_"): f.name for f in dataclasses.fields(kind)}

    def make(
        *,
        name: str,  # noqa: ARG001 - a key of the table like any other
        sparsify: Method | None = None,
        refine: Level = "none",
        space: Space = "weight",
        **parameters: object,
    ) -> Method:
        own = {fields[key]: value for key, value in parameters.items()}
        return composed(kind(**own), sparsify, refine, space)

    readers: dict[str, Reader] = {
        "name": Table.text,
        **{key: _typed(hints[attribute]) for key, attribute in fields.items()},
        "sparsify": method,
        "refine": level,
        "space": space,
    }
    return table.make(make, readers)


def composed(
    inner: Method, sparsify: Method | None = None, refine: Level = "none", space: Space = "weight"
) -> Method:
    """A method with modifiers; one that has others already only takes a space."""
    if isinstance(sparsify, Composite):
        message = f"sparsify = {text_of(sparsify)}: give dare, della or breadcrumbs, unmodified"
        raise ParamError(message)
    if isinstance(inner, Composite) and sparsify is None and refine == "none":
        if space in ("weight", inner.space):
            return inner
        if inner.space != "weight":
            message = f"space {space} around {text_of(inner)}: say it once"
            raise ParamError(message)
        return spaced(inner, space)
    return method_of(inner, sparsify=sparsify, refine=refine, space=space)


def spaced(chosen: Method, space: Space) -> Method:
    """The same method in another space."""
    if not isinstance(chosen, Composite):
        return method_of(chosen, space=space)
    moved = replace(chosen, space=space)
    return moved.inner if moved == Composite(moved.inner) else moved


def plain(chosen: Method) -> dict[str, object]:
    """A method as a table of a recipe.

    Raises
    ------
    ParamError : a method that has no name in `METHODS`.
    """
    if chosen.name not in METHODS:
        message = f"method {chosen.name!r} is not of loramix and cannot be written in a recipe"
        raise ParamError(message)
    found = {key.rstrip("_"): value for key, value in describe(chosen).items()}
    if isinstance(chosen, Composite):
        found["sparsify"] = plain(chosen.sparsify) if chosen.sparsify else None
        omitted = {"sparsify": None, "refine": "none", "space": "weight"}
        for key, value in omitted.items():
            if found[key] == value:
                del found[key]
    return found


def text_of(chosen: Method) -> str:
    """A method in a few words, for tables: ``core(ties:density=0.3)``."""
    if isinstance(chosen, Composite):
        inner = text_of(chosen.inner)
        words = [inner if chosen.space == "weight" else f"{chosen.space}({inner})"]
        words += [f"after {text_of(chosen.sparsify)}"] if chosen.sparsify else []
        words += [chosen.refine] if chosen.refine != "none" else []
        return ", ".join(words)
    usual = describe(METHODS[chosen.name]()) if chosen.name in METHODS else {}
    items = [
        f"{key.rstrip('_')}={value}"
        for key, value in describe(chosen).items()
        if value != usual.get(key)
    ]
    return f"{chosen.name}:{','.join(items)}" if items else chosen.name


def one_of(allowed: tuple[str, ...]) -> Reader:
    """Reads one of a few words."""

    def read(table: Table, key: str) -> str:
        value = table.values[key]
        if not isinstance(value, str) or value not in allowed:
            near = hint(value, allowed) if isinstance(value, str) else ""
            table.refuse(key, f"{', '.join(allowed)}{near}")
        return value

    return read


level: Reader = one_of(LEVELS)
space: Reader = one_of(SPACES)


def _typed(hinted: object) -> Reader:
    """Reads a value of the type that a method's field has."""

    def read(table: Table, key: str) -> Scalar:
        value = _as(hinted, table.values[key])
        if value is None:
            table.refuse(key, _allowed(hinted))
        return value

    return read


def _as(hinted: object, value: object) -> Scalar | None:
    if get_origin(hinted) is Literal:
        fits = isinstance(value, str) and value in get_args(hinted)
        return value if fits and isinstance(value, str) else None
    if get_args(hinted):
        found = (_as(one, value) for one in get_args(hinted))
        return next((one for one in found if one is not None), None)
    if hinted in (int, float):
        return whole(value) if hinted is int else finite(value)
    return value if isinstance(value, str | bool) and type(value) is hinted else None


def _allowed(hinted: object) -> str:
    if get_origin(hinted) is Literal:
        return ", ".join(get_args(hinted))
    if get_args(hinted):
        return ", or ".join(_allowed(one) for one in get_args(hinted))
    names = {float: "a finite number", int: "a whole number", bool: "true or false"}
    return names.get(cast("type", hinted), "a text")
