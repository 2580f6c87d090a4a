"""What trainers call base models in the header of a file: what is written, and what it hints at.

A hint is no proof: many files have none, and merged ones can have a wrong one.  Shapes win.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from loramix.formats.scales import CONFIG

BASE = "ss_base_model_version"
SPEC = "modelspec.architecture"
MODULE = "ss_network_module"


@dataclass(frozen=True, slots=True)
class Names:
    """What trainers of Kohya files call one base model; empty where they have no word for it.

    Attributes
    ----------
    base : ``ss_base_model_version``.
    spec : ``modelspec.architecture``, without the ``/lora`` behind it.
    module : ``ss_network_module`` of a plain LoRA.
    code : ``modelspec.implementation``: whose names of modules a Kohya file has.
    v2 : ``ss_v2``; by it one reader tells Stable Diffusion 2 from 1.
    """

    base: str = ""
    spec: str = ""
    module: str = "networks.lora"
    code: str = ""
    v2: str = ""


_SGM = "https://github.com/Stability-AI/generative-models"
_BFL = "https://github.com/black-forest-labs/flux"
_FLUX2 = "networks.lora_flux_2"
_WAN = Names("wan", "wan2.1", "networks.lora_wan")

# Architecture -> the words of sd-scripts, or of Musubi for what sd-scripts does not train.
NAMES: Mapping[str, Names] = MappingProxyType({
    "sd15": Names("sd_v1", "stable-diffusion-v1", code="diffusers", v2="False"),
    # Which of the two specs it is depends on the prediction type, which no tensor tells.
    "sd21": Names("sd_v2", "", code="diffusers", v2="True"),
    "sdxl": Names("sdxl_base_v1-0", "stable-diffusion-xl-v1-base", code=_SGM, v2="False"),
    "sd3_medium": Names("sd3m", "stable-diffusion-3-m", "networks.lora_sd3"),
    "sd35_medium": Names("sd35-medium", "stable-diffusion-3-5-medium", "networks.lora_sd3"),
    "sd35_large": Names("sd35-large", "stable-diffusion-3-5-large", "networks.lora_sd3"),
    "flux1": Names("flux1", "flux-1-dev", "networks.lora_flux", _BFL, "False"),
    "flux2_dev": Names("flux_2_dev", "Flux.2-dev", _FLUX2),
    "flux2_klein_4b": Names("flux_2_klein_4b", "Flux.2-klein-4b", _FLUX2),
    "flux2_klein_9b": Names("flux_2_klein_9b", "Flux.2-klein-9b", _FLUX2),
    "chroma": Names("chroma", "chroma", "networks.lora_flux", _BFL),
    "wan21_t2v_14b": _WAN,
    "wan21_t2v_1_3b": _WAN,
    "wan21_i2v_14b": _WAN,
    "wan21_vace_1_3b": _WAN,
    "wan22_ti2v_5b": _WAN,
    "qwen_image": Names("qwen_image", "Qwen-Image", "networks.lora_qwen_image"),
    "z_image": Names("z_image", "Z-Image", "networks.lora_zimage"),
    "lumina2": Names("lumina2", "lumina-2", "networks.lora_lumina"),
    "ltx_video_2b": Names(),
    "ltx_video_13b": Names(),
    "hunyuan_video": Names("hunyuan_video", "hunyuan-video"),
    "ace_step_v1": Names(),
    "ace_step_1_5": Names(),
    "llama3_8b": Names(),
    "qwen2_5_7b": Names(),
})  # fmt: skip
_UNKNOWN = Names()

_SD3 = ("sd3_medium", "sd35_medium", "sd35_large")
_SD35 = ("sd35_medium", "sd35_large")
_WAN14 = ("wan21_t2v_14b", "wan21_i2v_14b")
_WANS = (*_WAN14, "wan21_t2v_1_3b", "wan21_vace_1_3b", "wan22_ti2v_5b")
_FLUX2S = ("flux2_dev", "flux2_klein_4b", "flux2_klein_9b")
_LTX = ("ltx_video_2b", "ltx_video_13b")

# Other words than those above, in lower case.  Of sd-scripts, Musubi, AI-Toolkit and OneTrainer.
_BASES: Mapping[str, tuple[str, ...]] = {
    "sd_v1_v": ("sd15",), "sd_1.5": ("sd15",),
    "sd_v2_v": ("sd21",), "sd_2.1": ("sd21",),
    "sdxl_1.0": ("sdxl",), "sdxl_": ("sdxl",),
    "sd_3": _SD3, "sd35": _SD35,
    "flux.1": ("flux1",), "flux_kontext": ("flux1",), "flux.1_kontext": ("flux1",),
    "flux2": _FLUX2S,
    "wan_2.1": (*_WAN14, "wan21_t2v_1_3b", "wan21_vace_1_3b"),
    "wan_2.2_14b": _WAN14, "wan_2.2_5b": ("wan22_ti2v_5b",),
    "qwen_image_edit": ("qwen_image",), "qwen_image_layered": ("qwen_image",),
    "zimage": ("z_image",),
}  # fmt: skip
_SPECS: Mapping[str, tuple[str, ...]] = {
    "stable-diffusion-v2-512": ("sd21",), "stable-diffusion-v2-768-v": ("sd21",),
    "stable-diffusion-3": _SD3, "stable-diffusion-3-medium": ("sd3_medium",),
    "stable-diffusion-3.5-medium": ("sd35_medium",),
    "stable-diffusion-3.5-large": ("sd35_large",),
    "flux-1": ("flux1",), "flux-1-schnell": ("flux1",), "flux.1-dev": ("flux1",),
    "flux.1-schnell": ("flux1",), "flux.1-kontext-dev": ("flux1",),
}  # fmt: skip
# The names of repositories that PEFT notes in its config, in lower case, without -diffusers.
_REPOSITORIES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(pattern), names)
    for pattern, names in (
        (r"flux\.?2-klein(?:-base)?-4b", ("flux2_klein_4b",)),
        (r"flux\.?2-klein(?:-base)?-9b", ("flux2_klein_9b",)),
        (r"flux\.?2-dev", ("flux2_dev",)),
        (r"flux\.?1-(?:dev|schnell|kontext-dev|fill-dev|krea-dev)", ("flux1",)),
        (r"chroma1?(?:-hd|-base)?", ("chroma",)),
        (r"qwen-image(?:-edit|-layered)?", ("qwen_image",)),
        (r"z-image(?:-turbo|-base)?", ("z_image",)),
        (r"lumina-image-2\.0", ("lumina2",)),
        (r"stable-diffusion-xl-base-1\.0", ("sdxl",)),
        (r"stable-diffusion-v1-[45]", ("sd15",)),
        (r"stable-diffusion-2(?:-1)?(?:-base)?", ("sd21",)),
        (r"stable-diffusion-3-medium", ("sd3_medium",)),
        (r"stable-diffusion-3\.5-medium", ("sd35_medium",)),
        (r"stable-diffusion-3\.5-large(?:-turbo)?", ("sd35_large",)),
        (r"wan2\.2-ti2v-5b", ("wan22_ti2v_5b",)),
        (r"wan2\.[12]-t2v-(?:a?14b)", ("wan21_t2v_14b",)),
        (r"wan2\.1-t2v-1\.3b", ("wan21_t2v_1_3b",)),
        (r"wan2\.[12]-i2v-(?:a?14b)(?:-[0-9]+p)?", ("wan21_i2v_14b",)),
        (r"wan2\.1-vace-1\.3b", ("wan21_vace_1_3b",)),
        (r"ltx-video(?:-.*)?", _LTX),
        (r"hunyuanvideo", ("hunyuan_video",)),
        (r"ace-step-v1(?:-3\.5b)?", ("ace_step_v1",)),
        (r"ace-step-v1\.5", ("ace_step_1_5",)),
        (r"(?:meta-)?llama-3(?:\.1)?-8b(?:-instruct)?", ("llama3_8b",)),
        (r"qwen2\.5-7b(?:-instruct)?", ("qwen2_5_7b",)),
    )
)


def names_of(architecture: str | None) -> Names:
    """What trainers call a base model; all empty for one that they, or we, do not know."""
    return NAMES.get(architecture or "", _UNKNOWN)


def hint_of(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Architectures that the strings of a header name; several where the words are alike.

    Parameters
    ----------
    metadata : strings of the header, with the text of ``adapter_config.json`` under that name.

    Returns
    -------
    In the order of `NAMES`.  Empty if nothing is named, if the words are not known, or if they
    contradict each other.

    Examples
    --------
    >>> hint_of({"ss_base_model_version": "flux_2_dev"})
    ('flux2_dev',)
    >>> hint_of({"ss_network_module": "networks.lora_flux"})
    ('flux1', 'chroma')
    """
    said = [named(key, metadata[key]) for key in (BASE, SPEC, MODULE) if key in metadata]
    said.append(_repository(metadata.get(CONFIG)))
    sets = [set(one) for one in said if one]
    both = set.intersection(*sets) if sets else set()
    return tuple(name for name in NAMES if name in both)


def named(key: str, value: str) -> tuple[str, ...]:
    """Architectures that one string of a header names; empty if it says nothing that we know.

    Parameters
    ----------
    key : ``ss_base_model_version``, ``modelspec.architecture`` or ``ss_network_module``.
    """
    word = value.strip().lower()
    if key == SPEC:
        word = word.removesuffix("/lora")
        return _SPECS.get(word) or _written(word, "spec")
    if key == BASE:
        return _BASES.get(word) or _written(word, "base")
    # The plain module is that of many models, and LyCORIS has one for all.
    return () if word == _UNKNOWN.module else _written(word, "module")


def _written(word: str, column: str) -> tuple[str, ...]:
    """Architectures for which this is the word that we write."""
    return tuple(
        name for name, names in NAMES.items() if word and getattr(names, column).lower() == word
    )


def _repository(config: str | None) -> tuple[str, ...]:
    """Architectures that the base model of a PEFT config names."""
    try:
        fields = json.loads(config) if config else {}
    except (ValueError, RecursionError):
        return ()
    base = fields.get("base_model_name_or_path") if isinstance(fields, dict) else None
    name = base.lower().rstrip("/").rpartition("/")[2] if isinstance(base, str) else ""
    name = name.removesuffix("-diffusers")
    return next((found for pattern, found in _REPOSITORIES if pattern.fullmatch(name)), ())
