"""Families: every way to parameterise a delta, in one table.

A family is a file with the mathematics and a line here; its oracle is in
``tests/oracles_families.py``.
"""

from collections.abc import Collection
from functools import lru_cache

from loramix.formats.families import full, glora, ia3, loha, lokr, lora, oft, peft_oft
from loramix.formats.families.base import Draft, Family, Part, Parts, Place, Scaling
from loramix.formats.families.dora import MAGNITUDES, decomposed
from loramix.formats.families.full import VECTORS, vector
from loramix.formats.keys import Role

FAMILIES: tuple[Family, ...] = (
    lora.LORA,
    lora.LOCON,
    lora.EMBEDDING,
    loha.LOHA,
    lokr.LOKR,
    full.FULL,
    oft.OFT,
    peft_oft.OFT,
    peft_oft.BOFT,
    ia3.LYCORIS,
    ia3.PEFT,
    glora.GLORA,
)

REPLACEMENTS: dict[Role, str] = {
    "set_weight": "replaces the weight: there is nothing to add",
    "reshape_weight": "changes the shape of the base weight, which no delta can",
    "scaled_oft": "belongs to an OFT of OneTrainer, whose scaling is not known",
}
"""Roles that no merge can hold, with the reason."""


def family_of(names: Collection[Role]) -> Family | None:
    """The family of a module with these roles, magnitudes left out."""
    return _family_of(frozenset(names))


@lru_cache(maxsize=1024)  # a file has a handful of kinds of modules
def _family_of(names: frozenset[Role]) -> Family | None:
    kinds = frozenset("oft_part" if role.startswith("oft_blocks.") else role for role in names)
    plain = kinds - set(MAGNITUDES)
    found = next((one for one in FAMILIES if one.fits(plain)), None)
    return None if found is not None and plain != kinds and not found.magnitude else found


def drafts(family: Family, parts: Parts) -> tuple[Draft, ...]:
    """The deltas of a module; none if it is of rank 0."""
    found = family.read(parts)
    if any(role in parts for role in MAGNITUDES):
        return tuple(decomposed(one, parts) for one in found)
    return found


def misfit(names: Collection[Role]) -> str:
    """What is wrong with the roles of a module that is of no family, as a clause."""
    for role in names:
        if role in REPLACEMENTS:
            return REPLACEMENTS[role]
    if set(names) <= {"scale"}:
        return "is the weight of a norm saved whole, not a difference"
    if {"up", "down"} & set(names) and not {"up", "down"} <= set(names) and "diff" not in names:
        return "has no partner (a pair needs up and down)"
    if set(names) <= {"alpha", "scale", *MAGNITUDES, "rescale", "bias"}:
        return "has no partner (there are no factors of its module)"
    if "diff" in names:
        return "belongs to a module that has a dense difference and other factors, too"
    near = max(FAMILIES, key=lambda one: max(len(form & set(names)) for form in one.forms))
    form = max(near.forms, key=lambda one: len(one & set(names)))
    lost, odd = sorted(form - set(names)), sorted(set(names) - form - near.allows)
    what = f"without {', '.join(lost)}" if lost else f"with {', '.join(odd)}, too"
    return f"belongs to a module of {near.title} {what}"


__all__ = [
    "FAMILIES", "VECTORS", "Draft", "Family", "Part", "Parts", "Place", "Scaling", "drafts",
    "family_of", "misfit", "vector",
]  # fmt: skip
