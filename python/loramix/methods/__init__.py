"""The table of methods: one line each.

To add one: a file beside this one, a line here, an oracle in ``tests/oracles.py``.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from loramix.errors import ParamError
from loramix.methods.average import Average
from loramix.methods.base import Coefficients
from loramix.methods.karcher import Karcher
from loramix.methods.linear import Linear
from loramix.methods.model_stock import ModelStock
from loramix.methods.ortho import GramSchmidt, Ortho
from loramix.methods.slerp import Slerp

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


def describe(method: Method) -> dict[str, object]:
    """Name and parameters, for recipes and reports."""
    fields: dict[str, object] = {}
    if dataclasses.is_dataclass(method) and not isinstance(method, type):
        fields = dataclasses.asdict(method)
    return {"name": method.name, **fields}
