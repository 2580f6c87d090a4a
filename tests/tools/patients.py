"""A sound file, and what can be done to it."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from helpers import Raw, encode, write_safetensors

BLOCK = "lora_unet_mid_block_attentions_0_transformer_blocks_0"
SIZES = {  # of SD 1.5 only
    f"{BLOCK}_attn1_to_q": (1280, 1280),
    f"{BLOCK}_attn2_to_k": (1280, 768),
    f"{BLOCK}_attn2_to_v": (1280, 768),
    f"{BLOCK}_ff_net_2": (1280, 5120),
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
}
STEMS = tuple(SIZES)
RANK = 4

Tensors = dict[str, Raw]
Change = Callable[[Tensors], None]


def factor(shape: tuple[int, ...], seed: int = 0, dtype: str = "F16", size: float = 0.02) -> Raw:
    values = size * np.random.default_rng(seed).standard_normal(shape)
    return (dtype, shape, encode(dtype, values))


def number(value: float, dtype: str = "F32") -> Raw:
    return (dtype, (), encode(dtype, [value]))


def sound(alpha: float = float(RANK)) -> Tensors:
    """An adapter for SD 1.5 as Kohya's scripts save it."""
    found: Tensors = {}
    for seed, (stem, (rows, cols)) in enumerate(SIZES.items()):
        found[f"{stem}.alpha"] = number(alpha)
        found[f"{stem}.lora_down.weight"] = factor((RANK, cols), 2 * seed)
        found[f"{stem}.lora_up.weight"] = factor((rows, RANK), 2 * seed + 1)
    return found


def strings_of(tensors: Mapping[str, Raw]) -> dict[str, str]:
    """What Kohya's scripts say of such a file, the hash of its tensors among it."""
    body = b"".join(data for _, _, data in tensors.values())
    return {
        "ss_network_dim": str(RANK),
        "ss_network_alpha": f"{float(RANK)}",
        "ss_base_model_version": "sd_v1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "sshs_model_hash": hashlib.sha256(body).hexdigest(),
    }


def write(
    folder: Path,
    tensors: Mapping[str, Raw],
    strings: Mapping[str, str] | None = None,
    name: str = "patient.safetensors",
) -> Path:
    """Write tensors; with what Kohya's scripts say of them unless strings are given."""
    said = strings_of(tensors) if strings is None else strings
    return write_safetensors(folder / name, tensors, said)


def respelled(tensors: Tensors, change: Callable[[str], str]) -> Tensors:
    return {change(name): raw for name, raw in tensors.items()}


PATHS = {
    f"{BLOCK}_attn1_to_q": "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    f"{BLOCK}_attn2_to_k": "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
    f"{BLOCK}_attn2_to_v": "mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
    f"{BLOCK}_ff_net_2": "mid_block.attentions.0.transformer_blocks.0.ff.net.2",
}


def dotted(prefix: str = "unet.", infix: str = "") -> Tensors:
    """Its U-Net with dotted names and without alphas."""
    sides = {"lora_down": "lora_A", "lora_up": "lora_B"}
    return {
        f"{prefix}{PATHS[stem]}.{sides[side]}{infix}.weight": raw
        for name, raw in sound().items()
        for stem, _, side in [(name.split(".")[0], "", name.split(".")[1])]
        if stem in PATHS and side in sides
    }
