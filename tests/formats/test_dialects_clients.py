"""What programs load: the safest names for each, model by model, and what is refused.

The table below is what is known of the programs, written down independently of the package: one
name per model and program, with the roles that go with it, or None where the program has no
adapters for the model.
"""

from pathlib import Path

import pytest
from formats.builders import Built, pair, spell
from safetensors.numpy import load_file

from loramix import FormatError, Merged, Output, ParamError, convert, load, merge
from loramix.cli.app import main
from loramix.formats.dialects import CLIENTS, client_for, dialect_for
from loramix.formats.layout import LAYOUTS, flatten, load_layout

KOHYA, PEFT = ("lora_up.weight", "lora_down.weight", "alpha"), ("lora_B.weight", "lora_A.weight")

# Model, canonical module, and what ComfyUI reads of it best.
COMFYUI = [
    ("sd15", "unet.mid_block.attentions.0.proj_in",
     "lora_unet_mid_block_attentions_0_proj_in", KOHYA),
    ("sd21", "unet.mid_block.attentions.0.proj_in",
     "lora_unet_mid_block_attentions_0_proj_in", KOHYA),
    ("sdxl", "unet.mid_block.attentions.0.proj_in", "lora_unet_middle_block_1_proj_in", KOHYA),
    ("sdxl", "text_encoder_2.text_model.encoder.layers.0.mlp.fc1",
     "lora_te2_text_model_encoder_layers_0_mlp_fc1", KOHYA),
    ("sd3_medium", "transformer.transformer_blocks.0.ff.net.2",
     "lora_unet_joint_blocks_0_x_block_mlp_fc2", KOHYA),
    ("sd3_medium", "text_encoder_3.encoder.block.0.layer.0.SelfAttention.q",
     "lora_te3_encoder_block_0_layer_0_SelfAttention_q", KOHYA),
    ("sd35_medium", "transformer.transformer_blocks.0.attn2.to_out.0",
     "lora_unet_joint_blocks_0_x_block_attn2_proj", KOHYA),
    ("sd35_large", "transformer.norm_out.linear",
     "lora_unet_final_layer_adaLN_modulation_1", KOHYA),
    ("flux1", "transformer.transformer_blocks.0.attn.to_q",
     "lora_unet_double_blocks_0_img_attn_qkv", KOHYA),
    ("flux1", "transformer.x_embedder", "lora_unet_img_in", KOHYA),
    ("flux1", "text_encoder.text_model.encoder.layers.0.mlp.fc1",
     "lora_te1_text_model_encoder_layers_0_mlp_fc1", KOHYA),
    ("z_image", "transformer.layers.0.attention.to_v", "lora_unet_layers_0_attention_qkv", KOHYA),
    ("z_image", "transformer.layers.0.attention.to_out.0",
     "lora_unet_layers_0_attention_out", KOHYA),
    ("lumina2", "transformer.layers.0.attn.to_q", "lora_unet_layers_0_attention_qkv", KOHYA),
    ("lumina2", "transformer.layers.0.feed_forward.linear_1",
     "lora_unet_layers_0_feed_forward_w1", KOHYA),
    ("chroma", "transformer.distilled_guidance_layer.layers.0.linear_1",
     "diffusion_model.distilled_guidance_layer.layers.0.in_layer", PEFT),
    ("flux2_dev", "transformer.double_stream_modulation_img.linear",
     "diffusion_model.double_stream_modulation_img.lin", PEFT),
    ("flux2_dev", "transformer.time_guidance_embed.timestep_embedder.linear_1",
     "diffusion_model.time_in.in_layer", PEFT),
    ("flux2_klein_4b", "transformer.single_transformer_blocks.0.attn.to_out",
     "diffusion_model.single_blocks.0.linear2", PEFT),
    ("flux2_klein_9b", "transformer.transformer_blocks.0.ff.linear_in",
     "diffusion_model.double_blocks.0.img_mlp.0", PEFT),
    ("qwen_image", "transformer.transformer_blocks.0.img_mod.1",
     "diffusion_model.transformer_blocks.0.img_mod.1", PEFT),
    ("wan21_t2v_14b", "transformer.blocks.0.attn1.to_q",
     "diffusion_model.blocks.0.self_attn.q", PEFT),
    ("wan21_t2v_1_3b", "transformer.blocks.0.ffn.net.2", "diffusion_model.blocks.0.ffn.2", PEFT),
    ("wan21_i2v_14b", "transformer.blocks.0.attn2.add_k_proj",
     "diffusion_model.blocks.0.cross_attn.k_img", PEFT),
    ("wan21_vace_1_3b", "transformer.vace_blocks.0.proj_in",
     "diffusion_model.vace_blocks.0.before_proj", PEFT),
    ("wan22_ti2v_5b", "transformer.proj_out", "diffusion_model.head.head", PEFT),
    ("ltx_video_2b", "transformer.proj_in", "diffusion_model.patchify_proj", PEFT),
    ("ltx_video_13b", "transformer.time_embed.linear", "diffusion_model.adaln_single.linear", PEFT),
    ("hunyuan_video", "transformer.transformer_blocks.0.norm1.linear",
     "diffusion_model.double_blocks.0.img_mod.lin", PEFT),
    ("hunyuan_video", "transformer.transformer_blocks.0.attn.to_q",
     "diffusion_model.double_blocks.0.img_attn.qkv", PEFT),
    ("ace_step_v1", "transformer.speaker_embedder", "diffusion_model.speaker_embedder", PEFT),
    ("ace_step_1_5", "transformer.layers.0.self_attn.to_q",
     "base_model.model.layers.0.self_attn.q_proj", PEFT),
]  # fmt: skip
MUSUBI = [
    ("flux1", "transformer.transformer_blocks.0.attn.to_q",
     "lora_unet_double_blocks_0_img_attn_qkv"),
    ("flux2_dev", "transformer.single_transformer_blocks.0.attn.to_out",
     "lora_unet_single_blocks_0_linear2"),
    ("flux2_klein_4b", "transformer.x_embedder", "lora_unet_img_in"),
    ("flux2_klein_9b", "transformer.x_embedder", "lora_unet_img_in"),
    ("z_image", "transformer.layers.0.attention.to_q", "lora_unet_layers_0_attention_to_q"),
    ("z_image", "transformer.layers.0.attention.to_out.0",
     "lora_unet_layers_0_attention_to_out_0"),
    ("qwen_image", "transformer.transformer_blocks.0.attn.to_q",
     "lora_unet_transformer_blocks_0_attn_to_q"),
    ("wan21_t2v_1_3b", "transformer.blocks.0.attn1.to_q", "lora_unet_blocks_0_self_attn_q"),
    ("wan21_t2v_14b", "transformer.blocks.0.attn1.to_q", "lora_unet_blocks_0_self_attn_q"),
    ("wan21_i2v_14b", "transformer.blocks.0.attn1.to_q", "lora_unet_blocks_0_self_attn_q"),
    ("wan21_vace_1_3b", "transformer.blocks.0.attn1.to_q", "lora_unet_blocks_0_self_attn_q"),
    ("wan22_ti2v_5b", "transformer.blocks.0.attn1.to_q", "lora_unet_blocks_0_self_attn_q"),
    ("hunyuan_video", "transformer.transformer_blocks.0.norm1.linear",
     "lora_unet_double_blocks_0_img_mod_linear"),
]  # fmt: skip
A1111 = [
    ("sd15", "unet.down_blocks.0.resnets.0.conv1", "lora_unet_down_blocks_0_resnets_0_conv1"),
    ("sd15", "text_encoder.text_model.encoder.layers.0.mlp.fc1",
     "lora_te_text_model_encoder_layers_0_mlp_fc1"),
    ("sd21", "unet.conv_in", "lora_unet_conv_in"),
    ("sdxl", "unet.down_blocks.0.resnets.0.conv1", "lora_unet_input_blocks_1_0_in_layers_2"),
]  # fmt: skip
LANGUAGE = ("llama3_8b", "qwen2_5_7b")
PROJECTION = "text_encoder_2.text_projection"
T5 = "text_encoder_2.encoder.block.0.layer.0.SelfAttention.q"


def made(name: str, key: str, folder: Path, client: str, **rule: str) -> Merged:
    component, _, module = key.partition(".")
    shape = load_layout(name).by_key[component, flatten(module)].shape
    cols = 1
    for size in shape[1:]:
        cols *= size
    built = Built(spell(key, pair(shape[0], cols, 2, 1), "AB", shape), {})
    adapter = load(built.save(folder / "source.safetensors"), architecture=name)
    path = folder / ("out" if client == "peft" else "out.safetensors")
    return merge([adapter], "linear", path=path, output=Output(client=client, **rule))


def stems(merged: Merged) -> set[str]:
    path = merged.adapter.source.path
    assert path is not None
    return set(load_file(path))


@pytest.mark.parametrize(("name", "key", "stem", "roles"), COMFYUI)
def test_comfyui(name: str, key: str, stem: str, roles: tuple[str, ...], tmp_path: Path) -> None:
    assert stems(made(name, key, tmp_path, "comfyui")) == {f"{stem}.{role}" for role in roles}


@pytest.mark.parametrize(("name", "key", "stem"), MUSUBI)
def test_musubi(name: str, key: str, stem: str, tmp_path: Path) -> None:
    assert stems(made(name, key, tmp_path, "musubi")) == {f"{stem}.{role}" for role in KOHYA}


@pytest.mark.parametrize(("name", "key", "stem"), A1111)
def test_a1111(name: str, key: str, stem: str, tmp_path: Path) -> None:
    assert stems(made(name, key, tmp_path, "a1111")) == {f"{stem}.{role}" for role in KOHYA}


@pytest.mark.parametrize("name", [n for n in LAYOUTS if n not in (*LANGUAGE, "ace_step_v1")])
def test_diffusers_gets_its_own_names(name: str, tmp_path: Path) -> None:
    module = load_layout(name).modules[0]
    key = f"{module.component}.{module.name}"
    found = stems(made(name, key, tmp_path, "diffusers"))
    assert found == {f"{key}.{role}" for role in PEFT}


@pytest.mark.parametrize("name", LAYOUTS)
def test_peft_gets_a_folder(name: str, tmp_path: Path) -> None:
    module = load_layout(name).modules[0]
    merged = made(name, f"{module.component}.{module.name}", tmp_path, "peft")
    own = module.original if name == "ace_step_1_5" else module.name
    assert stems(merged) == {f"base_model.model.{own}.{role}" for role in PEFT}
    assert (tmp_path / "out" / "adapter_config.json").is_file()


def test_the_tables_above_have_every_model() -> None:
    """Programs have adapters for these models and no others."""
    read = {
        "comfyui": {row[0] for row in COMFYUI},
        "musubi": {row[0] for row in MUSUBI},
        "a1111": {row[0] for row in A1111},
        "diffusers": set(LAYOUTS) - {*LANGUAGE, "ace_step_v1"},
        "peft": set(LAYOUTS),
    }
    assert read.keys() == CLIENTS.keys()
    for client, names in read.items():
        assert {n for n in LAYOUTS if CLIENTS[client].reads(load_layout(n))} == names
        for name in set(LAYOUTS) - names:
            with pytest.raises(
                ParamError, match=f"--for {client}: .* no adapters of {name}; .*peft"
            ):
                client_for(client, load_layout(name), "kohya")


@pytest.mark.parametrize(
    ("client", "name", "key"),
    [
        ("comfyui", "sdxl", PROJECTION),
        ("diffusers", "sdxl", PROJECTION),
        ("a1111", "sdxl", PROJECTION),
        ("diffusers", "flux1", T5),
        ("diffusers", "sd3_medium", T5.replace("_2", "_3")),
    ],
)
def test_what_a_program_does_not_load_is_refused(
    client: str, name: str, key: str, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=f"{client} does not load {key}; .*--skip"):
        made(name, key, tmp_path, client)
    assert [path.name for path in tmp_path.iterdir()] == ["source.safetensors"]


@pytest.mark.parametrize("client", ["diffusers", "peft"])
def test_a_module_that_the_model_does_not_have_is_refused(client: str, tmp_path: Path) -> None:
    """Its names would be those of the input, and no program has a place for it."""
    block = "transformer.transformer_blocks.{}.attn"
    stems = [f"{block.format(i)}.to_{x}" for i in range(4) for x in "qkv"]
    tensors = {}
    for stem in (*stems, f"{block.format(0)}.surprise"):
        tensors |= spell(stem, pair(3072, 3072, 1, 1), "AB", (3072, 3072))
    # A mask and a picture: a layer of the model's own, of another size.
    tensors |= spell("transformer.x_embedder", pair(3072, 384, 1, 1), "AB", (3072, 384))
    path = Built(tensors, {}).save(tmp_path / "source.safetensors")
    adapter = load(path, architecture="flux1")
    out = tmp_path / "out"
    name = "transformer.transformer_blocks.0.attn.surprise"
    with pytest.raises(
        FormatError, match=rf"no module of flux1 is called {name}, so {client} .*--skip"
    ):
        convert(adapter, out, client=client)
    assert not out.exists()
    made = convert(path, out, client=client, architecture="flux1", skip=["*surprise*"])
    assert any(target.key == "transformer.x_embedder" for target in made.plan.adapters[0].targets)


def test_one_module_too_many_is_enough(tmp_path: Path) -> None:
    """Musubi files have no text encoders: nothing is written, nothing is left out silently."""
    key = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
    with pytest.raises(FormatError, match=f"{key}: musubi files have no name"):
        made("flux1", key, tmp_path, "musubi")


def test_a_dialect_beside_a_program_must_be_its_own(tmp_path: Path) -> None:
    key = "unet.mid_block.attentions.0.proj_in"
    merged = made("sdxl", key, tmp_path, "a1111", dialect="kohya")
    assert merged.plan.dialect.name == "kohya"
    with pytest.raises(ParamError, match="--for a1111 writes the dialect kohya, --dialect says"):
        made("sdxl", key, tmp_path, "a1111", dialect="diffusers")


def test_a_model_without_a_table_has_no_programs(tmp_path: Path) -> None:
    built = Built(spell("diffusion_model.a.b", pair(8, 8, 2, 1), "AB", (8, 8)), {})
    adapter = load(built.save(tmp_path / "a.safetensors"))
    for client in CLIENTS:
        with pytest.raises(ParamError, match="no module table knows the model"):
            merge([adapter], "linear", output=Output(client=client))


def test_what_peft_wrote_is_for_peft_whatever_the_model(tmp_path: Path) -> None:
    key = "base_model.model.encoder.layer.0.attention.self.query"
    built = Built(spell(key, pair(8, 8, 2, 1), "AB", (8, 8)), {})
    source = built.save(tmp_path / "a.safetensors")
    convert(source, tmp_path / "out", client="peft")
    assert set(load_file(tmp_path / "out/adapter_model.safetensors")) == {
        f"{key}.{role}" for role in PEFT
    }
    with pytest.raises(ParamError, match="no module table knows the model"):
        convert(source, tmp_path / "out", client="comfyui")


def test_an_unknown_program_is_refused_with_all_names() -> None:
    with pytest.raises(ParamError, match="allowed is comfyui, diffusers, a1111, peft, musubi"):
        Output(client="invokeai")


@pytest.mark.parametrize("name", LAYOUTS)
def test_dense_differences_only_where_they_are_read(name: str) -> None:
    layout = load_layout(name)
    for client in CLIENTS.values():
        if client.reads(layout):
            dialect = dialect_for(client.dialect, layout)
            assert (dialect.diff is not None) == (client.name in ("comfyui", "a1111"))


@pytest.mark.parametrize("command", ["merge", "convert", "resize"])
def test_the_command_line(command: str, tmp_path: Path) -> None:
    key = "transformer.blocks.0.attn1.to_q"
    built = Built(spell(key, pair(1536, 1536, 2, 1), "AB", (1536, 1536)), {})
    path = built.save(tmp_path / "in.safetensors")
    out = tmp_path / "out.safetensors"
    more = ["--rank", "1"] if command == "resize" else []
    arguments = [str(path), "-o", str(out), "--architecture", "wan21_t2v_1_3b", *more]
    assert main([command, *arguments, "--for", "comfyui"]) == 0
    stem = "diffusion_model.blocks.0.self_attn.q"
    assert set(load_file(out)) == {f"{stem}.{role}" for role in PEFT}
    assert main([command, *arguments, "--for", "a1111"]) == 2
    assert main([command, *arguments, "--for", "comfyui", "--dialect", "peft"]) == 2
