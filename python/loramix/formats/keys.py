"""Grammar of tensor names: ``stem . role``, with the spellings of every trainer.

Roles are suffixes of the whole key, never substrings in the middle of it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal["up", "down", "alpha", "scale", "diff"]

_ROLE = re.compile(
    r"""
    (?P<stem>.+?)
    (?:
        \.lora_(?P<ab>[AB])(?:\.[^.]+)?\.weight
      | \.lora_(?P<updown>up|down)\.weight
      | (?:\.lora|\.lora_linear_layer|(?<=_lora)|(?<=_lora[12]))\.(?P<dotted>up|down)\.weight
      | \.(?P<single>alpha|scale|diff)
    )
    """,
    re.VERBOSE,
)

# Suffixes of parameterisations that are recognised and refused by name.
_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "DoRA (needs the base weights)": ("dora_scale", "lora_magnitude_vector", "magnitude"),
    "LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    "LoKr": (
        "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
    ),
    "LoCon with a middle tensor": ("lora_mid",),
    "OFT or BOFT": ("oft_blocks", "oft_R", "boft_R", "boft_s", "rescale"),
    "(IA)3": ("on_input", "ia3_l"),
    "GLoRA": ("a1", "a2", "b1", "b2", "bm"),
    "full difference": ("diff_b", "diff_m", "set_weight", "reshape_weight"),
    "norm delta": ("w_norm", "b_norm"),
    "embedding adapter": ("lora_embedding_A", "lora_embedding_B"),
    "bias deltas": ("bias",),
}  # fmt: skip
_FAMILY_OF = {suffix: family for family, suffixes in _FAMILIES.items() for suffix in suffixes}


@dataclass(frozen=True, slots=True)
class Entry:
    """The tensor names of one module.

    Attributes
    ----------
    stem : everything before the role, as it stands in the file.
    names : role to full tensor name.
    """

    stem: str
    names: dict[Role, str]

    @property
    def is_delta(self) -> bool:
        """Whether it is a pair or a dense difference: not half of one, and not both."""
        roles = self.names.keys()
        return roles <= {"diff", "alpha"} if "diff" in roles else {"up", "down"} <= roles


def parse(names: Iterable[str]) -> tuple[dict[str, Entry], list[str]]:
    """Sort tensor names by module.

    Returns
    -------
    entries by stem, and the names that are none: no known role, or a role taken already.
    """
    entries: dict[str, Entry] = {}
    unknown: list[str] = []
    for name in names:
        match = _ROLE.fullmatch(name)
        if match is None:
            unknown.append(name)
            continue
        stem = match["stem"]
        role = _role(match)
        entry = entries.setdefault(stem, Entry(stem, {}))
        if role in entry.names:
            unknown.append(name)  # a second spelling of the same role: nobody knows which counts
        else:
            entry.names[role] = name
    return entries, unknown


def has_role(name: str) -> bool:
    """Whether a name has the role of a factor, a scale or a dense difference."""
    return _ROLE.fullmatch(name) is not None


def family_of(name: str) -> str | None:
    """Name what a tensor belongs to, if it is something we know and refuse."""
    parts = name.removesuffix(".weight").rsplit(".", 2)
    known = next((_FAMILY_OF[part] for part in reversed(parts[1:]) if part in _FAMILY_OF), None)
    if name.startswith("bundle_emb.") or name in ("emb_params", "clip_l", "clip_g"):
        return "a textual inversion"
    if known is None and name.startswith("base_model.model.") and ".lora_" not in name:
        return "modules saved whole (modules_to_save)"
    return known


def _role(match: re.Match[str]) -> Role:
    if match["ab"]:
        return "down" if match["ab"] == "A" else "up"
    word = match["updown"] or match["dotted"] or match["single"]
    roles: tuple[Role, ...] = ("up", "down", "alpha", "scale", "diff")
    return next(role for role in roles if role == word)
