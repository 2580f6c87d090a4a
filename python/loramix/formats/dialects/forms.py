"""The table of dialects that can be written: one form per dialect and model.

A dialect is listed only for the models whose adapters some program reads in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from loramix.formats.layout import LAYOUTS, SUFFIX, Layout

Roles: TypeAlias = Literal["kohya", "peft", "xlabs"]
Naming: TypeAlias = Literal["kohya", "name", "original", "comfy", "xlabs"]
Encoders: TypeAlias = Literal["kohya", "parts", "alone", "none"]
Header: TypeAlias = Literal["kohya", "diffusers", "none"]

ROLES: Mapping[Roles, tuple[str, str]] = {
    "kohya": (".lora_up.weight", ".lora_down.weight"),
    "peft": (".lora_B.weight", ".lora_A.weight"),
    "xlabs": (".up.weight", ".down.weight"),
}


@dataclass(frozen=True, slots=True)
class Form:
    """How one dialect spells the modules of one model.

    Attributes
    ----------
    naming : whose names: those of ``Module.kohya``, ``Module.name`` and so on.
    network : prefix of the network's modules; that of the layout where naming is ``kohya``.
    flat : whether dots become underscores.
    roles : what follows the stem; ``kohya`` has an alpha with every pair.
    encoders : text encoders: with ``kohya`` stems; as ``parts`` of a pipeline, component first;
        ``alone`` in a file, like a network; or not at all.
    renumbered : prefixes of text encoders that differ from those of the layout.
    """

    naming: Naming
    network: str
    flat: bool
    roles: Roles
    encoders: Encoders = "none"
    renumbered: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Vectors:
    """What follows the stem where a difference is no matrix; None if no client reads one.

    Attributes
    ----------
    bias : of a linear layer or a convolution.
    norm, norm_bias : of a norm.
    modulation : of a parameter of a block (Wan).
    lone_bias : whether the bias may stand without a pair of factors.
    """

    bias: str | None = None
    norm: str | None = None
    norm_bias: str | None = None
    modulation: str | None = None
    lone_bias: bool = True


@dataclass(frozen=True, slots=True)
class Rule:
    """A dialect.

    Attributes
    ----------
    forms : models and their form, the first row that has a model counts; ``*`` are all models
        with a table, ``own`` are those whose table is a user's, ``-`` those without.
    dense : suffix of a dense difference; None if the readers of the dialect know none.
    folder : whether the output is a folder with a config, as PEFT wants it.
    header : whose strings go into the header.
    vectors : how biases, norms and modulations are written.
    embedding : what follows the stem of an embedding's up and down side, both written transposed;
        None if the dialect's readers know none.
    """

    forms: tuple[tuple[tuple[str, ...], Form], ...]
    dense: str | None = None
    folder: bool = False
    header: Header = "none"
    vectors: Vectors = Vectors()
    embedding: tuple[str, str] | None = None


_SD = ("sd15", "sd21")
_SD3 = ("sd3_medium", "sd35_medium", "sd35_large")
_FLUX2 = ("flux2_dev", "flux2_klein_4b", "flux2_klein_9b")
_WAN = (
    "wan21_t2v_1_3b", "wan21_t2v_14b", "wan21_i2v_14b", "wan21_vace_1_3b", "wan22_ti2v_5b",
)  # fmt: skip
_LTX = ("ltx_video_2b", "ltx_video_13b")
_LLM = ("llama3_8b", "qwen2_5_7b")
_DIFFUSERS = tuple(name for name in LAYOUTS if name not in (*_LLM, "ace_step_v1"))
_ANY = ("*",)
_OWN = ("own",)
_UNKNOWN = ("-",)

# Whose names, and what stands around them; where a trainer has several forms the model decides.
_KOHYA = Form("kohya", "lora_unet_", flat=True, roles="kohya", encoders="kohya")
_NETWORK = Form("kohya", "lora_unet_", flat=True, roles="kohya")
_SPLIT = Form("name", "lora_unet_", flat=True, roles="kohya", encoders="kohya")
# Musubi and ComfyUI flatten names of HunyuanVideo that differ.
_FLAT_COMFY = Form("comfy", "lora_unet_", flat=True, roles="kohya", encoders="kohya")
_LYCORIS = Form("name", "lycoris_", flat=True, roles="kohya")
_ONETRAINER = Form("name", "lora_transformer_", flat=True, roles="kohya", encoders="kohya")
_ORIGINAL = Form("original", "", flat=False, roles="peft")
_MODEL_ORIGINAL = Form("original", "diffusion_model.", flat=False, roles="peft")
_COMFY = Form("comfy", "diffusion_model.", flat=False, roles="peft")
_COMFY_SPLIT = Form("name", "diffusion_model.", flat=False, roles="peft")
_PARTS = Form("name", "transformer.", flat=False, roles="peft", encoders="parts")
_BARE = Form("name", "", flat=False, roles="peft", encoders="alone")
_PEFT = Form("name", "base_model.model.", flat=False, roles="peft", encoders="alone")
_PEFT_ORIGINAL = Form("original", "base_model.model.", flat=False, roles="peft", encoders="alone")

_DIFFERENCES = Vectors(".diff_b", ".w_norm", ".b_norm", ".diff_m")
_LORA_BIAS = Vectors(".lora_B.bias", lone_bias=False)

RULES: Mapping[str, Rule] = {
    "kohya": Rule(
        ((("hunyuan_video",), _FLAT_COMFY), (_ANY, _KOHYA), (_UNKNOWN, _KOHYA)),
        dense=".diff",
        vectors=_DIFFERENCES,
        header="kohya",
    ),
    "diffusers": Rule(
        ((_DIFFUSERS, _PARTS), (_OWN, _PARTS), (_UNKNOWN, _PARTS)),
        header="diffusers",
        vectors=_LORA_BIAS,
    ),
    "peft": Rule(
        ((("ace_step_1_5",), _PEFT_ORIGINAL), (_ANY, _PEFT), (_UNKNOWN, _PEFT)),
        folder=True,
        vectors=_LORA_BIAS,
        embedding=(".lora_embedding_A", ".lora_embedding_B"),
    ),
    "comfyui": Rule(
        (
            ((*_SD, "sdxl", *_SD3, "flux1", "z_image", "lumina2"), _KOHYA),
            # Its own weights have a prefix of their own there, which no adapter writes.
            (("ace_step_1_5",), _PEFT_ORIGINAL),
            ((*_FLUX2, "chroma", "qwen_image", *_WAN, *_LTX, "hunyuan_video"), _COMFY),
            (("ace_step_v1", *_OWN), _COMFY),
            (_UNKNOWN, _COMFY_SPLIT),
        ),
        dense=".diff",
        vectors=_DIFFERENCES,
    ),
    "musubi": Rule(
        (
            (("z_image",), _SPLIT),
            (("flux1", *_FLUX2, *_WAN, "qwen_image", "hunyuan_video"), _NETWORK),
        ),
        header="kohya",
    ),
    "ai-toolkit": Rule(
        (
            (_SD, _KOHYA),
            (("sdxl",), _SPLIT),
            (("flux1", *_SD3, "lumina2"), _PARTS),
            (("chroma", *_FLUX2, *_WAN), _MODEL_ORIGINAL),
            (("qwen_image", "z_image"), _COMFY_SPLIT),
        ),
    ),
    "onetrainer": Rule(
        (
            ((*_SD, "sdxl"), _SPLIT),
            ((*_SD3, "chroma"), _ONETRAINER),
            (
                ("flux1",),
                Form(
                    "name", "lora_transformer_", flat=True, roles="kohya", encoders="kohya",
                    renumbered={"text_encoder_2": "lora_te2_"},
                ),
            ),
        ),
        header="kohya",
    ),
    "lycoris": Rule(
        (
            (("ace_step_1_5",), Form("original", "lycoris_", flat=True, roles="kohya")),
            ((*_SD, "sdxl", *_SD3, "flux1", "chroma", *_FLUX2, "z_image", "qwen_image"), _LYCORIS),
        ),
        dense=".diff",
        vectors=_DIFFERENCES,
    ),
    "original": Rule(((_ANY, _ORIGINAL),), vectors=_LORA_BIAS),
    "xlabs": Rule(((("flux1",), Form("xlabs", "", flat=False, roles="xlabs")),)),
    "plain": Rule(((_ANY, _BARE), (_UNKNOWN, _BARE)), vectors=_LORA_BIAS),
}  # fmt: skip


def form_of(name: str, layout: Layout | None) -> Form | None:
    """How a dialect spells a model; None if nobody reads such files."""
    model = "-" if layout is None else "own" if layout.name.endswith(SUFFIX) else layout.name
    rows = ((models, form) for models, form in RULES[name].forms)
    form = next((f for m, f in rows if model in m or (layout and m == _ANY)), None)
    if form is None or layout is None or form.naming != "kohya":
        return form
    return None if None in layout.prefixes.values() else form
