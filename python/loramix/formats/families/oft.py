"""Diag-OFT and BOFT as LyCORIS and sd-scripts have them: rotations of the outputs of a weight.

Qiu et al. 2023, arXiv:2306.07280; Liu et al. 2024, arXiv:2311.06243.

With Q = blocks - blocks^T (n blocks of b x b) and R = (I + Q)(I - Q)^-1, Diag-OFT turns the row
block k of the base weight W into R_k^T W_k.  BOFT (blocks of four axes) has m stages: in stage i
rows are seen as (*, 2, 2^i b / 2), the last two exchanged, blocks of b rows multiplied by R, and
put back.  ``rescale`` multiplies the rows of the result.  ``alpha`` holds the constraint c: where
|Q| > c out, over all blocks, Q is brought to that norm (ComfyUI forgets the factor out).
sd-scripts has lists of blocks for the parts of a fused weight, each with its own norm.

Cost: O(n b^3) for R, ``2 rows cols b`` flops per stage; the delta W' - W is dense and relative to
this base.
"""

import math
from dataclasses import replace
from functools import partial

import numpy as np

from loramix.errors import FormatError, ShapeError
from loramix.formats.families.base import Draft, Family, Parts, Place, dense, roles
from loramix.formats.keys import Role
from loramix.tensors import F32, F64, Shape
from loramix.types import Factors


def _read(parts: Parts) -> tuple[Draft, ...]:
    names = _blocks(parts)
    stages = len(parts.tensors[names[0]].shape) == 4
    rows = 0
    for role in names:
        shape = parts.tensor(role, *((4,) if stages and len(names) == 1 else (3,))).shape
        _check_square(parts, role, shape)
        rows += shape[-3] * shape[-1]
    if "rescale" in parts and math.prod(parts.tensor("rescale").shape) != rows:
        rule = f"a rescale has one number for each of the {rows} rows"
        parts.refuse_misfit("rescale", names[0], rule)
    name = "boft" if stages else "oft"
    constraint = parts.number("alpha", 0.0)

    def factors(place: Place) -> Factors:
        _check_rows(parts, names[0], place, rows)
        make = partial(_delta, parts, names, place, constraint)
        return replace(dense(parts, names[0], place, make), family=name)

    return (Draft(name, rows, None, None, factors, base="needed"),)


def _blocks(parts: Parts) -> list[Role]:
    """Roles of the blocks, in the order of the rows.

    Raises
    ------
    FormatError : one of a list is missing.
    """
    if "oft_blocks" in parts:
        return ["oft_blocks"]
    found = sorted(
        (role for role in parts.names if role.startswith("oft_blocks.")),
        key=lambda role: int(role.partition(".")[2]),
    )
    if found != [f"oft_blocks.{index}" for index in range(len(found))]:
        message = f"{parts.where(found[0])}: parts of this list of {len(found)} are missing"
        raise FormatError(message)
    return found


def _check_square(parts: Parts, role: Role, shape: Shape) -> None:
    if shape[-1] != shape[-2] or 0 in shape or (len(shape) == 4 and shape[-1] % 2):
        message = (
            f"{parts.where(role)} has shape {list(shape)}; blocks are square, and of even size "
            "where there are stages"
        )
        raise ShapeError(message)


def _check_rows(parts: Parts, role: Role, place: Place, rows: int) -> None:
    if place.shape[0] != rows:
        message = (
            f"{parts.where(role)}: these blocks rotate {rows} outputs, but {place.key} has "
            f"{place.shape[0]}"
        )
        raise ShapeError(message)


def turn(skew: F64) -> F64:
    """``R - I`` of ``R = (I + Q)(I - Q)^-1`` for a stack of skew matrices Q: 2 Q (I - Q)^-1."""
    # Q and its functions commute.
    return np.asarray(2 * np.linalg.solve(np.eye(skew.shape[-1]) - skew, skew), dtype=np.float64)


def _skew(parts: Parts, role: Role, constraint: float) -> F64:
    blocks = parts.values(role).astype(np.float64)
    skew = blocks - np.swapaxes(blocks, -1, -2)
    largest = constraint * skew.shape[-3] * skew.shape[-1]
    norm = float(np.linalg.norm(skew)) + 1e-8
    return skew * (largest / norm) if 0 < largest < norm else skew


def _delta(parts: Parts, names: list[Role], place: Place, constraint: float) -> F32:
    base = place.values()
    rows = base.reshape(base.shape[0], -1)
    found, start = np.empty_like(rows), 0
    for role in names:
        turns = turn(_skew(parts, role, constraint)).astype(np.float32)
        end = start + turns.shape[-3] * turns.shape[-1]
        rotated = _staged if turns.ndim == 4 else _rotated
        found[start:end] = rotated(turns, rows[start:end])
        start = end
    if "rescale" in parts:
        factor = parts.values("rescale").reshape(-1, 1)
        found = factor * found + (factor - 1) * rows
    return np.asarray(found.reshape(base.shape))


def _rotated(turns: F32, rows: F32) -> F32:
    """``(R_k^T - I) W_k`` of all blocks."""
    blocks = rows.reshape(*turns.shape[:2], -1)
    return np.asarray(np.matmul(np.swapaxes(turns, 1, 2), blocks).reshape(rows.shape))


def _staged(turns: F32, rows: F32) -> F32:
    """What all stages add to the rows."""
    size = turns.shape[-1]
    added = np.zeros_like(rows)
    for stage, blocks in enumerate(turns):
        half = 2**stage * (size // 2)
        mixed = (rows + added).reshape(-1, 2, half, rows.shape[1]).swapaxes(1, 2)
        mixed = np.matmul(blocks, mixed.reshape(-1, size, rows.shape[1]))
        added += mixed.reshape(-1, half, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
    return added


OFT = Family(
    "oft",
    "OFT or BOFT",
    roles("oft_blocks", "oft_part"),
    frozenset({"rescale", "alpha"}),
    _read,
)
