"""The table of methods: one line each.

To add one: a file beside this one, a line here, an oracle in ``tests/oracles.py``.
"""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, cast

import numpy as np

from loramix.errors import ParamError
from loramix.methods.average import Average
from loramix.methods.base import Coefficients as Coefficients
from loramix.methods.base import Elementwise as Elementwise
from loramix.methods.breadcrumbs import Breadcrumbs
from loramix.methods.dare import Dare, DareTies
from loramix.methods.karcher import Karcher
from loramix.methods.linear import Linear as Linear
from loramix.methods.model_stock import ModelStock
from loramix.methods.ortho import GramSchmidt, Ortho
from loramix.methods.slerp import Slerp
from loramix.methods.ties import Ties
from loramix.types import F64

Method: TypeAlias = Coefficients | Elementwise

_ALL: tuple[type[Method], ...] = (
    Linear,
    Average,
    Slerp,
    Karcher,
    ModelStock,
    Ortho,
    GramSchmidt,
    Ties,
    Dare,
    DareTies,
    Breadcrumbs,
)
METHODS: Mapping[str, type[Method]] = MappingProxyType({m.name: m for m in _ALL})


def method_of(method: str | Method) -> Method:
    """A method object from a text such as ``ties`` or ``ties:density=0.3,vote=count``.

    Objects pass through.

    Raises
    ------
    ParamError : no such name or parameter, or a value outside its range.
    """
    if not isinstance(method, str):
        return method
    name, _, text = method.partition(":")
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        message = f"method {name!r}{hint}; known are {', '.join(METHODS)}"
        raise ParamError(message)
    kind = cast("Callable[..., Method]", METHODS[name])
    return kind(**_parameters(METHODS[name], text))


def _parameters(method: type[Method], text: str) -> dict[str, Any]:
    """Values of ``key=value,key=value`` in the types of the method's fields."""
    known: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(cast("Any", method))}
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key not in known:
            message = f"{method.name}: no parameter {key!r}; it has {', '.join(known) or 'none'}"
            raise ParamError(message)
        try:
            found[key] = type(known[key])(value)
        except ValueError:
            message = f"{method.name}: {key} = {value!r}: a number"
            raise ParamError(message) from None
    return found


def apply(method: Coefficients, gram: F64, weights: F64) -> F64:
    """Coefficients of a method, with numbers near one inside.

    Coefficients do not depend on the unit of the deltas and are proportional to the weights, so
    both are scaled by powers of two first: no square overflows that need not.
    """
    largest = float(np.abs(weights).max(initial=0.0))
    unit = float(np.diag(gram).max(initial=0.0))
    scale = 2.0 ** round(math.log2(largest)) if largest > 0 else 1.0
    inner = gram / 2.0 ** round(math.log2(unit)) if unit > 0 else gram
    return np.asarray(method.coefficients(inner, weights / scale) * scale)


def describe(method: Method) -> dict[str, object]:
    """Name and parameters, for recipes and reports."""
    fields: dict[str, object] = {}
    if dataclasses.is_dataclass(method) and not isinstance(method, type):
        fields = dataclasses.asdict(method)
    return {"name": method.name, **fields}
