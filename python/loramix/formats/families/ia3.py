"""(IA)3: factors for the outputs or the inputs of a weight.

Liu et al. 2022, arXiv:2205.05638.

LyCORIS stores w with ``W' = W (1 + w)``, and ``on_input`` (0 or 1) beside it.  PEFT stores l with
``W' = W l``: (out, 1), or (1, in) for modules of a feed-forward layer; what has (out, 1) multiplies
the bias of the base model, too.  The delta W' - W is dense and relative to this base, one
multiplication per entry.
"""

import math
import re
from dataclasses import replace
from functools import partial

import numpy as np

from loramix.errors import FormatError, ShapeError
from loramix.formats.families.base import Draft, Family, Parts, Place, dense, roles
from loramix.formats.keys import Role
from loramix.tensors import F32
from loramix.types import Factors


def _lycoris(parts: Parts) -> tuple[Draft, ...]:
    count = _count(parts, "weight")
    on_input = parts.number("on_input", 0.0) != 0
    return (_draft(parts, "weight", count, on_input=on_input, one=0.0),)


def _peft(parts: Parts) -> tuple[Draft, ...]:
    count = _count(parts, "ia3_l")
    on_input = _feeds_forward(parts)
    weight = _draft(parts, "ia3_l", count, on_input=on_input, one=1.0)
    if on_input:
        return (weight,)

    def bias(place: Place) -> Factors:
        make = partial(_scaled, parts, "ia3_l", place, one=1.0, on_input=False)
        found = dense(parts, "ia3_l", place, make)
        return replace(found, family="ia3")

    return weight, Draft("ia3", count, None, (count,), bias, "bias", "optional")


def _draft(parts: Parts, role: Role, count: int, *, on_input: bool, one: float) -> Draft:
    def factors(place: Place) -> Factors:
        if place.shape[on_input] != count:
            side = "inputs" if on_input else "outputs"
            message = (
                f"{parts.where(role)} has {count} numbers, but {place.key} has "
                f"{place.shape[on_input]} {side}"
            )
            raise ShapeError(message)
        make = partial(_scaled, parts, role, place, one=one, on_input=on_input)
        return replace(dense(parts, role, place, make), family="ia3")

    # The number of inputs is that of columns only where there is no kernel.
    linear = len(parts.tensors[role].shape) <= 2
    cols = count if on_input and linear else None
    return Draft("ia3", None if on_input else count, cols, None, factors, base="needed")


def _scaled(parts: Parts, role: Role, place: Place, *, one: float, on_input: bool) -> F32:
    base = place.values()
    factor = parts.values(role).reshape(-1) - np.float32(one)
    return base * factor.reshape([-1 if axis == on_input else 1 for axis in range(base.ndim)])


def _count(parts: Parts, role: Role) -> int:
    shape = parts.tensor(role).shape
    count = math.prod(shape)
    if count == 0 or count != max(shape):
        message = (
            f"{parts.where(role)} has shape {list(shape)}; it must have one number for every "
            "output or every input"
        )
        raise ShapeError(message)
    return count


def _feeds_forward(parts: Parts) -> bool:
    """Whether the factors of PEFT are for the inputs.

    Raises
    ------
    FormatError : a convolution, whose shapes do not tell, without the config that does.
    """
    shape = parts.tensor("ia3_l").shape
    if len(shape) == 2 and shape != (1, 1):
        return shape[0] == 1
    if parts.config is None or parts.config.kind != "IA3":
        message = (
            f"{parts.where('ia3_l')} has shape {list(shape)}, which does not tell outputs from "
            "inputs; keep adapter_config.json beside the file"
        )
        raise FormatError(message)
    names = parts.config.fields.get("feedforward_modules") or []
    if isinstance(names, str):
        return re.fullmatch(names, parts.module) is not None
    listed = [str(name) for name in names] if isinstance(names, list) else []
    return any(f".{parts.module}".endswith(f".{name}") for name in listed)


LYCORIS = Family("ia3", "(IA)3", roles("weight on_input"), frozenset(), _lycoris)
PEFT = Family("ia3", "(IA)3", roles("ia3_l"), frozenset(), _peft)
