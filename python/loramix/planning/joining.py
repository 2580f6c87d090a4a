"""Parts of a fused weight that share their down side become one pair again, bit by bit."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from loramix.planning.steps import Piece
from loramix.tensors import Made, Tensor
from loramix.types import Factors

_GLANCE = 64  # bytes that tell most matrices apart


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The same sum of fewer pieces: those of an adapter with one down side are one.

    A fused pair that was split has one down side in all of its parts, in files, too.  Joined again,
    its rank does not grow; rows between the parts are zero.

    Parameters
    ----------
    pieces : of one weight.

    Notes
    -----
    Cost: reads the down sides that begin alike; the joined up side is made when it is used.
    """
    found: list[list[Piece]] = []
    for piece in pieces:
        group = next((group for group in found if _share(group[0], piece)), None)
        if group is None:
            found.append([piece])
        else:
            group.append(piece)
    return [_one(group) if len(group) > 1 else group[0] for group in found]


def _share(one: Piece, other: Piece) -> bool:
    """Whether two pieces of different rows differ in nothing else than their up sides."""
    a, b = one.factors, other.factors
    same = (one.owner, one.coefficient, one.weight, a.scale, a.identity, b.identity) == (
        other.owner, other.coefficient, other.weight, b.scale, None, None
    )  # fmt: skip
    kinds = a.up.dtype == b.up.dtype and a.up.shape[1:] == b.up.shape[1:]
    return same and kinds and one.row_start != other.row_start and _equal(a.down, b.down)


def _equal(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if one.content is other.content:
        return True
    if one.is_made or other.is_made:  # too dear to be made for a question
        return False
    a, b = (np.frombuffer(tensor.data, dtype=np.uint8) for tensor in (one, other))
    return np.array_equal(a[:_GLANCE], b[:_GLANCE]) and np.array_equal(a, b)


def _one(pieces: Sequence[Piece]) -> Piece:
    order = sorted(pieces, key=lambda piece: piece.row_start)
    first, last = order[0], order[-1]
    start, end = first.row_start, last.row_start + last.factors.up.shape[0]
    ups = [(piece.row_start - start, piece.factors.up) for piece in order]
    shape = (end - start, *first.factors.up.shape[1:])

    def rows() -> npt.NDArray[np.uint8]:
        width = ups[0][1].size // ups[0][1].shape[0]
        whole = np.zeros(shape[0] * width, dtype=np.uint8)
        for at, up in ups:
            whole[at * width : at * width + up.size] = np.frombuffer(up.data, dtype=np.uint8)
        return whole

    up = Tensor(first.factors.up.dtype, shape, Made(rows))
    origin = (*(up for _, up in ups), first.factors.down)
    factors: Factors = replace(first.factors, up=up, origin=origin)
    return replace(first, factors=factors)
