"""Grammar of tensor names: ``stem . role``, with the spellings of every trainer.

Roles are suffixes of the whole key, the longest that fits, never substrings in the middle of it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Role: TypeAlias = str
"""What a tensor is to its module: one of the names in the table below."""

_INFIX = r"(?:\.[^.]+)?"  # name of an adapter, as raw state dicts of PEFT have it

# Role to what follows the stem and a dot.  Where two fit, the one with the shorter stem does; of
# the same stem, the one that is listed first.
_SUFFIXES: Mapping[Role, str] = {
    "bias": rf"lora_B{_INFIX}\.bias|lora_up\.bias",
    "up": rf"lora_B(?:{_INFIX}\.weight)?|lora_up\.weight",
    "down": rf"lora_A(?:{_INFIX}\.weight)?|lora_down\.weight",
    "mid": r"lora_mid\.weight",
    "embedding_up": rf"lora_embedding_B{_INFIX}",
    "embedding_down": rf"lora_embedding_A{_INFIX}",
    "magnitude": rf"lora_magnitude_vector{_INFIX}(?:\.weight)?|magnitude(?:\.weight)?",
    "scaled_oft": r"oft_R\.scaled_oft",
    "oft_part": r"oft_blocks\.\d+",
    "oft_R": rf"oft_R{_INFIX}(?:\.weight)?",
    **{
        name: name + _INFIX
        for name in (
            "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
            "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "lokr_w1", "lokr_w2",
            "boft_R", "boft_s", "ia3_l",
        )
    },
    **{name: rf"{name}\.weight" for name in ("a1", "a2", "b1", "b2", "bm")},
    **{
        name: name
        for name in (
            "alpha", "scale", "dora_scale", "oft_blocks", "rescale", "on_input", "w_norm",
            "b_norm", "diff", "diff_b", "diff_m", "set_weight", "reshape_weight", "weight",
        )
    },
}  # fmt: skip

# Words between stem and ``up.weight``; processors have theirs in the stem: ``to_q_lora``.
_DOTTED = r"(?:lora|lora_linear_layer)\.{0}\.weight|(?<=_lora\.){0}\.weight"
_DOTTED += r"|(?<=_lora[12]\.){0}\.weight|{0}"


def _alternatives() -> Iterable[str]:
    for role, suffix in _SUFFIXES.items():
        dotted = "|" + _DOTTED.format(role) if role in ("up", "down") else ""
        yield f"(?P<{role}>{suffix}{dotted})"


_ROLE = re.compile(rf"(?P<stem>.+?)\.(?:{'|'.join(_alternatives())})")

# Tensors that are no change of a weight, by the end of their name.
_OTHERS: Mapping[str, re.Pattern[str]] = {
    "a textual inversion": re.compile(r"bundle_emb\..*|emb_params|clip_[lg]"),
    "a text projection saved whole": re.compile(r".*text_projection(?:\.weight)?"),
    "modules saved whole (modules_to_save)": re.compile(r"base_model\.model\.(?!.*\.lora_).*"),
    "a bias saved whole": re.compile(r".*\.bias"),
}


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
        role = match.lastgroup or ""
        if role == "oft_part":
            role = name[len(match["stem"]) + 1 :]
        entry = entries.setdefault(match["stem"], Entry(match["stem"], {}))
        if role in entry.names:
            unknown.append(name)  # a second spelling of the same role: nobody knows which counts
        else:
            entry.names[role] = name
    for stem, entry in list(entries.items()):
        if entry.names.keys() == {"weight"}:  # only (IA)3 has a plain weight, beside `on_input`
            unknown.append(entries.pop(stem).names["weight"])
    return entries, unknown


def has_role(name: str) -> bool:
    """Whether a name has the role of a tensor of an adapter."""
    match = _ROLE.fullmatch(name)
    return match is not None and match.lastgroup != "weight"


def is_model(entries: Iterable[Entry], unknown: Sequence[str]) -> bool:
    """Whether a file holds the weights of a model, and no part of an adapter.

    Parameters
    ----------
    entries, unknown : what `parse` found; weights of norms of FLUX.1 are called scale.
    """
    return (
        any(name.endswith(".weight") for name in unknown)
        and all(set(entry.names) <= {"scale"} for entry in entries)
        and not any(name.startswith("base_model.model.") or has_role(name) for name in unknown)
    )


def payload_of(name: str) -> str | None:
    """What a tensor is that changes no weight, if it is something we know and refuse."""
    return next((what for what, known in _OTHERS.items() if known.fullmatch(name)), None)
