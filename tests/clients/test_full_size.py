"""Adapters of the full size, loaded by diffusers into the real models of several architectures.

What tiny models cannot show: architectures recognised by names and shapes alone, and converters
of diffusers that know sizes by heart.  The models have no storage (`clients.models.weightless`),
so what is compared is ``scale * B @ A`` of every layer.  SDXL and FLUX.1 are in `test_diffusers`.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers
import pytest
from clients.applied import applied
from clients.models import CLIENTS, pipeline_of, weightless
from clients.tiny import SPELLINGS, adapter, among
from formats.builders import Truth, gap, gaps, total

import loramix
from loramix.formats.layout import Module, load_layout

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    # A top-level proj_out also names every proj_out of the blocks, if the file has not those.
    "ignore:While injecting the PEFT adapters:RuntimeWarning",
    # What is dropped may have had a rank of its own.
    "ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning",
)

# Where the defaults of the class are not those of the model.
CONFIGS: Mapping[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768},
    "sd3_medium": {
        "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
        "pos_embed_max_size": 192,
    },
    "flux1": {"guidance_embeds": True},
    "flux2_klein_4b": {
        "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24,
        "joint_attention_dim": 7680, "guidance_embeds": False,
    },
    "lumina2": {"cap_feat_dim": 2304},
    "wan21_t2v_1_3b": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
}  # fmt: skip
# Dialects that diffusers reads, and modules that it does not take from them: see
# `test_tiny_models`, where the dialects are that need no full model.
_TOP = {"x_embedder": "dropped", "context_embedder": "dropped", "proj_out": "dropped"}
ROWS: Mapping[tuple[str, str], Mapping[str, str]] = {
    ("sd15", "diffusers"): {},
    ("sd15", "kohya"): {},
    ("sd3_medium", "diffusers"): {},
    ("flux1", "onetrainer"): {
        "*.norm*.linear": "error", "*.ff*": "error", "*.proj_mlp": "error", "*.proj_out": "error",
    },
    ("flux2_klein_4b", "diffusers"): {},
    ("flux2_klein_4b", "ai-toolkit"): {"norm_out.linear": "wrong"},
    ("chroma", "diffusers"): {},
    ("chroma", "kohya"): {**_TOP, "distilled_guidance_layer.*": "error"},
    ("z_image", "diffusers"): {},
    ("z_image", "comfyui"): {"all_x_embedder.*": "dropped", "all_final_layer.*": "dropped"},
    ("z_image", "musubi"): {},
    ("z_image", "ai-toolkit"): {},
    ("lumina2", "diffusers"): {},
    ("wan21_t2v_1_3b", "diffusers"): {},
    ("wan21_t2v_1_3b", "ai-toolkit"): {"patch_embedding": "error"},
    ("ltx_video_2b", "diffusers"): {},
    ("hunyuan_video", "diffusers"): {},
    ("hunyuan_video", "original"): {
        "norm_out.linear": "wrong",
        "context_embedder.token_refiner.refiner_blocks.*.attn.to_[qkv]": "error",
    },
}  # fmt: skip
WEIGHTS = (0.7, -0.4)


def sample(module: Module) -> bool:
    """The first and the tenth block of each kind, and what is in no block."""
    if module.component.startswith("text_encoder"):
        return False
    first = next((part for part in module.name.split(".") if part.isdigit()), "0")
    return first in ("0", "9")


def loaded(
    name: str, dialect: str, folder: Path, *, without: Iterable[str] = ()
) -> tuple[Truth, Truth]:
    """What is meant, and what diffusers adds to the layers of the full model."""
    client, layout = CLIENTS[name], load_layout(name)
    # Those dialects write no fused names, and modules of a fused input cannot be left out.
    spelling = SPELLINGS["diffusers" if dialect == "onetrainer" else "kohya"]
    built = [
        adapter(
            layout, spelling, lambda m: sample(m) and not among(m.name, without), seed,
            ranks=ranks, scales=(1.0, 0.5),
        )
        for seed, ranks in ((1, (2, 1)), (1000, (1, 3)))
    ]  # fmt: skip
    # The blocks of Chroma are those of FLUX.1: without the rest only the header tells.
    header = {"ss_base_model_version": "chroma"} if name == "chroma" else {}
    files = [one.save(folder / f"{i}.safetensors", header) for i, one in enumerate(built)]
    path, output = folder / "merged.safetensors", loramix.Output(dialect=dialect)
    result = loramix.merge(files, "linear", weights=WEIGHTS, output=output, path=path)
    assert result.adapter.architecture == name
    model = weightless(lambda: getattr(diffusers, client.model)(**CONFIGS.get(name, {})))
    pipeline_of(str(client.pipeline), {client.component: model}).load_lora_weights(str(path))
    meant = total((one.truth, weight) for one, weight in zip(built, WEIGHTS, strict=True))
    return meant, applied({client.component: model})


@pytest.mark.parametrize(("name", "dialect"), ROWS)
def test_full_models_load_the_intended_deltas(name: str, dialect: str, tmp_path: Path) -> None:
    meant, got = loaded(name, dialect, tmp_path, without=ROWS[name, dialect])
    assert gaps(meant, got) < 1e-6


@pytest.mark.parametrize(
    ("name", "dialect", "pattern"),
    [(*key, pattern) for key, wrong in ROWS.items() for pattern in wrong],
)
def test_what_diffusers_gets_wrong_is_still_wrong(
    name: str, dialect: str, pattern: str, tmp_path: Path
) -> None:
    wrong = ROWS[name, dialect]
    others = [other for other in wrong if other != pattern]
    if wrong[pattern] == "error":
        with pytest.raises((ValueError, KeyError, RuntimeError)):
            loaded(name, dialect, tmp_path, without=others)
        return
    meant, got = loaded(name, dialect, tmp_path, without=others)
    bad = {key for key in meant if among(key.partition(".")[2], [pattern])}
    assert bad
    if wrong[pattern] == "dropped":
        assert meant.keys() - got.keys() == bad
    else:
        assert {key for key in meant if gap(meant[key], got[key]) > 0.1} == bad


@pytest.mark.parametrize("client", ["diffusers", "peft"])
def test_transposed_convolutions_are_refused(client: str, tmp_path: Path) -> None:
    # PEFT refuses the layer, and with it the file; in one for ComfyUI it may be.
    layout = load_layout("ace_step_1_5")
    chosen = {"proj_out_conv", "layers.0.self_attn.to_q"}
    built = adapter(
        layout, SPELLINGS["peft"], lambda m: m.name in chosen, 1, ranks=(2,), scales=(1.0,)
    )
    source = built.save(tmp_path / "in.safetensors")
    with pytest.raises(loramix.FormatError, match=f"{client} does not load .*proj_out_conv"):
        loramix.merge(
            [source], "linear", output=loramix.Output(client=client), path=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()
    path = tmp_path / "diffusers.safetensors"
    loramix.merge([source], "linear", output=loramix.Output(dialect="diffusers"), path=path)
    model = CLIENTS["ace_step_1_5"].make()
    with pytest.raises(ValueError, match=r"ConvTranspose1d.* is not supported"):
        CLIENTS["ace_step_1_5"].load(model, str(path))
