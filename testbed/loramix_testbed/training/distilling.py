"""Training of the adapter for few steps: one step of it is several guided ones of the base."""

import copy
from typing import Any

import torch
from torch import Tensor

from loramix_testbed.judging.drawing import GUIDANCE
from loramix_testbed.training.adapters import adapted, save
from loramix_testbed.training.base import drawn
from loramix_testbed.training.denoising import train
from loramix_testbed.world.adapters import FEW_STEPS, Spec
from loramix_testbed.world.images import pictures
from loramix_testbed.world.pipeline import GlyphPipeline, folded, load, prompt_of, words

_BATCH = 24
_WITHIN = 3
"""Steps of the base in one of the adapter."""


def train_few_steps(spec: Spec, pipe: GlyphPipeline | None = None, device: str = "cpu") -> None:
    """Train it on what the base knows, without guidance of its own, and write its file.

    Progressive distillation (arXiv:2202.00512) in one go, with guidance in the teacher
    (arXiv:2210.03142): from a true picture with noise of step k of `FEW_STEPS`, the base takes
    `_WITHIN` guided steps to where step k + 1 begins; the velocity that gets there at once is
    what the adapter is to predict.
    """
    pipe = pipe or load(device=device)
    teacher = copy.deepcopy(pipe.unet).requires_grad_(False)
    unet, trained = adapted(pipe, spec)
    kept = torch.cat([torch.ones(1), pipe.scheduler.alphas_cumprod])  # at 0 nothing is noise
    kept = kept.to(pipe.device)

    def loss_of(generator: torch.Generator) -> Tensor:
        symbols, styles = drawn(_BATCH, generator)
        told = words(pipe, [prompt_of(*pair) for pair in zip(symbols, styles, strict=True)])
        nothing = words(pipe, [""] * _BATCH)
        true = folded(pictures(symbols, styles, generator)).to(told.device)
        length = 1000 // FEW_STEPS
        start = length * torch.randint(1, FEW_STEPS + 1, (_BATCH,), generator=generator)
        start = start.to(told.device)
        noise = torch.randn(true.shape, generator=generator).to(told.device)
        a, s = _shares(kept, start)
        noisy = a * true + s * noise
        reached = noisy
        with torch.no_grad():
            for step in range(_WITHIN):
                times = start - length * step // _WITHIN
                after = start - length * (step + 1) // _WITHIN
                plain, guided = (_velocity(teacher, reached, times, one) for one in (nothing, told))
                reached = moved(reached, plain + GUIDANCE * (guided - plain), kept, times, after)
        wanted = velocity_between(noisy, reached, kept, start, start - length)
        got = _velocity(unet, noisy, start, told)
        return (got - wanted).square().mean()

    train(trained, loss_of, steps=spec.steps, rate=spec.rate, seed=spec.seed)
    save(pipe, spec)


def _velocity(unet: Any, noisy: Tensor, times: Tensor, told: Tensor) -> Tensor:  # noqa: ANN401
    """Of the denoiser, whose steps count from 0."""
    found: Tensor = unet(noisy, times - 1, encoder_hidden_states=told).sample
    return found


def _shares(kept: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """How much of a noisy picture is picture, and how much noise."""
    share = kept[times].reshape(-1, 1, 1, 1)
    return share.sqrt(), (1 - share).sqrt()


def moved(noisy: Tensor, velocity: Tensor, kept: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """A step from one time to another, as DDIM takes it.

    Parameters
    ----------
    kept : (1001,), how much of the variance is the picture's, from time 0 on.
    start, end : (batch,), times.
    """
    a, s = _shares(kept, start)
    b, t = _shares(kept, end)
    return b * (a * noisy - s * velocity) + t * (s * noisy + a * velocity)


def velocity_between(
    noisy: Tensor, reached: Tensor, kept: Tensor, start: Tensor, end: Tensor
) -> Tensor:
    """The velocity with which `moved` reaches that."""
    a, s = _shares(kept, start)
    b, t = _shares(kept, end)
    return (reached - (b * a + t * s) * noisy) / (t * a - b * s)
