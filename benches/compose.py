"""What composition adds to a denoiser, on the real classes of diffusers with random weights.

    python benches/compose.py                  # tiny and middle U-Nets, the sums alone
    python benches/compose.py --large          # and the U-Net of Stable Diffusion 1.5: minutes

The work of the wrapper is the time of a call of the denoiser less that of the forwards in it, in
the running pipeline: adapters switched, weights, sums, accounts.
"""

import argparse
import functools
import os
import platform
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging
from safetensors.numpy import save_file

import loramix
from loramix.compose import Loratorio
from loramix.compose import functional as f

_TEXT = 768
_MODELS: dict[str, dict[str, Any]] = {
    "tiny": {"block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 2},
    "middle": {"block_out_channels": (64, 128), "attention_head_dim": 8},
    "sd15": {"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8},
}


def pipeline(name: str, size: int) -> Any:
    """A pipeline for latents of so many rows."""
    torch.manual_seed(1)
    config = _MODELS[name]
    deep = len(config["block_out_channels"])
    unet = UNet2DConditionModel(
        sample_size=size, cross_attention_dim=_TEXT, layers_per_block=2 if deep > 2 else 1,
        down_block_types=("CrossAttnDownBlock2D",) * (deep - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (deep - 1), **config,
    ).eval()  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4,) * 4, norm_num_groups=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=vae, unet=unet, scheduler=DDIMScheduler(), text_encoder=None, tokenizer=None,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def adapters(pipe: Any, count: int, folder: Path, rank: int = 16) -> list[Path]:
    """Files for the attention of the U-Net."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        tensors = {}
        for name, layer in pipe.unet.named_modules():
            if isinstance(layer, torch.nn.Linear) and "attn" in name:
                up, down = (layer.out_features, rank), (rank, layer.in_features)
                for side, shape in (("B", up), ("A", down)):
                    values = 0.05 * rng.standard_normal(shape)
                    tensors[f"unet.{name}.lora_{side}.weight"] = values.astype(np.float32)
        found.append(folder / f"{seed}.safetensors")
        save_file(tensors, found[-1])
    return found


class Clock:
    """Seconds in the forwards and in the calls of a denoiser; predictions alive in forwards."""

    def __init__(self) -> None:
        self.forwards = self.calls = 0.0
        self.alive = 0
        self._known: list[weakref.ref[torch.Tensor]] = []

    @contextmanager
    def within(self, unet: Any) -> Iterator[None]:
        """Time the denoiser's own forward."""
        plain = unet.forward

        @functools.wraps(plain)
        def timed(*args: Any, **kwargs: Any) -> Any:
            held = sum(one() is not None for one in self._known)
            self.alive = max(self.alive, held)
            start = time.perf_counter()
            returned = plain(*args, **kwargs)
            self.forwards += time.perf_counter() - start
            self._known.append(weakref.ref(returned[0]))
            return returned

        unet.__dict__["forward"] = timed
        try:
            yield
        finally:
            del unet.__dict__["forward"]

    @contextmanager
    def around(self, unet: Any) -> Iterator[None]:
        """Time whole calls, as the pipeline sees them."""
        inner = unet.forward

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            returned = inner(*args, **kwargs)
            self.calls += time.perf_counter() - start
            return returned

        unet.__dict__["forward"] = timed
        try:
            yield
        finally:
            unet.__dict__["forward"] = inner


def drawn(pipe: Any, size: int, steps: int) -> float:
    """Seconds of one picture, as latents."""
    words = torch.randn(1, 77, _TEXT, generator=torch.Generator().manual_seed(3))
    start = time.perf_counter()
    with torch.inference_mode():
        pipe(
            prompt_embeds=words, negative_prompt_embeds=words * 0, num_inference_steps=steps,
            height=8 * size, width=8 * size, output_type="latent",
            generator=torch.Generator().manual_seed(7),
        )  # fmt: skip
    return time.perf_counter() - start


def composed(pipe: Any, files: list[Path], size: int, steps: int, batch: int) -> Clock:
    """One composed picture."""
    clock = Clock()
    with (
        clock.within(pipe.unet),
        loramix.compose(pipe, files, mode=Loratorio(), max_batch=batch) as inside,
        clock.around(pipe.unet),
    ):
        drawn(inside, size, steps)
    return clock


def peak() -> float:
    """Largest resident memory of this process so far, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def model_rows(name: str, size: int, count: int, steps: int, runs: int) -> None:
    """In turn and in one batch."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = pipeline(name, size)
        numbers = sum(p.numel() for p in pipe.unet.parameters()) / 1e6
        files = adapters(pipe, count, Path(folder))
        base = min(drawn(pipe, size, steps) for _ in range(max(1, runs - 1)))
        memory = [peak()]
        rows: dict[int, list[Clock]] = {1: [], count + 1: []}
        for _ in range(runs):
            for batch, clocks in rows.items():
                clocks.append(composed(pipe, files, size, steps, batch))
                if len(memory) < 3:
                    memory.append(peak())
    turn, together = (median(c.calls for c in clocks) for clocks in rows.values())
    print(f"| {name}: {numbers:.1f} M parameters, latents 2 x 4 x {size} x {size}, {count} "
          f"adapters, {steps} steps, {runs} runs | |")  # fmt: skip
    print(f"| the pipeline without adapters | {base:.3f} s |")
    for batch, clocks in rows.items():
        extra = [c.calls - c.forwards for c in clocks]
        share = median((c.calls - c.forwards) / c.forwards for c in clocks)
        print(f"| composed, {batch} in a forward | {median(c.calls for c in clocks):.3f} s |")
        print(f"| of that beside forwards | {median(extra):.4f} s, {100 * share:.2f} % |")
        print(f"| predictions held while a forward begins | {max(c.alive for c in clocks)} |")
    print(f"| in one batch, faster by | {turn / together:.2f} |")
    megabytes = ", ".join(f"{one:.0f}" for one in memory)
    print(f"| peak memory in MB: plain, in turn, in one batch | {megabytes} |", flush=True)


def sums(count: int, runs: int, make: Callable[[Any], Any], what: str) -> None:
    """Weights and sums of one step, both sides, alone."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((2, 4, 64, 64), dtype=np.float32)
    others = [base + 0.3 * rng.standard_normal(base.shape, dtype=np.float32) for _ in range(count)]
    base, others = make(base), [make(one) for one in others]
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        far = f.divergence(base[1:], [one[1:] for one in others], patch=4)
        weights = f.upsample(f.softmin(-far, tau=0.05), (64, 64), patch=4)
        f.aggregate([one[1:] for one in others], weights)
        f.recentre(base[:1], f.aggregate([one[:1] for one in others], weights), 0.5)
        seconds.append(time.perf_counter() - start)
    print(f"| weights and sums alone, {count} adapters, {what} | {1000 * median(seconds):.2f} ms |")


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__} on "
          f"{torch.get_num_threads()} threads\n")  # fmt: skip
    print("| work | |\n|---|---|")
    for count in (3, 5, 8):
        sums(count, 50, torch.from_numpy, "torch")
        sums(count, 20, np.asarray, "NumPy")
    model_rows("tiny", 16, 3, 10, 7)
    model_rows("middle", 16, 3, 5, 5)
    if given.large:
        model_rows("sd15", 64, 2, 1, 1)


if __name__ == "__main__":
    main()
