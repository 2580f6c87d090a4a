"""Weights as products: of the adapter, of its text encoders, of its blocks, in one mapping."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

from loramix.errors import ParamError
from loramix.recipes.blocks import BlockWeights
from loramix.types import Weight


def combined(
    weight: Weight, text_encoder: float | None = None, blocks: BlockWeights | None = None
) -> Weight:
    """One weight from all that was said about an adapter.

    For every target the result is ``weight_of(weight) * number of its block``, with `text_encoder`
    in the place of `weight` for text encoders.  The product of two ordered lists of globs is an
    ordered list of globs, so nothing need be known about the targets.

    Parameters
    ----------
    weight : of the adapter; a number, or globs of target keys, first match wins.
    text_encoder : beside a number only; None: the same.
    blocks : None: every number is 1.

    Raises
    ------
    ParamError : a weight for text encoders beside globs.
    """
    if text_encoder is not None:
        if isinstance(weight, Mapping):
            message = (
                f"text_encoder = {text_encoder:g} beside a weight by globs: give it there, as "
                f'"text_encoder*" = {text_encoder:g} in front'
            )
            raise ParamError(message)
        weight = {"text_encoder*": text_encoder, "*": weight}
    if blocks is None:
        return weight
    parts = {glob: number for glob, number in blocks.weight.items() if number != 1}
    found: dict[str, float] = {}
    for glob, number in (weight if isinstance(weight, Mapping) else {"*": weight}).items():
        for part, factor in parts.items():
            for both in intersection(glob, part):
                found.setdefault(both, number * factor)
        found.setdefault(glob, number)
    for part, factor in parts.items():
        found.setdefault(part, factor)
    return found


_TOKEN = re.compile(r"\*|\?|\[!?+\]?+[^\]]*\]|.", re.DOTALL)
"""What one character of a key, or a star, stands for in a glob."""


def intersection(glob: str, part: str) -> list[str]:
    """Globs of the keys that match both.

    Reads the beginning of `part` through the glob; whatever of the glob may be left then, must
    match the rest of the key.

    Parameters
    ----------
    glob : any.
    part : a key, or what a key begins with and a star.
    """
    if not part.endswith("*"):
        return [part] if fnmatchcase(part, glob) else []
    begin, tokens = part[:-1], _TOKEN.findall(glob)
    places = {0}
    for letter in begin:
        places = {
            place if tokens[place] == "*" else place + 1
            for start in places
            for place in _reachable(tokens, start)
            if tokens[place] == "*" or fnmatchcase(letter, tokens[place])
        }
    return [begin + "".join(tokens[place:]) for place in sorted(places)]


def _reachable(tokens: list[str], place: int) -> list[int]:
    """Places that are as good: behind stars, which may stand for nothing."""
    found = []
    while place < len(tokens):
        found.append(place)
        if tokens[place] != "*":
            break
        place += 1
    return found
