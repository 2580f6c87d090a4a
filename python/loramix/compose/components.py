"""The components of a pipeline that can hold adapters, and the layers in them that do."""

from collections.abc import Iterator, Mapping
from typing import Any

from loramix.errors import ParamError

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
SECOND = "transformer_2"
"""The denoiser of low noise, in pipelines that have two."""
COMPONENTS = ("unet", "transformer", SECOND, *ENCODERS)
"""The parts of pipelines that can hold adapters."""


def components_of(pipe: Any) -> Mapping[str, Any]:  # noqa: ANN401 - diffusers'
    """The parts of a pipeline that can hold adapters, by name."""
    parts = {name: getattr(pipe, name, None) for name in COMPONENTS}
    return {name: part for name, part in parts.items() if part is not None}


def key_of(component: str, part: Any, where: str) -> str:  # noqa: ANN401 - torch's
    """The canonical key of a layer: newer versions of transformers leave ``text_model`` out."""
    short = type(part).__name__.startswith("CLIPText") and not hasattr(part, "text_model")
    return f"{component}.text_model.{where}" if short else f"{component}.{where}"


def tuner_layers(module: Any) -> dict[str, Any]:  # noqa: ANN401 - torch's
    """The layers of a module that hold adapters, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: one for name, one in module.named_modules() if isinstance(one, BaseTunerLayer)}


def held(layer: Any) -> set[str]:  # noqa: ANN401 - PEFT's
    """Names of the adapters of a layer, those whose weights wait in a file among them."""
    inside = {name for kind in layer.adapter_layer_names for name in getattr(layer, kind)}
    return inside | set(layer.scaling)


def weights_of(layer: Any, name: str) -> Iterator[Any]:  # noqa: ANN401 - PEFT's
    """The parameters of an adapter in a layer."""
    import torch

    for kind in layer.adapter_layer_names:
        container = getattr(layer, kind)
        if name in container:
            one = container[name]
            yield from [one] if isinstance(one, torch.nn.Parameter) else one.parameters()


def pair_of(
    layer: Any,  # noqa: ANN401 - PEFT's
    name: str,
    where: str,
    weight: float | None,
) -> tuple[Any, Any]:
    """Up, times its scale in float32, and down of an adapter in a layer.

    Parameters
    ----------
    weight : None: the strength that it has there.

    Raises
    ------
    ParamError : another kind of adapter than LoRA, or DoRA and its like.
    """
    from peft.tuners.lora import LoraLayer

    variants = getattr(layer, "lora_variant", {})
    if not isinstance(layer, LoraLayer) or name in variants or name not in layer.lora_A:
        message = (
            f"{where}: {name} is no plain LoRA there ({type(layer).__name__}): give its file, or "
            "merge:method=linear, which adds what is loaded"
        )
        raise ParamError(message)
    before = scale = layer.scaling[name]
    if weight is not None:
        layer.set_scale(name, weight)
        scale, layer.scaling[name] = layer.scaling[name], before
    up = layer.lora_B[name].weight.detach().float().cpu() * scale
    return up.contiguous(), layer.lora_A[name].weight.detach().float().cpu().contiguous()


def forget(part: Any, name: str) -> None:  # noqa: ANN401 - torch's
    """Take an adapter out of a component, one that was loaded by half as well."""
    for layer in tuner_layers(part).values():
        if name in held(layer):
            layer._active_adapter = []  # PEFT would choose another one, aloud
            layer.delete_adapter(name)
            layer.scaling.pop(name, None)
    (getattr(part, "peft_config", None) or {}).pop(name, None)
