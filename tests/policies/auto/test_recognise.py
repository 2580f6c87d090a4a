"""Which adapters are recognised, and by what."""

import pytest
from policies.auto.stacks import adapter

from loramix.policies.auto import recognise
from loramix.policies.auto.recognise import kind_of

KNOWN = {
    "speed": [
        "lcm-lora-sdv1-5", "LCM_LoRA_SDXL", "lcm_ssd1b", "pytorch_lora_weights_lcm",
        "sdxl_lightning_4step_lora", "SDXL-Lightning-8steps", "Qwen-Image-Lightning-8steps-V1.0",
        "Hyper-SDXL-8steps-lora", "Hyper-FLUX.1-dev-16steps-lora", "hyper_sd15", "HyperSD",
        "sd_xl_turbo_lora_v1", "FLUX.1-Turbo-Alpha", "SDXLTurbo", "turbo", "flux-schnell-lora",
        "dmd2_sdxl_4step_lora", "DMD2", "sd15_tcd_lora", "TCD-SDXL-LoRA",
        "Wan21_CausVid_14B_T2V_lora_rank32", "lightx2v_I2V_14B_480p_cfg_step_distill_rank64",
        "flux_distilled", "my style 4 steps", "Wan2.1-T2V-4steps", "flash-sdxl",
    ],
    "edit": [
        "flux-inpainting-lora", "sdxl_inpaint_v2", "flux1-canny-dev-lora", "flux1-depth-dev-lora",
        "ControlNet-LoRA-sdxl", "control-lora-depth-rank128", "instruct-pix2pix-lora",
        "Outpainting_v1", "ip2p", "Qwen-Image-Edit-lora", "flux-kontext-lora", "flux_fill",
    ],
    "preference": [
        "sdxl-dpo-lora", "Diffusion_DPO_SD15", "SPO-SDXL_4k-p_10ep_LoRA", "flux_srpo",
        "aesthetic-sdxl-lora",
    ],
}  # fmt: skip

OTHERS = [
    "turbocharged car style", "porsche_911_turbo", "porsche_911_turbo_sdxl", "Lightning Bolt",
    "lightning_style_flux", "lightning_farron_pony", "hyperrealism", "hyper_realistic_sdxl",
    "Hyper Detailed v3", "mylora-2000steps", "style-000020", "step_by_step", "steps of 40",
    "calculator", "lcmotion", "wildpose_style", "dynamic_pose", "fillmore", "editorial_photo",
    "kontext_ghibli", "flash_photography", "flashback", "fast_food", "depth_of_field",
    "quality_control_office", "spooky", "dpoints", "aesthetic_anime", "sdxl_offset_example",
    "add_detail", "Instruct-Medical-Llama", "a_fishing_lure", "remote control", "",
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name"), [(k, name) for k, names in KNOWN.items() for name in names]
)
def test_names_that_say_it(kind: str, name: str) -> None:
    found = kind_of(name)
    assert found is not None
    assert found[0] == kind


@pytest.mark.parametrize("name", OTHERS)
def test_names_that_do_not(name: str) -> None:
    assert kind_of(name) is None


def test_header_strings_that_are_titles_are_read() -> None:
    stack = [
        adapter("a", {"ss_output_name": "sdxl_lightning_4step"}),
        adapter("b", {"modelspec.title": "Diffusion DPO"}),
        adapter("c", {"ss_tag_frequency": '{"lcm": {"lcm": 3}}', "ss_training_comment": "dpo"}),
        adapter("lcm-lora", {"ss_output_name": "x"}),
    ]
    found = [(one.owner, one.kind, one.where) for one in recognise(stack)]
    assert found == [
        (0, "speed", "ss_output_name"),
        (1, "preference", "modelspec.title"),
        (3, "speed", "name"),
    ]
