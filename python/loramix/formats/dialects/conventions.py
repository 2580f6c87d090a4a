"""Which program wrote a file: the spelling of its names, whose names they are, its header.

Rules in a table, the first that holds counts.  Nothing of a merge depends on the answer but how
the result is written when nobody says.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from loramix.formats.dialects.stems import Stem
from loramix.formats.dialects.writing import writable
from loramix.formats.layout import Layout

_WORLDS = ("name", "original", "comfy", "openclip")
# Model families by the beginning of their layouts' names.
_MUSUBI = ("wan", "qwen_image", "flux2", "hunyuan_video")
_BFL = ("flux1", "flux2", "chroma")
# What Musubi says of its base models, where sd-scripts trains none of that name.
_MUSUBI_BASES = (
    "flux_kontext", "flux_2", "hunyuan_video", "wan", "framepack", "qwen_image", "kandinsky5",
    "z_image", "hidream", "ideogram", "krea",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a file says of who wrote it.

    Attributes
    ----------
    prefix : dialect of most prefixes, those of text encoders only if there are no others.
    world : whose names they are, see `Hit`; empty: nobody's that a table knows.
    architecture : the base model, if known.
    trainer : the program that the header names, else empty.
    endings : last parts of the tensors' names, such as ``lora_down`` and ``alpha``.
    infix : whether a name of the adapter stands before ``weight``.
    """

    prefix: str
    world: str
    architecture: str | None
    trainer: str
    endings: frozenset[str]
    infix: bool

    def model(self, *families: str) -> bool:
        """Whether the base model is one of these families."""
        return self.architecture is not None and self.architecture.startswith(families)

    def ends(self, *words: str) -> bool:
        """Whether there is a role of one of these words."""
        return any(word in self.endings for word in words)


def convention(
    stems: Sequence[Stem],
    worlds: Iterable[str],
    names: Iterable[str],
    architecture: str | None,
    metadata: Mapping[str, str],
) -> str:
    """Name the convention of a file.

    Parameters
    ----------
    stems : of its modules, at least one.
    worlds : whose names they are, for those that a module table has.
    names : of all tensors.
    metadata : strings of its header.
    """
    network = [s for s in stems if not (s.component or "").startswith("text_encoder")]
    parts = [name.removesuffix(".weight").rsplit(".", 2)[-2:] for name in names]
    evidence = Evidence(
        prefix=_most([s.dialect for s in network or stems]),
        # A name that several worlds share is given to the first of them: the last one tells.
        # Those of text encoders are alike in all.
        world=max(worlds, key=_WORLDS.index, default="") if network else "",
        architecture=architecture,
        trainer=_trainer(metadata),
        endings=frozenset(part[-1] for part in parts),
        infix=any(p[0] in ("lora_A", "lora_B") and p[-1] != "bias" for p in parts),
    )
    if architecture is None:
        return evidence.prefix
    return next(name for name, rule in _RULES if rule(evidence))


# What holds, and the convention that it shows.  Every prefix has a last row of its own.
_RULES: tuple[tuple[str, Callable[[Evidence], bool]], ...] = (
    ("xlabs", lambda e: e.prefix == "xlabs"),
    ("videox-fun", lambda e: e.prefix == "videox-fun"),
    ("diffsynth", lambda e: e.prefix == "diffsynth"),
    ("onetrainer", lambda e: e.prefix == "onetrainer"),
    ("peft", lambda e: e.prefix == "peft"),
    ("ai-toolkit", lambda e: e.trainer == "ai-toolkit"),
    ("onetrainer", lambda e: e.trainer == "onetrainer" and e.prefix == "kohya"),
    ("lycoris", lambda e: e.prefix == "lycoris"),
    # Flattened: sd-scripts has names of the original model, for SD 1 and 2 those of diffusers.
    ("musubi", lambda e: e.prefix == "kohya" and e.trainer == "musubi"),
    ("onetrainer", lambda e: e.prefix == "kohya" and e.model("sdxl") and e.world == "name"),
    ("musubi", lambda e: e.prefix == "kohya" and e.model("z_image") and e.world == "name"),
    ("comfyui", lambda e: e.prefix == "kohya" and e.world == "comfy"),
    ("musubi", lambda e: e.prefix == "kohya" and e.model(*_MUSUBI)),
    ("kohya", lambda e: e.prefix == "kohya"),
    # diffusion_model: many write it.
    ("comfyui", lambda e: e.prefix == "comfyui" and e.ends("lora_down") and e.ends("alpha")),
    ("lightx2v", lambda e: e.prefix == "comfyui" and e.ends("lora_down", "diff_m")),
    ("comfyui", lambda e: e.prefix == "comfyui" and e.world == "comfy"),
    ("ai-toolkit", lambda e: e.prefix == "comfyui" and e.model("z_image") and e.world == "name"),
    ("ai-toolkit", lambda e: e.prefix == "comfyui" and e.ends("lokr_w1", "lokr_w1_a")),
    ("diffusion-pipe", lambda e: e.prefix == "comfyui"),
    ("diffusion-pipe", lambda e: e.prefix == "diffusers" and e.world in ("original", "comfy")),
    ("ai-toolkit", lambda e: e.prefix == "diffusers" and e.ends("lokr_w1", "lokr_w1_a")),
    ("diffusers", lambda e: e.prefix == "diffusers"),
    # No prefix at all.
    ("diffsynth", lambda e: e.infix),
    ("lightx2v", lambda e: e.ends("lora_down")),
    ("bfl", lambda e: e.world == "original" and e.model(*_BFL)),
    ("original", lambda e: e.world in ("original", "comfy", "openclip")),
    ("plain", lambda _: True),
)


# Conventions that are read only, and what their files are written in.
_WRITTEN = {
    "bfl": "original",
    "diffsynth": "original",
    "diffusion-pipe": "comfyui",
    "lightx2v": "comfyui",
    "videox-fun": "kohya",
}
_FLAT = ("kohya", "lycoris", "onetrainer", "musubi", "videox-fun")


def is_flat(convention: str) -> bool:
    """Whether its names are flattened."""
    return convention in _FLAT


def default_dialect(convention: str, layout: Layout | None) -> str:
    """The dialect to write when nobody names one: that of the input, or the next to it."""
    possible = writable(layout)
    near = "kohya" if convention in _FLAT else "comfyui"
    wanted = (_WRITTEN.get(convention, convention), near, "peft", "plain")
    return next(name for name in wanted if name in possible)


def _trainer(metadata: Mapping[str, str]) -> str:
    """The program that a header names; empty if it names none that writes in several ways."""
    if "ai-toolkit" in metadata.get("software", ""):
        return "ai-toolkit"
    if any(name.startswith("ot_") for name in metadata):
        return "onetrainer"
    base = metadata.get("ss_base_model_version", "")
    musubi = base.startswith(_MUSUBI_BASES) and "ss_network_module" in metadata
    return "musubi" if musubi else ""


def _most(found: Sequence[str]) -> str:
    return max(sorted(set(found)), key=found.count, default="")
