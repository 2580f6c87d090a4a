"""GLoRA: ``delta = scale * (b1 @ b2 + W a1 a2)``, W the base weight.

Chavan et al. 2023, arXiv:2306.07967, as LyCORIS has it: a1 (in, r), a2 (r, in), b1 (out, r), b2
(r, in, *kernel); ``a1 a2`` acts on the inputs of every element of a kernel.  Its first version had
the roles the other way round, ``b2 @ b1 + W a2 a1``; the sizes tell.  A kernel tensor bm
(r, r, *kernel) between b1 and b2 works like the middle tensor of LoCon.  Cost: ``4 rows cols r``
flops; the delta is dense and relative to this base.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from loramix.errors import ShapeError
from loramix.formats.families.base import (
    Draft,
    Family,
    Parts,
    Place,
    dense,
    flat,
    roles,
    with_kernel,
)
from loramix.formats.keys import Role
from loramix.tensors import F32
from loramix.types import Factors


@dataclass(frozen=True, slots=True)
class _Order:
    """Which roles are the up and the down sides."""

    a_up: Role
    a_down: Role
    b_up: Role
    b_down: Role


_NOW, _FIRST = _Order("a1", "a2", "b1", "b2"), _Order("a2", "a1", "b2", "b1")


def _read(parts: Parts) -> tuple[Draft, ...]:
    for role in ("a1", "a2", "b1", "b2"):
        parts.factor(role)
    order = next((one for one in (_NOW, _FIRST) if _fits(parts, one)), None)
    if order is None:
        shapes = ", ".join(f"{role} {list(parts.tensors[role].shape)}" for role in parts.names)
        message = (
            f"{parts.where('a1')}: these sizes fit neither a1 (in, r), a2 (r, in), b1 (out, r), "
            f"b2 (r, in, ...) nor the same with 1 and 2 exchanged: {shapes}"
        )
        raise ShapeError(message)
    down, rank = parts.tensors[order.b_down].shape, parts.tensors[order.a_down].shape[0]
    if rank == 0:
        return ()
    kernel = parts.tensors["bm"].shape[2:] if "bm" in parts else down[2:]
    shape = (parts.tensors[order.b_up].shape[0], down[1], *kernel)

    def factors(place: Place) -> Factors:
        make = partial(_delta, parts, order, place)
        found = dense(parts, order.b_up, place, make)
        return replace(found, family="glora", scale=parts.scaling(rank))

    return (Draft("glora", shape[0], math.prod(shape[1:]), shape, factors, base="needed"),)


def _fits(parts: Parts, order: _Order) -> bool:
    a_up, a_down, b_up, b_down = (
        parts.tensors[role].shape for role in (order.a_up, order.a_down, order.b_up, order.b_down)
    )
    rank = a_down[0]
    units = math.prod(a_up[2:]) == math.prod(a_down[2:]) == math.prod(b_up[2:]) == 1
    middle = "bm" not in parts or (
        parts.factor("bm").shape[:2] == (rank, rank) and math.prod(b_down[2:]) == 1
    )
    same = a_up[1] == b_up[1] == b_down[0] == rank and a_up[0] == a_down[1] == b_down[1]
    return units and middle and same


def _delta(parts: Parts, order: _Order, place: Place) -> F32:
    """Without the scale."""
    base, down = place.values(), parts.values(order.b_down)
    a_up, a_down, b_up = (
        flat(parts.values(role)) for role in (order.a_up, order.a_down, order.b_up)
    )
    if "bm" in parts:
        down = with_kernel(parts.values("bm"), flat(down))
    found = (b_up @ flat(down)).reshape(base.shape)
    found += np.moveaxis(np.tensordot(base, a_up, axes=(1, 0)) @ a_down, -1, 1)
    return found


GLORA = Family("glora", "GLoRA", roles("a1 a2 b1 b2"), frozenset({"bm", "alpha"}), _read)
