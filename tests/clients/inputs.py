"""Inputs of one forward pass of every tiny model, drawn from a generator."""

from typing import Any

import torch


def normal(draw: torch.Generator, *shape: int) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=draw)


def unet(draw: torch.Generator) -> dict[str, Any]:
    return {
        "sample": normal(draw, 2, 4, 8, 8),
        "timestep": torch.tensor([10, 500]),
        "encoder_hidden_states": normal(draw, 2, 5, 12),
    }


def sdxl(draw: torch.Generator) -> dict[str, Any]:
    added = {"text_embeds": normal(draw, 2, 6), "time_ids": torch.arange(12.0).reshape(2, 6)}
    return {**unet(draw), "added_cond_kwargs": added}


def sd3(draw: torch.Generator) -> dict[str, Any]:
    return {
        "hidden_states": normal(draw, 2, 4, 8, 8),
        "encoder_hidden_states": normal(draw, 2, 5, 12),
        "pooled_projections": normal(draw, 2, 10),
        "timestep": torch.tensor([300, 700]),
    }


def flux_tokens(draw: torch.Generator, axes: int) -> dict[str, Any]:
    return {
        "hidden_states": normal(draw, 1, 6, 4),
        "encoder_hidden_states": normal(draw, 1, 3, 12),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.arange(6.0 * axes).reshape(6, axes),
        "txt_ids": torch.zeros(3, axes),
    }


def flux1(draw: torch.Generator) -> dict[str, Any]:
    extra = {"pooled_projections": normal(draw, 1, 10), "guidance": torch.tensor([3.5])}
    return {**flux_tokens(draw, 3), **extra}


def flux2(draw: torch.Generator) -> dict[str, Any]:
    return {**flux_tokens(draw, 4), "guidance": torch.tensor([3.5])}


def chroma(draw: torch.Generator) -> dict[str, Any]:
    return flux_tokens(draw, 3)


def z_image(draw: torch.Generator) -> dict[str, Any]:
    return {
        "x": [normal(draw, 4, 1, 8, 8)],
        "t": torch.tensor([0.5]),
        "cap_feats": [normal(draw, 7, 12)],
    }


def lumina2(draw: torch.Generator) -> dict[str, Any]:
    return {
        "hidden_states": normal(draw, 1, 4, 8, 8),
        "timestep": torch.tensor([0.5]),
        "encoder_hidden_states": normal(draw, 1, 5, 12),
        "encoder_attention_mask": torch.ones(1, 5, dtype=torch.bool),
    }


def qwen_image(draw: torch.Generator) -> dict[str, Any]:
    return {
        "hidden_states": normal(draw, 1, 6, 8),
        "encoder_hidden_states": normal(draw, 1, 3, 12),
        "encoder_hidden_states_mask": torch.ones(1, 3, dtype=torch.bool),
        "timestep": torch.tensor([0.5]),
        "img_shapes": [(1, 2, 3)],
    }


def wan(draw: torch.Generator) -> dict[str, Any]:
    return {
        "hidden_states": normal(draw, 1, 4, 2, 4, 4),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": normal(draw, 1, 5, 12),
    }


def wan_i2v(draw: torch.Generator) -> dict[str, Any]:
    return {**wan(draw), "encoder_hidden_states_image": normal(draw, 1, 4, 10)}


def wan_vace(draw: torch.Generator) -> dict[str, Any]:
    return {**wan(draw), "control_hidden_states": normal(draw, 1, 6, 2, 4, 4)}


def ltx(draw: torch.Generator) -> dict[str, Any]:
    return {
        "hidden_states": normal(draw, 1, 8, 6),
        "encoder_hidden_states": normal(draw, 1, 5, 12),
        "timestep": torch.tensor([500]),
        "encoder_attention_mask": torch.ones(1, 5, dtype=torch.bool),
        "num_frames": 2,
        "height": 2,
        "width": 2,
    }


def hunyuan_video(draw: torch.Generator) -> dict[str, Any]:
    return {
        "hidden_states": normal(draw, 1, 4, 1, 4, 4),
        "timestep": torch.tensor([500]),
        "encoder_hidden_states": normal(draw, 1, 5, 12),
        "encoder_attention_mask": torch.ones(1, 5, dtype=torch.bool),
        "pooled_projections": normal(draw, 1, 10),
        "guidance": torch.tensor([3500.0]),
    }


def ace_step(draw: torch.Generator) -> dict[str, Any]:
    return {
        "hidden_states": normal(draw, 1, 8, 4),
        "timestep": torch.tensor([0.5]),
        "timestep_r": torch.tensor([0.25]),
        "encoder_hidden_states": normal(draw, 1, 5, 14),
        "context_latents": normal(draw, 1, 8, 8),
    }
