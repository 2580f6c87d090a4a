"""What trainers call base models: what is written is read again, and so is what others write."""

import json

import pytest

from loramix.formats import hints
from loramix.formats.layout import LAYOUTS

ALL = (
    "sd15", "sd21", "sdxl", "sd3_medium", "sd35_medium", "sd35_large", "flux1", "flux2_dev",
    "flux2_klein_4b", "flux2_klein_9b", "chroma", "wan21_t2v_14b", "wan21_t2v_1_3b",
    "wan21_i2v_14b", "wan21_vace_1_3b", "wan22_ti2v_5b", "qwen_image", "z_image", "lumina2",
    "ltx_video_2b", "ltx_video_13b", "hunyuan_video", "ace_step_v1", "ace_step_1_5", "llama3_8b",
    "qwen2_5_7b",
)  # fmt: skip
WAN = {name for name in ALL if name.startswith("wan")}
SD3 = {"sd3_medium", "sd35_medium", "sd35_large"}
FLUX2 = {"flux2_dev", "flux2_klein_4b", "flux2_klein_9b"}
SILENT = {"ltx_video_2b", "ltx_video_13b", "ace_step_v1", "ace_step_1_5", "llama3_8b", "qwen2_5_7b"}


def test_every_base_model_has_its_words() -> None:
    assert tuple(hints.NAMES) == ALL
    assert set(LAYOUTS) <= set(ALL)
    assert {name for name, names in hints.NAMES.items() if not names.base} == SILENT


@pytest.mark.parametrize("name", sorted(set(ALL) - SILENT))
def test_what_is_written_is_a_hint(name: str) -> None:
    names = hints.names_of(name)
    written = {hints.BASE: names.base, hints.SPEC: f"{names.spec}/lora", hints.MODULE: names.module}
    found = hints.hint_of(written)
    assert set(found) == (WAN if name in WAN else {name})
    for key, value in written.items():
        alone = hints.hint_of({key: value})
        assert name in alone or not alone


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("base", "sd_v1 sd_v1_v sd_1.5", {"sd15"}),
        ("base", "sd_v2 sd_v2_v sd_2.1", {"sd21"}),
        ("base", "sdxl_base_v1-0 sdxl_1.0 sdxl_ SDXL_1.0", {"sdxl"}),
        ("base", "sd3m", {"sd3_medium"}),
        ("base", "sd_3", SD3),
        ("base", "flux1 flux.1 flux_kontext flux.1_kontext", {"flux1"}),
        ("base", "flux2", FLUX2),
        ("base", "flux_2_klein_9b", {"flux2_klein_9b"}),
        ("base", "wan", WAN),
        ("base", "wan_2.1", WAN - {"wan22_ti2v_5b"}),
        ("base", "wan_2.2_14b", {"wan21_t2v_14b", "wan21_i2v_14b"}),
        ("base", "wan_2.2_5b", {"wan22_ti2v_5b"}),
        ("base", "qwen_image qwen_image_edit qwen_image_layered", {"qwen_image"}),
        ("base", "z_image zimage", {"z_image"}),
        ("base", "chroma", {"chroma"}),
        ("base", "lumina2", {"lumina2"}),
        ("base", "hunyuan_video", {"hunyuan_video"}),
        # Known to trainers, and no base model of ours: close names must not be taken for it.
        (
            "base",
            "hunyuan_video_1_5 hunyuan-image-2.1 ltx2 framepack anima kandinsky5 krea2",
            set(),
        ),
        ("spec", "stable-diffusion-v1 stable-diffusion-v1/lora", {"sd15"}),
        ("spec", "stable-diffusion-v2-512/lora stable-diffusion-v2-768-v", {"sd21"}),
        ("spec", "stable-diffusion-xl-v1-base/lora", {"sdxl"}),
        ("spec", "stable-diffusion-3", SD3),
        ("spec", "flux-1-dev/lora flux-1-schnell Flux.1-dev", {"flux1"}),
        ("spec", "Flux.2-dev", {"flux2_dev"}),
        ("spec", "Flux.2-klein-4b", {"flux2_klein_4b"}),
        ("spec", "wan2.1", WAN),
        ("spec", "Qwen-Image/lora", {"qwen_image"}),
        ("spec", "Z-Image", {"z_image"}),
        ("spec", "anima-preview framepack hunyuan-image-2.1", set()),
        ("module", "networks.lora_flux", {"flux1", "chroma"}),
        ("module", "networks.lora_sd3", SD3),
        ("module", "networks.lora_wan", WAN),
        ("module", "networks.lora networks.oft lycoris.kohya", set()),
    ],
)
def test_words_of_trainers(key: str, values: str, expected: set[str]) -> None:
    name = {"base": hints.BASE, "spec": hints.SPEC, "module": hints.MODULE}[key]
    for value in values.split():
        assert set(hints.hint_of({name: value})) == expected, value


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("black-forest-labs/FLUX.1-dev", ("flux1",)),
        ("black-forest-labs/FLUX.2-klein-base-4B/", ("flux2_klein_4b",)),
        ("stabilityai/stable-diffusion-xl-base-1.0", ("sdxl",)),
        ("/models/stable-diffusion-3-medium-diffusers", ("sd3_medium",)),
        ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", ("wan21_t2v_14b",)),
        ("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", ("wan21_i2v_14b",)),
        ("Lightricks/LTX-Video-0.9.7-dev", ("ltx_video_2b", "ltx_video_13b")),
        ("Qwen/Qwen2.5-7B-Instruct", ("qwen2_5_7b",)),
        ("Qwen/Qwen2.5-72B", ()),
        ("meta-llama/Llama-3.1-8B", ("llama3_8b",)),
        ("meta-llama/Llama-3.2-1B", ()),
        (None, ()),
        (3, ()),
    ],
)
def test_base_models_of_configs(base: object, expected: tuple[str, ...]) -> None:
    config = json.dumps({"base_model_name_or_path": base})
    assert hints.hint_of({"adapter_config.json": config}) == expected


def test_words_narrow_each_other_and_contradictions_say_nothing() -> None:
    both = {hints.MODULE: "networks.lora_flux", hints.SPEC: "chroma/lora"}
    assert hints.hint_of(both) == ("chroma",)
    assert hints.hint_of({hints.BASE: "sd_3", hints.SPEC: "stable-diffusion-3-m"}) == (
        "sd3_medium",
    )
    assert hints.hint_of({hints.BASE: "sdxl_1.0", hints.SPEC: "flux-1-dev/lora"}) == ()
    assert hints.hint_of({hints.BASE: "mine", hints.SPEC: "flux-1-dev"}) == ("flux1",)


@pytest.mark.parametrize(
    "text", ["", " ", "no json", "[", "[" * 99999, "[1]", '"x"', "\x00", "é" * 9]
)
def test_garbage_is_no_hint(text: str) -> None:
    keys = (hints.BASE, hints.SPEC, hints.MODULE, "adapter_config.json")
    assert hints.hint_of(dict.fromkeys(keys, text)) == ()
