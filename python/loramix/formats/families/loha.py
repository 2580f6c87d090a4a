"""LoHa: ``delta = scale * (w1_a @ w1_b) * (w2_a @ w2_b)``, entry by entry.

Yeh et al. 2024, arXiv:2309.14859 (LyCORIS); Hyeon-Woo et al. 2022, arXiv:2108.06098 (FedPara).

Exact factors of rank r1 r2: the columns of up are all products of a column of w1_a and one of
w2_a, the rows of down likewise.  With a kernel tensor t (Tucker), ``w_b[r, :]`` is
``t[r, s, k] w_b[s, i]`` before that, and w_a is stored as (r, out).  Cost: ``(rows + cols) r^2``
flops; where r^2 is more than half of the smaller side, the difference is multiplied out instead,
``2 rows cols r`` flops for each of the two, and it works like one of full rank.
"""

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
from loramix.tensors import F32
from loramix.types import Factors

_SIDES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


def read(parts: Parts) -> tuple[Draft, ...]:
    """One delta."""
    tucker = "hada_t1" in parts
    shapes = [_factor_shape(parts, number, tucker=tucker) for number in "12"]
    if shapes[0][1:] != shapes[1][1:]:
        rule = "both factors must have the same rows and columns"
        parts.refuse_misfit("hada_w1_a", "hada_w2_a", rule)
    (first, *shape), (second, *_) = shapes
    if 0 in (first, second, *shape):
        return ()
    rows, cols = shape[0], int(np.prod(shape[1:]))
    rank = first * second

    def factors(place: Place) -> Factors:
        scale = parts.scaling(parts.tensors["hada_w1_b"].shape[0])
        if 2 * rank > min(rows, cols):
            whole = dense(parts, "hada_w1_a", place, lambda: _dense(parts))
            return replace(whole, scale=scale, family="loha")
        up = made((rows, rank, *kernel_ones(place.shape)), lambda: _up(parts))
        down = made((rank, *place.shape[1:]), lambda: _down(parts))
        names = (parts.names["hada_w1_a"], parts.names["hada_w1_b"])
        return Factors(up, down, scale, names, parts.file, family="loha", origin=parts.origin)

    return (Draft("loha", rows, cols, tuple(shape), factors),)


def _factor_shape(parts: Parts, number: str, *, tucker: bool) -> tuple[int, ...]:
    """Rank and shape (out, in, *kernel) of one of the two factors, as far as it tells."""
    a, b, t = (f"hada_{name}" for name in (f"w{number}_a", f"w{number}_b", f"t{number}"))
    left, right = parts.tensor(a, 2).shape, parts.tensor(b, 2).shape
    if not tucker:
        if left[1] != right[0]:
            rule = "the second size of the first must equal the first of the second"
            parts.refuse_misfit(a, b, rule)
        return left[1], left[0], right[1]
    core = parts.tensor(t, 3, 4, 5).shape
    if core[0] != left[0] or core[1] != right[0]:
        rule = "the first sizes of both must be those of the kernel tensor"
        parts.refuse_misfit(a if core[0] != left[0] else b, t, rule)
    return left[0], left[1], right[1], *core[2:]


def _a(parts: Parts, number: str) -> F32:
    """(rows, r)."""
    found = parts.values(f"hada_w{number}_a")
    return found.T if "hada_t1" in parts else found


def _b(parts: Parts, number: str) -> F32:
    """(r, cols)."""
    found = parts.values(f"hada_w{number}_b")
    if "hada_t1" not in parts:
        return found
    return flat(with_kernel(parts.values(f"hada_t{number}"), found))


def _up(parts: Parts) -> F32:
    one, two = _a(parts, "1"), _a(parts, "2")
    return (one[:, :, None] * two[:, None, :]).reshape(one.shape[0], -1)


def _down(parts: Parts) -> F32:
    one, two = _b(parts, "1"), _b(parts, "2")
    return (one[:, None, :] * two[None, :, :]).reshape(-1, one.shape[1])


def _dense(parts: Parts) -> F32:
    found = _a(parts, "1") @ _b(parts, "1")
    found *= _a(parts, "2") @ _b(parts, "2")
    return found


LOHA = Family(
    "loha",
    "LoHa",
    roles(" ".join(_SIDES), " ".join((*_SIDES, "hada_t1", "hada_t2"))),
    frozenset({"alpha"}),
    read,
    magnitude=True,
)
