"""What PEFT adds to the layers of a model into which an adapter was loaded."""

from typing import TypeAlias

import torch
from formats.builders import Pair, Truth
from peft.tuners.lora import LoraLayer

Models: TypeAlias = dict[str, torch.nn.Module]
"""The parts of a pipeline, by component."""


def canonical(component: str, name: str) -> str:
    """Newer CLIPTextModel classes have no ``text_model`` level; the module tables have."""
    inside = component.startswith("text_encoder") and name.startswith("encoder.")
    return f"{component}.text_model.{name}" if inside else f"{component}.{name}"


def applied(models: Models) -> Truth:
    """What PEFT adds to every layer of the loaded models."""
    found: Truth = {}
    for component, model in models.items():
        for name, layer in model.named_modules():
            if isinstance(layer, LoraLayer) and layer.lora_A:
                (adapter,) = layer.lora_A
                up, down = layer.lora_B[adapter].weight, layer.lora_A[adapter].weight
                factors = (x.detach().flatten(1).numpy() for x in (up, down))
                found[canonical(component, name)] = [Pair(*factors, layer.scaling[adapter])]
    return found
