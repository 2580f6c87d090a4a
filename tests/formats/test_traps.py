"""What files of real trainers do to a reader that takes names, orders and headers for granted.

Traps of shapes and families are in `families.test_traps`, those of names in `test_stems`, copies
under two names in `test_dialects_aliases`.
"""

import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from formats.builders import Built, Pair, Tensors, from_adapter, gap, gaps, kohya, pair, spell
from helpers import Raw, encode, write_safetensors
from safetensors.numpy import load_file

from loramix import FormatError, convert, load, merge
from loramix.formats.layout import load_layout
from loramix.io.safetensors import SafetensorsFile

ENCODER = "lora_te_text_model_encoder_layers_{}_self_attn_q_proj"


def few() -> Built:
    """Some modules of Stable Diffusion 1 with several ranks and scales."""
    return kohya(
        load_layout("sd15"), lambda m: "blocks.1.attentions" in m.name, lambda i: 1 + i % 3, 1,
        scale=lambda i: (1.0, 0.5)[i % 2],
    )  # fmt: skip


def raw(tensors: Tensors) -> dict[str, Raw]:
    return {name: ("F32", one.shape, encode("F32", one)) for name, one in tensors.items()}


def test_the_order_of_tensors_carries_no_meaning(tmp_path: Path) -> None:
    """Neither in the data of a file nor in its header: the same deltas, and the same output."""
    built = few()
    tensors = raw(built.tensors)
    names = sorted(tensors)
    shuffled = [names[i] for i in np.random.default_rng(3).permutation(len(names))]
    orders = {"up": names, "down": names[::-1], "shuffled": shuffled}
    written = {}
    for order, listed in orders.items():
        (tmp_path / order).mkdir()
        path = tmp_path / order / "a.safetensors"
        write_safetensors(path, {name: tensors[name] for name in listed})
        assert list(SafetensorsFile(path).tensors) == listed
        adapter = load(path)
        assert adapter.architecture == "sd15"
        assert gaps(built.truth, from_adapter(adapter)) < 1e-6
        out = tmp_path / order / "out.safetensors"
        merge([path, built.save(tmp_path / "b.safetensors")], "ties", path=out)
        written[order] = {name: one.tobytes() for name, one in load_file(out).items()}
    assert written["up"] == written["down"] == written["shuffled"]


def test_alpha_is_what_is_stored(tmp_path: Path) -> None:
    """10.67 is 10.6875 in bfloat16, and that is what every client takes."""
    one = pair(4, 5, 2, 1)
    tensors = raw(spell("x", one, ".lora_{}.weight", (4, 5)))
    tensors["x.alpha"] = ("BF16", (), encode("BF16", np.array(10.6875)))
    (factors,) = load(write_safetensors(tmp_path / "a.safetensors", tensors)).targets.values()
    assert factors.scale == 10.6875 / 2


def test_alpha_of_a_fused_pair_is_over_its_whole_rank(tmp_path: Path) -> None:
    """Trainers that split q, k and v save three blocks of rank 2 with the alpha of one of them."""
    size, stem = 3072, "lora_unet_double_blocks_0_img_attn_qkv"
    parts = [pair(size, size, 2, seed) for seed in (1, 2, 3)]
    up = np.zeros((3 * size, 6), dtype=np.float32)
    for i, part in enumerate(parts):
        up[size * i : size * (i + 1), 2 * i : 2 * i + 2] = part.up
    whole = Pair(up, np.concatenate([part.down for part in parts]))
    tensors = spell(stem, whole, ".lora_{}.weight", (3 * size, size))
    tensors[f"{stem}.alpha"] = np.array(2.0, dtype=np.float32)
    path = Built(tensors, {}).save(tmp_path / "a.safetensors")
    split = convert(path, tmp_path / "s.safetensors", dialect="diffusers", architecture="flux1")
    for name, part in zip(("to_q", "to_k", "to_v"), parts, strict=True):
        key = f"transformer.transformer_blocks.0.attn.{name}"
        meant = [Pair(part.up, part.down, 2 / 6)]
        assert gap(meant, from_adapter(split.adapter)[key]) < 1e-6


@pytest.mark.parametrize("said", ["4", "32", "Dynamic", "None"])
def test_shapes_win_over_the_rank_in_the_header(said: str, tmp_path: Path) -> None:
    built = few()
    header = {
        "ss_network_dim": said,
        "ss_network_alpha": said,
        "ss_network_module": "networks.lora",
    }
    adapter = load(built.save(tmp_path / "resized.safetensors", header))
    assert gaps(built.truth, from_adapter(adapter)) < 1e-6
    made = convert(adapter, tmp_path / "out.safetensors")
    assert made.adapter.metadata["ss_network_dim"] == "Dynamic"


@pytest.mark.parametrize("name", ["alpha", "lora_alpha"])
@pytest.mark.parametrize("style", [".lora_{}.weight", "AB"])
def test_alpha_in_the_header_is_said(name: str, style: str, tmp_path: Path) -> None:
    """No client reads it, and neither do we; but nobody who meant it goes without a word."""
    tensors = spell("x", pair(4, 5, 2, 1), style, (4, 5))
    path = Built(tensors, {}).save(tmp_path / "a.safetensors", {name: "16"})
    adapter = load(path)
    assert [factors.scale for factors in adapter.targets.values()] == [1.0]
    (note,) = [note for note in adapter.coverage.notes if "header" in note]
    assert note.startswith("1 pairs have no alpha: scale 1")
    assert f"{name} = 16 in the header is not read" in note
    told = Built(tensors | {"x.alpha": np.array(1.0)}, {})
    told.save(tmp_path / "b.safetensors", {name: "16"})
    assert not any("header" in note for note in load(tmp_path / "b.safetensors").coverage.notes)


def test_the_last_layer_of_openclip_is_no_layer_of_diffusers(tmp_path: Path) -> None:
    """The encoder of SD 2 ends at the 23rd of 24 layers; adapters of the 24th are not renamed."""
    tensors: Tensors = {}
    for layer in range(24):
        one = pair(1024, 1024, 2, layer)
        tensors |= spell(ENCODER.format(layer), one, ".lora_{}.weight", (1024, 1024), alpha=True)
    path = Built(tensors, {}).save(tmp_path / "a.safetensors")
    adapter = load(path)
    assert adapter.architecture == "sd21"
    assert "1 of 24 modules are not in the table of sd21" in adapter.coverage.notes
    last = ENCODER.format(23)
    with pytest.raises(FormatError, match=re.escape(last)):
        convert(path, tmp_path / "out.safetensors", client="diffusers")
    assert not (tmp_path / "out.safetensors").exists()
    made = convert(path, tmp_path / "out.safetensors", client="diffusers", skip=[f"{last}.*"])
    keys = {target.key for target in made.adapter.targets}
    layers = (f"text_encoder.text_model.encoder.layers.{i}.self_attn.q_proj" for i in range(23))
    assert keys == set(layers)


@pytest.mark.parametrize("kind", ["zip", "pickle"])
def test_files_of_pickles_are_not_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_lora_weights.bin"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"unet.x.lora.up.weight": [1.0, 2.0]}, protocol=2))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"x" * 64)
    with pytest.raises(FormatError, match=r"pickle.*weights_only=True.*save_file"):
        load(path)
