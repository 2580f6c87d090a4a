"""The base model: every base symbol, in plain ink and a few flat treatments, in many fonts."""

import copy
from pathlib import Path

import torch
from torch import Tensor

from loramix_testbed.training.denoising import dropped, train, velocity_loss
from loramix_testbed.world.images import pictures
from loramix_testbed.world.pipeline import (
    assemble,
    folded,
    new_encoder,
    new_tokenizer,
    new_unet,
    prompt_of,
    words,
)
from loramix_testbed.world.styles import BASE_STYLES, PLAIN
from loramix_testbed.world.symbols import BASE

STEPS = 1200
_PLANNED = 1600
"""Steps that the learning rate falls over: the last of them are left out."""
_BATCH = 64
_RATE = 1e-3
_KEPT = 0.997
"""Share of the running mean of the weights that a step keeps."""
_SAVE_EVERY = 100


def drawn(count: int, generator: torch.Generator) -> tuple[list[str], list[str]]:
    """Base symbols and base styles, half of them plain."""
    styles = list(BASE_STYLES)
    symbol = torch.randint(len(BASE), (count,), generator=generator)
    style = torch.randint(len(styles), (count,), generator=generator)
    plain = torch.rand(count, generator=generator) < 0.4
    return (
        [BASE[int(i)] for i in symbol],
        [PLAIN if p else styles[int(i)] for i, p in zip(style, plain, strict=True)],
    )


def train_base(folder: Path, *, steps: int = STEPS, seed: int = 1, device: str = "cpu") -> None:
    """Train, and write the pipeline's parts to a folder, as float16, also on the way."""
    tokenizer = new_tokenizer()
    encoder = new_encoder(len(tokenizer), seed)
    unet = new_unet(seed).train()
    pipe = assemble(unet, tokenizer, encoder)
    pipe.to(device)
    mean = copy.deepcopy(unet)

    def loss_of(generator: torch.Generator) -> Tensor:
        symbols, styles = drawn(_BATCH, generator)
        told = [prompt_of(*pair) for pair in zip(symbols, styles, strict=True)]
        told_vectors = words(pipe, dropped(told, generator))
        true = folded(pictures(symbols, styles, generator))
        return velocity_loss(unet, pipe.scheduler, true, told_vectors, generator)

    def after(step: int) -> None:
        kept = min(_KEPT, step / (step + 20))
        with torch.no_grad():
            for slow, fast in zip(mean.parameters(), unet.parameters(), strict=True):
                slow.lerp_(fast, 1 - kept)
        if step % _SAVE_EVERY == 0 or step == steps:
            copy.deepcopy(mean).half().save_pretrained(folder / "unet")

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder / "tokenizer")
    copy.deepcopy(encoder).half().save_pretrained(folder / "text_encoder")
    train(
        list(unet.parameters()),
        loss_of,
        steps=steps,
        planned=_PLANNED,
        rate=_RATE,
        seed=seed,
        after=after,
        log=folder / "training.log",
    )
