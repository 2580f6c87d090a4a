"""The loss that everything here is trained by, and the loop around it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Batch = Callable[[int, torch.Generator], tuple[Tensor, list[str]]]
"""Pictures and their prompts, so many of them."""

_DROPPED = 0.12
"""Share of the prompts that are left out, for guidance."""


def velocity_loss(
    unet: Any,  # noqa: ANN401 - diffusers'
    scheduler: Any,  # noqa: ANN401
    latents: Tensor,
    told: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of the predicted velocity at random times.

    All that is random is drawn on the CPU; the denoiser works where the prompts are.
    """
    times = torch.randint(0, 1000, (len(latents),), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    noisy = scheduler.add_noise(latents, noise, times).to(told.device)
    wanted = scheduler.get_velocity(latents, noise, times).to(told.device)
    got = unet(noisy, times.to(told.device), encoder_hidden_states=told).sample
    return (got - wanted).square().mean()


def dropped(prompts: list[str], generator: torch.Generator) -> list[str]:
    """The prompts, some of them empty."""
    gone = torch.rand(len(prompts), generator=generator) < _DROPPED
    return ["" if out else prompt for prompt, out in zip(prompts, gone.tolist(), strict=True)]


def rate_at(step: int, steps: int, warm: int) -> float:
    """Share of the full learning rate: up in a line, down in a line to a fiftieth."""
    return min(1.0, (step + 1) / warm) * max(0.02, 1 - step / steps)


def train(
    parameters: list[Tensor],
    loss_of: Callable[[torch.Generator], Tensor],
    *,
    steps: int,
    rate: float,
    planned: int | None = None,
    seed: int,
    after: Callable[[int], None] = lambda _: None,
    log: Path | None = None,
) -> None:
    """AdamW on whatever the loss depends on.

    Parameters
    ----------
    planned : steps that the rate falls over; default: all.
    after : called with the number of every step done.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4, betas=(0.9, 0.99))
    start, mean = time.monotonic(), 0.0
    planned = planned or steps
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * rate_at(step, planned, min(100, planned // 5 + 1))
        loss = loss_of(generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        mean += (float(loss.detach()) - mean) * max(0.02, 1 / (step + 1))
        if log and (step % 20 == 0 or step + 1 == steps):
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{step} {mean:.4f} {time.monotonic() - start:.0f} s\n")
        after(step + 1)
