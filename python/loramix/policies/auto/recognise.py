"""Adapters that must not be mixed with others: what they say of themselves.

Adapters for speed replace the sampler's behaviour everywhere; those for editing, inpainting and
control expect other inputs; those for preferences move everything a little.  Votes and shared
directions mean nothing between them and a style.  They are added at their weight, as their
authors meant them to be.

What is read: the name, and strings of the header that are titles.  Tags and comments are not: a
style "for use with LCM" says so there.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from loramix.types import Adapter

Kind: TypeAlias = Literal["speed", "edit", "preference"]

TITLES = ("ss_output_name", "modelspec.title")
"""Header strings that hold a name."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """An adapter that goes around the others.

    Attributes
    ----------
    owner : its position in the stack.
    kind : what it is for.
    words : what gave it away.
    where : ``name``, or the header string.
    """

    owner: int
    kind: Kind
    words: str
    where: str


def recognise(adapters: Sequence[Adapter]) -> tuple[Recognised, ...]:
    """Those that say what they are."""
    found = []
    for owner, adapter in enumerate(adapters):
        texts = {"name": adapter.name}
        texts.update({key: adapter.metadata[key] for key in TITLES if key in adapter.metadata})
        for where, text in texts.items():
            what = kind_of(text)
            if what is not None:
                found.append(Recognised(owner, what[0], what[1], where))
                break
    return tuple(found)


def kind_of(text: str) -> tuple[Kind, str] | None:
    """What a name says, and the words that say it.

    Words of `_CERTAIN` say it wherever they stand as words.  Those of `_OPEN` are subjects and
    base models as well (a lightning, a Porsche Turbo, a style for Kontext), and say it only
    where nothing else is named: all other words are models, sizes, versions.
    """
    words = _words(text)
    line = " ".join(words)
    for kind, pattern in _CERTAIN.items():
        found = pattern.search(line)
        if found:
            return kind, found[0]
    named = [word for word in words if not word.isdigit() and word not in _TECHNICAL]
    for kind, open_words in _OPEN.items():
        told = [word for word in named if word in open_words]
        if told and all(word in _ANY_OPEN for word in named):
            return kind, told[0]
    return None


def _words(text: str) -> list[str]:
    """Lower-case words and numbers of a name in any spelling: ``FluxTurbo-8steps``."""
    plain = re.sub(r"LoRA|LORA", "Lora", text)
    return [word.lower() for word in _WORD.findall(plain)]


_WORD = re.compile(r"\d+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+")


def _pattern(*words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\S)(?:{'|'.join(words)})(?!\S)")


_CERTAIN: dict[Kind, re.Pattern[str]] = {
    "speed": _pattern(
        "lcm", "tcd", "dmd(?: 2)?", "caus ?vid", "acc ?vid", "lightx 2 v", "distill(?:ed|ation)?",
        "guidance distill(?:ed|ation)?", "step distill(?:ed|ation)?", "hyper (?:sd|sdxl|flux)",
        "(?:[1-9]|1[0-6]) steps?", "self forcing",
    ),
    "edit": _pattern(
        "inpaint(?:ing)?", "in painting", "outpaint(?:ing)?", "out painting", "control ?nets?",
        "control lora", "instruct pix 2 pix", "pix 2 pix", "ip 2 p", "ic light",
    ),
    "preference": _pattern("dpo", "spo", "kto", "orpo", "grpo", "srpo", "rlhf"),
}  # fmt: skip

_OPEN: dict[Kind, frozenset[str]] = {
    "speed": frozenset({"turbo", "lightning", "hyper", "schnell", "flash", "fast", "pcm"}),
    "edit": frozenset({"edit", "editing", "instruct", "kontext", "fill", "canny", "depth",
                       "control", "pose", "redux"}),
    "preference": frozenset({"preference", "reward", "aesthetic"}),
}  # fmt: skip
_ANY_OPEN = frozenset().union(*_OPEN.values())

_TECHNICAL = frozenset({
    "sd", "sdxl", "xl", "flux", "dev", "pro", "wan", "qwen", "image", "z", "ltx", "video",
    "hunyuan", "pixart", "sigma", "alpha", "beta", "chroma", "lumina", "kolors", "krea", "klein",
    "stable", "diffusion", "base", "unet", "dit", "ema", "text", "encoder", "t", "ti",
    "lora", "loras", "adapter", "peft", "diffusers", "comfy", "comfyui", "kohya", "model",
    "pytorch", "weights", "converted", "safetensors", "step", "steps", "cfg", "rank", "dim",
    "version", "ver", "rev", "final", "new", "preview", "release", "official", "fixed", "full",
    "small", "large", "high", "low", "noise", "fp", "bf", "bit", "v", "b", "m", "k", "s", "f", "x",
    "r", "i", "e", "p", "and", "for", "the", "of", "bytedance", "alimama", "bfl", "black", "forest",
    "labs",
})  # fmt: skip
"""Words that name no subject: models, makers, formats, versions."""
