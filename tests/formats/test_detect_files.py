"""Detection of whole files: what is read, what is noted, and what a stack makes of open cases."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from formats.builders import (
    Built,
    diffusers,
    from_adapter,
    gaps,
    identical,
    kohya,
    pair,
    spell,
    total,
)

from loramix import FormatError, Output, ParamError, inspect, load, merge
from loramix.formats.layout import Module, load_layout
from loramix.groups import agreed, align, common_architecture
from loramix.report import inspection

SHARED = re.compile(r"(single_)?transformer_blocks\.0\.(attn|ff|proj)")


def matching(pattern: str) -> Callable[[Module], bool]:
    return lambda m: m.component == "transformer" and re.search(pattern, m.name) is not None


def flux_or_chroma(folder: Path, metadata: dict[str, str] | None = None, seed: int = 1) -> Path:
    built = kohya(load_layout("flux1"), lambda m: bool(SHARED.match(m.name)), 2, seed)
    return built.save(folder / f"{seed}.safetensors", metadata)


def test_what_fits_text_to_video_follows_image_to_video(tmp_path: Path) -> None:
    block = r"^blocks\.0\.attn2"
    t2v = diffusers(load_layout("wan21_t2v_14b"), matching(block), 2, 1)
    i2v = kohya(load_layout("wan21_i2v_14b"), matching(block), 2, 2)
    paths = [t2v.save(tmp_path / "t2v.safetensors"), i2v.save(tmp_path / "i2v.safetensors")]
    adapters = [load(path) for path in paths]
    assert [a.architecture for a in adapters] == ["wan21_t2v_14b", "wan21_i2v_14b"]
    for stack in (adapters, adapters[::-1]):
        assert agreed(stack) == common_architecture(stack) == "wan21_i2v_14b"
        assert len(align(stack, split=True)) == 6
        merged = merge(stack, "linear").adapter
        assert merged.architecture == "wan21_i2v_14b"
        assert gaps(total([(t2v.truth, 1.0), (i2v.truth, 1.0)]), from_adapter(merged)) < 1e-6


def test_a_reason_in_one_file_goes_before_none_in_another(tmp_path: Path) -> None:
    open_case = load(flux_or_chroma(tmp_path))
    hinted = load(flux_or_chroma(tmp_path, {"ss_base_model_version": "chroma"}, seed=2))
    assert [open_case.architecture, hinted.architecture] == ["flux1", "chroma"]
    assert agreed([open_case, hinted]) == agreed([hinted, open_case]) == "chroma"
    merged = merge([open_case, hinted], "linear")
    assert merged.adapter.architecture in ("flux1", "chroma")


def test_reasons_against_each_other_are_refused(tmp_path: Path) -> None:
    folder = tmp_path
    hunyuan = load(flux_or_chroma(folder, {"ss_base_model_version": "hunyuan_video"}))
    chroma = load(flux_or_chroma(folder, {"ss_base_model_version": "chroma"}, seed=2))
    assert agreed([hunyuan, chroma]) is None
    with pytest.raises(FormatError, match=r"2 is for chroma \(100 % .* 1 for hunyuan_video"):
        common_architecture([hunyuan, chroma])
    assert agreed([load(a.source.path or "", architecture="flux1") for a in (hunyuan, chroma)]) == (
        "flux1"
    )


def test_notes_say_what_was_open_and_what_decided(tmp_path: Path) -> None:
    adapter = load(flux_or_chroma(tmp_path, {"ss_base_model_version": "chroma"}))
    assert adapter.coverage.notes == (
        "fits flux1, chroma, hunyuan_video equally well; taken for chroma: "
        "its metadata name chroma",
    )
    text = kohya(load_layout("sd15"), lambda m: m.component == "text_encoder", 1, 1)
    (note,) = load(text.save(tmp_path / "te.safetensors")).coverage.notes
    assert note == (
        "fits sd15, sdxl, sd3_medium, sd35_medium, sd35_large, flux1 equally well; "
        "--architecture decides"
    )


def test_inspection_names_the_runner_up(tmp_path: Path) -> None:
    whole = kohya(
        load_layout("flux1"), matching(r"^transformer_blocks\.18\.|^x_emb|^norm_out"), 1, 1
    )
    found = inspect(whole.save(tmp_path / "whole.safetensors"))
    assert found.runner_up == ("hunyuan_video", 11 / 12)
    assert "flux1 (100 % of its modules fit; next is hunyuan_video, 91.7 %)" in inspection.render(
        found.as_dict()
    )
    strange = spell("x.fc", pair(3, 4, 1, 1), "AB", (3, 4))
    half = Built(
        {
            **whole.tensors,
            **{k.replace("x.", f"x{i}."): v for k, v in strange.items() for i in range(9)},
        },
        {},
    )
    unknown = inspect(half.save(tmp_path / "half.safetensors"))
    assert (unknown.architecture, unknown.runner_up) == (None, ("flux1", 12 / 21))
    assert "unknown (nearest is flux1, 57.1 %)" in inspection.render(unknown.as_dict())


def test_names_of_openclip_are_split_when_read(tmp_path: Path) -> None:
    prefix = "text_encoder_2.transformer.resblocks.0"
    layer = "text_encoder_2.text_model.encoder.layers.0"
    fused, out = pair(3840, 1280, 2, 1), pair(1280, 1280, 2, 2)
    tensors = spell(f"{prefix}.attn.in_proj", fused, "AB", (3840, 1280))
    tensors |= spell(f"{prefix}.attn.out_proj", out, "AB", (1280, 1280))
    path = Built(tensors, {}).save(tmp_path / "a.safetensors")
    truth = {f"{layer}.self_attn.out_proj": [out]}
    for i, x in enumerate("qkv"):
        truth[f"{layer}.self_attn.{x}_proj"] = [fused.rows(1280 * i, 1280 * (i + 1))]
    assert identical(truth, from_adapter(load(path, architecture="sdxl")))
    # A part beside the whole would count twice.
    tensors |= spell(f"{layer}.self_attn.k_proj", pair(1280, 1280, 2, 3), "AB", (1280, 1280))
    path = Built(tensors, {}).save(tmp_path / "b.safetensors")
    with pytest.raises(FormatError, match=r"both change text_encoder_2\.\S+k_proj, differently"):
        load(path, architecture="sdxl")


def test_a_module_table_of_ones_own(tmp_path: Path) -> None:
    table = tmp_path / "tiny.layout"
    table.write_text(
        "[transformer lora_unet_]\nblocks.{0..1}.attn.{to_q,to_k}  8x4  b.{}.{q,k}\n",
        encoding="utf-8",
    )
    layout = load_layout(str(table))
    first, second = kohya(layout, None, 2, 1), diffusers(layout, None, 2, 2)
    paths = [first.save(tmp_path / "a.safetensors"), second.save(tmp_path / "b.safetensors")]
    assert [load(path).architecture for path in paths] == [None, None]
    merged = merge(paths, "linear", architecture=str(table)).adapter
    assert gaps(total([(first.truth, 1.0), (second.truth, 1.0)]), from_adapter(merged)) < 1e-6
    table.with_name("bad.layout").write_text("[transformer\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"bad\.layout, line 1: "):
        load(paths[0], architecture=str(table.with_name("bad.layout")))


def test_models_without_kohya_names_cannot_be_written_so(tmp_path: Path) -> None:
    built = diffusers(load_layout("llama3_8b"), matching(r"layers\.0\.self_attn\.[qk]"), 2, 1)
    tensors = {
        k.replace("transformer.", "base_model.model.", 1): v for k, v in built.tensors.items()
    }
    path = Built(tensors, built.truth).save(tmp_path / "a.safetensors")
    adapter = load(path)
    assert (adapter.architecture, adapter.dialect) == ("llama3_8b", "peft")
    assert identical(built.truth, from_adapter(adapter))
    with pytest.raises(ParamError, match="kohya: nobody reads adapters of llama3_8b"):
        merge([path], "linear", output=Output(dialect="kohya"))


def test_a_wide_module_is_no_other_model(tmp_path: Path) -> None:
    # FLUX.1 control adapters read 128 channels: one module of another shape, in the same model.
    layout = load_layout("flux1")
    built = diffusers(layout, matching(r"^transformer_blocks\.18\.|^norm_out"), 1, 1)
    wide = spell("transformer.x_embedder", pair(3072, 128, 1, 9), "AB", (3072, 128))
    adapter = load(Built({**built.tensors, **wide}, {}).save(tmp_path / "a.safetensors"))
    assert adapter.architecture == "flux1"
    assert any("1 of 16 modules are not in the table" in note for note in adapter.coverage.notes)
    assert np.isclose(adapter.match, 15 / 16)
