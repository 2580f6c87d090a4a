"""Stacks: adapters that are put together, and the prompts that say whether it went well."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

from loramix_testbed.judging.drawing import GUIDANCE, STEPS
from loramix_testbed.world.adapters import FEW_STEPS, SPECS, Half, Spec
from loramix_testbed.world.styles import PLAIN
from loramix_testbed.world.symbols import BASE, CONTENTS


@dataclass(frozen=True, slots=True)
class Stack:
    """Adapters, and what is asked of them together.

    Attributes
    ----------
    name : unique.
    kind : what the adapters are to each other; with the size, the row of the matrix.
    adapters : names of `SPECS`, all at weight 1.
    asked : pairs of a symbol and a style, each with a true picture.
    seeds : pictures of each pair.
    steps, guidance : that they are drawn in and by.
    """

    name: str
    kind: str
    half: Half
    adapters: tuple[str, ...]
    asked: tuple[tuple[str, str], ...]
    seeds: int
    steps: int = STEPS
    guidance: float = GUIDANCE


def alone(half: Half) -> list[Stack]:
    """Every adapter by itself, asked for its own concept: the most that a stack can keep."""
    contents, styles = _halves(half)
    return [_stack("alone", half, [name], seeds=4) for name in (*contents, *styles)]


def mixed(half: Half) -> list[Stack]:
    """Contents and styles: stacks of 2 (every pair), 3, 5 and 8, 64 pictures of a size and more."""
    contents, styles = _halves(half)
    found = []
    for at in range(4):
        content, style = contents[at], styles[at]
        following = styles[(at + 1) % 4], contents[(at + 1) % 4]
        third = following[at % 2]
        found.append(_stack("mixed", half, [content, style], seeds=16))
        found.append(_stack("mixed", half, [content, style, third], seeds=8))
        if at % 2 == 0:
            more = [contents[(at + 1) % 4], styles[(at + 1) % 4], styles[(at + 2) % 4]]
            found.append(_stack("mixed", half, [content, style, *more], seeds=6))
        found.append(_stack("mixed", half, [content, style, following[(at + 1) % 2]], seeds=4))
        others = [other for other in styles if other != style]
        found += [_stack("mixed", half, [content, other], seeds=4) for other in others]
    found.append(_stack("mixed", half, [*contents, *styles], seeds=4))
    return found


def others(half: Half) -> list[Stack]:
    """Styles with styles, contents with contents, two trainings of one concept, and other kinds."""
    contents, styles = _halves(half)
    found = []
    for at in (0, 2):
        found.append(_stack("style+style", half, styles[at : at + 2], seeds=8))
        found.append(_stack("content+content", half, contents[at : at + 2], seeds=8))
    for name, spec in SPECS.items():
        if spec.half != half or not name.endswith("-again"):
            continue
        first = name.removesuffix("-again")
        other = styles[0] if spec.kind == "content" else contents[0]
        found.append(_stack("aligned", half, [first, name], seeds=8))
        found.append(_stack("aligned+other", half, [first, name, other], seeds=8))
    for name, spec in SPECS.items():
        if spec.half == half and name.endswith("-overtrained"):
            found.append(_stack("over-trained", half, [contents[0], name], seeds=16))
    if half == "held-out":
        found += _few_steps(contents, styles)
    strokes = [name for name, spec in SPECS.items() if spec.kind == "stroke"]
    if half == "held-out" and strokes:
        asked = tuple((symbol, PLAIN) for symbol in "ARK5")
        found.append(Stack("+".join(strokes), "opposed", half, tuple(strokes), asked, 8))
    return found


def _few_steps(contents: Sequence[str], styles: Sequence[str]) -> list[Stack]:
    """The adapter for speed by itself, and with a content and a style, in few unguided steps."""
    speed = [name for name, spec in SPECS.items() if spec.kind == "speed"]
    stacks = [_stack("few steps", "held-out", speed, seeds=8)]
    stacks += [
        _stack("few steps", "held-out", [content, style, *speed], seeds=16)
        for content, style in zip(contents, styles, strict=True)
    ]
    return [replace(stack, steps=FEW_STEPS, guidance=1.0) for stack in stacks]


def _halves(half: Half) -> tuple[list[str], list[str]]:
    """Names of the contents and of the styles of a half, first trainings only."""
    own = [spec for name, spec in SPECS.items() if spec.half == half and name == spec.concept]
    return (
        [spec.name for spec in own if spec.kind == "content"],
        [spec.name for spec in own if spec.kind == "style"],
    )


def _stack(kind: str, half: Half, names: Sequence[str], *, seeds: int) -> Stack:
    specs = [SPECS[name] for name in names]
    asked = tuple(islice(_asked(specs), 16))
    return Stack("+".join(names), kind, half, tuple(names), asked, seeds)


def _asked(specs: Sequence[Spec]) -> Iterator[tuple[str, str]]:
    """Every symbol of the stack in every style of it; the base's where it has none."""
    contents = dict.fromkeys(CONTENTS[s.concept] for s in specs if s.kind == "content")
    styles = dict.fromkeys(s.concept for s in specs if s.kind == "style")
    yield from product(contents or tuple(BASE[::7]), styles or (PLAIN, "red", "night", "leaf"))
