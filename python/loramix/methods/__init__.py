"""The table of methods: one line each.

To add one: a file beside this one, a line here, an oracle in ``tests/oracles.py``.
"""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from loramix.errors import ParamError
from loramix.methods.average import Average
from loramix.methods.base import Coefficients
from loramix.methods.karcher import Karcher
from loramix.methods.linear import Linear
from loramix.methods.model_stock import ModelStock
from loramix.methods.ortho import GramSchmidt, Ortho
from loramix.methods.slerp import Slerp
from loramix.types import F64

Method = Coefficients

_ALL: tuple[type[Method], ...] = (
    Linear,
    Average,
    Slerp,
    Karcher,
    ModelStock,
    Ortho,
    GramSchmidt,
)
METHODS: Mapping[str, type[Method]] = MappingProxyType({m.name: m for m in _ALL})


def method_of(method: str | Method) -> Method:
    """A method object from its name; objects pass through.

    Raises
    ------
    ParamError : no such name.
    """
    if not isinstance(method, str):
        return method
    try:
        return METHODS[method]()
    except KeyError:
        message = f"method {method!r}; known are {', '.join(METHODS)}"
        raise ParamError(message) from None


def apply(method: Method, gram: F64, weights: F64) -> F64:
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
