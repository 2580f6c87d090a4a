"""Drawing: prompts to pictures, the same noise for every method."""

import base64
import io

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pixel_shuffle

from loramix_testbed.world.pipeline import GlyphPipeline
from loramix_testbed.world.styles import EDGE

STEPS = 10
GUIDANCE = 2.5


def noise_of(prompts: list[str], seeds: int) -> Tensor:
    """Starting latents: `seeds` for each prompt, which depend on the seed's number only."""
    one = [
        torch.randn(12, EDGE // 2, EDGE // 2, generator=torch.Generator().manual_seed(7000 + s))
        for s in range(seeds)
    ]
    return torch.stack(one * len(prompts))


def draw(
    pipe: GlyphPipeline,
    prompts: list[str],
    seeds: int,
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> Tensor:
    """Pictures, (prompts * seeds, 3, 24, 24), not cut at -1 and 1, a prompt's in a row.

    On the CPU, wherever the pipeline is: noise and judge are there, so that figures are alike.
    """
    asked = [prompt for prompt in prompts for _ in range(seeds)]
    latents = pipe(
        asked,
        height=EDGE,
        width=EDGE,
        latents=noise_of(prompts, seeds).to(pipe.device),
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="latent",
    ).images
    return pixel_shuffle(latents, 2).cpu()


def png(picture: Tensor) -> str:
    """A picture, (3, rows, columns) in -1 to 1, as a PNG in base64."""
    colours = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(colours.contiguous().numpy()).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
