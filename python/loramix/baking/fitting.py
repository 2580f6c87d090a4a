"""What of a base model the steps of a plan change, or why they cannot."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loramix.checkpoints import Checkpoint
from loramix.checkpoints.scaling import INTEGER, NAMES, QUANTISED, Scaling
from loramix.errors import FormatError
from loramix.planning.steps import Plan, Step
from loramix.types import Target

_FLOATS = ("F64", "F32", "F16", "BF16")
_LOST = {
    "F8_E4M3": "with 3 bits of mantissa", "F8_E5M2": "with 2 bits of mantissa",
    INTEGER: "with 256 numbers",
}  # fmt: skip
_INSTEAD = (
    "merge the adapters into one (loramix merge) and apply it when the model runs, or bake into "
    "the bf16 or f16 original"
)
_FORCE = f"{_INSTEAD}. --force does it nevertheless"


@dataclass(frozen=True, slots=True)
class Touch:
    """Rows of a stored tensor that a step changes.

    Attributes
    ----------
    start, stop : half-open rows of the stored tensor.
    first : row of the delta that the first of them gets.
    """

    step: Step
    start: int
    stop: int
    first: int


def touches(
    checkpoint: Checkpoint, steps: Sequence[Step]
) -> tuple[dict[str, list[Touch]], list[Step]]:
    """What every step changes, by names of `Checkpoint.tensors` and in order of their rows.

    Returns
    -------
    that, and the steps whose weight the model does not have in this shape.
    """
    found: dict[str, list[Touch]] = {}
    missing = []
    for step in steps:
        place = checkpoint.place(step.target.key)
        tensor = checkpoint.tensors[place.name] if place is not None else None
        if place is None or tensor is None or not tensor.shape:
            missing.append(step)
            continue
        start, stop = place.rows or (0, tensor.shape[0])
        if (stop - start, math.prod(tensor.shape[1:])) != (step.target.rows, step.target.cols):
            missing.append(step)
            continue
        own = found.setdefault(place.name, [])
        if place.swapped:
            half = step.target.rows // 2
            own.append(Touch(step, start, start + half, half))
            own.append(Touch(step, start + half, stop, 0))
        else:
            own.append(Touch(step, start, stop, 0))
    return {name: sorted(own, key=lambda t: t.start) for name, own in found.items()}, missing


def absent(missing: Sequence[Step], plan: Plan, model: Checkpoint) -> FormatError:
    """Why a target has no base weight."""
    step = missing[0]
    names = sorted({plan.adapters[piece.owner].name for piece in step.pieces})
    message = (
        f"{model.path}: no weight {step.target.key} of shape {list(step.target.shape)}, which "
        f"{', '.join(names)} changes{_instead(step.target, model)}; {len(missing)} of "
        f"{len(plan.steps)} targets are missing. {_advice(missing, plan, model)}"
    )
    return FormatError(message)


def _instead(target: Target, model: Checkpoint) -> str:
    place = model.place(target.key)
    if place is None:
        return ""
    return f" (there is {place.name} of shape {list(model.tensors[place.name].shape)})"


def _advice(missing: Sequence[Step], plan: Plan, model: Checkpoint) -> str:
    if all(step.target.branch == "text_encoder" for step in missing):
        return (
            "All of them are of text encoders, which this file does not hold: give those weight "
            "0 (FILE:1:0), or name the whole pipeline as the base"
        )
    if plan.architecture is not None and model.match == 0:
        return f"The adapters are for {plan.architecture}, and nothing in the base is: wrong base?"
    return "Leave them out with --skip 'GLOB' if the rest is worth it"


def scalings_of(
    model: Checkpoint, found: Mapping[str, Sequence[Touch]], *, force: bool
) -> dict[str, Scaling]:
    """What belongs to the numbers of weights that are changed; others are what they say.

    Parameters
    ----------
    found : see `touches`.
    force : whether types will do in which most of a delta is lost.

    Raises
    ------
    FormatError : the first weight that nothing can be added to.
    """
    scalings: dict[str, Scaling] = {}
    lossy = ""
    for name in found:
        dtype = model.tensors[name].dtype
        if dtype in _FLOATS:
            continue
        where = f"{model.path}: {name} has type {dtype}"
        if dtype not in QUANTISED:
            message = f"{where}, whose numbers no rule known here makes weights of; {_INSTEAD}"
            raise FormatError(message)
        try:
            scaling = model.scaling(name)
        except FormatError as error:
            message = f"{error}; {_INSTEAD}"
            raise FormatError(message) from None
        if scaling is None and dtype == INTEGER:
            message = (
                f"{where} and no scale beside it ({', '.join(NAMES)}), so nobody knows what its "
                f"numbers mean; {_INSTEAD}"
            )
            raise FormatError(message)
        lossy = lossy or f"{where}: {_LOST[dtype]} most of a delta is lost in rounding; {_FORCE}"
        if scaling is not None:
            scalings[name] = scaling
    # Last: nobody should be told to force what cannot be done at all.
    if lossy and not force:
        raise FormatError(lossy)
    return scalings
