"""The module tables beside the model classes of diffusers and transformers.

Every class is built on the meta device with the published configuration, so it has all layers and
no memory for weights.  Its Linear and Conv modules, by name and shape, are the table.
"""

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
import transformers

from loramix.formats.layout import LAYOUTS, load_layout

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

Make = Callable[[], torch.nn.Module]
CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.ConvTranspose1d, torch.nn.Conv2d, torch.nn.Conv3d)


def net(name: str, **config: Any) -> Make:
    return lambda: getattr(diffusers, name)(**config)


def unet(**config: Any) -> Make:
    return net("UNet2DConditionModel", sample_size=64, **config)


def clip(width: int, layers: int, *, projected: bool = False) -> Make:
    config = transformers.CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, projection_dim=width,
    )  # fmt: skip
    if projected:
        return lambda: transformers.CLIPTextModelWithProjection(config)
    return lambda: transformers.CLIPTextModel(config)


def t5() -> torch.nn.Module:
    config = transformers.T5Config(
        d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=24,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return transformers.T5EncoderModel(config)


def sd3(heads: int, layers: int, dual: int = 0) -> Make:
    return net(
        "SD3Transformer2DModel", num_layers=layers, num_attention_heads=heads,
        attention_head_dim=64, caption_projection_dim=64 * heads, joint_attention_dim=4096,
        pooled_projection_dim=2048, dual_attention_layers=tuple(range(dual)),
    )  # fmt: skip


def wan(heads: int, layers: int, ffn: int, *, vace: bool = False, **config: Any) -> Make:
    if vace:
        config |= {"vace_layers": list(range(0, layers, 2)), "vace_in_channels": 96}
    return net(
        "WanVACETransformer3DModel" if vace else "WanTransformer3DModel",
        num_attention_heads=heads, num_layers=layers, ffn_dim=ffn, **config,
    )  # fmt: skip


def flux2(heads: int, double: int, single: int, text: int, *, guidance: bool) -> Make:
    return net(
        "Flux2Transformer2DModel", num_attention_heads=heads, num_layers=double,
        num_single_layers=single, joint_attention_dim=text, guidance_embeds=guidance,
    )  # fmt: skip


def language(name: str, **config: Any) -> Make:
    made = getattr(transformers, f"{name}Config")(**config, tie_word_embeddings=False)
    return lambda: getattr(transformers, f"{name}ForCausalLM")(made)


CLIP_L, CLIP_L_SD3, BIG_G = (
    clip(768, 12),
    clip(768, 12, projected=True),
    clip(1280, 32, projected=True),
)
SD3_TEXTS = {"text_encoder": CLIP_L_SD3, "text_encoder_2": BIG_G, "text_encoder_3": t5}

CLASSES: dict[str, dict[str, Make]] = {
    "sd15": {
        "unet": unet(cross_attention_dim=768, attention_head_dim=8),
        "text_encoder": CLIP_L,
    },
    "sd21": {
        "unet": unet(
            cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        ),
        "text_encoder": clip(1024, 23),
    },
    "sdxl": {
        "unet": unet(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048, use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        "text_encoder": CLIP_L,
        "text_encoder_2": BIG_G,
    },
    "sd3_medium": {"transformer": sd3(24, 24), **SD3_TEXTS},
    "sd35_medium": {"transformer": sd3(24, 24, dual=13), **SD3_TEXTS},
    "sd35_large": {"transformer": sd3(38, 38), **SD3_TEXTS},
    "flux1": {
        "transformer": net("FluxTransformer2DModel", guidance_embeds=True),
        "text_encoder": CLIP_L,
        "text_encoder_2": t5,
    },
    "flux2_dev": {"transformer": flux2(48, 8, 48, 15360, guidance=True)},
    "flux2_klein_4b": {"transformer": flux2(24, 5, 20, 7680, guidance=False)},
    "flux2_klein_9b": {"transformer": flux2(32, 8, 24, 12288, guidance=False)},
    "chroma": {"transformer": net("ChromaTransformer2DModel")},
    "z_image": {"transformer": net("ZImageTransformer2DModel")},
    "lumina2": {"transformer": net("Lumina2Transformer2DModel", cap_feat_dim=2304)},
    "qwen_image": {"transformer": net("QwenImageTransformer2DModel")},
    "wan21_t2v_1_3b": {"transformer": wan(12, 30, 8960)},
    "wan21_t2v_14b": {"transformer": wan(40, 40, 13824)},
    "wan21_i2v_14b": {
        "transformer": wan(
            40, 40, 13824, in_channels=36, image_dim=1280, added_kv_proj_dim=5120,
        )
    },
    "wan21_vace_1_3b": {"transformer": wan(12, 30, 8960, vace=True)},
    "wan22_ti2v_5b": {"transformer": wan(24, 30, 14336, in_channels=48, out_channels=48)},
    "ltx_video_2b": {"transformer": net("LTXVideoTransformer3DModel")},
    "ltx_video_13b": {
        "transformer": net(
            "LTXVideoTransformer3DModel", attention_head_dim=128, cross_attention_dim=4096,
            num_layers=48,
        )
    },
    "hunyuan_video": {"transformer": net("HunyuanVideoTransformer3DModel")},
    "ace_step_1_5": {"transformer": net("AceStepTransformer1DModel")},
    "llama3_8b": {
        "transformer": language(
            "Llama", hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=8, vocab_size=128256,
        )
    },
    "qwen2_5_7b": {
        "transformer": language(
            "Qwen2", hidden_size=3584, intermediate_size=18944, num_hidden_layers=28,
            num_attention_heads=28, num_key_value_heads=4, vocab_size=152064,
        )
    },
}  # fmt: skip
# diffusers has no class for it.
MISSING = {"ace_step_v1"}


def weights(make: Make, kinds: tuple[type, ...]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = make()
    found = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, kinds) and getattr(module, "weight", None) is not None
    }
    if isinstance(model, transformers.CLIPTextModel):
        # Newer releases drop a level that adapter files keep.
        return {f"text_model.{name.removeprefix('text_model.')}": s for name, s in found.items()}
    return found


def test_every_layout_is_here() -> None:
    assert {*CLASSES, *MISSING} == set(LAYOUTS)


@pytest.mark.parametrize(
    ("name", "component"), [(name, part) for name, parts in CLASSES.items() for part in parts]
)
def test_modules_are_those_of_the_class(name: str, component: str) -> None:
    layout = load_layout(name)
    table = {m.name: m.shape for m in layout.modules if m.component == component}
    assert table == weights(CLASSES[name][component], (torch.nn.Linear, *CONVOLUTIONS))


@pytest.mark.parametrize("name", [name for name in LAYOUTS if load_layout(name).norms])
def test_norms_are_those_of_the_class(name: str) -> None:
    kinds = (torch.nn.LayerNorm, torch.nn.RMSNorm)
    found = weights(CLASSES[name]["transformer"], kinds)
    assert {m.name: m.shape for m in load_layout(name).norms} == found


@pytest.mark.parametrize("name", CLASSES)
def test_all_components_of_a_class_are_listed(name: str) -> None:
    assert list(load_layout(name).prefixes) == list(CLASSES[name])
