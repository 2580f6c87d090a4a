"""What a user writes for one adapter: ``FILE[:WEIGHT[:TEXT_ENCODER_WEIGHT]][:lbw=BLOCKS]``."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from loramix.errors import ParamError

if TYPE_CHECKING:
    from loramix.types import Weight

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BLOCKS = ":lbw="
_SIZE = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*((?:[kmgKMG]i?)?[bB]?)")
_UNITS = {"": 1, "b": 1} | {
    f"{letter}{infix}{end}": base**power
    for power, letter in enumerate("kmg", 1)
    for infix, base in (("", 1000), ("i", 1024))
    for end in ("", "b")
}
_ALLOWED = "write FILE:WEIGHT or FILE:WEIGHT:TEXT_ENCODER_WEIGHT, such as style.safetensors:0.8"


@dataclass(frozen=True, slots=True)
class Spec:
    """One adapter as the user named it.

    Attributes
    ----------
    path : file or folder.
    weight : of the whole adapter, or of all but its text encoders.
    text_encoder : weight of its text encoders; None: the same.
    blocks : numbers for its blocks, or the name of a preset; None: all of it alike.
    """

    path: str
    weight: float = 1.0
    text_encoder: float | None = None
    blocks: str | None = None

    def weights(self, architecture: str | None, keys: Sequence[str] | None = None) -> "Weight":
        """What `loramix.merge` takes.

        Parameters
        ----------
        architecture : the base model of the adapter, for its blocks.
        keys : of the adapter's targets, likewise; None: not looked at.

        Raises
        ------
        ParamError : blocks that the architecture does not have, or no target is in.
        """
        from loramix.recipes import blocks as lbw
        from loramix.recipes.weights import combined

        if self.blocks is None:
            return combined(self.weight, self.text_encoder)
        try:
            blocks = lbw.parse(self.blocks, architecture)
            if keys is not None:
                blocks.refuse_strangers(keys)
        except ParamError as error:
            message = f"{self.path}: {error}"
            raise ParamError(message) from None
        return combined(self.weight, self.text_encoder, blocks)


def parse(
    text: str,
    exists: Callable[[str], bool] = lambda path: Path(path).exists(),
    *,
    allowed: str = _ALLOWED,
) -> Spec:
    """Split blocks, and then up to two numbers, off the end of an argument.

    The longest reading that exists wins, so a file whose own name ends in ``:0.5`` can be given.

    Parameters
    ----------
    exists : whether there is a file or folder of that name.
    allowed : what to write, for messages.

    Raises
    ------
    ParamError : no path, a third number, or something after a colon that is not a number.
    """
    text, mark, blocks = text.partition(_BLOCKS)
    if mark:
        return replace(parse(text, exists, allowed=allowed), blocks=blocks)
    readings = [_cut(text, count) for count in range(len(_numbers(text)) + 1)]
    for spec in readings:
        if exists(spec.path):
            return spec
    spec = readings[-1]
    _refuse(text, spec.path, allowed)
    return spec


def bytes_of(text: str) -> int:
    """A number of bytes: ``100MB``, ``1.5 GB``, ``96MiB``, ``500000``.

    Raises
    ------
    ParamError : no such number, or less than one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    count = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    if count < 1:
        message = f"size {text!r}: write a number of bytes, such as 100MB or 96MiB"
        raise ParamError(message)
    return int(count)


def _numbers(text: str) -> list[str]:
    """Numbers at the end, at most two, last one first."""
    found: list[str] = []
    while len(found) < 2:
        text, colon, tail = text.rpartition(":")
        if not colon or not _NUMBER.fullmatch(tail):
            break
        found.append(tail)
    return found


def _cut(text: str, count: int) -> Spec:
    path, *numbers = text.rsplit(":", count)
    weight, encoder = (*map(float, numbers), None, None)[:2]
    return Spec(path, 1.0 if weight is None else weight, encoder)


def _refuse(text: str, path: str, allowed: str) -> None:
    """Whatever is still behind a colon must be the rest of a path, such as that of ``C:/x``."""
    _, colon, tail = path.rpartition(":")
    if not path:
        problem = "there is no file before the colon"
    elif colon and _NUMBER.fullmatch(tail):
        problem = "more than two numbers"
    elif colon and "/" not in tail and "\\" not in tail:
        problem = f"{tail!r} is not a number" if tail else "there is no number after the colon"
    else:
        return
    message = f"{text}: {problem}; {allowed}"
    raise ParamError(message)
