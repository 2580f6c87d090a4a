"""Whole names, looked up in every world that a model's modules have names in."""

from pathlib import Path

import pytest

from loramix.formats.layout import LAYOUTS, Hit, Module, fits, flatten, load_layout

KEYS = Path(__file__).parent / "keys"
LISTS = sorted(
    path for path in KEYS.glob("*.txt") if path.stem.endswith(("_original", "_name", "_comfy"))
)


def found(layout: str, flat: str, component: str | None = None) -> Hit:
    hit = load_layout(layout).find(flat, component)
    assert hit is not None
    return hit


def names_of(module: Module) -> dict[str, str]:
    """What it is called, by world."""
    aliases = {alias.world: alias.name for alias in module.aliases}
    return {"name": module.name, "original": module.original, **aliases}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_name_of_every_module_finds_it(name: str) -> None:
    layout = load_layout(name)
    for module in (*layout.modules, *layout.norms):
        for world, own in names_of(module).items():
            hit = layout.find(flatten(own), module.component)
            assert hit is not None
            assert module in hit.modules
            assert hit.swapped == (module.swap and world != "name")
            rows = sum(m.shape[0] for m in hit.modules)
            cols = 1
            for size in module.shape[1:]:
                cols *= size
            assert fits(hit.modules, (rows, cols))
            assert layout.find(flatten(own), module.component, (rows + 1, cols)) is None
            assert layout.find(flatten(own), module.component, (rows, cols + 1)) is None


@pytest.mark.parametrize("name", LAYOUTS)
def test_members_of_a_fused_weight_cover_its_rows_in_every_world(name: str) -> None:
    for hit in load_layout(name).hits.values():
        if len(hit.modules) == 1:
            continue
        end = 0
        for module in hit.modules:
            rows = {a.world: a.rows for a in module.aliases} | {"original": module.rows}
            assert rows[hit.world] == (end, end + module.shape[0])
            assert module.shape[1:] == hit.modules[0].shape[1:]
            end += module.shape[0]


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_attested_names_are_found(path: Path) -> None:
    layout, _, world = path.stem.rpartition("_")
    lines = path.read_text(encoding="utf-8").splitlines()
    flat = [flatten(line) for line in lines if line and not line.startswith("#")]
    worlds = [found(layout, one).world for one in flat]
    order = ("name", "original", "comfy")
    # A name that two worlds share is reported for the first of them.
    assert flat
    assert max(order.index(own) for own in worlds) == order.index(world)


def test_fused_names_give_members_in_the_order_of_rows() -> None:
    hit = found("flux1", "single_blocks_5_linear1")
    assert [m.name.rpartition(".")[2] for m in hit.modules] == ["to_q", "to_k", "to_v", "proj_mlp"]
    assert (hit.world, hit.swapped) == ("original", False)
    hit = found("lumina2", "layers_3_attention_qkv")
    assert [m.shape[0] for m in hit.modules] == [2304, 768, 768]


@pytest.mark.parametrize(
    ("layout", "component"),
    [("sd21", "text_encoder"), ("sdxl", "text_encoder_2"), ("sd3_medium", "text_encoder_2")],
)
def test_openclip_names(layout: str, component: str) -> None:
    width = 1024 if layout == "sd21" else 1280
    block = "transformer_resblocks_0"
    fused = load_layout(layout).find(f"{block}_attn_in_proj", component, (3 * width, width))
    assert fused is not None
    assert (fused.world, fused.swapped) == ("openclip", False)
    layer = "text_model.encoder.layers.0"
    assert [m.name for m in fused.modules] == [f"{layer}.self_attn.{x}_proj" for x in "qkv"]
    assert all(m.rows is None for m in fused.modules)  # not fused where Kohya files are concerned
    for name, canonical in (
        ("attn_out_proj", "self_attn.out_proj"),
        ("mlp_c_fc", "mlp.fc1"),
        ("mlp_c_proj", "mlp.fc2"),
    ):
        hit = found(layout, f"{block}_{name}", component)
        assert [m.name for m in hit.modules] == [f"{layer}.{canonical}"]


def test_ldm_names_of_models_whose_kohya_names_are_canonical() -> None:
    hit = found("sd15", "input_blocks_4_1_transformer_blocks_0_attn1_to_q")
    assert hit.modules[0].name == "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    assert hit.world == "original"
    assert (
        found("sd21", "output_blocks_2_1_conv").modules[0].name == "up_blocks.0.upsamplers.0.conv"
    )


def test_names_of_comfyui() -> None:
    hit = found("hunyuan_video", "double_blocks_19_img_mlp_0")
    assert (hit.world, hit.modules[0].original) == ("comfy", "double_blocks.19.img_mlp.fc1")
    both = found("hunyuan_video", "double_blocks_0_img_attn_qkv")
    assert (both.world, len(both.modules)) == ("original", 3)


def test_halves_are_swapped_under_the_original_name_only() -> None:
    assert not found("sd35_large", "norm_out_linear").swapped
    assert found("sd35_large", "final_layer_adaLN_modulation_1").swapped
    assert found("sd35_large", "joint_blocks_37_context_block_adaLN_modulation_1").swapped
    assert not found("sd35_large", "joint_blocks_36_context_block_adaLN_modulation_1").swapped
    assert not found("lumina2", "final_layer_adaLN_modulation_1").swapped


def test_norms_of_wan_exchange_their_numbers() -> None:
    wan = load_layout("wan21_t2v_14b")
    for flat, world in (("blocks_7_norm3", "original"), ("blocks_7_norm2", "name")):
        hit = wan.find(flat, None, (5120, 1))
        assert hit is not None
        assert (hit.modules[0].name, hit.world) == ("blocks.7.norm2", world)
    assert found("wan21_i2v_14b", "img_emb_proj_4").modules[0].shape == (5120,)


def test_hyphens_are_kept() -> None:
    assert found("z_image", "all_x_embedder_2-1").modules[0].original == "x_embedder"
    assert load_layout("z_image").find("all_x_embedder_2_1") is None


def test_a_name_is_looked_up_whole() -> None:
    wan = load_layout("wan21_i2v_14b")
    assert found("wan21_i2v_14b", "blocks_0_cross_attn_k").modules[0].name == "blocks.0.attn2.to_k"
    assert found("wan21_i2v_14b", "blocks_0_cross_attn_k_img").modules[0].name == (
        "blocks.0.attn2.add_k_proj"
    )
    assert wan.find("blocks_0_cross_attn") is None
    assert wan.find("blocks_0_cross_attn_k_img_") is None


def test_components() -> None:
    sdxl = load_layout("sdxl")
    fc1 = "text_model_encoder_layers_0_mlp_fc1"
    first, second = sdxl.find(fc1, "text_encoder"), sdxl.find(fc1, "text_encoder_2")
    assert first is not None
    assert second is not None
    assert [hit.modules[0].shape for hit in (first, second)] == [(3072, 768), (5120, 1280)]
    # No component: the network first, and then whatever has the name and the size.
    assert sdxl.find(fc1, None, (5120, None)) == second
    assert found("sdxl", "conv_in").modules[0].component == "unet"
    assert sdxl.find("conv_in", "text_encoder") is None
    assert sdxl.find("conv_in", "transformer") is None


def test_t5_is_the_third_for_some_trainers() -> None:
    wo = "encoder_block_0_layer_1_DenseReluDense_wo"
    for component in ("text_encoder_2", "text_encoder_3"):
        assert found("flux1", wo, component).modules[0].component == "text_encoder_2"
    assert found("sd3_medium", wo, "text_encoder_3").modules[0].component == "text_encoder_3"
    assert load_layout("sd3_medium").find(wo, "text_encoder_2") is None


def test_sizes_that_are_not_known_fit() -> None:
    wan = load_layout("wan21_t2v_14b")
    assert wan.find("blocks_0_ffn_0", None, (13824, None)) is not None
    assert wan.find("blocks_0_ffn_0", None, (None, 5120)) is not None
    assert wan.find("blocks_0_ffn_0", None, (None, 1536)) is None
    assert wan.find("blocks_0_ffn_0", None, (8960, None)) is None
