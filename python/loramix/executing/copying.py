"""Pairs that nothing changes, written as they are: no digit is computed twice.

What a dialect's alpha does not say is multiplied into the up side: by a power of two, as it is for
most trainers, no digit changes either.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from loramix import _core
from loramix.backends.base import Factored
from loramix.errors import FormatError, OutputError
from loramix.formats.values import not_finite
from loramix.planning.output import CODES
from loramix.planning.steps import Plan, Step
from loramix.tensors import F64, ITEM_BYTES, Made, Tensor
from loramix.types import Factors

Bytes: TypeAlias = npt.NDArray[np.uint8]

# Bits of the mantissa, and of the exponent, of the types that are written.
_BITS = {"F32": (23, 8), "F16": (10, 5), "BF16": (7, 8)}


def factor_of(plan: Plan, step: Step) -> float | None:
    """What the up side of a step's one pair is multiplied by; None if it is no copy.

    A copy is a pair alone, of the type that is written, that nobody wants of another rank.
    """
    wish = plan.output
    if not wish.verbatim or (wish.rank, wish.energy, wish.max_error, step.rank) != (None,) * 4:
        return None
    if step.kind != "sum" or step.embedding or len(step.pieces) != 1:
        return None
    (piece,) = step.pieces
    factors, code = piece.factors, CODES[plan.dtype]
    alone = factors.identity is None and factors.up.shape[0] == step.target.rows
    if not alone or (factors.up.dtype, factors.down.dtype) != (code, code):
        return None
    factor = piece.coefficient * factors.scale
    factor *= factors.rank / plan.alpha if plan.alpha is not None else 1.0
    return factor if factor != 0 and math.isfinite(factor) else None


def trimmed(plan: Plan, step: Step) -> Step:
    """A copy of a part of a fused weight without the columns that are zero in all of its rows.

    Parts that were fused stand block by block in one pair, of the sum of their ranks: what belongs
    to others is exactly zero here.  Pairs that are nobody's part keep their rank, zeros and all,
    and so do those whose digits would change, because the file's alpha goes with the old rank.
    """
    (piece,) = step.pieces
    if step.target in plan.adapters[piece.owner].targets:
        return step
    factors = piece.factors
    kept = _columns(factors.up)
    if len(kept) == factors.rank:
        return step
    up = _picked(factors.up, (factors.up.shape[0], factors.rank, -1), kept, axis=1)
    down = _picked(factors.down, (factors.rank, -1), kept, axis=0)
    found = replace(step, pieces=(replace(piece, factors=replace(factors, up=up, down=down)),))
    rounds = _is_exact(factor_of(plan, step)) and not _is_exact(factor_of(plan, found))
    return step if rounds else found


def _is_exact(factor: float | None) -> bool:
    """Whether a factor is a power of two, which changes no digit."""
    return factor is not None and math.frexp(abs(factor))[0] == 0.5


def _columns(up: Tensor) -> list[int]:
    """Columns with a number that is not zero; the first, if there are none.

    The first row decides nearly always: where it has no zeros, no column is one.
    """
    rank, width = up.shape[1], ITEM_BYTES[up.dtype]
    bits = np.frombuffer(up.data, dtype=f"<u{width}").reshape(-1, rank)
    for rows in (bits[:1], bits):
        found = (rows << 1).any(axis=0)  # without the sign
        if found.all():
            break
    return [int(column) for column in np.flatnonzero(found)] or [0]


def _picked(tensor: Tensor, axes: tuple[int, ...], kept: Sequence[int], *, axis: int) -> Tensor:
    """Some rows or columns of a tensor: a copy, made when it is used."""
    width = ITEM_BYTES[tensor.dtype]
    shape = (*tensor.shape[:axis], len(kept), *tensor.shape[axis + 1 :])

    def pick() -> npt.NDArray[Any]:
        values = np.frombuffer(tensor.data, dtype=f"<u{width}").reshape(axes)
        return values.take(kept, axis=axis)

    return Tensor(tensor.dtype, shape, Made(pick))


def unmeasured(step: Step) -> Factored:
    """What is known of a copy without looking at it; norms are nobody's business yet."""
    rank = step.pieces[0].factors.rank
    return Factored(rank, math.nan, math.nan, 0.0, np.zeros((1, 1)), np.zeros(1))


def measured(steps: Sequence[Step], threads: int | None) -> list[Factored]:
    """What is known of copies that rounding changed."""
    grams = _core.gram([step.group().raw() for step in steps], threads=threads)
    return [_made(step, np.reshape(gram, (1, 1))) for step, gram in zip(steps, grams, strict=True)]


def _made(step: Step, gram: F64) -> Factored:
    (piece,) = step.pieces
    scale = piece.factors.scale
    inner = gram / scale**2
    norm = math.sqrt(max(gram[0, 0], 0.0)) * abs(piece.coefficient)
    along = inner[0] * (piece.coefficient * scale)
    return Factored(piece.factors.rank, norm, norm, 0.0, inner, along)


def sides(plan: Plan, step: Step) -> tuple[Bytes, Bytes]:
    """The bytes that are written of a copy: up and down."""
    (piece,) = step.pieces
    factors, factor = piece.factors, factor_of(plan, step) or 0.0
    if factor != 1 and _core.first_not_finite([(factors.up.dtype, factors.up.data)]) is not None:
        refuse_not_finite(step, 0)  # a product would seem to be too large
    up = scaled(factors.up, factor, factors.keys[0])
    up = np.roll(up, len(up) // 2) if step.swap else up
    return up, np.frombuffer(factors.down.data, dtype=np.uint8)


def refuse_not_finite(step: Step, side: int) -> NoReturn:
    """Say which tensor of the input holds NaN or infinity.

    Parameters
    ----------
    side : 0 of the up side, 1 of the down side.
    """
    factors = step.pieces[0].factors
    raise FormatError(not_finite(f"{factors.file}: {factors.keys[side]}"))


def arrived(plan: Plan, step: Step, read: Factors) -> bool:
    """Whether what a reader finds is the delta of a copy, to the last digit.

    All bytes were compared when they were written: here it is about the scale, and about which
    bytes the names of the file lead to, for which the first and the last rows stand.
    """
    (piece,) = step.pieces
    factor, factors = factor_of(plan, step) or 0.0, piece.factors
    meant = piece.coefficient * factors.scale
    exact = _is_exact(factor) and math.isclose(read.scale * factor, meant)
    alike = read.up.size == factors.up.size and read.down.size == factors.down.size
    if not exact or not alike:
        return False
    for found, stored, times in ((read.up, factors.up, factor), (read.down, factors.down, 1.0)):
        length = stored.size // stored.shape[0]
        ends = _ends(stored, length)
        if times != 1:
            rows = Tensor(stored.dtype, (2, *stored.shape[1:]), memoryview(ends))
            ends = scaled(rows, times, factors.keys[0]).tobytes()
        if _ends(found, length) != ends:
            return False
    return True


def _ends(tensor: Tensor, length: int) -> bytes:
    """The first and the last bytes."""
    data = tensor.data
    return bytes(data[:length]) + bytes(data[-length:])


def scaled(tensor: Tensor, factor: float, what: str) -> Bytes:
    """The bytes of a tensor times a factor, rounded once if it is no power of two.

    Parameters
    ----------
    what : its name, for messages.

    Raises
    ------
    OutputError : a product is too large for the type.
    """
    data = np.frombuffer(tensor.data, dtype=np.uint8)
    if factor == 1:
        return data
    split, power = math.frexp(factor)
    found = _shifted(data, tensor.dtype, power - 1) if split == 0.5 else None
    if found is None:
        found = _multiplied(data, tensor.dtype, factor)
    if found is None:
        message = f"{what} times {factor:.4g} is too large for {tensor.dtype}; try --dtype bf16"
        raise OutputError(message)
    return found


def _shifted(data: Bytes, code: str, power: int) -> Bytes | None:
    """Numbers times ``2^power``, by their exponents; None if one is not, or would not be, normal.

    Cost: four passes.
    """
    low, high = _BITS[code]
    bits: Any = data.view(np.uint32 if code == "F32" else np.uint16)
    kind = bits.dtype.type
    top = ((1 << high) - 1) << low
    exponents = bits & kind(top)
    least, most = int(exponents.min(initial=top)) >> low, int(exponents.max(initial=0)) >> low
    zero = None
    if least == 0:
        zero = (bits << kind(1)) == 0
        least = int(exponents[~zero].min(initial=top)) >> low
    if least == 0 or least + power < 1 or most + power >= (1 << high) - 1:
        return None
    moved = bits + kind((power << low) % (1 << 8 * bits.itemsize))
    if zero is not None:
        moved[zero] = bits[zero]
    found: Bytes = moved.view(np.uint8)
    return found


def _multiplied(data: Bytes, code: str, factor: float) -> Bytes | None:
    """Numbers times a factor, rounded to nearest; None if one is too large."""
    with np.errstate(over="ignore"):
        if code != "BF16":
            kind = np.float32 if code == "F32" else np.float16
            values = (data.view(kind).astype(np.float32) * np.float32(factor)).astype(kind)
            return values.view(np.uint8) if np.isfinite(values).all() else None
        wide = data.view(np.uint16).astype(np.uint32) << 16
        bits = (wide.view(np.float32) * np.float32(factor)).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        finite = ((rounded & 0x7F80) != 0x7F80).all()
        return rounded.astype(np.uint16).view(np.uint8) if finite else None
