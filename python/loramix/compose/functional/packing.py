"""Latents packed into tokens by transformers, and back."""

import math
from collections.abc import Sequence

from loramix.compose.functional.arrays import Array, library_of
from loramix.errors import ShapeError


def unpack(tokens: Array, grid: Sequence[int], edges: Sequence[int]) -> Array:
    """Tokens as latents.

    Parameters
    ----------
    tokens : (batch, tokens, channels * product of edges), the channel running slowest: FLUX.1 and
        Qwen-Image pack 2 x 2 pixels of 16 channels into 64 numbers.
    grid : tokens along every axis of space, such as (height / 2, width / 2).
    edges : pixels of a token along every axis of space, such as (2, 2).

    Returns
    -------
    (batch, channels, *space) with space = grid * edges: the same numbers in another order.

    Raises
    ------
    ShapeError : not so many tokens, or channels that are not divisible.
    """
    batch, count, width = tokens.shape
    area = math.prod(edges)
    if count != math.prod(grid) or width % area:
        message = (
            f"tokens of {tuple(tokens.shape)}: a grid of {tuple(grid)} tokens of {tuple(edges)} "
            "pixels does not have these"
        )
        raise ShapeError(message)
    axes = len(grid)
    split = tokens.reshape((batch, *grid, width // area, *edges))
    order = (0, axes + 1, *(n for a in range(axes) for n in (a + 1, axes + 2 + a)))
    space = [g * e for g, e in zip(grid, edges, strict=True)]
    return _turned(split, order).reshape((batch, width // area, *space))


def pack(latents: Array, edges: Sequence[int]) -> Array:
    """Latents as tokens: what `unpack` undoes.

    Parameters
    ----------
    latents : (batch, channels, *space), every size of space divisible by its edge.

    Raises
    ------
    ShapeError : a size that is not divisible.
    """
    batch, channels, *space = latents.shape
    if len(space) != len(edges) or any(s % e for s, e in zip(space, edges, strict=True)):
        message = f"latents of {tuple(latents.shape)} do not divide into tokens of {tuple(edges)}"
        raise ShapeError(message)
    axes = len(space)
    grid = [s // e for s, e in zip(space, edges, strict=True)]
    pairs = [n for g, e in zip(grid, edges, strict=True) for n in (g, e)]
    split = latents.reshape((batch, channels, *pairs))
    order = (0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2))
    width = channels * math.prod(edges)
    return _turned(split, order).reshape((batch, math.prod(grid), width))


def _turned(array: Array, order: Sequence[int]) -> Array:
    xp = library_of(array)
    turn = getattr(xp, "permute", None) or xp.transpose
    return turn(array, order)
