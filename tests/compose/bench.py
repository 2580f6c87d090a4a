"""A pipeline with three adapters, composed and by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compose.pipelines import GUIDANCE, KINDS, adapter, random, sd

import loramix

STEPS = 4
WEIGHTS = (1.0, 0.6, -0.8)
PRIORS = (1.0, 2.0, 0.5)
Array = np.ndarray
Names = tuple[int, ...]
Predict = Callable[[Names], tuple[Array, Array]]
"""Unconditional and conditional prediction of the denoiser with some adapters, in float64."""
Rule = Callable[[int, Predict], tuple[Array, Array]]


class Bench:
    """A pipeline with three adapters, and a loop by hand."""

    def __init__(self, folder: Path) -> None:
        self.pipe = sd()
        self.files = [
            adapter(self.pipe.unet, "unet", folder / f"{i}.safetensors", seed=i, scale=0.5)
            for i in range(3)
        ]
        self.load()
        self.latents = random(50, 2, 4, 8, 8)
        self.arguments = KINDS["sd"].arguments()
        self.last: Any = None

    def load(self) -> None:
        for i, file in enumerate(self.files):
            self.pipe.load_lora_weights(str(file), adapter_name=f"a{i}")

    def composed(self, count: int = 3, **how: Any) -> Array:
        how = {"weights": WEIGHTS[:count], **how}
        self.last = loramix.compose(self.pipe, ["a0", "a1", "a2"][:count], **how)
        with self.last as pipe:
            found = KINDS["sd"].run(pipe, latents=self.latents, num_inference_steps=STEPS)
        return found.double().numpy()

    def by_hand(self, rule: Rule) -> Array:
        pipe = self.pipe
        text = [self.arguments[f"{side}prompt_embeds"] for side in ("negative_", "")]
        pipe.scheduler.set_timesteps(STEPS)
        latents = self.latents.clone()
        for step, t in enumerate(pipe.scheduler.timesteps):

            def predict(names: Names, x: Any = latents, t: Any = t) -> tuple[Array, Array]:
                pipe.enable_lora()
                if names:
                    pipe.set_adapters([f"a{i}" for i in names], [WEIGHTS[i] for i in names])
                else:
                    pipe.disable_lora()
                with torch.inference_mode():
                    both = [pipe.unet(x, t, one, return_dict=False)[0] for one in text]
                return both[0].double().numpy(), both[1].double().numpy()

            u, c = rule(step, predict)
            guided = torch.from_numpy(u + GUIDANCE * (c - u)).float()
            latents = pipe.scheduler.step(guided, t, latents, return_dict=False)[0]
        return latents.double().numpy()


def close(got: Array, meant: Array) -> bool:
    return bool(np.abs(got - meant).max() < 1e-3 * np.abs(meant).max())
