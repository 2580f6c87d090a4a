"""DoRA: a magnitude for every output (or input) of the weight, on top of another family.

Liu et al. 2024, arXiv:2402.09353.

With W the base weight, D the delta of the other family and n the norms of V = W + D over all axes
but that of the magnitude m, the weight becomes W' = (m / n) V, and the delta is W' - W: dense, and
relative to this base.  It is folded first and weighted then: merged at weight w, it adds
w (W' - W).  LyCORIS at a multiplier other than 1 does the same to (m / n - 1) only, PEFT to D:
there is no one meaning of half a DoRA.

Spellings: ``dora_scale`` (LyCORIS, OneTrainer), (out, 1, ...) or (1, in, ...), whose shape tells
the axis; there n has the machine epsilon of float32 added.  ``lora_magnitude_vector`` (PEFT), (out)
or (1, out, 1, 1), and ``magnitude`` (AI-Toolkit), (out): of the output.

Cost: the product of the other family, and five passes over the weight.
"""

import math
from dataclasses import replace
from functools import partial

import numpy as np

from loramix.errors import FormatError, ShapeError
from loramix.formats.families.base import Draft, Parts, Place, dense, product
from loramix.formats.keys import Role
from loramix.tensors import F32
from loramix.types import Factors

MAGNITUDES: tuple[Role, ...] = ("dora_scale", "magnitude")
_EPSILON = float(np.finfo(np.float32).eps)


def decomposed(inner: Draft, parts: Parts) -> Draft:
    """The delta of a family with a magnitude beside its tensors.

    Raises
    ------
    FormatError, ShapeError : two magnitudes, or one of no shape that is known.
    """
    found = [role for role in MAGNITUDES if role in parts]
    if len(found) > 1:
        message = f"{parts.where(found[0])} and {parts.names[found[1]]}: one magnitude is enough"
        raise FormatError(message)
    (role,) = found
    name = "dora" if inner.family == "lora" else f"dora({inner.family})"
    on_input = _is_of_inputs(parts, role)

    def factors(place: Place) -> Factors:
        plain = inner.make(place)
        _check(parts, role, place, on_input=on_input)
        make = partial(_folded, plain, parts, role, place, on_input=on_input)
        found = dense(parts, role, place, make)
        return replace(found, family=name)

    turned = inner.other
    other = (lambda: decomposed(turned(), parts)) if turned is not None else None
    return replace(inner, family=name, make=factors, base="needed", other=other)


def _is_of_inputs(parts: Parts, role: Role) -> bool:
    shape = parts.tensor(role).shape
    if role == "dora_scale" and len(shape) > 1 and math.prod(shape) == max(shape[:2]):
        return shape[0] == 1 and shape[1] > 1
    if role == "magnitude" and math.prod(shape) == max(shape, default=0) > 0:
        return False
    message = (
        f"{parts.where(role)} has shape {list(shape)}; a magnitude has one number for every output "
        "or every input"
    )
    raise ShapeError(message)


def _check(parts: Parts, role: Role, place: Place, *, on_input: bool) -> None:
    count = math.prod(parts.tensors[role].shape)
    if count != place.shape[on_input]:
        side = "inputs" if on_input else "outputs"
        message = (
            f"{parts.where(role)} has {count} numbers, but {place.key} has {place.shape[on_input]} "
            f"{side}"
        )
        raise ShapeError(message)


def _folded(plain: Factors, parts: Parts, role: Role, place: Place, *, on_input: bool) -> F32:
    """``W' - W = (m / n - 1) W + (m / n) D``, without the cancellation of the left side."""
    base, delta = place.values(), product(plain).reshape(place.shape)
    axes = tuple(axis for axis in range(base.ndim) if axis != on_input)
    norms = np.sqrt(np.square(base + delta, dtype=np.float64).sum(axis=axes, keepdims=True))
    if role == "dora_scale":
        norms += _EPSILON
    excess = (parts.values(role).reshape(norms.shape) - norms) / norms
    delta *= (1.0 + excess).astype(np.float32)
    delta += base * excess.astype(np.float32)
    return delta
