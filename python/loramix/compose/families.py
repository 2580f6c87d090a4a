"""The pipelines whose denoiser calls are understood: one line each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from loramix.compose.functional.arrays import Array
from loramix.compose.functional.packing import pack, unpack
from loramix.errors import ParamError
from loramix.spelling import hint

Arguments: TypeAlias = Mapping[str, Any]
Layout: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens along every axis of space, and pixels of a token along each."""


@dataclass(frozen=True, slots=True)
class Family:
    """How a kind of pipeline calls its denoiser.

    Attributes
    ----------
    denoisers : its components that predict; those that are None in a pipeline are passed over.
    guidance : ``batch``: one call with the unconditional rows first, the conditional ones after
        them; ``calls``: a conditional call, then an unconditional one.
    latents : name of the argument whose first axis has the rows.
    layout : tokens of a packed prediction; None where predictions are (batch, channels, *space).
    shared : arguments without rows.
    listed : arguments that are lists with an entry for each row.
    """

    denoisers: tuple[str, ...]
    guidance: Literal["batch", "calls"]
    latents: str
    layout: Callable[[Arguments], Layout] | None = None
    shared: frozenset[str] = frozenset()
    listed: frozenset[str] = frozenset()

    def space(self, arguments: Arguments) -> tuple[int, ...]:
        """Sizes of the axes of space of an unpacked prediction."""
        if self.layout is None:
            return tuple(arguments[self.latents].shape[2:])
        return tuple(t * e for t, e in zip(*self.layout(arguments), strict=True))

    def unpacked(self, prediction: Array, arguments: Arguments) -> Array:
        """A prediction as (batch, channels, *space)."""
        if self.layout is None:
            return prediction
        return unpack(prediction, *self.layout(arguments))

    def packed(self, prediction: Array, arguments: Arguments) -> Array:
        """What `unpacked` undoes."""
        if self.layout is None:
            return prediction
        return pack(prediction, self.layout(arguments)[1])


def _flux(arguments: Arguments) -> Layout:
    """From the positions of the tokens: (tokens, 3), of which the last two are row and column."""
    places = arguments["img_ids"]
    rows, columns = (int(places[..., axis].max()) + 1 for axis in (1, 2))
    return (rows, columns), (2, 2)


def _qwen(arguments: Arguments) -> Layout:
    """From the shapes of the images of the first row: one, since edits have several."""
    shapes = arguments["img_shapes"][0]
    frames, rows, columns = shapes[0] if isinstance(shapes, list) else shapes
    return (frames, rows, columns), (1, 2, 2)


def _ltx(arguments: Arguments) -> Layout:
    """From the sizes, which are in tokens."""
    grid = tuple(int(arguments[name]) for name in ("num_frames", "height", "width"))
    return grid, (1, 1, 1)


_UNET = Family(("unet",), "batch", "sample")
_SD3 = Family(("transformer",), "batch", "hidden_states")
_FLUX = Family(
    ("transformer",), "calls", "hidden_states", _flux, shared=frozenset({"img_ids", "txt_ids"})
)
_WAN = Family(("transformer", "transformer_2"), "calls", "hidden_states")
_QWEN = Family(
    ("transformer",),
    "calls",
    "hidden_states",
    _qwen,
    listed=frozenset({"img_shapes", "txt_seq_lens"}),
)
_LTX = Family(("transformer",), "batch", "hidden_states", _ltx)

FAMILIES: Mapping[str, Family] = {
    "StableDiffusionPipeline": _UNET,
    "StableDiffusionImg2ImgPipeline": _UNET,
    "StableDiffusionControlNetPipeline": _UNET,
    "StableDiffusionXLPipeline": _UNET,
    "StableDiffusion3Pipeline": _SD3,
    "FluxPipeline": _FLUX,
    "WanPipeline": _WAN,
    "QwenImagePipeline": _QWEN,
    "LTXPipeline": _LTX,
}


def family_of(pipe: object) -> Family:
    """The family of a pipeline, by the name of its class or of one that it derives from.

    Raises
    ------
    ParamError : none of them is known; the message names those that are.
    """
    return family_of_class(type(pipe))


def family_of_class(kind: type) -> Family:
    """`family_of` its objects."""
    for one in kind.__mro__:
        if one.__name__ in FAMILIES:
            return FAMILIES[one.__name__]
    name = kind.__name__
    message = (
        f"pipeline {name}{hint(name, FAMILIES)}: how it calls its denoiser is not known; known "
        f"are {', '.join(FAMILIES)}"
    )
    raise ParamError(message)
