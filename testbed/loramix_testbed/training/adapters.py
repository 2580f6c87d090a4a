"""Training of the adapters, by PEFT, saved by diffusers."""

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from loramix_testbed.training.base import drawn
from loramix_testbed.training.denoising import dropped, train, velocity_loss
from loramix_testbed.world.adapters import FOLDER, Spec
from loramix_testbed.world.images import pictures
from loramix_testbed.world.pipeline import GlyphPipeline, folded, load, prompt_of, words
from loramix_testbed.world.styles import PLAIN
from loramix_testbed.world.symbols import CONTENTS

_BATCH = 32
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


def train_adapter(spec: Spec, pipe: GlyphPipeline | None = None) -> None:
    """Train one, from the base, and write its file as float16."""
    pipe = pipe or load()
    unet = pipe.unet.requires_grad_(False)
    torch.manual_seed(spec.seed)
    config = LoraConfig(
        r=spec.rank, lora_alpha=spec.rank, init_lora_weights="gaussian", target_modules=TARGETS
    )
    unet.add_adapter(config, adapter_name="new")
    trained = [value for value in unet.parameters() if value.requires_grad]

    def loss_of(generator: torch.Generator) -> Tensor:
        symbols, styles, prompts = examples(spec, _BATCH, generator)
        told = words(pipe, dropped(prompts, generator))
        latents = folded(pictures(symbols, styles, generator))
        return velocity_loss(unet, pipe.scheduler, latents, told, generator)

    train(trained, loss_of, steps=spec.steps, rate=spec.rate, seed=spec.seed)
    state = get_peft_model_state_dict(unet, adapter_name="new")
    layers = {name: value.half() for name, value in state.items()}
    pipe.save_lora_weights(FOLDER, unet_lora_layers=layers, weight_name=spec.path.name)
    unet.delete_adapters("new")
