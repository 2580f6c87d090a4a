"""Differences as they are: of weights, biases, norms and modulations.

No scale, but for the bias of a LoRA pair: the clients that read them multiply them by nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from loramix.errors import ShapeError
from loramix.formats.families.base import Draft, Family, Part, Parts, Place, roles
from loramix.formats.keys import Role
from loramix.types import Factors

VECTORS: Mapping[Role, Part] = {
    "bias": "bias",
    "diff_b": "bias",
    "w_norm": "norm",
    "b_norm": "bias",
    "diff_m": "modulation",
}
"""Roles of differences that stand beside whatever else a module has."""


def vector(parts: Parts, role: Role, part: Part) -> Draft:
    """The difference of a parameter that is no matrix.

    Raises
    ------
    ShapeError : it has no numbers, or several axes where its parameter has one.
    """
    tensor = parts.tensor(role) if part == "modulation" else parts.tensor(role, 1)
    if math.prod(tensor.shape) == 0 or not tensor.shape:
        message = f"{parts.where(role)} has shape {list(tensor.shape)}: no numbers in it"
        raise ShapeError(message)

    def factors(_: Place) -> Factors:
        found = Factors.of_dense(tensor, parts.names[role], parts.file)
        scale = parts.scaling(parts.tensors["down"].shape[0]) if role == "bias" else 1.0
        return replace(found, scale=scale, family=part)

    rows = None if part == "modulation" else tensor.shape[0]
    return Draft(part, rows, None, tensor.shape, factors, part)


def _read(parts: Parts) -> tuple[Draft, ...]:
    tensor = parts.tensor("diff")
    if len(tensor.shape) == 1:
        return (vector(parts, "diff", "norm"),)
    if 0 in tensor.shape or not tensor.shape:
        message = (
            f"{parts.where('diff')} has shape {list(tensor.shape)}; a difference has the shape of "
            "its weight: leave it out with --skip"
        )
        raise ShapeError(message)

    def factors(_: Place) -> Factors:
        return replace(Factors.of_dense(tensor, parts.names["diff"], parts.file), family="full")

    shape = tensor.shape
    return (Draft("full", shape[0], math.prod(shape[1:]), shape, factors),)


FULL = Family("full", "a dense difference", roles("diff"), frozenset({"alpha"}), _read)
