"""Stems: what stands before the role in a tensor's name, taken apart.

One rule for all files: spell old forms anew, cut the known prefixes at the start, and look the
rest up in a module table, flattened.  Whole names only: `lookup` never guesses from a part of one.
"""

import re
from dataclasses import dataclass

from loramix.formats.layout import Hit, Layout, flatten

NETWORKS = ("unet", "transformer")
COMPONENTS = (
    *NETWORKS, "transformer_2", "prior", "text_encoder", "text_encoder_2", "text_encoder_3",
)  # fmt: skip
_ENCODER = "text_encoder"
_UNNAMED = "model"

# What is wrapped around a model says nothing about its part.
_WRAPPERS = (("base_model.model.", "peft"), ("module.", ""))
# Prefix and dialect of the network, whatever a layout calls it.
_DOTTED = (
    ("model.diffusion_model.", "comfyui"),
    ("diffusion_model.", "comfyui"),
    ("pipe.dit.", "diffsynth"),
    ("dit.", "diffsynth"),
)
# Prefix, part of the pipeline, dialect.
_PARTS = (
    ("unet.", "unet", "diffusers"),
    ("transformer.", "transformer", "diffusers"),
    ("transformer_2.", "transformer_2", "diffusers"),  # the second expert of Wan 2.2
    ("conditional_transformer.", "transformer", "diffusers"),
    ("prior.", "prior", "diffusers"),
    ("text_encoder.", "text_encoder", "diffusers"),
    ("text_encoder_2.", "text_encoder_2", "diffusers"),
    ("text_encoder_3.", "text_encoder_3", "diffusers"),
    ("text_encoders.clip_l.transformer.", "text_encoder", "comfyui"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2", "comfyui"),
    ("text_encoders.t5xxl.transformer.", "text_encoder_3", "comfyui"),
    ("conditioner.embedders.0.transformer.", "text_encoder", "original"),
    ("conditioner.embedders.1.model.", "text_encoder_2", "original"),
    ("cond_stage_model.transformer.", "text_encoder", "original"),
    ("cond_stage_model.model.", "text_encoder", "original"),
)
# The same in front of flattened names, the longer before the shorter.
_FLAT = (
    ("lora_unet__", None, "videox-fun"),
    ("lora_unet_", None, "kohya"),
    ("oft_unet_", None, "kohya"),
    ("lora_transformer_", None, "onetrainer"),
    ("lora_prior_unet_", "prior", "kohya"),
    ("lora_prior_te_", "text_encoder", "kohya"),
    ("lora_te1_", "text_encoder", "kohya"),
    ("lora_te2_", "text_encoder_2", "kohya"),
    ("lora_te3_", "text_encoder_3", "kohya"),
    ("lora_te_", "text_encoder", "kohya"),
    ("lycoris_", None, "lycoris"),
)
FLAT_PREFIXES = tuple(prefix for prefix, _, _ in _FLAT)

# Attention processors of old diffusers releases; text encoders have other names there.
_PROCESSOR = re.compile(r"(?:\.processor)?\.to_(q|k|v|out)_lora$|\.processor\.to_(q|k|v|out)$")
# XLabs trains FLUX.1 through processors, too: 1 is the image stream, 2 the text stream.
_XLABS = re.compile(r"(.*)\.processor\.(qkv|proj)_lora([12]?)$")
_XLABS_NAMES = {
    ("qkv", "1"): "img_attn.qkv",
    ("proj", "1"): "img_attn.proj",
    ("qkv", "2"): "txt_attn.qkv",
    ("proj", "2"): "txt_attn.proj",
    ("qkv", ""): "linear1_qkv",
    ("proj", ""): "linear2",
}
PARTIAL = "linear1_qkv"
"""The first members of the fused ``linear1``: queries, keys and values without the MLP."""
_WHOLE, _MEMBERS = "linear1", 3
_CUT_OFF = "sformer_blocks."  # a producer cut the first characters of transformer_blocks off


@dataclass(frozen=True, slots=True)
class Stem:
    """A stem, taken apart.

    Attributes
    ----------
    text : as it stands in the file.
    component : of the model, None if the prefix does not say.
    path : what follows the prefix, in today's spelling.
    dialect : whose prefix it is; ``plain`` if it has none.
    prefix : that of a flattened name, else empty.
    """

    text: str
    component: str | None
    path: str
    dialect: str
    prefix: str = ""

    @property
    def flat(self) -> bool:
        """Whether the dots are underscores, which cannot be undone by rule."""
        return bool(self.prefix)

    @property
    def key(self) -> str:
        """Canonical key when no layout knows better."""
        if self.flat:
            return f"{self.component or _UNNAMED}.{self.text}"
        return f"{self.component}.{self.path}" if self.component else self.path


def split_stem(text: str) -> Stem:
    """Cut the prefixes of a stem."""
    rest = text.replace("_orig_mod.", "")  # torch.compile leaves it anywhere
    for prefix, component, dialect in _FLAT:
        if rest.startswith(prefix):
            return Stem(text, component, rest[len(prefix) :], dialect, prefix)
    rest, xlabs = _respelled(rest)
    rest, wrapper = _unwrapped(rest)
    found = next((row for row in _parts(wrapper) if rest.startswith(row[0])), None)
    if found is None:
        if rest.startswith(_CUT_OFF):
            rest = "tran" + rest
        return Stem(text, None, rest, "xlabs" if xlabs else wrapper or "plain")
    prefix, component, dialect = found
    path, _ = _unwrapped(rest[len(prefix) :])
    return Stem(text, component, path, "xlabs" if xlabs else wrapper or dialect)


def _parts(wrapper: str) -> tuple[tuple[str, str | None, str], ...]:
    network = tuple((prefix, None, dialect) for prefix, dialect in _DOTTED)
    # Behind PEFT's wrapper "transformer." is a module of the model, as in GPT-2.
    return network if wrapper else (*network, *_PARTS)


def _unwrapped(path: str) -> tuple[str, str]:
    """A path without wrappers, and the dialect that they speak of."""
    found = ""
    while True:
        row = next((row for row in _WRAPPERS if path.startswith(row[0])), None)
        if row is None:
            return path, found
        path, found = path.removeprefix(row[0]), found or row[1]


def _respelled(stem: str) -> tuple[str, bool]:
    """Today's name of what old trainers gave another, and whether it is one of XLabs."""
    match = _XLABS.fullmatch(stem)
    if match and (match[2], match[3]) in _XLABS_NAMES:
        return f"{match[1]}.{_XLABS_NAMES[match[2], match[3]]}", True
    match = _PROCESSOR.search(stem)
    if match is None:
        return stem, False
    which, head = match[1] or match[2], stem[: match.start()]
    if head.endswith(".self_attn"):
        return f"{head}.{which}_proj", False
    return f"{head}.to_out.0" if which == "out" else f"{head}.to_{which}", False


def lookup(stem: Stem, layout: Layout, size: tuple[int | None, int | None]) -> Hit | None:
    """Modules of a layout that a stem names and a delta of this size fits.

    Several if it names a fused weight, or a part of one; None if the layout has no such weight.

    Parameters
    ----------
    size : rows and columns; None: not known.
    """
    for component, path in _places(stem, layout):
        flat = flatten(path)
        hit = layout.find(flat, component, size) or _part(flat, component, layout, size)
        if hit is not None:
            return hit
    return None


def partial_of(key: str) -> tuple[str, int | None]:
    """The name of the first members of a fused weight and how many they are.

    None are all: those that have no other name than that of the whole.
    """
    if key.endswith(f".{_WHOLE}"):
        return key.removesuffix(_WHOLE) + PARTIAL, _MEMBERS
    return key, None


def _places(stem: Stem, layout: Layout) -> list[tuple[str | None, str]]:
    """Components and paths to look up, in this order."""
    if stem.component is None and stem.dialect != "peft":
        return [(None, stem.path)]
    found: list[tuple[str | None, str]] = [(c, stem.path) for c in _components(stem, layout)]
    if stem.dialect == "peft" and stem.component is None:
        # PEFT around a pipeline's part, not around a model that calls a module "transformer".
        parts = ((part, prefix) for prefix, part, _ in _PARTS if stem.path.startswith(prefix))
        found += [(part, stem.path.removeprefix(prefix)) for part, prefix in parts]
    # transformers 5 has no such level any more, and files that are saved with it neither.
    found += [(c, f"text_model.{path}") for c, path in found if (c or "").startswith(_ENCODER)]
    return found


def _components(stem: Stem, layout: Layout) -> tuple[str | None, ...]:
    """The parts of the pipeline that may be meant, the likeliest first.

    Trainers number text encoders differently: lora_te2_ is T5 in OneTrainer's FLUX.1 files and
    CLIP-G in those of SDXL.  So names and sizes decide, and the number only comes first.  Those of
    diffusers are the pipeline's own.
    """
    numbered = (stem.component or "").startswith(_ENCODER) and stem.dialect != "diffusers"
    if not numbered:
        return (stem.component,)
    kohya = [c for c, prefix in layout.prefixes.items() if prefix == stem.prefix]
    encoders = [c for c in layout.prefixes if c.startswith(_ENCODER)]
    return tuple(dict.fromkeys([*kohya, stem.component, *encoders]))


def _part(
    flat: str, component: str | None, layout: Layout, size: tuple[int | None, int | None]
) -> Hit | None:
    """The first members of a fused weight that has a name for them."""
    if not flat.endswith(f"_{PARTIAL}"):
        return None
    whole = layout.find(flat.removesuffix(PARTIAL) + _WHOLE, component, (None, size[1]))
    if whole is None or len(whole.modules) <= _MEMBERS:
        return None
    first = whole.modules[:_MEMBERS]
    rows = sum(module.shape[0] for module in first)
    return Hit(first, whole.swapped, whole.world) if size[0] in (None, rows) else None
