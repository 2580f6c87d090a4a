"""The real pipelines of diffusers with tiny random models, and adapters for them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    PNDMScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    WanPipeline,
    WanTransformer3DModel,
)
from safetensors.numpy import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

torch.set_num_threads(1)  # matrices of this size only wait for each other
STEPS = 3
GUIDANCE = 1.5  # tiny random models amplify rounding from step to step, and guidance more so


def unet(seed: int = 1, **more: Any) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=12,
        **more,
    ).eval()


def tokenizer() -> CLIPTokenizer:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    return CLIPTokenizer(
        vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=16
    )


def text_encoder() -> CLIPTextModel:
    torch.manual_seed(5)
    config = CLIPTextConfig(
        vocab_size=60, hidden_size=12, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, bos_token_id=0, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip
    return CLIPTextModel(config).eval()


def vae() -> AutoencoderKL:
    torch.manual_seed(6)
    return AutoencoderKL(
        block_out_channels=(4, 4), norm_num_groups=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(num_train_timesteps=100, steps_offset=1, clip_sample=False)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def sd(*, encoder: bool = False) -> Any:
    parts: dict[str, Any] = dict.fromkeys(("text_encoder", "tokenizer"))
    if encoder:
        parts = {"text_encoder": text_encoder(), "tokenizer": tokenizer()}
    return StableDiffusionPipeline(
        vae=vae(), unet=unet(), scheduler=scheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False, **parts,
    )  # fmt: skip


def sd_pndm() -> Any:
    pipe = sd()
    pipe.scheduler = PNDMScheduler(num_train_timesteps=100, skip_prk_steps=True, steps_offset=1)
    return pipe


def sd_image() -> Any:
    return StableDiffusionImg2ImgPipeline(**sd().components, requires_safety_checker=False)


def sd_control() -> Any:
    base = sd()
    torch.manual_seed(8)
    control = ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(4, 4))
    for weight in control.parameters():  # made of zeros, to begin with
        torch.nn.init.normal_(weight, std=0.2)
    return StableDiffusionControlNetPipeline(
        **base.components, controlnet=control.eval(), requires_safety_checker=False
    )


def sdxl() -> Any:
    model = unet(
        2,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 10,
    )
    other = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return StableDiffusionXLPipeline(vae=vae(), unet=model, scheduler=scheduler(), **other)


def sd3() -> Any:
    torch.manual_seed(3)
    model = SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=12, caption_projection_dim=16,
        pooled_projection_dim=10, pos_embed_max_size=16,
    ).eval()  # fmt: skip
    names = [f"{kind}{n}" for kind in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")]
    flow = FlowMatchEulerDiscreteScheduler(num_train_timesteps=100)
    return StableDiffusion3Pipeline(
        transformer=model, scheduler=flow, vae=None, **dict.fromkeys(names)
    )


def flux() -> Any:
    torch.manual_seed(2)
    model = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=12, pooled_projection_dim=10,
        axes_dims_rope=(2, 2, 4), guidance_embeds=True,
    ).eval()  # fmt: skip
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    flow = FlowMatchEulerDiscreteScheduler(num_train_timesteps=100)
    return FluxPipeline(transformer=model, scheduler=flow, vae=None, **dict.fromkeys(names))


def wan_model(seed: int) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=12,
        freq_dim=8, ffn_dim=16, num_layers=1, cross_attn_norm=True, rope_max_seq_len=32,
    ).eval()  # fmt: skip


def wan(**more: Any) -> Any:
    flow = FlowMatchEulerDiscreteScheduler(num_train_timesteps=100)
    return WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=flow,
        transformer=wan_model(9),
        **more,
    )


def wan_two() -> Any:
    """Wan 2.2: another model for low noise."""
    return wan(transformer_2=wan_model(10), boundary_ratio=0.6)


def wan_tokens() -> Any:
    """Wan 2.2 of 5 billion: every token has its own timestep."""
    return wan(expand_timesteps=True)


def qwen() -> Any:
    torch.manual_seed(11)
    model = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, axes_dims_rope=(2, 2, 4),
    ).eval()  # fmt: skip
    flow = FlowMatchEulerDiscreteScheduler(num_train_timesteps=100)
    return QwenImagePipeline(
        scheduler=flow, vae=None, text_encoder=None, tokenizer=None, transformer=model
    )


def ltx() -> Any:
    torch.manual_seed(12)
    model = LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8,
        cross_attention_dim=16, num_layers=1, caption_channels=12,
    ).eval()  # fmt: skip
    flow = FlowMatchEulerDiscreteScheduler(num_train_timesteps=100)
    return LTXPipeline(
        scheduler=flow, vae=None, text_encoder=None, tokenizer=None, transformer=model
    )


def prompts(*, pooled: bool = False, mask: bool = False, negative: bool = True) -> dict[str, Any]:
    """Two prompts as a text encoder leaves them."""
    found: dict[str, Any] = {}
    for number, side in enumerate(("", "negative_")[: 1 + negative]):
        found[f"{side}prompt_embeds"] = random(20 + number, 2, 5, 12)
        if pooled:
            found[f"{side}pooled_prompt_embeds"] = random(30 + number, 2, 10)
        if mask:
            found[f"{side}prompt_attention_mask"] = torch.ones(2, 5)
    return found


@dataclass(frozen=True)
class Kind:
    """A pipeline and how to call it.

    Attributes
    ----------
    component : what an adapter is for.
    sides : predictions of a step: 2 with classifier-free guidance.
    calls : denoiser calls of a step.
    """

    make: Callable[[], Any]
    arguments: Callable[[], dict[str, Any]]
    component: str = "unet"
    sides: int = 2
    calls: int = 1
    steps: int = STEPS

    def run(self, pipe: Any, **more: Any) -> torch.Tensor:
        """Latents of two pictures."""
        pipe.set_progress_bar_config(disable=True)
        given = {
            "num_inference_steps": STEPS, "generator": generator(), "output_type": "latent",
            "return_dict": False, **self.arguments(), **more,
        }  # fmt: skip
        for name, value in given.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                given[name] = value.to(pipe.dtype)
        with torch.inference_mode():
            return pipe(**given)[0]


def sized(size: int, **more: Any) -> dict[str, Any]:
    return {"height": size, "width": size, **more}


def scaled(**more: Any) -> dict[str, Any]:
    return {"guidance_scale": GUIDANCE, **more}


def images() -> torch.Tensor:
    return random(40, 2, 3, 16, 16).sigmoid()


KINDS: dict[str, Kind] = {
    "sd": Kind(sd, lambda: {**prompts(), **sized(16), **scaled()}),
    "sd-unguided": Kind(
        sd, lambda: {**prompts(negative=False), **sized(16), **scaled(guidance_scale=1.0)}, sides=1
    ),
    "sd-pndm": Kind(sd_pndm, lambda: {**prompts(), **sized(16), **scaled()}, steps=STEPS + 1),
    "sd-image": Kind(
        sd_image,
        lambda: {**prompts(), **scaled(image=images(), strength=0.7)},
        steps=2,
    ),
    "sd-control": Kind(
        sd_control, lambda: {**prompts(), **scaled(image=images(), guess_mode=False)}
    ),
    "sdxl": Kind(sdxl, lambda: {**prompts(pooled=True), **sized(16), **scaled()}),
    "sd3": Kind(sd3, lambda: {**prompts(pooled=True), **sized(64), **scaled()}, "transformer"),
    "flux": Kind(
        flux,
        lambda: {**prompts(pooled=True, negative=False), **sized(64)},
        "transformer",
        sides=1,
    ),
    "flux-guided": Kind(
        flux,
        lambda: {**prompts(pooled=True), **sized(64), "true_cfg_scale": GUIDANCE},
        "transformer",
        calls=2,
    ),
    "wan": Kind(
        wan,
        lambda: {**prompts(), "height": 64, "width": 48, "num_frames": 5, **scaled()},
        "transformer",
        calls=2,
    ),
    "wan-two": Kind(
        wan_two,
        lambda: {**prompts(), "height": 64, "width": 48, "num_frames": 5, **scaled()},
        "transformer",
        calls=2,
    ),
    "wan-tokens": Kind(
        wan_tokens,
        lambda: {**prompts(), "height": 64, "width": 48, "num_frames": 5, **scaled()},
        "transformer",
        calls=2,
    ),
    "qwen": Kind(
        qwen,
        lambda: {
            **prompts(), **sized(64), "true_cfg_scale": GUIDANCE,
            "prompt_embeds_mask": torch.ones(2, 5, dtype=torch.long),
            "negative_prompt_embeds_mask": torch.ones(2, 5, dtype=torch.long),
        },
        "transformer",
        calls=2,
    ),
    "ltx": Kind(
        ltx,
        lambda: {
            **prompts(mask=True), "height": 64, "width": 96, "num_frames": 17, **scaled(),
        },
        "transformer",
    ),
}  # fmt: skip


def adapter(
    model: torch.nn.Module, component: str, path: Path, *, seed: int, scale: float = 0.1
) -> Path:
    """A file with a random adapter of rank 2 for the linear layers of attention of a model."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and ("attn" in name or "self_attn" in name):
            for side, shape in (
                ("lora_A", (2, layer.in_features)),
                ("lora_B", (layer.out_features, 2)),
            ):
                factor = scale * rng.standard_normal(shape)
                tensors[f"{component}.{name}.{side}.weight"] = factor.astype(np.float32)
    assert tensors
    save_file(tensors, path)
    return path
