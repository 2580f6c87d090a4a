"""LoRA: ``delta = scale * up @ down``; with a middle tensor (LoCon); embeddings.

Nothing is computed but for the last two and for pairs that came transposed.
"""

import math
from collections.abc import Callable
from functools import partial

from loramix.errors import FormatError
from loramix.formats.families.base import (
    Draft,
    Family,
    Parts,
    Place,
    flat,
    made,
    roles,
    with_kernel,
)
from loramix.tensors import F32, Tensor
from loramix.types import Factors


def _pair(parts: Parts) -> tuple[Draft, ...]:
    up, down = parts.factor("up"), parts.factor("down")
    if 0 in up.shape or 0 in down.shape:
        return ()
    inner = math.prod(up.shape[1:])
    regular = inner == down.shape[0]
    flat = len(up.shape) == len(down.shape) == 2
    both = flat and up.shape[0] == down.shape[1]
    if regular:
        # Where both read well the weight decides, if a table knows it.
        return (_draft(parts, up, down, other=partial(_turned, parts) if both else None),)
    # A rank above both sides is no rank: these are sizes that do not fit.
    if both and up.shape[0] <= max(up.shape[1], down.shape[0]):
        return (_turned(parts),)
    if len(down.shape) > 2 and down.shape[0] % inner == 0:
        message = (
            f"{parts.where('up')} is {list(up.shape)} and {parts.names['down']} is "
            f"{list(down.shape)}: LoRA on a convolution of {down.shape[0] // inner} groups has no "
            "delta of the shape of its weight (PEFT does not merge it, either); leave it out with "
            "--skip"
        )
        raise FormatError(message)
    rule = "the second size of up must equal the first of down"
    return parts.refuse_misfit("up", "down", rule)


def _turned(parts: Parts) -> Draft:
    """A pair stored as (rank, rows) and (cols, rank), the right way round."""
    up, down = parts.factor("up"), parts.factor("down")
    return _draft(
        parts,
        made(up.shape[::-1], lambda: parts.values("up").T),
        made(down.shape[::-1], lambda: parts.values("down").T),
    )


def _draft(
    parts: Parts,
    up: Tensor,
    down: Tensor,
    family: str = "lora",
    other: Callable[[], Draft] | None = None,
) -> Draft:
    rank = down.shape[0]

    def factors(_: Place) -> Factors:
        names = (parts.names["up"], parts.names["down"])
        own = parts.origin if up.is_made or down.is_made else ()
        scale = parts.scaling(rank)
        return Factors(up, down, scale, names, parts.file, family=family, origin=own)

    shape = (up.shape[0], *down.shape[1:])
    cols = math.prod(down.shape[1:])
    return Draft(family, up.shape[0], cols, shape, factors, other=other, rank=rank)


def _with_mid(parts: Parts) -> tuple[Draft, ...]:
    """``delta[o, i, k] = scale * up[o, a] mid[a, b, k] down[b, i]``: mid goes into down, exactly.

    Cost: ``2 rank^2 in`` flops per element of the kernel.
    """
    up, mid, down = (parts.factor(role) for role in ("up", "mid", "down"))
    if 0 in up.shape or 0 in down.shape:
        return ()
    if math.prod(up.shape[1:]) != mid.shape[0]:
        parts.refuse_misfit("up", "mid", "the second size of up must equal the first of mid")
    if mid.shape[1] != down.shape[0] or math.prod(down.shape[2:]) != 1:
        rule = "the second size of mid must equal the first of down, whose kernel is 1"
        parts.refuse_misfit("mid", "down", rule)
    shape = (mid.shape[0], down.shape[1], *mid.shape[2:])

    def joined() -> F32:
        return with_kernel(parts.values("mid"), flat(parts.values("down")))

    return (_draft(parts, up, made(shape, joined), "locon"),)


def _embedding(parts: Parts) -> tuple[Draft, ...]:
    """``delta = scale * (B @ A)^T``, (number of embeddings, their size)."""
    first, second = parts.tensor("embedding_down", 2), parts.tensor("embedding_up", 2)
    rank = first.shape[0]
    if rank != second.shape[1]:
        rule = "the first size of A must equal the second of B"
        parts.refuse_misfit("embedding_down", "embedding_up", rule)
    if 0 in first.shape or 0 in second.shape:
        return ()
    up = made(first.shape[::-1], lambda: parts.values("embedding_down").T)
    down = made(second.shape[::-1], lambda: parts.values("embedding_up").T)
    names = (parts.names["embedding_down"], parts.names["embedding_up"])

    def factors(_: Place) -> Factors:
        return Factors(
            up, down, parts.scaling(rank), names, parts.file,
            family="embedding", origin=parts.origin,
        )  # fmt: skip

    shape = (first.shape[1], second.shape[0])
    return (Draft("embedding", *shape, shape, factors),)


_SCALES = frozenset({"alpha", "scale"})
LORA = Family("lora", "LoRA", roles("up down"), _SCALES, _pair, magnitude=True)
LOCON = Family(
    "locon", "LoCon with a middle tensor", roles("up mid down"), _SCALES, _with_mid, magnitude=True
)
EMBEDDING = Family(
    "embedding", "an embedding adapter", roles("embedding_up embedding_down"), frozenset(),
    _embedding,
)  # fmt: skip
