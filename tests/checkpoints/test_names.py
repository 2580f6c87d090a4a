"""Which stored tensor, and which rows of it, a canonical target is."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from checkpoints.models import matrix, modules_of, raw, tensors_of, values
from helpers import F64, decode, encode, write_safetensors

from loramix import Checkpoint, FormatError, open_checkpoint
from loramix.checkpoints import Place
from loramix.formats.layout import load_layout


def entries(model: Checkpoint, key: str) -> F64:
    tensor = model.weight(key)
    assert tensor is not None, key
    return decode(tensor.dtype, bytes(tensor.data)).reshape(tensor.shape[0], -1)


PREFIXES = {"full": "model.diffusion_model.", "comfy": "diffusion_model.", "bare": ""}


@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_a_network_under_every_prefix_and_name(tmp_path: Path, prefix: str, original: bool) -> None:
    modules = modules_of("sdxl", "unet", 30)
    tensors = tensors_of(modules, prefix, original=original)
    tensors[f"{prefix}some.norm.weight"] = raw((7,), 99)
    model = open_checkpoint(write_safetensors(tmp_path / "x.safetensors", tensors))
    assert (model.architecture, model.match) == ("sdxl", 1.0)
    for module in modules:
        name = prefix + (module.original if original else module.name)
        key = f"unet.{module.name}"
        assert model.place(key) == Place(f"{name}.weight")
        assert model.place(f"{key}.bias") == Place(f"{name}.bias")
        assert np.array_equal(entries(model, key), matrix(tensors[f"{name}.weight"]))
        weight = model.weight(key)
        assert weight is not None
        assert weight.data.obj is model.tensors[f"{name}.weight"].data.obj  # a view
    assert model.place("unet.some.other") is None
    assert model.weight("unet.some.other") is None
    assert model.weight("unet.some.other.bias") is None


def test_a_full_checkpoint_has_its_text_encoders(tmp_path: Path) -> None:
    unet = modules_of("sdxl", "unet", 20)
    encoder = modules_of("sdxl", "text_encoder", 300)
    layout = load_layout("sdxl")
    encoder = [m for m in layout.modules if m.component == "text_encoder"][:4]
    prefix = "conditioner.embedders.0.transformer."
    tensors = tensors_of(unet, "model.diffusion_model.", original=True)
    tensors |= tensors_of(encoder, prefix)
    tensors["first_stage_model.decoder.conv_in.weight"] = raw((8, 8), 1)
    tensors["first_stage_model.decoder.conv_out.weight"] = raw((8, 8), 2)
    model = open_checkpoint(write_safetensors(tmp_path / "x.safetensors", tensors))
    assert (model.architecture, model.match) == ("sdxl", 1.0)
    for module in encoder:
        assert model.place(f"text_encoder.{module.name}") == Place(f"{prefix}{module.name}.weight")


def test_a_level_that_newer_encoders_do_not_have(tmp_path: Path) -> None:
    encoder = [m for m in load_layout("sd15").modules if m.component == "text_encoder"][:4]
    tensors = tensors_of(encoder)
    short = {
        f"cond_stage_model.transformer.{name.removeprefix('text_model.')}": one
        for name, one in tensors.items()
    }
    path = write_safetensors(tmp_path / "x.safetensors", short)
    model = open_checkpoint(path, architecture="sd15")
    for module in encoder:
        assert model.weight(f"text_encoder.{module.name}") is not None


def test_a_full_sdxl_file_has_openclip_names(tmp_path: Path) -> None:
    """The second text encoder: fused rows of q, k and v, and names of its own."""
    width, prefix = 1280, "conditioner.embedders.1.model.transformer.resblocks.0."
    fused = values((3 * width, width), 3).astype("<f2")
    tensors = tensors_of(modules_of("sdxl", "unet", 4), "model.diffusion_model.", original=True)
    tensors[f"{prefix}attn.in_proj_weight"] = ("F16", fused.shape, fused.tobytes())
    tensors[f"{prefix}attn.in_proj_bias"] = ("F16", (3 * width,), fused[:, 0].tobytes())
    tensors[f"{prefix}attn.out_proj.weight"] = raw((width, width), 4)
    model = open_checkpoint(write_safetensors(tmp_path / "x.safetensors", tensors))
    assert (model.architecture, model.match) == ("sdxl", 1.0)
    layer = "text_encoder_2.text_model.encoder.layers.0.self_attn"
    for at, name in enumerate(("q_proj", "k_proj", "v_proj")):
        rows = (at * width, (at + 1) * width)
        assert model.place(f"{layer}.{name}") == Place(f"{prefix}attn.in_proj_weight", rows)
        assert model.place(f"{layer}.{name}.bias") == Place(f"{prefix}attn.in_proj_bias", rows)
        assert np.array_equal(entries(model, f"{layer}.{name}"), fused[slice(*rows)])
    assert model.place(f"{layer}.out_proj") == Place(f"{prefix}attn.out_proj.weight")


def test_norms_that_change_names(tmp_path: Path) -> None:
    """Wan calls two norms of a block the other way round in its own code."""
    tensors = {f"blocks.0.norm3.{role}": raw((1536,), 1) for role in ("weight", "bias")}
    path = write_safetensors(tmp_path / "x.safetensors", tensors)
    model = open_checkpoint(path, architecture="wan21_t2v_1_3b")
    assert model.place("transformer.blocks.0.norm2") == Place("blocks.0.norm3.weight")
    assert model.place("transformer.blocks.0.norm2.bias") == Place("blocks.0.norm3.bias")


@pytest.mark.parametrize("name", ["wan21_t2v_14b", "wan21_i2v_14b", "flux1", "chroma", "sd21"])
def test_whole_models_are_told_from_larger_and_smaller_ones(name: str, tmp_path: Path) -> None:
    """By their table: a file with all of its modules, of which no byte is there."""
    layout = load_layout(name)
    network = next(iter(layout.prefixes))
    shapes = {f"{m.name}.weight": m.shape for m in layout.modules if m.component == network}
    header: dict[str, object] = {}
    at = 0
    for key, shape in shapes.items():
        size = int(np.prod(shape))
        header[key] = {"dtype": "F8_E4M3", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)  # a hole
    assert open_checkpoint(path).architecture == name


def flux() -> dict[str, tuple[int, ...]]:
    """Fused and swapped weights of FLUX.1, cut to a few columns by nobody: they are as they are."""
    return {
        "double_blocks.0.img_attn.qkv": (9216, 3072),
        "final_layer.adaLN_modulation.1": (6144, 3072),
    }


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two weights of FLUX.1 under their original names; the first numbers of a row tell it."""
    tensors = {}
    for name, (rows, cols) in flux().items():
        data = np.zeros((rows, cols), dtype=np.float32)
        data[:, 0] = np.arange(rows)
        data[:, 1] = 1.0
        tensors[f"{name}.weight"] = ("F32", (rows, cols), data.tobytes())
        tensors[f"{name}.bias"] = ("F32", (rows,), data[:, 0].tobytes())
    return write_safetensors(tmp_path_factory.mktemp("flux") / "x.safetensors", tensors)


def test_parts_of_fused_weights_are_rows_of_them(fused: Path) -> None:
    model = open_checkpoint(fused, architecture="flux1")
    name = "double_blocks.0.img_attn.qkv"
    for at, part in enumerate(("to_q", "to_k", "to_v")):
        key = f"transformer.transformer_blocks.0.attn.{part}"
        rows = (3072 * at, 3072 * (at + 1))
        assert model.place(key) == Place(f"{name}.weight", rows)
        assert model.place(f"{key}.bias") == Place(f"{name}.bias", rows)
        assert entries(model, key)[:, 0].tolist() == list(range(*rows))
    assert model.place(f"transformer.{name}") == Place(f"{name}.weight")


def test_swapped_halves_are_put_right(fused: Path) -> None:
    model = open_checkpoint(fused, architecture="flux1")
    key, name = "transformer.norm_out.linear", "final_layer.adaLN_modulation.1"
    assert model.place(key) == Place(f"{name}.weight", None, swapped=True)
    order = [*range(3072, 6144), *range(3072)]
    assert entries(model, key)[:, 0].tolist() == order
    assert entries(model, f"{key}.bias")[:, 0].tolist() == order


def test_a_fused_weight_is_put_together(tmp_path: Path) -> None:
    parts = {}
    for at, name in enumerate(("to_q", "to_k", "to_v")):
        data = np.full((3072, 3072), at, dtype=np.float16)
        parts[f"transformer_blocks.0.attn.{name}.weight"] = ("F16", (3072, 3072), data.tobytes())
        bias = np.full(3072, at, dtype=np.float16).tobytes()
        parts[f"transformer_blocks.0.attn.{name}.bias"] = ("F16", (3072,), bias)
    path = write_safetensors(tmp_path / "x.safetensors", parts)
    model = open_checkpoint(path, architecture="flux1")
    key = "transformer.double_blocks.0.img_attn.qkv"
    assert model.place(key) is None
    assert [place.name for place in model.places(key)] == [n for n in parts if "weight" in n]
    for name in (key, f"{key}.bias"):
        found = entries(model, name)
        assert len(found) == 9216
        assert [found[i * 3072, 0] for i in range(3)] == [0, 1, 2]
    assert model.places("transformer.double_blocks.1.img_attn.qkv") == ()
    assert model.places("transformer.unheard.of") == ()


LLM = {
    "model.embed_tokens.weight": (32, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.q_proj.bias": (8,),
    "model.layers.1.mlp.down_proj.weight": (8, 12),
    "lm_head.weight": (32, 8),
}


def test_unknown_models_are_known_by_their_names(tmp_path: Path) -> None:
    tensors = {name: raw(shape, i) for i, (name, shape) in enumerate(LLM.items())}
    model = open_checkpoint(write_safetensors(tmp_path / "x.safetensors", tensors))
    assert model.architecture is None
    for name in LLM:
        if name.endswith(".weight"):
            assert model.place(name.removesuffix(".weight")) == Place(name)
    bias = "model.layers.0.self_attn.q_proj.bias"
    assert model.place(bias) == Place(bias)
    assert model.place("lm_head.bias") is None


def test_flattened_names_of_unknown_models(tmp_path: Path) -> None:
    tensors = {
        "model.diffusion_model.blocks.0.to_q.weight": raw((4, 4), 0),
        "model.diffusion_model.twin.a_b.weight": raw((4, 4), 1),
        "model.diffusion_model.twin_a.b.weight": raw((4, 4), 2),
    }
    model = open_checkpoint(write_safetensors(tmp_path / "x.safetensors", tensors))
    name = "model.diffusion_model.blocks.0.to_q.weight"
    assert model.place("unet.blocks.0.to_q") == Place(name)
    assert model.place("transformer.blocks.0.to_q") == Place(name)
    assert model.place("model.lora_unet_blocks_0_to_q") == Place(name)
    assert model.place("model.lora_unet_twin_a_b") is None  # could be either
    assert model.place("text_encoder.lora_te_blocks_0_to_q") is None


def test_a_weight_under_two_names_is_refused(tmp_path: Path) -> None:
    module = modules_of("sdxl", "unet", 1)
    tensors = tensors_of(module, "model.diffusion_model.", original=True) | tensors_of(module)
    path = write_safetensors(tmp_path / "x.safetensors", tensors)
    with pytest.raises(FormatError, match="both hold unet"):
        open_checkpoint(path)


def test_in_projections_have_their_own_suffix(tmp_path: Path) -> None:
    name = "transformer.resblocks.0.attn.in_proj"
    tensors = {f"x.{name}_weight": raw((12, 4), 0), f"x.{name}_bias": raw((12,), 1)}
    model = open_checkpoint(write_safetensors(tmp_path / "x.safetensors", tensors))
    assert model.place(f"x.{name}") == Place(f"x.{name}_weight")
    assert model.place(f"x.{name}.bias") == Place(f"x.{name}_bias")
    assert np.array_equal(
        entries(model, f"x.{name}"),
        decode("BF16", encode("BF16", values((12, 4), 0))).reshape(12, 4),
    )
