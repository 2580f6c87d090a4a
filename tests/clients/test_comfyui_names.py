"""Names that ComfyUI accepts, against those that loramix writes for it.

ComfyUI is in no registry, so its rules are written down here, model by model, as patterns of
whole stems; a stem that matches none is ignored there without an error.  What is proved: every
module of every table that can be written for ComfyUI has a stem that it accepts; all rows of the
weight are in it; and no weight is addressed twice, once fused and once in parts.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from clients.tiny import SPELLINGS, adapter
from formats.builders import from_adapter, gaps
from safetensors import safe_open

import loramix
from loramix.formats.layout import Module, load_layout

N = r"\d+"
_ATTENTION = rf"transformer_blocks_{N}_(attn[12]_to_([qkv]|out_0)|ff_net_(0_proj|2))"
_CLIP = rf"text_model_encoder_layers_{N}_(self_attn_(q|k|v|out)_proj|mlp_fc[12])"
# Level and place in LDM's U-Net; SD 1.5 and 2 may use the names of diffusers as well.
_LDM = (
    rf"(input_blocks_{N}_[01]|middle_block_[012]|output_blocks_{N}_[012])"
    rf"_(proj_in|proj_out|{_ATTENTION}|in_layers_2|out_layers_3|emb_layers_1|skip_connection"
    r"|op|conv)"
    r"|input_blocks_0_0|out_2|time_embed_[02]|label_emb_0_[02]"
)
_UNET = (
    rf"((down|up)_blocks_{N}|mid_block)_(attentions_{N}_(proj_in|proj_out|{_ATTENTION})"
    rf"|resnets_{N}_(conv[12]|conv_shortcut|time_emb_proj)|(down|up)samplers_0_conv)"
    r"|conv_in|conv_out|time_embedding_linear_[12]"
)
_T5 = rf"encoder_block_{N}_layer_[01]_(SelfAttention_[qkvo]|DenseReluDense_(wi_[01]|wo))"
_FLUX_BLOCKS = (
    rf"double_blocks.{N}.(img|txt)_(attn.(qkv|proj)|mlp.[02]|mod.lin)"
    rf"|single_blocks.{N}.(linear[12]|modulation.lin)"
)
_FLUX_ENDS = r"img_in|txt_in|final_layer.(linear|adaLN_modulation.1)"
_FLUX1 = rf"{_FLUX_BLOCKS}|{_FLUX_ENDS}|(time_in|guidance_in|vector_in).(in|out)_layer"
_SD3 = (
    rf"joint_blocks.{N}.(x|context)_block.(attn2?.(qkv|proj)|mlp.fc[12]|adaLN_modulation.1)"
    r"|x_embedder.proj|context_embedder|[ty]_embedder.mlp.[02]"
    r"|final_layer.(linear|adaLN_modulation.1)"
)
_FUSED_LAYERS = (
    rf"(layers|noise_refiner|context_refiner).{N}"
    r".(attention.(qkv|out)|feed_forward.w[123]|adaLN_modulation.[01])"
    r"|x_embedder|cap_embedder.1|t_embedder.mlp.[02]|final_layer.(linear|adaLN_modulation.1)"
)
_WAN = (
    rf"(vace_)?blocks.{N}.(self_attn.[qkvo]|cross_attn.([qkvo]|[kv]_img)|ffn.[02])"
    rf"|vace_blocks.{N}.(before|after)_proj|vace_patch_embedding|patch_embedding"
    r"|(text|time)_embedding.[02]|time_projection.1|img_emb.proj.[13]|head.head"
)
_QWEN = (
    rf"transformer_blocks.{N}.(attn.(to_[qkv]|to_out.0|add_[qkv]_proj|to_add_out)"
    r"|(img|txt)_(mlp.net.(0.proj|2)|mod.1))"
    r"|img_in|txt_in|proj_out|norm_out.linear|time_text_embed.timestep_embedder.linear_[12]"
)
_LTX = (
    rf"transformer_blocks.{N}.(attn[12].(to_[qkv]|to_out.0)|ff.net.(0.proj|2))"
    r"|patchify_proj|proj_out|adaln_single.(linear|emb.timestep_embedder.linear_[12])"
    r"|caption_projection.linear_[12]"
)
_HUNYUAN = (
    rf"{_FLUX_BLOCKS}|img_in.proj|final_layer.(linear|adaLN_modulation.1)"
    r"|(time_in|guidance_in|vector_in).(in|out)_layer"
    r"|txt_in.(input_embedder|[tc]_embedder.(in|out)_layer"
    rf"|individual_token_refiner.blocks.{N}.(self_attn.(qkv|proj)|mlp.[02]|adaLN_modulation.1))"
)
_FLUX2 = (
    rf"double_blocks.{N}.(img|txt)_(attn.(qkv|proj)|mlp.[02])|single_blocks.{N}.linear[12]"
    rf"|{_FLUX_ENDS}|(time_in|guidance_in).(in|out)_layer"
    r"|double_stream_modulation_(img|txt).lin|single_stream_modulation.lin"
)
_CHROMA = (
    rf"{_FLUX_BLOCKS}|{_FLUX_ENDS}"
    rf"|distilled_guidance_layer.(in_proj|out_proj|layers.{N}.(in|out)_layer)"
)
_ACE_STEP = (
    rf"layers.{N}.((self|cross)_attn.[qkvo]_proj|mlp.(gate|up|down)_proj)"
    r"|time_embed(_r)?.(linear_[12]|time_proj)|condition_embedder|proj_in.1|proj_out.1"
)


def flat(pattern: str) -> str:
    """The same names with underscores for dots."""
    return re.sub(r"(?<!\\)\.", "_", pattern)


def dotted(pattern: str) -> str:
    """The same names, dots meant literally."""
    return re.sub(r"(?<!\\)\.", r"\\.", pattern)


ACCEPTED: Mapping[str, str] = {
    "sd15": rf"lora_unet_({_UNET}|{_LDM})|lora_te_{_CLIP}",
    "sd21": rf"lora_unet_({_UNET}|{_LDM})|lora_te_{_CLIP}",
    "sdxl": rf"lora_unet_({_UNET}|{_LDM})|lora_te[12]_{_CLIP}",
    **dict.fromkeys(
        ("sd3_medium", "sd35_medium", "sd35_large"),
        rf"lora_unet_({flat(_SD3)})|lora_te[12]_{_CLIP}|lora_te3_{_T5}",
    ),
    "flux1": rf"lora_unet_({flat(_FLUX1)})|lora_te1_{_CLIP}|lora_te[23]_{_T5}",
    **dict.fromkeys(
        ("flux2_dev", "flux2_klein_4b", "flux2_klein_9b"),
        rf"diffusion_model\.({dotted(_FLUX2)})",
    ),
    "chroma": rf"diffusion_model\.({dotted(_CHROMA)})",
    "z_image": rf"lora_unet_({flat(_FUSED_LAYERS)})",
    "lumina2": rf"lora_unet_({flat(_FUSED_LAYERS)})",
    "qwen_image": rf"diffusion_model\.({dotted(_QWEN)})",
    **dict.fromkeys(
        (
            "wan21_t2v_1_3b", "wan21_t2v_14b", "wan21_i2v_14b", "wan21_vace_1_3b",
            "wan22_ti2v_5b",
        ),
        rf"diffusion_model\.({dotted(_WAN)})",
    ),
    **dict.fromkeys(("ltx_video_2b", "ltx_video_13b"), rf"diffusion_model\.({dotted(_LTX)})"),
    "hunyuan_video": rf"diffusion_model\.({dotted(_HUNYUAN)})",
    "ace_step_1_5": rf"base_model\.model\.({dotted(_ACE_STEP)})",
}  # fmt: skip
# Names of diffusers that ComfyUI does not know there: the patterns must not let them through.
STRANGE = (
    ("wan21_t2v_1_3b", "diffusion_model.blocks.0.attn1.to_q"),
    ("wan21_t2v_1_3b", "transformer.blocks.0.self_attn.q"),
    ("lumina2", "lora_unet_layers_0_attn_to_q"),
    ("z_image", "lora_unet_layers_0_attention_to_q"),
    ("hunyuan_video", "diffusion_model.transformer_blocks.0.attn.to_q"),
    ("hunyuan_video", "lora_unet_double_blocks_0_img_mlp_fc1"),
    ("flux2_dev", "diffusion_model.single_stream_modulation.linear"),
    ("flux2_dev", "diffusion_model.double_blocks_0.img_attn.qkv"),
    ("sdxl", "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"),
    ("sdxl", "lora_te1_text_projection"),
)
# Weights that are fused in ComfyUI: parts of them must not have names of their own.
_PARTS = re.compile(r".*[._](to_[qkv]|add_[qkv]_proj|proj_mlp)")
_FUSED_IN = ("sd3", "sd35", "flux", "chroma", "z_image", "lumina2", "hunyuan")


def sample(module: Module) -> bool:
    """The first and the tenth block of each kind, and what is in no block."""
    first = next((part for part in module.name.split(".") if part.isdigit()), "0")
    return first in ("0", "9") and module.name != "text_projection"


def stems_of(path: Path) -> Iterator[str]:
    roles = (".lora_up.weight", ".lora_B.weight")
    with safe_open(path, "np") as file:
        names = list(file.keys())
    for name in names:
        for role in roles:
            if name.endswith(role):
                yield name.removesuffix(role)


@pytest.mark.parametrize(("name", "stem"), STRANGE)
def test_patterns_refuse_what_comfyui_ignores(name: str, stem: str) -> None:
    assert not re.fullmatch(ACCEPTED[name], stem)


@pytest.mark.parametrize("name", ACCEPTED)
def test_comfyui_knows_every_stem(name: str, tmp_path: Path) -> None:
    layout = load_layout(name)
    built = adapter(layout, SPELLINGS["diffusers"], sample, 1, ranks=(1,), scales=(1.0,))
    source, path = built.save(tmp_path / "in.safetensors"), tmp_path / "out.safetensors"
    output = loramix.Output(client="comfyui")
    loramix.merge([source], "linear", output=output, path=path, architecture=name)
    stems = list(stems_of(path))
    strange = [stem for stem in stems if not re.fullmatch(ACCEPTED[name], stem)]
    assert not strange
    if name.startswith(_FUSED_IN):
        assert not [stem for stem in stems if _PARTS.fullmatch(stem)]
    split = loramix.merge([path], "linear", output=loramix.Output(dialect="diffusers"),
                          architecture=name)  # fmt: skip
    assert gaps(built.truth, from_adapter(split.adapter)) < 1e-5
