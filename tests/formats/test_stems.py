"""Stems: every prefix, old spelling and numbering, one by one."""

import pytest

from loramix.formats.dialects import lookup, split_stem
from loramix.formats.layout import load_layout

TO_Q = "transformer_blocks.0.attn.to_q"
CLIP = "text_model.encoder.layers.0.self_attn.q_proj"
T5 = "encoder.block.0.layer.0.SelfAttention.q"

# Prefix, component, dialect; None: the network, whatever it is called.
DOTTED = [
    ("base_model.model.", None, "peft"),
    ("model.diffusion_model.", None, "comfyui"),
    ("diffusion_model.", None, "comfyui"),
    ("pipe.dit.", None, "diffsynth"),
    ("dit.", None, "diffsynth"),
    ("unet.", "unet", "diffusers"),
    ("unet.base_model.model.", "unet", "diffusers"),
    ("transformer.", "transformer", "diffusers"),
    ("conditional_transformer.", "transformer", "diffusers"),
    ("prior.", "prior", "diffusers"),
    ("transformer_2.", "transformer_2", "diffusers"),
    ("text_encoder.", "text_encoder", "diffusers"),
    ("text_encoder_2.", "text_encoder_2", "diffusers"),
    ("text_encoder_3.", "text_encoder_3", "diffusers"),
    ("text_encoders.clip_l.transformer.", "text_encoder", "comfyui"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2", "comfyui"),
    ("text_encoders.t5xxl.transformer.", "text_encoder_3", "comfyui"),
    ("conditioner.embedders.0.transformer.", "text_encoder", "original"),
    ("conditioner.embedders.1.model.", "text_encoder_2", "original"),
    ("cond_stage_model.transformer.", "text_encoder", "original"),
    ("cond_stage_model.model.", "text_encoder", "original"),
    ("", None, "plain"),
]
FLAT = [
    ("lora_unet_", None, "kohya"),
    ("lora_unet__", None, "videox-fun"),
    ("oft_unet_", None, "kohya"),
    ("lora_transformer_", None, "onetrainer"),
    ("lora_prior_unet_", "prior", "kohya"),
    ("lora_prior_te_", "text_encoder", "kohya"),
    ("lora_te_", "text_encoder", "kohya"),
    ("lora_te1_", "text_encoder", "kohya"),
    ("lora_te2_", "text_encoder_2", "kohya"),
    ("lora_te3_", "text_encoder_3", "kohya"),
    ("lycoris_", None, "lycoris"),
]


@pytest.mark.parametrize(("prefix", "component", "dialect"), DOTTED)
@pytest.mark.parametrize("wrapper", ["", "_orig_mod.", "module."])
def test_dotted_prefixes(prefix: str, component: str | None, dialect: str, wrapper: str) -> None:
    stem = split_stem(f"{wrapper}{prefix}{TO_Q}")
    assert (stem.component, stem.path, stem.dialect) == (component, TO_Q, dialect)
    assert not stem.flat


@pytest.mark.parametrize(("prefix", "component", "dialect"), FLAT)
def test_flat_prefixes(prefix: str, component: str | None, dialect: str) -> None:
    path = "transformer_blocks_0_attn_to_q"
    stem = split_stem(prefix + path)
    assert (stem.component, stem.path, stem.dialect) == (component, path, dialect)
    assert stem.flat
    assert stem.key.endswith(f".{prefix}{path}")  # nobody unflattens it by rule


def test_prefixes_are_cut_at_the_start_only() -> None:
    for middle in ("transformer.", "unet.", "diffusion_model.", "text_encoder."):
        stem = split_stem(f"blocks.0.{middle}to_q")
        assert (stem.component, stem.path) == (None, f"blocks.0.{middle}to_q")
    assert split_stem("transformer.transformer_blocks.0.ff").path == "transformer_blocks.0.ff"
    assert split_stem("text_encoder.transformer.h.0").path == "transformer.h.0"


def test_compiled_modules_are_known_anywhere_in_a_name() -> None:
    stem = split_stem("transformer.transformer_blocks.0._orig_mod.attn._orig_mod.to_q")
    assert stem.path == TO_Q


def test_a_language_model_may_call_a_module_transformer() -> None:
    stem = split_stem("base_model.model.transformer.h.0.attn.c_attn")
    assert (stem.component, stem.key) == (None, "transformer.h.0.attn.c_attn")
    # Around a part of a pipeline the same prefix is that part.
    flux = load_layout("flux1")
    hit = lookup(split_stem(f"base_model.model.transformer.{TO_Q}"), flux, (3072, 3072))
    assert hit is not None
    assert hit.modules[0].name == TO_Q


def test_cut_off_names_are_completed() -> None:
    assert split_stem("sformer_blocks.0.attn.to_q").path == TO_Q
    assert split_stem("a.sformer_blocks.0.attn.to_q").path == "a.sformer_blocks.0.attn.to_q"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("unet.a.attn1.processor.to_q_lora", "a.attn1.to_q"),
        ("unet.a.attn1.processor.to_k_lora", "a.attn1.to_k"),
        ("unet.a.attn1.processor.to_v_lora", "a.attn1.to_v"),
        ("unet.a.attn1.processor.to_out_lora", "a.attn1.to_out.0"),
        ("unet.a.attn1.processor.to_out", "a.attn1.to_out.0"),
        ("a.attn2.processor.to_q_lora", "a.attn2.to_q"),
        ("text_encoder.a.self_attn.to_q_lora", "a.self_attn.q_proj"),
        ("text_encoder.a.self_attn.to_out_lora", "a.self_attn.out_proj"),
        ("double_blocks.3.processor.qkv_lora1", "double_blocks.3.img_attn.qkv"),
        ("double_blocks.3.processor.proj_lora2", "double_blocks.3.txt_attn.proj"),
        ("diffusion_model.single_blocks.3.processor.qkv_lora", "single_blocks.3.linear1_qkv"),
        ("single_blocks.3.processor.proj_lora", "single_blocks.3.linear2"),
        ("a.processor.other_lora", "a.processor.other_lora"),
    ],
)
def test_old_spellings(old: str, new: str) -> None:
    assert split_stem(old).path == new


@pytest.mark.parametrize(
    ("layout", "stem", "size", "component"),
    [
        # The number says which encoder of the pipeline, but not in all trainers the same.
        ("sdxl", "lora_te1_text_model_encoder_layers_0_self_attn_q_proj", 768, "text_encoder"),
        ("sdxl", "lora_te2_text_model_encoder_layers_0_self_attn_q_proj", 1280, "text_encoder_2"),
        ("sdxl", "lora_te_text_model_encoder_layers_0_self_attn_q_proj", 768, "text_encoder"),
        ("flux1", "lora_te3_encoder_block_0_layer_0_SelfAttention_q", 4096, "text_encoder_2"),
        ("flux1", "lora_te2_encoder_block_0_layer_0_SelfAttention_q", 4096, "text_encoder_2"),
        ("flux1", f"text_encoders.t5xxl.transformer.{T5}", 4096, "text_encoder_2"),
        ("sd3_medium", "lora_te3_encoder_block_0_layer_0_SelfAttention_q", 4096, "text_encoder_3"),
        ("sd3_medium", f"text_encoders.clip_g.transformer.{CLIP}", 1280, "text_encoder_2"),
        ("sd3_medium", f"text_encoders.t5xxl.transformer.{T5}", 4096, "text_encoder_3"),
        ("sd15", f"cond_stage_model.transformer.{CLIP}", 768, "text_encoder"),
        ("sdxl", f"conditioner.embedders.0.transformer.{CLIP}", 768, "text_encoder"),
    ],
)
def test_text_encoders_are_found_by_name_and_size(
    layout: str, stem: str, size: int, component: str
) -> None:
    hit = lookup(split_stem(stem), load_layout(layout), (size, size))
    assert hit is not None
    assert [module.component for module in hit.modules] == [component]


def test_a_wrong_number_is_outvoted_by_the_size() -> None:
    stem = split_stem("lora_te1_text_model_encoder_layers_0_self_attn_q_proj")
    hit = lookup(stem, load_layout("sdxl"), (1280, 1280))
    assert hit is not None
    assert hit.modules[0].component == "text_encoder_2"
    assert lookup(stem, load_layout("sdxl"), (640, 640)) is None


@pytest.mark.parametrize(
    ("layout", "prefix", "width"),
    [("sdxl", "conditioner.embedders.1.model.", 1280), ("sd21", "cond_stage_model.model.", 1024)],
)
def test_open_clip_fuses_its_projections(layout: str, prefix: str, width: int) -> None:
    table = load_layout(layout)
    stem = split_stem(f"{prefix}transformer.resblocks.3.attn.in_proj")
    hit = lookup(stem, table, (3 * width, width))
    assert hit is not None
    names = [module.name.rpartition(".")[2] for module in hit.modules]
    assert names == ["q_proj", "k_proj", "v_proj"]
    out = lookup(split_stem(f"{prefix}transformer.resblocks.3.mlp.c_fc"), table, (None, None))
    assert out is not None
    assert out.modules[0].name == "text_model.encoder.layers.3.mlp.fc1"


def test_the_first_members_of_a_fused_weight() -> None:
    table = load_layout("flux1")
    for text in (
        "single_blocks.7.processor.qkv_lora",
        "diffusion_model.single_blocks.7.linear1_qkv",
    ):
        stem = split_stem(text)
        hit = lookup(stem, table, (9216, 3072))
        assert hit is not None
        assert [m.name.rpartition(".")[2] for m in hit.modules] == ["to_q", "to_k", "to_v"]
        assert lookup(stem, table, (21504, 3072)) is None
        assert lookup(stem, table, (9216, 3071)) is None
    # FLUX.2 fuses linear1 in every world: it has no members.
    one = split_stem("diffusion_model.single_blocks.7.linear1_qkv")
    assert lookup(one, load_layout("flux2_dev"), (None, None)) is None


def test_hyphens_are_part_of_a_name() -> None:
    table = load_layout("z_image")
    for text in ("transformer.all_x_embedder.2-1", "lora_unet_all_x_embedder_2-1"):
        hit = lookup(split_stem(text), table, (3840, 64))
        assert hit is not None
        assert hit.modules[0].name == "all_x_embedder.2-1"
