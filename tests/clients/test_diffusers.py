"""Files that loramix writes, loaded by diffusers itself into the real SDXL and FLUX.1.

What is proved: for every stack of inputs (Kohya, diffusers, one of each; ranks 4 and 2; text
encoders) and every output dialect, ``load_lora_weights`` ends up with ``scale * B @ A`` equal to
the intended delta in every layer of the full-size models.  The models have all their layers but
no storage: each weight is one zero seen through a stride of nought.

What diffusers does not load is listed here by name (``DROPPED``, ``NO_LOADER``), so that a
release that starts to load it is noticed.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from clients.applied import Models, applied, canonical
from clients.models import weightless
from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.lora_conversion_utils import (
    _convert_kohya_flux_lora_to_diffusers,
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from formats.builders import (
    Built,
    Pair,
    Truth,
    diffusers,
    gap,
    gaps,
    kohya,
    total,
)
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import loramix
from loramix.formats.layout import Layout, Module, load_layout

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    # A top-level proj_out also names every proj_out of the blocks, if the file has not those.
    "ignore:While injecting the PEFT adapters:RuntimeWarning",
)

SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
CLIP_L = CLIPTextConfig(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
)
BIG_G = CLIPTextConfig(
    hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
    projection_dim=1280,
)  # fmt: skip

# Kohya FLUX: converted without the prefix that the loader asks for, then ignored silently.
DROPPED = {
    "transformer.x_embedder",
    "transformer.context_embedder",
    "transformer.proj_out",
    "transformer.norm_out.linear",
    *(
        f"transformer.time_text_embed.{part}_embedder.linear_{i}"
        for part in ("timestep", "guidance", "text")
        for i in (1, 2)
    ),
}
# No part of FluxPipeline loads adapters of T5.
NO_LOADER = "text_encoder_2."

WEIGHTS = (0.7, -0.4, 1.5)
DIALECTS = ("kohya", "diffusers")
STACKS = (*DIALECTS, "mixed")
Choose = Callable[[Module], bool]


def sdxl() -> tuple[Any, Models]:
    """The pipeline and the parts that take adapters."""
    models = {
        "unet": weightless(lambda: UNet2DConditionModel(**SDXL_UNET)),
        "text_encoder": weightless(lambda: CLIPTextModel(CLIP_L)),
        "text_encoder_2": weightless(lambda: CLIPTextModelWithProjection(BIG_G)),
    }
    other = dict.fromkeys(("vae", "tokenizer", "tokenizer_2", "scheduler"))
    return StableDiffusionXLPipeline(**models, **other), models


def flux() -> tuple[Any, Models]:
    """The pipeline and the parts that take adapters."""
    models = {
        "transformer": weightless(lambda: FluxTransformer2DModel(guidance_embeds=True)),
        "text_encoder": weightless(lambda: CLIPTextModel(CLIP_L)),
    }
    other = dict.fromkeys(("vae", "tokenizer", "tokenizer_2", "scheduler", "text_encoder_2"))
    return FluxPipeline(**models, **other), models


def everything(module: Module) -> bool:
    """All but the projection, whose rank has a test of its own."""
    return module.name != "text_projection"


def sample(module: Module) -> bool:
    """One or two of each kind of module."""
    if module.name == "text_projection":
        return False
    parts = module.name.split(".")
    if module.component == "unet":
        deep = "transformer_blocks" in parts and ".transformer_blocks.0." not in module.name
        return not deep and not module.name.startswith(("down_blocks.2", "up_blocks.1"))
    first = next((part for part in parts if part.isdigit()), "0")
    return first in ("0", "11", "18", "37")


def cut(choose: Choose, *ends: str) -> Choose:
    return lambda module: choose(module) and not module.name.endswith(ends)


def stack(layout: Layout, name: str, choose: Choose, *, lacks: tuple[str, ...]) -> list[Built]:
    """Two adapters; the second lacks some modules, ranks and alphas differ.

    Kohya inputs have several alphas (what trainers with a convolution rank write).
    """
    first, second = DIALECTS if name == "mixed" else (name, name)
    made = []
    for position, (dialect, chosen) in enumerate(((first, choose), (second, cut(choose, *lacks)))):
        seed = 10**6 * (position + 1)
        ranks = ((4, 2), (2, 2))[position]
        if dialect == "kohya":
            alpha = (1.0, 0.5, 2.0)
            made.append(
                kohya(
                    layout, chosen, lambda i, r=ranks: r[i % 2], seed,
                    scale=lambda i, a=alpha: a[i % 3],
                )
            )  # fmt: skip
        else:
            made.append(diffusers(layout, chosen, lambda i, r=ranks: r[i % 2], seed))
    return made


def merged(built: list[Built], dialect: str, folder: Path) -> tuple[Path, Truth]:
    """Save, merge, and say what is meant."""
    files = [one.save(folder / f"{i}.safetensors") for i, one in enumerate(built)]
    path = folder / "merged.safetensors"
    output = loramix.Output(dialect=dialect)
    result = loramix.merge(files, "linear", weights=WEIGHTS[: len(files)], output=output, path=path)
    assert len({row.rank for row in result.log}) > 1
    return path, total((one.truth, w) for one, w in zip(built, WEIGHTS, strict=False))


def without(truth: Mapping[str, list[Pair]], *gone: str) -> Truth:
    return {key: pairs for key, pairs in truth.items() if not key.startswith(gone)}


def test_module_tables_are_those_of_the_models() -> None:
    for layout, (_, models) in (("sdxl", sdxl()), ("flux1", flux())):
        layers = {
            canonical(component, name): tuple(layer.weight.shape)
            for component, model in models.items()
            for name, layer in model.named_modules()
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
        }
        table = {
            f"{m.component}.{m.name}": m.shape
            for m in load_layout(layout).modules
            if m.component in models
        }
        assert table == layers


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", STACKS)
def test_sdxl_loads_with_the_intended_deltas(name: str, dialect: str, tmp_path: Path) -> None:
    choose = everything if name == "mixed" else sample
    lacks = ("attn2.to_k", "conv2", "mlp.fc1")
    built = stack(load_layout("sdxl"), name, choose, lacks=lacks)
    path, truth = merged(built, dialect, tmp_path)
    pipeline, models = sdxl()
    pipeline.load_lora_weights(str(path))
    assert gaps(truth, applied(models)) < 1e-6


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", STACKS)
def test_flux_loads_with_the_intended_deltas(name: str, dialect: str, tmp_path: Path) -> None:
    # In one input some fused weights have only to_q (and add_q_proj): re-fusion fills zeros.
    choose = everything if name == "mixed" else sample
    lacks = ("to_k", "to_v", "proj_mlp", "add_k_proj", "add_v_proj", "norm1.linear")
    built = stack(load_layout("flux1"), name, choose, lacks=lacks)
    path, truth = merged(built, dialect, tmp_path)
    pipeline, models = flux()
    pipeline.load_lora_weights(str(path))
    gone = (NO_LOADER, *(DROPPED if dialect == "kohya" else ()))
    assert gaps(without(truth, *gone), applied(models)) < 1e-6
    if dialect == "kohya":
        assert truth.keys() >= DROPPED


@pytest.mark.parametrize("dialect", DIALECTS)
def test_flux_with_nothing_but_to_q(dialect: str, tmp_path: Path) -> None:
    def queries(module: Module) -> bool:
        return module.name.endswith("attn.to_q") and ".1." in module.name

    built = [diffusers(load_layout("flux1"), queries, rank, rank) for rank in (4, 2)]
    files = [one.save(tmp_path / f"{i}.safetensors") for i, one in enumerate(built)]
    path = tmp_path / "merged.safetensors"
    output = loramix.Output(dialect=dialect)
    loramix.merge(files, "linear", weights=WEIGHTS[: len(files)], output=output, path=path)
    truth = total((one.truth, w) for one, w in zip(built, WEIGHTS, strict=False))
    pipeline, models = flux()
    pipeline.load_lora_weights(str(path))
    loaded = applied(models)
    assert gaps(truth, {key: loaded[key] for key in truth}) < 1e-6
    others = [pairs for key, pairs in loaded.items() if key not in truth]
    assert bool(others) == (dialect == "kohya")  # fused: keys and values come with it
    assert all(not pairs[0].dense().any() for pairs in others)


def test_flux_top_level_modules_are_right_though_the_loader_ignores_them(tmp_path: Path) -> None:
    # The converter gives them names without prefix.  It forgets alpha for final_layer, which
    # is why it is put back here; what this shows is the swapped halves of norm_out.
    layout = load_layout("flux1")

    def top(module: Module) -> bool:
        return f"{module.component}.{module.name}" in DROPPED

    built = [kohya(layout, top, lambda i: 2 + i % 3, 1), diffusers(layout, top, 2, 2)]
    path, truth = merged(built, "kohya", tmp_path)
    tensors = load_file(path)
    alphas = {k.removesuffix(".alpha"): float(v) for k, v in tensors.items() if "alpha" in k}
    converted = _convert_kohya_flux_lora_to_diffusers(dict(tensors))
    assert len(converted) == 2 * len(DROPPED)
    for key, meant in truth.items():
        module = layout.by_key["transformer", key.partition(".")[2].replace(".", "_")]
        up = converted[f"{module.name}.lora_B.weight"].numpy()
        down = converted[f"{module.name}.lora_A.weight"].numpy()
        forgotten = module.kohya.startswith("lora_unet_final_layer")
        scale = alphas[module.kohya] / len(down) if forgotten else 1.0
        assert gap(meant, [Pair(up, down, scale)]) < 1e-6


def test_kohya_has_one_alpha_for_the_whole_file(tmp_path: Path) -> None:
    # With several, diffusers gives attention layers the alpha of their neighbours.
    layout = load_layout("sdxl")
    path, _ = merged(stack(layout, "kohya", sample, lacks=("conv2",)), "kohya", tmp_path)
    tensors = load_file(path)
    alphas = {float(value) for name, value in tensors.items() if name.endswith(".alpha")}
    ranks = {len(value) for name, value in tensors.items() if name.endswith("down.weight")}
    assert len(alphas) == 1
    assert alphas < ranks
    state = _maybe_map_sgm_blocks_to_diffusers(tensors, UNetConfig())
    converted, network_alphas = _convert_non_diffusers_lora_to_diffusers(state)
    assert set(network_alphas.values()) == alphas
    assert len(converted) == 2 * len(network_alphas)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_text_projection_of_another_rank(dialect: str, tmp_path: Path) -> None:
    # The loader looks at the ranks of attention and MLP only: without metadata, which Kohya
    # files cannot have, a projection of another rank is refused.
    layout = load_layout("sdxl")

    def top(module: Module) -> bool:
        return module.component == "text_encoder_2" and ".layers.31" in module.name

    def projection(module: Module) -> bool:
        return module.name == "text_projection"

    ranks = (4, 2)
    built = [diffusers(layout, c, r, 7) for c, r in zip((top, projection), ranks, strict=True)]
    whole = [diffusers(layout, lambda m: m.component == "unet" and sample(m), 2, 8)]
    path, truth = merged([*built, *whole], dialect, tmp_path)
    pipeline, models = sdxl()
    if dialect == "kohya":
        with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
            pipeline.load_lora_weights(str(path))
    else:
        pipeline.load_lora_weights(str(path))
        assert gaps(truth, applied(models)) < 1e-6


class UNetConfig:
    """What the renaming of blocks asks of a configuration."""

    layers_per_block = 2
    block_out_channels = (320, 640, 1280)


def test_several_alphas_are_what_diffusers_gets_wrong(tmp_path: Path) -> None:
    # The reason for the rule above: the plain input, which is valid Kohya, loads wrongly.
    # If this fails, diffusers was repaired and the rule is no longer needed for its sake.
    layout = load_layout("sdxl")
    built = kohya(layout, sample, 4, 1, scale=lambda i: (1.0, 0.5)[i % 2])
    pipeline, models = sdxl()
    with pytest.warns(RuntimeWarning, match="alpha_pattern keys did not match any targeted"):
        pipeline.load_lora_weights(str(built.save(tmp_path / "in.safetensors")))
    loaded = applied(models)
    assert any(gap(built.truth[key], loaded[key]) > 0.1 for key in built.truth)


@pytest.mark.parametrize("name", ["sdxl", "flux1"])
def test_metadata_is_there_exactly_when_ranks_differ(name: str, tmp_path: Path) -> None:
    layout = load_layout(name)
    built = stack(layout, "diffusers", sample, lacks=("to_k", "k_proj"))
    path, truth = merged(built, "diffusers", tmp_path)
    with safe_open(path, "pt") as file:
        fields = json.loads(file.metadata()["lora_adapter_metadata"])
    components = {key.partition(".")[0] for key in truth}
    assert {key.partition(".")[0] for key in fields} == components
    equal = tmp_path / "equal.safetensors"
    output = loramix.Output(dialect="diffusers", rank=2)
    loramix.merge([built[0].save(tmp_path / "a.safetensors")], "linear", output=output, path=equal)
    with safe_open(equal, "pt") as file:
        assert "lora_adapter_metadata" not in file.metadata()


@pytest.mark.parametrize("name", ["sdxl", "flux1"])
def test_equal_ranks_load_without_metadata(name: str, tmp_path: Path) -> None:
    layout = load_layout(name)
    built = kohya(layout, sample, 3, 5, scale=0.5)
    path = tmp_path / "same.safetensors"
    source = built.save(tmp_path / "in.safetensors")
    loramix.merge([source], "linear", output=loramix.Output(dialect="diffusers"), path=path)
    pipeline, models = sdxl() if name == "sdxl" else flux()
    pipeline.load_lora_weights(str(path))
    assert gaps(without(built.truth, *([NO_LOADER] * (name == "flux1"))), applied(models)) < 1e-6
