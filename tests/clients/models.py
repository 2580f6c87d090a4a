"""The real model classes of diffusers, made tiny, with seeded weights and inputs.

A `Client` is one architecture: how its class is configured here, what one forward pass takes,
and which pipeline loads adapters into it.  Nothing here knows loramix.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import diffusers
import torch
from clients import inputs

Inputs: TypeAlias = Callable[[torch.Generator], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Client:
    """One architecture as diffusers has it.

    Attributes
    ----------
    model : name of the class of the network.
    config : of a tiny one.
    inputs : of one forward pass, drawn from a generator.
    pipeline : name of a class with ``load_lora_weights``; None if there is only
        ``load_lora_adapter`` of the model itself.
    component : the network's name in that pipeline.
    """

    model: str
    config: Mapping[str, Any]
    inputs: Inputs
    pipeline: str | None
    component: str = "transformer"

    def make(self, **changes: Any) -> torch.nn.Module:
        """Build the network: the same weights in every call, float32."""
        torch.manual_seed(1)
        model = getattr(diffusers, self.model)(**{**self.config, **changes}).eval()
        for weight in model.parameters():
            # Some of these classes begin with zeros, which would hide what is behind them.
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.5 * weight[0].numel() ** -0.5)
        return model

    def run(self, model: torch.nn.Module) -> torch.Tensor:
        """One forward pass on inputs that are the same in every call."""
        with torch.no_grad():
            found = model(**self.inputs(torch.Generator().manual_seed(2)), return_dict=False)
        while not isinstance(found, torch.Tensor):
            found = found[0]
        return found

    def load(self, model: torch.nn.Module, path: str) -> None:
        """Load an adapter as a user of diffusers does."""
        if self.pipeline is None:
            model.load_lora_adapter(path, prefix=self.component)
        else:
            pipeline_of(self.pipeline, {self.component: model}).load_lora_weights(path)


def pipeline_of(name: str, parts: Mapping[str, torch.nn.Module]) -> Any:
    """A pipeline with these parts and no others."""
    kind = getattr(diffusers, name)
    wanted = {
        arg.name: None
        for arg in list(inspect.signature(kind.__init__).parameters.values())[1:]
        if arg.default is inspect.Parameter.empty
    }
    return kind(**{**wanted, **parts})


def weightless(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """A model on the CPU with all its layers and no memory for its weights."""
    with torch.device("meta"):
        model = make()
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                zeros = torch.zeros((), dtype=weight.dtype).expand(weight.shape)
                module._parameters[name] = torch.nn.Parameter(zeros, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.zeros((), dtype=buffer.dtype).expand(buffer.shape)
    return model


_UNET = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "attention_head_dim": (2, 2),
    "cross_attention_dim": 12,
}
_SD1 = {
    **_UNET,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
_SDXL = {
    **_UNET,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 30,
}
_SD3 = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 10,
    "pos_embed_max_size": 8,
}
_FLUX = {
    "in_channels": 4,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "axes_dims_rope": (2, 2, 4),
}
_WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 12,
    "freq_dim": 8,
    "ffn_dim": 20,
    "num_layers": 2,
    "rope_max_seq_len": 16,
}

CLIENTS: Mapping[str, Client] = {
    "sd15": Client(
        "UNet2DConditionModel", _SD1, inputs.unet, "StableDiffusionPipeline", "unet"
    ),
    "sd21": Client(
        "UNet2DConditionModel", {**_SD1, "use_linear_projection": True}, inputs.unet,
        "StableDiffusionPipeline", "unet",
    ),
    "sdxl": Client(
        "UNet2DConditionModel", _SDXL, inputs.sdxl, "StableDiffusionXLPipeline", "unet"
    ),
    "sd3_medium": Client(
        "SD3Transformer2DModel", _SD3, inputs.sd3, "StableDiffusion3Pipeline"
    ),
    "sd35_medium": Client(
        "SD3Transformer2DModel",
        {**_SD3, "dual_attention_layers": (0,), "qk_norm": "rms_norm"},
        inputs.sd3, "StableDiffusion3Pipeline",
    ),
    "sd35_large": Client(
        "SD3Transformer2DModel", {**_SD3, "qk_norm": "rms_norm"}, inputs.sd3,
        "StableDiffusion3Pipeline",
    ),
    "flux1": Client(
        "FluxTransformer2DModel",
        {**_FLUX, "pooled_projection_dim": 10, "guidance_embeds": True}, inputs.flux1,
        "FluxPipeline",
    ),
    "flux2_dev": Client(
        "Flux2Transformer2DModel",
        {**_FLUX, "axes_dims_rope": (2, 2, 2, 2), "timestep_guidance_channels": 8},
        inputs.flux2, "Flux2Pipeline",
    ),
    "flux2_klein_4b": Client(
        "Flux2Transformer2DModel",
        {
            **_FLUX, "axes_dims_rope": (2, 2, 2, 2), "timestep_guidance_channels": 8,
            "guidance_embeds": False,
        },
        inputs.flux2, "Flux2KleinPipeline",
    ),
    "chroma": Client(
        "ChromaTransformer2DModel",
        {
            **_FLUX, "approximator_num_channels": 8, "approximator_hidden_dim": 10,
            "approximator_layers": 1,
        },
        inputs.chroma, "ChromaPipeline",
    ),
    "z_image": Client(
        "ZImageTransformer2DModel",
        {
            "in_channels": 4, "dim": 16, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2,
            "n_kv_heads": 2, "cap_feat_dim": 12, "axes_dims": [2, 2, 4],
            "axes_lens": [64, 16, 16],
        },
        inputs.z_image, "ZImagePipeline",
    ),
    "lumina2": Client(
        "Lumina2Transformer2DModel",
        {
            "sample_size": 8, "in_channels": 4, "hidden_size": 24, "num_layers": 2,
            "num_refiner_layers": 1, "num_attention_heads": 3, "num_kv_heads": 1,
            "multiple_of": 4, "axes_dim_rope": (4, 2, 2), "axes_lens": (16, 8, 8),
            "cap_feat_dim": 12,
        },
        inputs.lumina2, "Lumina2Pipeline",
    ),
    "qwen_image": Client(
        "QwenImageTransformer2DModel",
        {
            "in_channels": 8, "out_channels": 2, "num_layers": 2, "attention_head_dim": 8,
            "num_attention_heads": 2, "joint_attention_dim": 12, "axes_dims_rope": (2, 2, 4),
        },
        inputs.qwen_image, "QwenImagePipeline",
    ),
    "wan21_t2v_1_3b": Client("WanTransformer3DModel", _WAN, inputs.wan, "WanPipeline"),
    "wan21_i2v_14b": Client(
        "WanTransformer3DModel", {**_WAN, "image_dim": 10, "added_kv_proj_dim": 24}, inputs.wan_i2v,
        "WanImageToVideoPipeline",
    ),
    "wan21_vace_1_3b": Client(
        "WanVACETransformer3DModel", {**_WAN, "vace_layers": [0, 1], "vace_in_channels": 6},
        inputs.wan_vace, "WanVACEPipeline",
    ),
    "wan22_ti2v_5b": Client(
        "WanTransformer3DModel", {**_WAN, "attention_head_dim": 16, "num_layers": 1}, inputs.wan,
        "WanPipeline",
    ),
    "ltx_video_2b": Client(
        "LTXVideoTransformer3DModel",
        {
            "in_channels": 6, "out_channels": 6, "num_attention_heads": 2,
            "attention_head_dim": 8, "cross_attention_dim": 16, "num_layers": 2,
            "caption_channels": 12,
        },
        inputs.ltx, "LTXPipeline",
    ),
    "hunyuan_video": Client(
        "HunyuanVideoTransformer3DModel",
        {
            "in_channels": 4, "out_channels": 4, "num_attention_heads": 2,
            "attention_head_dim": 8, "num_layers": 2, "num_single_layers": 2,
            "num_refiner_layers": 1, "text_embed_dim": 12, "pooled_projection_dim": 10,
            "rope_axes_dim": (2, 2, 4),
        },
        inputs.hunyuan_video, "HunyuanVideoPipeline",
    ),
    "ace_step_1_5": Client(
        "AceStepTransformer1DModel",
        {
            "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
            "in_channels": 12, "audio_acoustic_hidden_dim": 4, "encoder_hidden_size": 14,
        },
        inputs.ace_step, "AceStepPipeline",
    ),
}  # fmt: skip
