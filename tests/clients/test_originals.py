"""Names and rows of the original models, as diffusers itself converts checkpoints.

Every row of every weight of an original checkpoint gets a number of its own; the converter of
diffusers says where it goes; the module table must say the same.  The weights have all their
rows and a single column: no converter looks at columns.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from diffusers.loaders import single_file_utils as upstream

from loramix.formats.layout import Layout, Module, load_layout

Weights = dict[str, torch.Tensor]
Converter = Callable[..., Mapping[str, torch.Tensor]]

SD1 = {"layers_per_block": 2}
SDXL = {"layers_per_block": 2, "addition_embed_type": "text_time"}
CONVERTERS: Mapping[str, tuple[Converter, dict[str, Any]]] = {
    "sd15": (upstream.convert_ldm_unet_checkpoint, {"config": SD1}),
    "sd21": (upstream.convert_ldm_unet_checkpoint, {"config": SD1}),
    "sdxl": (upstream.convert_ldm_unet_checkpoint, {"config": SDXL}),
    "sd3_medium": (upstream.convert_sd3_transformer_checkpoint_to_diffusers, {}),
    "sd35_medium": (upstream.convert_sd3_transformer_checkpoint_to_diffusers, {}),
    "sd35_large": (upstream.convert_sd3_transformer_checkpoint_to_diffusers, {}),
    "flux1": (upstream.convert_flux_transformer_checkpoint_to_diffusers, {}),
    "flux2_dev": (upstream.convert_flux2_transformer_checkpoint_to_diffusers, {}),
    "flux2_klein_4b": (upstream.convert_flux2_transformer_checkpoint_to_diffusers, {}),
    "flux2_klein_9b": (upstream.convert_flux2_transformer_checkpoint_to_diffusers, {}),
    "chroma": (upstream.convert_chroma_transformer_checkpoint_to_diffusers, {}),
    "z_image": (upstream.convert_z_image_transformer_checkpoint_to_diffusers, {}),
    "lumina2": (upstream.convert_lumina2_to_diffusers, {}),
    "wan21_t2v_1_3b": (upstream.convert_wan_transformer_to_diffusers, {}),
    "wan21_t2v_14b": (upstream.convert_wan_transformer_to_diffusers, {}),
    "wan21_i2v_14b": (upstream.convert_wan_transformer_to_diffusers, {}),
    "wan21_vace_1_3b": (upstream.convert_wan_transformer_to_diffusers, {}),
    "wan22_ti2v_5b": (upstream.convert_wan_transformer_to_diffusers, {}),
    "ltx_video_2b": (upstream.convert_ltx_transformer_checkpoint_to_diffusers, {}),
    "ltx_video_13b": (upstream.convert_ltx_transformer_checkpoint_to_diffusers, {}),
    "hunyuan_video": (upstream.convert_hunyuan_video_transformer_to_diffusers, {}),
}


class Checkpoint(dict[str, torch.Tensor]):
    """A checkpoint; what a converter wants that is not a weight of the table is zeros."""

    def _made(self, name: str) -> torch.Tensor:
        rows = self.rows.get(name.removesuffix(".bias"), 2)
        return torch.zeros(rows)

    def __init__(self, weights: Weights) -> None:
        super().__init__(weights)
        self.rows = {name.removesuffix(".weight"): len(value) for name, value in weights.items()}

    def pop(self, name: str, *default: Any) -> Any:
        if name in self or default:
            return super().pop(name, *default)
        return self._made(name)

    def __missing__(self, name: str) -> torch.Tensor:
        return self._made(name)


def network(layout: Layout) -> list[Module]:
    return [m for m in layout.modules if not m.component.startswith("text_encoder")]


def numbered(modules: list[Module]) -> Weights:
    """Original weights, (rows, 1) float64, in which no number occurs twice."""
    rows: dict[str, int] = {}
    for module in modules:
        rows[module.original] = rows.get(module.original, 0) + module.shape[0]
    found, start = {}, 0
    for name, count in rows.items():
        found[f"{name}.weight"] = torch.arange(start, start + count, dtype=torch.float64)[:, None]
        start += count
    return found


def with_biases(weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in weights.items():
        yield key, value
        yield key.removesuffix("weight") + "bias", value[:, 0]


@pytest.mark.parametrize("name", CONVERTERS)
def test_rows_of_the_original_are_where_diffusers_puts_them(name: str) -> None:
    convert, options = CONVERTERS[name]
    modules = network(load_layout(name))
    original = numbered(modules)
    given = Checkpoint({key: value.clone() for key, value in original.items()})
    if convert is upstream.convert_ldm_unet_checkpoint:
        given = Checkpoint({f"{upstream.LDM_UNET_KEY}{key}": x for key, x in with_biases(given)})
    got = convert(checkpoint=given, **options)
    for module in modules:
        rows = original[f"{module.original}.weight"]
        mine = rows[slice(*module.rows)] if module.rows else rows
        if module.swap:
            mine = torch.cat([mine[len(mine) // 2 :], mine[: len(mine) // 2]])
        assert torch.equal(got[f"{module.name}.weight"], mine), module.name


@pytest.mark.parametrize(
    ("name", "component"),
    [("sd21", "text_encoder"), ("sdxl", "text_encoder_2"), ("sd3_medium", "text_encoder_2")],
)
def test_rows_of_openclip_are_where_diffusers_puts_them(name: str, component: str) -> None:
    modules = [
        (module, alias)
        for module in load_layout(name).modules
        for alias in module.aliases
        if module.component == component and alias.world == "openclip"
    ]
    width = next(m.shape[0] for m, _ in modules if m.name.endswith("q_proj"))
    rows: dict[str, int] = {}
    for module, alias in modules:
        rows[alias.name] = rows.get(alias.name, 0) + module.shape[0]
    # What is fused is a parameter of its own there, not a layer with a weight.
    ends = {key: "_weight" if key.endswith("in_proj") else ".weight" for key in rows}
    given = {key + ends[key]: torch.arange(count)[:, None] for key, count in rows.items()}
    encoder = SimpleNamespace(config=SimpleNamespace(hidden_size=width))
    got = upstream.convert_open_clip_checkpoint(encoder, given, prefix="")
    assert len(modules) == len(got) > 100
    for module, alias in modules:
        meant = torch.arange(rows[alias.name])[slice(*alias.rows) if alias.rows else slice(None)]
        assert torch.equal(got[f"{module.name}.weight"][:, 0], meant), module.name
