"""Names that a report needs: of blocks, of methods, and letters for what has no room."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase

from loramix.formats.dialects import COMPONENTS
from loramix.methods import Method, describe

MOST_BLOCKS = 160
"""More rows than this are no map any more."""
_RUN = re.compile(r"^((?:[^.\d][^.]*\.)*?)([^.\d][^.]*)\.(\d+)(?=\.|$)")
_PAIR = re.compile(r"\.([^.\d][^.]*)\.(\d+)(?=\.|$)")
_LEVEL = re.compile(r"^(?:[^.]+\.)?(?:(?:down|up)_blocks\.\d+|mid_block)(?=\.|$)")
_BLOCKS = re.compile(r"(attentions\.\d+)\.transformer_blocks\.")
_LETTERS: Mapping[str, str] = {
    "linear": "L", "average": "A", "slerp": "S", "karcher": "K", "model-stock": "M", "ortho": "O",
    "ties": "T", "dare": "D", "consensus": "C", "blend": "B", "knots(ties)": "N",
    "core(ties)": "R", "iso-c": "I", "tall": "W", "breadcrumbs": "U", "svc": "V",
}  # fmt: skip


def letters(count: int) -> list[str]:
    """A, B, ..., Z, AA, AB, ... for adapters."""
    found = []
    for index in range(count):
        text, rest = "", index + 1
        while rest:
            rest, digit = divmod(rest - 1, 26)
            text = ascii_uppercase[digit] + text
        found.append(text)
    return found


def coarse(key: str) -> str:
    """The block of a target: its key up to the first number, that included.

    >>> coarse("unet.down_blocks.1.attentions.0.proj_in")
    'unet.down_blocks.1'
    """
    found = _RUN.match(key)
    return found[0] if found else _without_numbers(key)


def fine(key: str) -> str:
    """The block, as far as numbered parts follow each other.

    >>> fine("unet.down_blocks.1.attentions.0.transformer_blocks.3.attn1.to_out.0")
    'unet.down_blocks.1.attentions.0.transformer_blocks.3'
    """
    block = coarse(key)
    while found := _PAIR.match(key, len(block)):
        block = key[: found.end()]
    return block


def section(block: str) -> str:
    """What a block stands under: a level of a UNet, else its name before the first number.

    >>> section("unet.down_blocks.1.resnets.0"), section("text_encoder.encoder.layers.3")
    ('unet.down_blocks.1', 'text_encoder.encoder.layers')
    """
    level = _LEVEL.match(block)
    if level:
        return level[0]
    found = _RUN.match(block)
    return found[1] + found[2] if found else block.partition(".")[0]


def brief(block: str) -> str:
    """A block for a narrow column: blocks of an attention go by their numbers.

    >>> brief("unet.down_blocks.1.attentions.0.transformer_blocks.3")
    'unet.down_blocks.1.attentions.0.3'
    """
    return _BLOCKS.sub(r"\1.", block)


def _without_numbers(key: str) -> str:
    """The component, or all but the last name."""
    component = key.partition(".")[0]
    above = key.rpartition(".")[0]
    return above or (component if component in COMPONENTS else key)


def blocks_of(keys: Iterable[str]) -> dict[str, str]:
    """The block of every key, as fine as there is room for, and in the order of the network."""
    keys = list(keys)
    blocks = {key: fine(key) for key in keys}
    if len(set(blocks.values())) > MOST_BLOCKS:
        blocks = {key: coarse(key) for key in keys}
    return dict(sorted(blocks.items(), key=lambda item: (in_order(item[1]), in_order(item[0]))))


def in_order(name: str) -> tuple[object, ...]:
    """Sorts names by the numbers in them; text encoders after the model.

    Down, middle and up are in their order by name; the double blocks of FLUX come before its
    single ones.
    """
    text = name.replace("single_transformer_blocks", "transformer_blocks_single")
    parts = [(int(p), "") if p.isdecimal() else (-1, p) for p in text.split(".")]
    return (name.startswith("text_encoder"), *parts)


def method_name(method: Method) -> str:
    """A method as users write it, without its parameters, e.g. ``knots(ties)``."""
    facts = describe(method)
    name, space, thin = str(facts["name"]), facts.get("space"), facts.get("sparsify")
    if space in ("knots", "core"):
        name = f"{space}({name})"
    return f"{thin['name']} + {name}" if isinstance(thin, dict) else name


def method_letters(names: Sequence[str]) -> dict[str, str]:
    """One letter for each method, that of `_LETTERS` where it has one, else what is free.

    The most frequent one chooses first.
    """
    order = [name for name, _ in sorted(Counter(names).items(), key=lambda x: (-x[1], x[0]))]
    known = [name for name in order if name in _LETTERS]
    found = {name: _LETTERS[name] for name in known}
    for name in order:
        if name not in found:
            wishes = [*filter(str.isalpha, name.upper()), *ascii_uppercase, "*"]
            taken = set(found.values())
            found[name] = next((x for x in wishes if x not in taken), "*")
    return {name: found[name] for name in order}
