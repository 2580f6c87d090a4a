"""Training of the adapters, by PEFT, saved by diffusers."""

from typing import Any

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from loramix_testbed.training.base import drawn
from loramix_testbed.training.denoising import dropped, train, velocity_loss
from loramix_testbed.world.adapters import Spec
from loramix_testbed.world.images import pictures
from loramix_testbed.world.pipeline import GlyphPipeline, folded, load, prompt_of, words
from loramix_testbed.world.styles import PLAIN
from loramix_testbed.world.symbols import CONTENTS

_BATCH = 32
_NEW = "new"
TARGETS = [
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
]  # fmt: skip


def examples(
    spec: Spec, count: int, generator: torch.Generator
) -> tuple[list[str], list[str], list[str]]:
    """Symbols, styles and prompts that teach what an adapter is for."""
    symbols, styles = drawn(count, generator)
    if spec.kind == "content":
        symbols = [CONTENTS[spec.concept]] * count
    else:
        styles = [spec.concept] * count
    asked = [PLAIN] * count if spec.kind == "stroke" else styles
    return symbols, styles, [prompt_of(*pair) for pair in zip(symbols, asked, strict=True)]


def train_adapter(spec: Spec, pipe: GlyphPipeline | None = None, device: str = "cpu") -> None:
    """Train one, from the base, and write its file."""
    pipe = pipe or load(device=device)
    unet, trained = adapted(pipe, spec)

    def loss_of(generator: torch.Generator) -> Tensor:
        symbols, styles, prompts = examples(spec, _BATCH, generator)
        told = words(pipe, dropped(prompts, generator))
        latents = folded(pictures(symbols, styles, generator))
        return velocity_loss(unet, pipe.scheduler, latents, told, generator)

    train(trained, loss_of, steps=spec.steps, rate=spec.rate, seed=spec.seed)
    save(pipe, spec)


def adapted(pipe: GlyphPipeline, spec: Spec) -> tuple[Any, list[Tensor]]:
    """The denoiser with a new adapter, and what there is to train."""
    unet = pipe.unet.requires_grad_(False)
    torch.manual_seed(spec.seed)
    config = LoraConfig(
        r=spec.rank, lora_alpha=spec.rank, init_lora_weights="gaussian", target_modules=TARGETS
    )
    unet.add_adapter(config, adapter_name=_NEW)
    return unet, [value for value in unet.parameters() if value.requires_grad]


def save(pipe: GlyphPipeline, spec: Spec) -> None:
    """Write the new adapter as float16, and take it off."""
    state = get_peft_model_state_dict(pipe.unet, adapter_name=_NEW)
    layers = {name: value.half().cpu() for name, value in state.items()}
    pipe.save_lora_weights(spec.path.parent, unet_lora_layers=layers, weight_name=spec.path.name)
    pipe.unet.delete_adapters(_NEW)
