"""Dialects: how a target's name becomes a stem, and a stem a name.

Reading is one rule for all files: cut a known prefix, flatten, look the rest up in the module
tables.  A dialect only says which prefixes are its own and how it spells what it writes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from loramix.errors import FormatError
from loramix.formats.layout import Layout, flatten
from loramix.types import Target

# Prefix, component (None: the network, whatever the layout calls it), dialect.
_PREFIXES: tuple[tuple[str, str | None, str], ...] = (
    ("base_model.model.", None, "peft"),
    ("lora_unet_", None, "kohya"),
    ("lora_te1_", "text_encoder", "kohya"),
    ("lora_te2_", "text_encoder_2", "kohya"),
    ("lora_te3_", "text_encoder_3", "kohya"),
    ("lora_te_", "text_encoder", "kohya"),
    ("unet.", "unet", "diffusers"),
    ("transformer.", "transformer", "diffusers"),
    ("text_encoder.", "text_encoder", "diffusers"),
    ("text_encoder_2.", "text_encoder_2", "diffusers"),
    ("text_encoder_3.", "text_encoder_3", "diffusers"),
)
NETWORKS = ("unet", "transformer")
COMPONENTS = (*NETWORKS, "text_encoder", "text_encoder_2", "text_encoder_3")
_UNNAMED = "model"
_PROCESSOR = re.compile(r"(?:\.processor)?\.to_(q|k|v|out)$")


@dataclass(frozen=True, slots=True)
class Stem:
    """A stem, taken apart.

    Attributes
    ----------
    text : as it stands in the file.
    component : of the model, None if the prefix does not say.
    path : what follows the prefix.
    dialect : whose prefix it is; ``plain`` if it has none.
    """

    text: str
    component: str | None
    path: str
    dialect: str

    @property
    def key(self) -> str:
        """Canonical key when no layout knows better."""
        if self.dialect == "kohya":  # flattened names cannot be unflattened by rule
            return f"{self.component or _UNNAMED}.{self.text}"
        return f"{self.component}.{self.path}" if self.component else self.path


def split_stem(text: str) -> Stem:
    """Cut the prefix of a stem."""
    rest = text.replace("_orig_mod.", "")  # torch.compile leaves it anywhere
    if rest.endswith("_lora"):
        rest = _without_processor(rest.removesuffix("_lora"))
    for prefix, component, dialect in _PREFIXES:
        if rest.startswith(prefix):
            return Stem(text, component, rest[len(prefix) :], dialect)
    return Stem(text, None, rest, "plain")


def _without_processor(stem: str) -> str:
    """``attn1.processor.to_out`` -> ``attn1.to_out.0``; text encoders use ``q_proj``."""
    if ".self_attn." in stem:
        return _PROCESSOR.sub(r".\1_proj", stem)
    return _PROCESSOR.sub(lambda m: ".to_out.0" if m[1] == "out" else f".to_{m[1]}", stem)


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
class Dialect:
    """How to write.

    Attributes
    ----------
    name : as users write it.
    up, down : what follows the stem, dots included.
    diff : the same of a dense difference; None if the dialect's clients read none.
    alpha : whether a scalar ``.alpha`` goes with every pair.
    fused : whether modules that the original model fuses are written fused.
    folder : whether the output is a folder with a config, as PEFT wants it.
    one_component : whether a file holds one part of a pipeline only.
    stem : name of a target.
    vectors : how biases, norms and modulations are written.
    embedding : what follows the stem of an embedding's up and down side, both written transposed;
        None if the dialect's clients read none.
    """

    name: str
    up: str
    down: str
    diff: str | None
    alpha: bool
    fused: bool
    one_component: bool
    folder: bool
    stem: Callable[[Target, Layout | None], str]
    vectors: Vectors
    embedding: tuple[str, str] | None = None


def _kohya_stem(target: Target, layout: Layout | None) -> str:
    component, _, name = target.key.partition(".")
    if name.startswith("lora_"):
        return name
    module = layout.by_key.get((component, flatten(name))) if layout else None
    if module and module.kohya is not None:
        return module.kohya
    prefix = layout.prefixes.get(component) if layout else None
    if layout and prefix is not None and prefix + flatten(name) in layout.by_kohya:
        return prefix + flatten(name)  # a fused original
    message = (
        f"{target.key}: no module table knows it, so it has no Kohya name; write another dialect"
    )
    raise FormatError(message)


def _diffusers_stem(target: Target, _layout: Layout | None) -> str:
    component, _, name = target.key.partition(".")
    if not name.startswith("lora_") and component in COMPONENTS:
        return target.key
    message = (
        f"{target.key}: neither a module table nor its file says which part of a diffusers "
        "pipeline it belongs to; write the dialect of the input instead"
    )
    raise FormatError(message)


def _plain_stem(target: Target, layout: Layout | None) -> str:
    component, _, name = target.key.partition(".")
    if name.startswith("lora_"):
        message = f"{target.key}: a flattened name of an unknown model; only Kohya can hold it"
        raise FormatError(message)
    known = layout is not None and component in layout.prefixes
    return name if known or component in NETWORKS else target.key


def _peft_stem(target: Target, layout: Layout | None) -> str:
    return "base_model.model." + _plain_stem(target, layout)


_LORA_AB = (".lora_B.weight", ".lora_A.weight")
_KOHYA = (".lora_up.weight", ".lora_down.weight")
_DIFFERENCES = Vectors(".diff_b", ".w_norm", ".b_norm", ".diff_m")
_LORA_BIAS = Vectors(".lora_B.bias", lone_bias=False)
_EMBEDDING = (".lora_embedding_A", ".lora_embedding_B")
_ALL = (
    Dialect(
        "kohya", *_KOHYA, diff=".diff", alpha=True, fused=True, one_component=False,
        folder=False, stem=_kohya_stem, vectors=_DIFFERENCES,
    ),
    Dialect(
        "diffusers", *_LORA_AB, diff=None, alpha=False, fused=False, one_component=False,
        folder=False, stem=_diffusers_stem, vectors=_LORA_BIAS,
    ),
    Dialect(
        "peft", *_LORA_AB, diff=None, alpha=False, fused=False, one_component=True, folder=True,
        stem=_peft_stem, vectors=_LORA_BIAS, embedding=_EMBEDDING,
    ),
    Dialect(
        "plain", *_LORA_AB, diff=None, alpha=False, fused=False, one_component=True, folder=False,
        stem=_plain_stem, vectors=_LORA_BIAS,
    ),
)  # fmt: skip
DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in _ALL}
