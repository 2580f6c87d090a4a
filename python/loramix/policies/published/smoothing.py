"""Decision smoothing: a group's figures lean towards those of its block."""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from loramix.policies.published.measures import Figures

_SMOOTHED = tuple(field.name for field in fields(Figures) if field.name != "contributors")
_FUSED = {"double_blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"}


def block_of(key: str) -> str:
    """Name of the block that a target is in.

    Its first segments up to the first integer, the component included, so that two text encoders
    do not share blocks; the first two where there is no integer.  A fused weight, which has its
    original name, belongs to the block of its parts; the flat names of unknown models have
    underscores for dots.

    Examples
    --------
    >>> block_of("unet.down_blocks.2.attentions.1.proj_in")
    'unet.down_blocks.2'
    """
    component, _, name = key.partition(".")
    flat = name.replace("_", ".") if name.startswith("lora_") else name
    parts = [component, *(_FUSED.get(part, part) for part in flat.split(".") if part)]
    integers = (place for place, part in enumerate(parts) if part.isdecimal())
    return ".".join(parts[: next(integers, 1) + 1])


def smoothed(
    figures: Sequence[Figures], blocks: Sequence[str], energies: Sequence[float], share: float
) -> tuple[Figures, ...]:
    """``(1 - share) own + share * mean of the block``, for every figure.

    Groups of a single contributor have a cosine and a conflict of 0, and count in the mean with
    all their energy: a flaw of the publication, kept.  Those without a contributor do not count.

    Parameters
    ----------
    blocks : for every group, the name of its block.
    energies : for every group, its weight in the mean: the sum of the squared norms of its
        members; 0 stands for 1.
    share : lambda, 0 to 1.  A group that has a block for itself stays as it is.
    """
    table = np.array([[getattr(own, name) for name in _SMOOTHED] for own in figures])
    sizes = np.array([energy if energy > 0 else 1.0 for energy in energies])
    places: dict[str, list[int]] = {}
    for place, (own, block) in enumerate(zip(figures, blocks, strict=True)):
        if own.contributors > 0:
            places.setdefault(block, []).append(place)
    result = list(figures)
    for rows in places.values():
        if len(rows) > 1 and share > 0:
            mean = sizes[rows] @ table[rows] / sizes[rows].sum()
            for row in rows:
                mixed = (1 - share) * table[row] + share * mean
                result[row] = replace(
                    figures[row], **dict(zip(_SMOOTHED, mixed.tolist(), strict=True))
                )
    return tuple(result)
