"""Whether the weights of an adapter, as a pipeline has them, are all there and all numbers."""

from typing import Any

from loramix.compose.components import components_of, tuner_layers, weights_of
from loramix.errors import FormatError


def refuse_empty(pipe: Any, name: str, shown: str) -> None:  # noqa: ANN401 - diffusers'
    """Refuse an adapter of which diffusers made more than its file has.

    Raises
    ------
    FormatError : weights without numbers, in a layer that has its own.
    """
    for component, part in components_of(pipe).items():
        for where, layer in tuner_layers(part).items():
            if layer.get_base_layer().weight.is_meta:
                continue  # offloaded: so are the adapter's
            if any(weight.is_meta for weight in weights_of(layer, name)):
                message = (
                    f"{shown}: {component}.{where} lacks weights that diffusers expects there: the "
                    "file has DoRA, or a bias, in other layers only; 'loramix convert' with the "
                    "base model makes plain factors of all"
                )
                raise FormatError(message)


def refuse_values(pipe: Any, name: str, shown: str) -> None:  # noqa: ANN401 - diffusers'
    """Refuse an adapter whose weights, in the type of the pipeline, are not all numbers.

    Weights that sequential offloading holds elsewhere are not looked at: what they do to
    predictions is noted in the run.

    Raises
    ------
    FormatError : NaN or infinity.
    """
    import torch

    for component, part in components_of(pipe).items():
        for where, layer in tuner_layers(part).items():
            for weight in weights_of(layer, name):
                if not weight.is_meta and not bool(torch.isfinite(weight).all()):
                    small = weight.dtype == torch.float16
                    more = ", or too large for it: torch.bfloat16 has room" if small else ""
                    message = (
                        f"{shown}: {component}.{where} holds NaN or infinity as "
                        f"{str(weight.dtype).removeprefix('torch.')}; the file is damaged or its "
                        f"training diverged: get another copy{more}"
                    )
                    raise FormatError(message)
