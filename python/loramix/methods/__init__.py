"""The table of methods: one line each.

To add one: a file beside this one, a line here, its oracle in the table of
``tests/oracles_suite.py``.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias, cast

import numpy as np

from loramix.errors import ParamError
from loramix.methods.average import Average as Average
from loramix.methods.base import Coefficients as Coefficients
from loramix.methods.base import Elementwise as Elementwise
from loramix.methods.base import Subspace as Subspace
from loramix.methods.breadcrumbs import Breadcrumbs
from loramix.methods.composite import Composite as Composite
from loramix.methods.composite import Level as Level
from loramix.methods.composite import Space as Space
from loramix.methods.composite import site_of as site_of
from loramix.methods.consensus import Consensus
from loramix.methods.dare import Dare, DareTies
from loramix.methods.della import Della, DellaTies
from loramix.methods.elect import Elect as Elect
from loramix.methods.iso import IsoC, IsoCts
from loramix.methods.karcher import Karcher
from loramix.methods.lego import Lego
from loramix.methods.linear import Linear as Linear
from loramix.methods.model_stock import ModelStock
from loramix.methods.ortho import GramSchmidt, Ortho
from loramix.methods.retain import Retain as Retain
from loramix.methods.slerp import Slerp
from loramix.methods.svc import Svc
from loramix.methods.tall import Tall
from loramix.methods.ties import Ties
from loramix.methods.ties_upstream import TiesMergekit, TiesPeft, TiesPublished
from loramix.methods.tsv import Tsv
from loramix.spelling import named
from loramix.tensors import F64

_Plain: TypeAlias = Coefficients | Elementwise | Subspace
Method: TypeAlias = _Plain | Composite

_ALL: tuple[type[_Plain], ...] = (
    Linear,
    Average,
    Slerp,
    Karcher,
    ModelStock,
    Ortho,
    GramSchmidt,
    Retain,
    Ties,
    TiesPeft,
    TiesMergekit,
    TiesPublished,
    Elect,
    Dare,
    DareTies,
    Della,
    DellaTies,
    Breadcrumbs,
    Consensus,
    Tall,
    IsoC,
    IsoCts,
    Tsv,
    Svc,
    Lego,
)
METHODS: Mapping[str, type[_Plain]] = MappingProxyType({m.name: m for m in _ALL})


def method_of(
    method: str | Method,
    *,
    sparsify: str | Method | None = None,
    refine: Level = "none",
    space: Space = "weight",
) -> Method:
    """A method object from a text such as ``ties``, ``ties:density=0.3`` or ``core(ties)``.

    Objects pass through.  With a modifier (see `Composite`) the method is wrapped; ``knots(...)``
    and ``core(...)`` are short for the space.

    Raises
    ------
    ParamError : no such name or parameter, a value outside its range, or a modifier that does
        not go with the method.
    """
    if isinstance(method, str):
        found = _SPACED.fullmatch(method)
        if found:
            if space not in ("weight", found[1]):
                message = f"method {method!r} and space {space!r}: say it once"
                raise ParamError(message)
            method, space = found[2], cast("Space", found[1])
        method = cast("Method", named("method", method, METHODS))
    thin = method_of(sparsify) if sparsify is not None else None
    if thin is None and refine == "none" and space == "weight":
        return method
    if isinstance(thin, Composite):
        message = f"sparsify = {sparsify!r}: give dare, della or breadcrumbs, without modifiers"
        raise ParamError(message)
    if thin is not None and not isinstance(thin, Elementwise):
        message = f"sparsify = {thin.name}: give dare, della or breadcrumbs"
        raise ParamError(message)
    return Composite(cast("Coefficients | Elementwise", method), thin, refine, space)


_SPACED = re.compile(r"(knots|core)\((.*)\)")


def reads_gram(method: Method) -> bool:
    """Whether the inner products of all deltas are needed before anything is decided."""
    if isinstance(method, Coefficients):
        return method.reads_gram
    if not isinstance(method, Elementwise | Composite):
        return False
    program = method.program()
    guarded = program.keep.conflicts and program.keep.most == "calibrated"
    return program.calibrate or guarded


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
    if isinstance(method, Composite):
        thin = describe(method.sparsify) if method.sparsify else None
        modifiers = {"sparsify": thin, "refine": method.refine, "space": method.space}
        return {**describe(method.inner), **modifiers}
    fields: dict[str, object] = {}
    if dataclasses.is_dataclass(method) and not isinstance(method, type):
        fields = dataclasses.asdict(method)
    return {"name": method.name, **fields}
