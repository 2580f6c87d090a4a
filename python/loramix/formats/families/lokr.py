"""LoKr: ``delta = scale * kron(w1, w2)``, each factor full or of low rank.

Yeh et al. 2024, arXiv:2309.14859 (LyCORIS).

A matrix (a, c) is a product of inner size a (identity times itself), c, or its rank r where it
came factored.  With ``w1 = L1 R1`` and ``w2 = L2 R2`` of the smallest inner sizes p and q, the
delta is ``kron(L1, L2) @ kron(R1, R2)``: exact, of rank p q.  Cost: ``(rows + cols) p q`` flops;
where p q is more than half of the smaller side, the difference is multiplied out instead,
``rows cols`` flops, and it works like one of full rank.

A kernel belongs to w2: with ``w2 (b, d, *k)`` flattened to (b, d k) the formula is that of a
linear layer.  The kernel tensor t2 (r, r, *k) of the Tucker form goes into w2_b; w2_a is stored as
(r, b) then.

The scale is alpha / r where some factor has low rank, and 1 where both are full, whatever alpha is
stored; PEFT's own LoKr divides by the rank in its config always.
"""

import math
from dataclasses import replace

import numpy as np

from loramix.formats.families.base import (
    Draft,
    Family,
    Parts,
    Place,
    dense,
    flat,
    kernel_ones,
    made,
    roles,
    with_kernel,
)
from loramix.tensors import F32, Shape
from loramix.types import Factors

_FIRST = ("lokr_w1", "lokr_w1_a lokr_w1_b")
_SECOND = ("lokr_w2", "lokr_w2_a lokr_w2_b", "lokr_w2_a lokr_w2_b lokr_t2")


def read(parts: Parts) -> tuple[Draft, ...]:
    """One delta."""
    (a, c), p = _first_shape(parts)
    (b, *rest), q = _second_shape(parts)
    shape = (a * b, c * rest[0], *rest[1:])
    rows, cols = shape[0], math.prod(shape[1:])
    if 0 in (rows, cols, p, q):
        return ()

    def factors(place: Place) -> Factors:
        scale = _scale(parts)
        if 2 * p * q > min(rows, cols):
            whole = dense(parts, next(iter(parts.names)), place, lambda: _dense(parts))
            return replace(whole, scale=scale, family="lokr")
        up = made((rows, p * q, *kernel_ones(place.shape)), lambda: _side(parts, 0))
        down = made((p * q, *place.shape[1:]), lambda: _side(parts, 1))
        one, two = (next(n for n in parts.names if n.startswith(f"lokr_w{i}")) for i in "12")
        names = (parts.names[one], parts.names[two])
        return Factors(up, down, scale, names, parts.file, family="lokr", origin=parts.origin)

    return (Draft("lokr", rows, cols, shape, factors),)


def _scale(parts: Parts) -> float:
    if parts.config is not None and parts.config.kind == "LOKR":
        return parts.config.stated_scale(parts.module)
    if "lokr_w2_b" in parts:
        return parts.scaling(parts.tensors["lokr_w2_b"].shape[0])
    if "lokr_w1_b" in parts:
        return parts.scaling(parts.tensors["lokr_w1_b"].shape[0])
    return 1.0


def _first_shape(parts: Parts) -> tuple[tuple[int, int], int]:
    """Shape of w1, and the smallest inner size of a product that makes it."""
    if "lokr_w1" in parts:
        a, c = parts.tensor("lokr_w1", 2).shape
        return (a, c), min(a, c)
    (a, rank), (inner, c) = (parts.tensor(f"lokr_w1_{side}", 2).shape for side in "ab")
    if rank != inner:
        rule = "the second size of the first must equal the first of the second"
        parts.refuse_misfit("lokr_w1_a", "lokr_w1_b", rule)
    return (a, c), min(a, c, rank)


def _second_shape(parts: Parts) -> tuple[Shape, int]:
    """The same of w2 with its kernel."""
    if "lokr_w2" in parts:
        shape = parts.factor("lokr_w2").shape
        return shape, min(shape[0], math.prod(shape[1:]))
    left, right = (parts.tensor(f"lokr_w2_{side}", 2).shape for side in "ab")
    if "lokr_t2" not in parts:
        if left[1] != right[0]:
            rule = "the second size of the first must equal the first of the second"
            parts.refuse_misfit("lokr_w2_a", "lokr_w2_b", rule)
        return (left[0], right[1]), min(left[0], right[1], left[1])
    core = parts.tensor("lokr_t2", 3, 4, 5).shape
    if core[0] != left[0] or core[1] != right[0]:
        odd = "lokr_w2_a" if core[0] != left[0] else "lokr_w2_b"
        parts.refuse_misfit(odd, "lokr_t2", "their first sizes must be those of the kernel's")
    shape = (left[1], right[1], *core[2:])
    return shape, min(shape[0], math.prod(shape[1:]), left[0])


def _product_of(full: F32 | None, left: F32 | None, right: F32 | None) -> tuple[F32, F32]:
    """A matrix as a product of the smallest inner size."""
    if full is None:
        assert left is not None
        assert right is not None
        if left.shape[1] <= min(left.shape[0], right.shape[1]):
            return left, right
        full = left @ right
    rows, cols = full.shape
    if rows <= cols:
        return np.eye(rows, dtype=np.float32), full
    return full, np.eye(cols, dtype=np.float32)


def _products(parts: Parts) -> tuple[tuple[F32, F32], tuple[F32, F32]]:
    """``(L1, R1), (L2, R2)``; w2 with its kernel in the columns."""

    def value(role: str) -> F32 | None:
        return parts.values(role) if role in parts else None

    first = _product_of(value("lokr_w1"), value("lokr_w1_a"), value("lokr_w1_b"))
    full, left, right = value("lokr_w2"), value("lokr_w2_a"), value("lokr_w2_b")
    if full is not None:
        full = flat(full)
    core = value("lokr_t2")
    if core is not None:
        assert left is not None
        assert right is not None
        left, right = left.T, flat(with_kernel(core, right))
    return first, _product_of(full, left, right)


def _side(parts: Parts, side: int) -> F32:
    one, two = _products(parts)
    return np.kron(one[side], two[side])


def _dense(parts: Parts) -> F32:
    (one, other), (left, right) = _products(parts)
    return np.kron(one @ other, left @ right)


LOKR = Family(
    "lokr",
    "LoKr",
    roles(*(f"{one} {two}" for one in _FIRST for two in _SECOND)),
    frozenset({"alpha"}),
    read,
    magnitude=True,
)
